"use strict";
/* Interactive figures of a study: curves, and settings and scores. `study` is shared by both, by the table and by the address. */
const explorers = [];

class Study {
  constructor(host) {
    const data = JSON.parse(host.querySelector("script").textContent);
    this.host = host;
    this.live = data.live;
    this.maxLines = data.max_lines;
    this.items = data.items;
    this.curves = new Map(Object.entries(data.curves));
    this.trials = new Map();
    this.kept = new Set();
    this.hidden = new Set();
    this.hiddenGroups = new Set();
    this.brushes = new Map();
    this.sweep = "";
    this.stage = "";
    this.colorBy = "lead";
    this.listeners = [];
    this.missing = []; // ids that the address names and that no trial has
    this.revision = 0;
    this.merge(data);
  }
  // An answer that holds as many trials as there are replaces all: others have been removed.
  merge(data) {
    this.settings = data.settings;
    this.titles = data.titles;
    if (data.trials.length === data.count) this.trials.clear();
    for (const trial of data.trials) this.trials.set(trial.id, trial);
    if (data.lead) {
      const lead = new Set(data.lead);
      for (const trial of this.trials.values()) trial.lead = lead.has(trial.id);
    }
    this.revision += 1;
  }
  changed() { this.listeners.forEach((listener) => listener()); }
  passes(trial) {
    if (this.hidden.has(trial.id) || this.hiddenGroups.has(this.group(trial))) return false;
    if ((this.sweep && trial.sweep !== this.sweep) || (this.stage && trial.stage !== this.stage)) return false;
    return [...this.brushes.values()].every((holds) => holds(trial));
  }
  get shown() { return [...this.trials.values()].filter((trial) => this.passes(trial)); }
  // At most maxLines of them: kept ones first, then the best and the confirmed, then the others, evenly chosen.
  get drawn() {
    const shown = this.shown;
    if (shown.length <= this.maxLines) return shown;
    const first = shown.filter((trial) => this.kept.has(trial.id) || trial.lead).slice(0, this.maxLines);
    const others = shown.filter((trial) => !this.kept.has(trial.id) && !trial.lead);
    const room = this.maxLines - first.length;
    return [...Array.from({ length: room }, (_, i) => others[Math.floor((i * others.length) / room)]), ...first];
  }
  value(trial, name) { return name === "score" ? trial.score : trial.v[this.settings.indexOf(name)]; }
  words(trial) {
    return this.settings.map((name, i) => `${name} ${Study.plain(trial.v[i])}`).join(", ") || trial.family;
  }
  static plain(value) {
    if (value === null || value === undefined) return "default";
    return typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(6))) : String(value);
  }

  // --- groups: what a colour stands for ---
  group(trial) {
    if (this.colorBy === "lead") {
      if (!trial.lead) return "other trials";
      return trial.stage === "explore" ? "best explored" : trial.family;
    }
    if (["stage", "status", "family", "sweep"].includes(this.colorBy)) return trial[this.colorBy];
    return Study.plain(this.value(trial, this.colorBy));
  }
  // Groups in order, with their colours.
  groups() {
    const isDark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
    const found = new Map();
    for (const trial of this.trials.values()) {
      const name = this.group(trial);
      if (!found.has(name)) found.set(name, { name, value: this.value(trial, this.colorBy), best: 0, count: 0 });
      const group = found.get(name);
      group.count += 1;
      group.best = Math.max(group.best, trial.score ?? 0);
    }
    const list = [...found.values()];
    if (this.colorBy === "lead") {
      list.sort((a, b) => (a.name === "other trials") - (b.name === "other trials") || d3.descending(a.best, b.best) || d3.ascending(a.name, b.name));
      list.forEach((group, i) => { group.color = group.name === "other trials" ? "var(--other)" : `var(--s${i % 7})`; });
      return list;
    }
    const isNumeric = list.every((group) => typeof group.value === "number");
    list.sort((a, b) => (isNumeric ? a.value - b.value : d3.ascending(a.name, b.name)));
    const scale = isDark ? (share) => d3.interpolateViridis(0.35 + 0.65 * share) : (share) => d3.interpolateViridis(0.78 * share);
    const light = isDark ? 0.72 : 0.42;
    list.forEach((group, i) => {
      const share = list.length > 1 ? i / (list.length - 1) : 0;
      group.color = isNumeric || list.length > 12 ? scale(share) : d3.hsl((i * 137.5 + 210) % 360, 0.55, light).formatHex();
    });
    return list;
  }

  // --- what the reader does ---
  keep(id, isKept = !this.kept.has(id)) {
    if (isKept) { this.kept.add(id); this.hidden.delete(id); } else this.kept.delete(id);
    this.changed();
  }
  hide(id) { this.hidden.add(id); this.kept.delete(id); this.changed(); }
  showAll() { this.hidden.clear(); this.hiddenGroups.clear(); this.changed(); }
}

// The address names the kept trials: `#trial=ID,ID`.
const permalink = {
  ids() { return location.hash.startsWith("#trial=") ? plotTools.hashText(7).toLowerCase().split(",").filter(Boolean) : []; },
  write() {
    const ids = explorers.flatMap((study) => [...study.kept, ...study.missing.map(encodeURIComponent)]);
    const isNamed = location.hash.startsWith("#trial=");
    if (ids.length) history.replaceState(null, "", `#trial=${ids.join(",")}`);
    else if (isNamed) history.replaceState(null, "", location.pathname + location.search);
  },
  read(isArrival) {
    const ids = permalink.ids();
    let first = null;
    const known = explorers.flatMap((study) => [...study.trials.keys()]);
    const missing = ids.filter((id) => !known.some((each) => each.startsWith(id)));
    if (explorers.length && missing.join() !== explorers[0].missing.join()) {
      explorers[0].missing = missing;
      explorers[0].changed();
    }
    for (const study of explorers) {
      const found = ids.flatMap((id) => [...study.trials.keys()].filter((known) => known.startsWith(id)));
      if (ids.length && (found.length !== study.kept.size || found.some((id) => !study.kept.has(id)))) {
        study.kept = new Set(found);
        study.changed();
      }
      if (found.length) first ??= study.host;
    }
    if (first && isArrival) first.scrollIntoView({ block: "start" });
  },
};
