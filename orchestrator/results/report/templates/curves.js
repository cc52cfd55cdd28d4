"use strict";
/* Learning curves: choice of metric and axis, zoom, seeds as a band, hover, keep and hide. */
class Curves {
  static METRICS = {
    exact: { split: "validation", title: "exact accuracy on validation, %", share: true },
    cell: { split: "validation", title: "cell accuracy on validation, %", share: true },
    loss: { split: "train", title: "loss on training" },
    vloss: { split: "validation", title: "loss on validation" },
    halt: { split: "validation", title: "supervision steps until halting, on validation" },
  };
  static MARGIN = { top: 34, right: 22, bottom: 46, left: 50 };
  static NEAR = 28; // pixels within which a curve counts as pointed at

  constructor(study, figure) {
    this.study = study;
    this.figure = figure;
    this.body = figure.querySelector(".figure-body");
    this.zoom = null;
    const pick = (name) => figure.querySelector(`[data-control="${name}"]`);
    this.controls = Object.fromEntries(["metric", "x", "log", "log-y", "color", "band"].map((name) => [name, pick(name)]));
    for (const [name, control] of Object.entries(this.controls)) {
      control.addEventListener("change", () => {
        if (name === "color") { study.colorBy = control.value; study.hiddenGroups.clear(); study.changed(); }
        else { this.zoom = null; this.draw(); }
      });
    }
    const click = (name, act) => pick(name).addEventListener("click", act);
    click("in", () => this.scaleBy(0.5));
    click("out", () => this.scaleBy(2));
    click("reset", () => { this.zoom = null; this.draw(); });
    click("svg", () => plotTools.save("curves.svg", "image/svg+xml", plotTools.svgText(this.svg.node(), [0, 0, 0, 0], this.legend)));
    click("csv", () => plotTools.save("curves.csv", "text/csv", plotTools.csvText(this.rows())));
    this.tip = plotTools.element("div", { class: "tip", hidden: "" });
    this.legend = figure.querySelector(".legend");
    this.kept = figure.querySelector(".kept");
    this.note = figure.querySelector(".plot-note");
    this.svg = d3.select(this.body).append("svg").attr("class", "interactive").attr("role", "img");
    this.body.append(this.tip);
    this.fillChoices();
  }

  fillChoices() {
    const { metric, x, color } = this.controls;
    const has = (key) => [...this.study.curves.values()].some((curve) => curve[Curves.METRICS[key].split]?.[key]);
    for (const option of metric.options) option.hidden = option.disabled = this.study.live === null && !has(option.value);
    if (metric.selectedOptions[0]?.disabled) metric.value = [...metric.options].find((option) => !option.disabled)?.value ?? "exact";
    const trials = [...this.study.trials.values()];
    [...x.options].find((option) => option.value === "flops").disabled = !trials.some((trial) => trial.fps);
    const known = [...color.options].map((option) => option.value);
    for (const name of this.study.settings) {
      if (!known.includes(name)) color.append(plotTools.element("option", { value: name, text: name === this.study.titles[name] ? name : `${name}, ${this.study.titles[name]}` }));
    }
  }

  // Points {x, y, step} of a trial for the chosen metric and axis.
  points(trial) {
    const metric = this.controls.metric.value;
    const curve = this.study.curves.get(trial.id)?.[Curves.METRICS[metric].split];
    if (!curve?.[metric]) return [];
    const axis = this.controls.x.value;
    if (axis === "flops" && !trial.fps) return [];
    const found = [];
    const isLeftOut = (x, y) => (this.controls.log.checked && x <= 0) || (this.controls["log-y"].checked && y <= 0);
    curve[metric].forEach((y, i) => {
      const step = curve.step[i];
      const x = axis === "step" ? step : axis === "s" ? curve.s[i] : step * trial.fps;
      if (y === null || x === null) return;
      if (isLeftOut(x, y)) { this.leftOut += 1; return; }
      found.push({ x, y, step, seconds: curve.s[i] });
    });
    return found;
  }

  // A series is a trial, or the trials of one configuration that differ in the seed only.
  series() {
    this.leftOut = 0; // points that a log axis has no place for
    const single = this.study.drawn.map((trial) => ({ trials: [trial], points: this.points(trial) }));
    const drawn = single.filter((one) => one.points.length > 0);
    if (!this.controls.band.checked) return drawn;
    const families = d3.groups(drawn, (one) => {
      const [trial] = one.trials;
      return JSON.stringify([trial.sweep, trial.stage, trial.family, trial.v]);
    });
    return families.map(([, members]) => (members.length < 2 ? members[0] : Curves.band(members)));
  }

  static band(members) {
    const xs = [...new Set(members.flatMap((one) => one.points.map((point) => point.x)))].sort(d3.ascending);
    const at = members.map((one) => {
      const bisect = d3.bisector((point) => point.x).left;
      return (x) => {
        const i = bisect(one.points, x);
        if (i < one.points.length && one.points[i].x === x) return one.points[i].y;
        if (i === 0 || i === one.points.length) return null; // no extrapolation
        const [a, b] = [one.points[i - 1], one.points[i]];
        return a.y + ((b.y - a.y) * (x - a.x)) / (b.x - a.x);
      };
    });
    const points = xs.map((x) => {
      const ys = at.map((value) => value(x)).filter((y) => y !== null);
      return { x, y: d3.mean(ys), low: d3.min(ys), high: d3.max(ys), seeds: ys.length };
    });
    return { trials: members.map((one) => one.trials[0]), points: points.filter((point) => point.seeds > 1), isBand: true };
  }

  axis(series) {
    const axis = this.controls.x.value;
    const most = d3.max(series, (one) => d3.max(one.points, (point) => point.x)) ?? 1;
    if (axis === "step") return { unit: 1, name: "training steps", title: "training steps", format: (x) => d3.format(Math.abs(x) < 1000 ? "~g" : "~s")(x) };
    const units = axis === "s" ? [[3600, "h"], [60, "min"], [1, "s"]]
      : [[1e18, "EFLOP"], [1e15, "PFLOP"], [1e12, "TFLOP"], [1e9, "GFLOP"], [1, "FLOP"]];
    const [unit, name] = units.find(([size]) => most >= 1.5 * size) ?? units[units.length - 1];
    return { unit, name, title: `${axis === "s" ? "training time" : "training compute"}, ${name}`, format: d3.format("~g") };
  }

  scales(series, width, height) {
    const { log, "log-y": logY, metric } = this.controls;
    const xs = series.flatMap((one) => one.points.map((point) => point.x)); // a clock that was set back goes below the first
    const ys = series.flatMap((one) => one.points.flatMap((point) => (one.isBand ? [point.low, point.high] : [point.y])));
    let [low, high] = d3.extent(xs.length ? xs : [0, 1]);
    if (!log.checked) low = Math.min(0, low);
    if (low === high) high = low + 1;
    high = log.checked ? high * 1.03 : high + (high - low) * 0.015; // the last point is not on the edge
    let [bottom, top] = d3.extent(ys.length ? ys : [0, 1]);
    if (!logY.checked) {
      bottom = Math.min(0, bottom);
      top = Curves.METRICS[metric.value].share ? 100 : bottom + (top - bottom) * 1.04;
    }
    if (bottom === top) top = bottom + 1;
    this.whole = [[low, high], [bottom, top]];
    const domains = this.zoom ?? this.whole;
    const make = (isLog) => (isLog ? d3.scaleLog() : d3.scaleLinear());
    this.x = make(log.checked).domain(domains[0]).range([0, width]);
    this.y = make(logY.checked).domain(domains[1]).range([height, 0]);
  }

  draw() {
    const { MARGIN } = Curves;
    const outer = plotTools.roomIn(this.body);
    const [width, height] = [outer - MARGIN.left - MARGIN.right, outer < 500 ? 230 : 320];
    const series = this.series();
    this.drawnSeries = series;
    this.scales(series, width, height);
    const metric = Curves.METRICS[this.controls.metric.value];
    const axis = this.axis(series);
    const groups = new Map(this.study.groups().map((group) => [group.name, group]));
    this.svg.attr("viewBox", null).attr("width", outer).attr("height", height + MARGIN.top + MARGIN.bottom)
      .attr("viewBox", `0 0 ${outer} ${height + MARGIN.top + MARGIN.bottom}`)
      .attr("aria-label", `${metric.title} over ${axis.title}, ${series.length} curves. The table of all trials has the numbers.`);
    this.svg.selectAll("*").remove();
    const clip = `clip-${this.study.host.id}`;
    this.svg.append("clipPath").attr("id", clip).append("rect").attr("x", -3).attr("y", -6).attr("width", width + 6).attr("height", height + 9);
    const root = this.svg.append("g").attr("transform", `translate(${MARGIN.left},${MARGIN.top})`);
    this.axes(root, width, height, axis, metric);
    this.brush(root, width, height);
    const lines = root.append("g").attr("clip-path", `url(#${clip})`).attr("class", "lines");
    const area = d3.area().x((p) => this.x(p.x)).y0((p) => this.y(p.low)).y1((p) => this.y(p.high));
    const line = d3.line().x((p) => this.x(p.x)).y((p) => this.y(p.y));
    const isFaint = series.length > 40;
    series.sort((a, b) => Number(this.rank(a)) - Number(this.rank(b)));
    for (const one of series) {
      const [trial] = one.trials;
      const group = groups.get(this.study.group(trial));
      const isKept = one.trials.some((each) => this.study.kept.has(each.id));
      const isStrong = isKept || (this.study.colorBy === "lead" && trial.lead);
      const isCut = one.trials.every((each) => each.status !== "finished");
      if (one.isBand) lines.append("path").attr("class", "seed-band").attr("d", area(one.points)).style("fill", group.color);
      one.path = lines.append("path").attr("d", line(one.points)).style("stroke", group.color).attr("data-trial", trial.id)
        .attr("class", ["line", isStrong && "strong", isKept && "is-kept", isFaint && !isStrong && "faint", isCut && "cut"].filter(Boolean).join(" "));
      // A curve of one point has no line.
      if (one.points.length === 1) lines.append("circle").attr("cx", this.x(one.points[0].x)).attr("cy", this.y(one.points[0].y)).attr("r", 2.5).style("fill", group.color);
    }
    this.pointer = root.append("circle").attr("class", "pointer").attr("r", 4.5).attr("visibility", "hidden");
    this.tree = null;
    this.tell(series);
    this.drawLegend(groups);
    this.drawKept(groups);
  }

  rank(one) { return (this.study.kept.has(one.trials[0].id) ? 2 : 0) + (one.trials[0].lead ? 1 : 0); }

  axes(root, width, height, axis, metric) {
    const inUnits = this.x.copy().domain(this.x.domain().map((value) => value / axis.unit));
    const isLog = this.controls.log.checked;
    const bottom = d3.axisBottom(inUnits).ticks(Math.max(3, Math.floor(width / 90)), isLog ? "~g" : undefined).tickSizeOuter(0);
    if (!isLog) bottom.tickFormat(axis.format);
    root.append("g").attr("class", "axis").attr("transform", `translate(0,${height})`).call(bottom);
    const left = d3.axisLeft(this.y).ticks(5, this.controls["log-y"].checked ? "~g" : undefined).tickSize(-width);
    root.append("g").attr("class", "axis y").call(left);
    root.append("text").attr("class", "axis-title end").attr("x", width).attr("y", height + 38).text(axis.title);
    root.append("text").attr("class", "axis-title").attr("x", -Curves.MARGIN.left + 4).attr("y", -18).text(metric.title);
  }

  brush(root, width, height) {
    const brush = d3.brush().extent([[0, 0], [width, height]]).on("end", (event) => {
      if (!event.sourceEvent) return;
      if (!event.selection) return this.click(event.sourceEvent);
      const [[x0, y0], [x1, y1]] = event.selection;
      if (x1 - x0 < 6 && y1 - y0 < 6) return this.click(event.sourceEvent);
      this.zoom = [[this.x.invert(x0), this.x.invert(x1)], [this.y.invert(y1), this.y.invert(y0)]];
      this.draw();
    });
    const layer = root.append("g").attr("class", "brush").call(brush);
    this.root = root;
    layer.on("pointermove", (event) => this.hover(event)).on("pointerleave", () => this.point(null))
      .on("dblclick", () => { this.zoom = null; this.draw(); });
  }

  // Half (0.5) or twice (2) of what is shown of the x axis, from its start: at most everything, at least a thousandth.
  scaleBy(factor) {
    const [low, high] = this.x.domain();
    const far = this.x.invert(this.x(low) + (this.x(high) - this.x(low)) * factor);
    const whole = this.x.copy().domain(this.whole[0]);
    const share = (whole(far) - whole(low)) / (whole.range()[1] - whole.range()[0]);
    if (share < 0.001) return;
    this.zoom = far < this.whole[0][1] ? [[low, far], this.y.domain()] : null;
    this.draw();
  }

  // The curve nearest to a place, by points every few pixels along the curves.
  find([px, py]) {
    if (!this.tree) {
      const dots = [];
      for (const one of this.drawnSeries) {
        let before = null;
        one.points.forEach((point, i) => {
          const at = [this.x(point.x), this.y(point.y)];
          const pieces = before ? Math.min(60, Math.max(1, Math.round(Math.hypot(at[0] - before[0], at[1] - before[1]) / 10))) : 1;
          for (let k = 1; k <= pieces; k += 1) {
            const share = before ? k / pieces : 1;
            const from = before ?? at;
            dots.push({ x: from[0] + (at[0] - from[0]) * share, y: from[1] + (at[1] - from[1]) * share, one, i: share > 0.5 ? i : i - 1 });
          }
          before = at;
        });
      }
      this.tree = d3.quadtree(dots, (dot) => dot.x, (dot) => dot.y);
    }
    return this.tree.find(px, py, Curves.NEAR) ?? null;
  }
  hover(event) { this.point(this.find(d3.pointer(event, this.root.node()))); }
  point(found) {
    this.figure.querySelector(".line.hovered")?.classList.remove("hovered");
    this.tip.hidden = !found;
    this.pointer.attr("visibility", found ? "visible" : "hidden");
    if (!found) return;
    const point = found.one.points[found.i];
    found.one.path.node().classList.add("hovered");
    const [x, y] = [this.x(point.x), this.y(point.y)];
    this.pointer.attr("cx", x).attr("cy", y);
    this.tip.replaceChildren(...this.tipLines(found.one, point));
    // Beside the point where there is room, else below it, inside the figure.
    const [at, room, width] = [x + Curves.MARGIN.left, this.body.clientWidth, this.tip.offsetWidth];
    const isBeside = at + 14 + width <= room || at - 14 - width >= 0;
    const left = at + 14 + width <= room ? at + 14 : at - 14 - width;
    this.tip.style.left = `${isBeside ? left : Math.max(0, Math.min(at - width / 2, room - width))}px`;
    this.tip.style.top = `${Math.max(0, y + (isBeside ? -10 : Curves.MARGIN.top + 16))}px`;
  }
  tipLines(one, point) {
    const [trial] = one.trials;
    const axis = this.axis(this.drawnSeries);
    const line = (text, kind = "div") => plotTools.element(kind, { text });
    const metric = Curves.METRICS[this.controls.metric.value];
    const number = d3.format(".4~g");
    const values = `${number(point.y)}${metric.share ? " %" : ""} at ${number(point.x / axis.unit)} ${axis.name}`;
    const seeds = one.isBand ? `, ${one.trials.length} seeds, ${number(point.low)} to ${number(point.high)}` : `, seed ${trial.seed}`;
    const settings = this.study.settings.map((name, i) => {
      const title = this.study.titles[name] === name ? name.split(".").pop() : this.study.titles[name];
      return plotTools.element("div", {}, line(title, "span"), line(Study.plain(trial.v[i]), "b"));
    });
    const score = trial.score === null ? "no score yet" : `score ${trial.score.toFixed(1)} % (${trial.split})`;
    return [line(`${trial.family}${seeds}`, "strong"), line(values), ...settings,
      line(one.isBand ? trial.stage : `${trial.id.slice(0, 10)}, ${trial.stage}, ${trial.status}; ${score}`, "small"),
      line("click: keep; Shift and click: hide", "small")];
  }
  click(event) {
    const found = this.find(d3.pointer(event, this.root.node()));
    if (!found) return;
    this.point(null);
    for (const trial of found.one.trials) {
      if (event.shiftKey) this.study.hidden.add(trial.id);
      else if (this.study.kept.has(trial.id)) this.study.kept.delete(trial.id);
      else this.study.kept.add(trial.id);
      if (event.shiftKey) this.study.kept.delete(trial.id);
    }
    this.study.changed();
  }

  tell(series) {
    const { shown, trials, hidden, live, curves } = this.study;
    const curvesShown = d3.sum(series, (one) => one.trials.length);
    const without = this.study.drawn.filter((trial) => !curves.has(trial.id)).length;
    const parts = [`${curvesShown.toLocaleString()} of ${trials.size.toLocaleString()} trials drawn`];
    if (hidden.size) parts.push(`${hidden.size} hidden`);
    if (shown.length < trials.size - hidden.size) parts.push(`${(trials.size - hidden.size - shown.length).toLocaleString()} filtered out`);
    if (without && live === null) parts.push(`this file holds no curve of ${without.toLocaleString()}`);
    if (this.leftOut) parts.push(`${this.leftOut.toLocaleString()} points at 0 or below, which a log axis cannot show`);
    const isHiding = hidden.size || this.study.hiddenGroups.size;
    const all = () => plotTools.element("button", { type: "button", class: "link", "data-control": "show-all", text: "Show all", onclick: () => this.study.showAll() });
    plotTools.refill(this.note, `${parts.join(", ")}. `, ...(isHiding ? [all()] : []));
  }

  drawLegend(groups) {
    const list = [...groups.values()];
    const most = 14;
    const label = list.slice(0, most).map((group) => {
      const isOff = this.study.hiddenGroups.has(group.name);
      const button = plotTools.element("button", { type: "button", "aria-pressed": String(!isOff), title: isOff ? "Show" : "Hide",
        onclick: () => {
          if (isOff) this.study.hiddenGroups.delete(group.name); else this.study.hiddenGroups.add(group.name);
          this.study.changed();
        } });
      button.dataset.group = group.name;
      const swatch = plotTools.element("i", {});
      swatch.style.background = group.color;
      button.append(swatch, `${group.name} `, plotTools.element("small", { text: String(group.count) }));
      return button;
    });
    if (list.length > most) label.push(plotTools.element("span", { text: `and ${list.length - most} more` }));
    plotTools.refill(this.legend, ...label);
  }

  drawKept(groups) {
    const chips = [...this.study.kept].map((id) => this.study.trials.get(id)).filter(Boolean).map((trial) => {
      const swatch = plotTools.element("i", {});
      swatch.style.background = groups.get(this.study.group(trial))?.color ?? "var(--other)";
      const score = trial.score === null ? "no score yet" : `${trial.score.toFixed(1)} %`;
      const button = (text, name, act) => plotTools.element("button", { type: "button", class: "link", text, "aria-label": `${name} ${trial.id}`, onclick: act });
      return plotTools.element("li", { "data-kept": trial.id }, swatch,
        plotTools.element("a", { href: `#trial=${trial.id}`, text: trial.id.slice(0, 10) }),
        ` ${trial.family}, seed ${trial.seed}: ${this.study.words(trial)}; ${score}, ${trial.status} `,
        button("hide", "Hide", () => this.study.hide(trial.id)), " ",
        button("release", "Release", () => this.study.keep(trial.id, false)));
    });
    const missing = this.study.missing.map((id) => plotTools.element("li", { text: `No trial here begins with ${id.slice(0, 40)} ` },
      plotTools.element("button", { type: "button", class: "link", text: "release", "aria-label": `Release ${id.slice(0, 40)}`,
        onclick: () => { this.study.missing = this.study.missing.filter((each) => each !== id); this.study.changed(); } })));
    plotTools.refill(this.kept, ...chips, ...missing);
  }

  rows() {
    const axis = ["step", "training_s", "flops"];
    const head = ["trial", "sweep", "stage", "family", "seed", ...this.study.settings, ...axis, "metric", "value"];
    const metric = this.controls.metric.value;
    const body = this.study.drawn.flatMap((trial) => this.points(trial).map((point) => [trial.id, trial.sweep, trial.stage,
      trial.family, trial.seed, ...trial.v, point.step, point.seconds, trial.fps ? point.step * trial.fps : null, metric, point.y]));
    return [head, ...body];
  }
}
