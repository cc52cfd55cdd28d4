"use strict";
/* Which puzzles which confirmed trials solve: a square per puzzle, the darker the more trials solve it. */
class Items {
  static SIDE = 13;
  constructor(study, figure) {
    this.study = study;
    this.figure = figure;
    this.canvas = figure.querySelector("canvas");
    this.words = figure.querySelector(".item-words");
    this.family = figure.querySelector('[data-control="family"]');
    this.which = figure.querySelector('[data-control="which"]');
    this.selected = 0;
    const names = [...new Set(study.items.trials.map(({ id }) => study.trials.get(id)?.family))].filter(Boolean);
    for (const name of names) this.family.append(plotTools.element("option", { value: name, text: name }));
    for (const control of [this.family, this.which]) control.addEventListener("change", () => { this.selected = 0; this.draw(); });
    figure.querySelector('[data-control="csv"]').addEventListener("click", () => plotTools.save("puzzles.csv", "text/csv", plotTools.csvText(this.rows())));
    this.canvas.addEventListener("pointermove", (event) => this.tell(this.at(event)));
    this.canvas.addEventListener("click", (event) => { const found = this.at(event); if (found !== null) { this.selected = found; this.draw(); } });
    this.canvas.addEventListener("pointerleave", () => this.tell(this.selected));
    this.canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      this.selected = Math.max(0, Math.min(this.shown.length - 1, this.selected + step));
      this.draw();
    });
  }
  get trials() {
    const { trials } = this.study.items;
    return trials.filter(({ id }) => !this.family.value || this.study.trials.get(id)?.family === this.family.value);
  }
  // Eight puzzles a byte, the first in the highest bit.
  static solves(hex, item) { return ((parseInt(hex.slice(2 * (item >> 3), 2 * (item >> 3) + 2), 16) >> (7 - (item & 7))) & 1) === 1; }
  count(item) { return this.trials.filter(({ exact }) => Items.solves(exact, item)).length; }
  draw() {
    const trials = this.trials;
    const holds = { all: () => true, every: (n) => n === trials.length, some: (n) => n > 0 && n < trials.length, none: (n) => n === 0 }[this.which.value];
    const counts = Array.from({ length: this.study.items.count }, (_, item) => this.count(item));
    this.shown = counts.map((_, item) => item).filter((item) => holds(counts[item]));
    const { SIDE } = Items;
    this.columns = Math.max(1, Math.floor(plotTools.roomIn(this.canvas.parentElement) / SIDE));
    const rows = Math.max(1, Math.ceil(this.shown.length / this.columns));
    const scale = devicePixelRatio || 1;
    [this.canvas.width, this.canvas.height] = [this.columns * SIDE * scale, rows * SIDE * scale];
    [this.canvas.style.width, this.canvas.style.height] = [`${this.columns * SIDE}px`, `${rows * SIDE}px`];
    const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const color = d3.interpolateRgb(themed("--cell-tint"), themed("--accent"));
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    this.shown.forEach((item, i) => {
      const [x, y] = [(i % this.columns) * SIDE, Math.floor(i / this.columns) * SIDE];
      pen.fillStyle = counts[item] ? color(counts[item] / trials.length) : themed("--cell-wrong");
      pen.fillRect(x + 1, y + 1, SIDE - 2, SIDE - 2);
      if (i !== this.selected) return;
      pen.strokeStyle = themed("--ink");
      pen.lineWidth = 2;
      pen.strokeRect(x + 1, y + 1, SIDE - 2, SIDE - 2);
    });
    this.canvas.setAttribute("aria-label", `${this.shown.length} of ${this.study.items.count} test puzzles, a square each; arrow keys move between them.`);
    this.tell(this.selected);
  }
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const found = Math.floor((event.clientY - box.top) / Items.SIDE) * this.columns + Math.floor((event.clientX - box.left) / Items.SIDE);
    return found < this.shown.length ? found : null;
  }
  tell(index) {
    const item = index === null ? undefined : this.shown[index];
    if (item === undefined) { this.words.textContent = this.shown.length ? "" : "No puzzle is like that."; return; }
    const name = ({ id }) => { const trial = this.study.trials.get(id); return `${trial.family}, seed ${trial.seed}`; };
    const [yes, no] = [true, false].map((wanted) => this.trials.filter(({ exact }) => Items.solves(exact, item) === wanted).map(name));
    const few = (names) => (names.length > 6 ? `${names.slice(0, 6).join("; ")}; and ${names.length - 6} more` : names.join("; "));
    const parts = [`Test puzzle ${item + 1}: solved by ${yes.length} of ${yes.length + no.length} trials`];
    if (yes.length && no.length) parts.push(yes.length < no.length ? `by ${few(yes)}` : `not by ${few(no)}`);
    this.words.textContent = `${parts.join(", ")}.`;
  }
  rows() {
    const trials = this.trials;
    const names = trials.map(({ id }) => id);
    return [["puzzle", ...names], ...this.shown.map((item) => [item + 1, ...trials.map(({ exact }) => (Items.solves(exact, item) ? 1 : 0))])];
  }
}
