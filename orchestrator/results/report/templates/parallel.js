"use strict";
/* Settings and scores: an axis per setting and one for the score; a brush on an axis filters every figure and the table. */
class Parallel {
  static MARGIN = { top: 34, right: 46, bottom: 14, left: 52 };
  static MOST_VALUES = 12; // more numbers than this are placed by size

  constructor(study, figure) {
    this.study = study;
    this.figure = figure;
    this.body = figure.querySelector(".figure-body");
    this.note = figure.querySelector(".plot-note");
    this.svg = d3.select(this.body).append("svg").attr("class", "interactive parallel").attr("role", "group")
      .attr("aria-label", "Settings and scores, an axis each. On an axis, arrow keys select values and Escape clears them.");
    this.selected = new Map(); // the pixels of each brush
    this.held = new Map(); // and the values between which it lies, which stay where axes change
    this.revision = -1;
    const click = (name, act) => figure.querySelector(`[data-control="${name}"]`).addEventListener("click", act);
    click("clear", () => { this.selected.clear(); this.held.clear(); study.brushes.clear(); this.draw(); study.changed(); });
    click("svg", () => plotTools.save("settings.svg", "image/svg+xml", plotTools.svgText(this.svg.node())));
    click("csv", () => plotTools.save("trials.csv", "text/csv", plotTools.csvText(this.rows())));
  }

  get names() {
    const varied = this.study.settings.filter((name) => new Set(this.known.map((trial) => this.study.value(trial, name))).size > 1);
    return [...varied, "score"];
  }

  axisOf(name, height) {
    if (name === "score") {
      const scale = d3.scaleLinear([0, 100], [height, 0]);
      return { name, title: "score, %", at: (value) => scale(value), scale, ticks: scale.ticks(5).map((value) => [scale(value), String(value)]) };
    }
    const values = [...new Set(this.known.map((trial) => this.study.value(trial, name)))];
    const numbers = values.filter((value) => typeof value === "number").sort(d3.ascending);
    const title = name.split(".").pop();
    if (numbers.length === values.length && values.length > Parallel.MOST_VALUES) {
      const isLog = numbers[0] > 0 && numbers[numbers.length - 1] / numbers[0] >= 20;
      const scale = (isLog ? d3.scaleLog() : d3.scaleLinear()).domain(d3.extent(numbers)).range([height, 0]).nice();
      const format = isLog ? d3.format("~g") : scale.tickFormat(5);
      const ticks = isLog ? d3.scaleLog(scale.domain(), [height, 0]).ticks(4).filter((value) => /^[125]/.test(value.toExponential())) : scale.ticks(5);
      return { name, title, at: scale, scale, ticks: ticks.map((value) => [scale(value), format(value)]) };
    }
    const rank = (value) => (typeof value === "number" ? [0, value] : typeof value === "boolean" ? [1, Number(value)] : [2, 0]);
    values.sort((a, b) => rank(a)[0] - rank(b)[0] || rank(a)[1] - rank(b)[1] || d3.ascending(String(a), String(b)));
    const scale = d3.scalePoint(values.map(Study.plain), [height, 0]).padding(0.25);
    const every = Math.max(1, Math.ceil((values.length * 15) / height));
    const ticks = values.map(Study.plain).map((text) => [scale(text), text]).filter((_, i) => i % every === 0);
    return { name, title, at: (value) => scale(Study.plain(value)), places: new Map(values.map((value) => [Study.plain(value), scale(Study.plain(value))])), ticks };
  }

  // The values between which a brush lies: two numbers, or the names of the first and the last one inside.
  static valuesIn(axis, [top, bottom]) {
    if (axis.scale) return [axis.scale.invert(bottom), axis.scale.invert(top)];
    const inside = [...axis.places].filter(([, at]) => at >= top && at <= bottom).map(([text]) => text);
    return inside.length ? [inside[0], inside[inside.length - 1]] : null;
  }
  // The pixels of a brush around such values; null where the axis has none of them.
  static pixelsOf(axis, held, height) {
    if (axis.scale) return [axis.scale(held[1]), axis.scale(held[0])];
    const at = held.map((text) => axis.places.get(text)).filter((place) => place !== undefined);
    if (!at.length) return null;
    const all = [...axis.places.values()];
    const half = all.length > 1 ? Math.abs(all[1] - all[0]) / 2 : height / 2;
    return [Math.max(-6, Math.min(...at) - half), Math.min(height + 6, Math.max(...at) + half)];
  }

  // Draw again where the trials are others or have other scores; else only select.
  follow() {
    if (this.isDragged || this.revision === this.study.revision) this.update(); else this.draw();
  }

  draw() {
    this.revision = this.study.revision;
    this.known = [...this.study.trials.values()].filter((trial) => trial.score !== null
      && (!this.study.sweep || trial.sweep === this.study.sweep) && (!this.study.stage || trial.stage === this.study.stage));
    const names = this.names;
    this.figure.hidden = this.known.length < 2 || names.length < 2;
    if (this.figure.hidden) return;
    const { MARGIN } = Parallel;
    const outer = Math.max(plotTools.roomIn(this.body), names.length * 64);
    const [width, height] = [outer - MARGIN.left - MARGIN.right, 230];
    this.height = height;
    this.axes = names.map((name) => this.axisOf(name, height));
    this.place = d3.scalePoint(names, [0, width]);
    for (const axis of this.axes.filter(({ name }) => this.selected.has(name))) {
      const held = this.held.get(axis.name);
      this.hold(axis, held ? Parallel.pixelsOf(axis, held, height) : this.selected.get(axis.name));
    }
    const focused = this.svg.node().contains(document.activeElement) ? document.activeElement.dataset.axis : null;
    const svg = this.svg.attr("width", outer).attr("height", height + MARGIN.top + MARGIN.bottom)
      .attr("viewBox", `0 0 ${outer} ${height + MARGIN.top + MARGIN.bottom}`);
    svg.selectAll("*").remove();
    const root = svg.append("g").attr("transform", `translate(${MARGIN.left},${MARGIN.top})`);
    this.lines = root.append("g").attr("class", "lines");
    for (const axis of this.axes) this.drawAxis(root, axis);
    if (focused) [...this.svg.node().querySelectorAll("[data-axis]")].find((each) => each.dataset.axis === focused)?.focus({ preventScroll: true });
    this.update();
  }

  drawAxis(root, axis) {
    const group = root.append("g").attr("class", "axis").attr("transform", `translate(${this.place(axis.name)},0)`)
      .attr("tabindex", 0).attr("role", "slider").attr("data-axis", axis.name).attr("aria-orientation", "vertical")
      .attr("aria-label", `Filter by ${this.study.titles[axis.name] ?? axis.title}`);
    group.append("line").attr("class", "domain").attr("y1", 0).attr("y2", this.height);
    const isLast = axis === this.axes[this.axes.length - 1]; // beside it is room without lines
    const ticks = group.selectAll("text.tick-text").data(axis.ticks).join("text").attr("class", `tick-text halo ${isLast ? "start" : "end"}`)
      .attr("x", isLast ? 7 : -7).attr("y", ([at]) => at).attr("dy", "0.32em");
    ticks.text(([, text]) => (text.length > 9 ? `${text.slice(0, 3)}\u2026${text.slice(-5)}` : text)); // values often differ at their ends
    const title = group.append("text").attr("class", "axis-title middle").attr("y", -16).text(axis.title.length > 13 ? `${axis.title.slice(0, 12)}\u2026` : axis.title);
    title.append("title").text(this.study.titles[axis.name] ?? axis.title);
    const brush = d3.brushY().extent([[-12, -6], [12, this.height + 6]]).on("start brush end", (event) => {
      if (!event.sourceEvent) return;
      this.isDragged = event.type !== "end"; // an axis that is drawn again would end it
      this.select(axis, event.selection);
      this.speak(group, axis);
    });
    const layer = group.append("g").attr("class", "brush").call(brush);
    if (this.selected.has(axis.name)) layer.call(brush.move, this.selected.get(axis.name));
    this.speak(group, axis);
    group.on("keydown", (event) => this.key(event, axis, (range) => { layer.call(brush.move, range); this.select(axis, range); this.speak(group, axis); }));
  }

  // Arrows move the selection, with Shift its upper end; Escape clears it.
  key(event, axis, move) {
    const stops = [...new Set(axis.ticks.map(([at]) => at))].sort(d3.descending); // from the lowest value up
    const gap = stops.length > 1 ? (stops[0] - stops[1]) / 2 : this.height / 2;
    const now = this.selected.get(axis.name);
    if (event.key === "Escape") move(null);
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const up = event.key === "ArrowUp" ? 1 : -1;
      if (!now) move([stops[0] - gap, stops[0] + gap]);
      else if (event.shiftKey) move([Math.max(-6, Math.min(now[1] - gap, now[0] - 2 * gap * up)), now[1]]);
      else {
        const shift = -2 * gap * up;
        if (now[0] + shift >= -7 && now[1] + shift <= this.height + 7) move([now[0] + shift, now[1] + shift]);
      }
    } else return;
    event.preventDefault();
  }

  select(axis, range) {
    this.hold(axis, range);
    const held = range && Parallel.valuesIn(axis, range);
    if (held) this.held.set(axis.name, held); else this.held.delete(axis.name);
    this.study.changed();
  }

  hold(axis, range) {
    if (!range) { this.selected.delete(axis.name); this.study.brushes.delete(axis.name); }
    else {
      this.selected.set(axis.name, range);
      this.study.brushes.set(axis.name, (trial) => {
        const value = this.study.value(trial, axis.name);
        if (axis.name === "score" && value === null) return false;
        const at = axis.at(value);
        return at !== undefined && at >= range[0] && at <= range[1];
      });
    }
  }

  speak(group, axis) {
    const range = this.selected.get(axis.name);
    const held = range ? axis.ticks.filter(([at]) => at >= range[0] && at <= range[1]).map(([, text]) => text) : [];
    group.attr("aria-valuetext", range ? `${held.join(", ") || "between values"} selected` : "all values").attr("aria-valuenow", range ? 1 : 0);
  }

  update() {
    if (this.figure.hidden) return;
    const groups = new Map(this.study.groups().map((group) => [group.name, group]));
    const line = d3.line();
    const isFaint = this.known.length > 40;
    const shown = this.known.filter((trial) => !this.study.hidden.has(trial.id));
    const room = this.study.maxLines;
    const drawn = shown.length <= room ? shown : d3.range(room).map((i) => shown[Math.floor((i * shown.length) / room)]);
    const rank = (trial) => 2 * this.study.kept.has(trial.id) + this.study.passes(trial);
    drawn.sort((a, b) => rank(a) - rank(b));
    this.lines.selectAll("path").data(drawn).join("path")
      .attr("d", (trial) => line(this.axes.map((axis) => [this.place(axis.name), axis.at(this.study.value(trial, axis.name))])))
      .style("stroke", (trial) => groups.get(this.study.group(trial))?.color)
      .attr("data-trial", (trial) => trial.id)
      .attr("class", (trial) => ["line", !this.study.passes(trial) && "off", isFaint && "faint", trial.status !== "finished" && "cut",
        this.study.kept.has(trial.id) && "is-kept", this.study.colorBy === "lead" && trial.lead && "strong"].filter(Boolean).join(" "))
      .on("click", (event, trial) => (event.shiftKey ? this.study.hide(trial.id) : this.study.keep(trial.id)))
      .selectAll("title").data((trial) => [trial]).join("title").text((trial) => `${trial.family}, seed ${trial.seed}: ${this.study.words(trial)}; score ${trial.score} %`);
    const passing = this.known.filter((trial) => this.study.passes(trial)).length;
    const some = drawn.length < shown.length ? `; ${drawn.length} lines of ${shown.length.toLocaleString()} drawn` : "";
    this.note.textContent = `${passing.toLocaleString()} of ${this.known.length.toLocaleString()} trials with a score selected${some}.`;
    this.figure.querySelector('[data-control="clear"]').hidden = this.study.brushes.size === 0;
  }

  rows() {
    const head = ["trial", "sweep", "stage", "family", "seed", ...this.study.settings, "step", "score_percent", "split", "status", "selected"];
    return [head, ...this.known.map((trial) => [trial.id, trial.sweep, trial.stage, trial.family, trial.seed, ...trial.v,
      trial.step, trial.score, trial.split, trial.status, this.study.passes(trial) ? 1 : 0])];
  }
}
