"use strict";
/* Connects the figures of each study with the table of its trials and, on the page of `trm ui`, with the server. */
(() => {
  const POLL_MS = 2000;
  const MOST_IDS = 40; // curves asked for at once

  class Table {
    constructor(study, box) {
      this.study = study;
      this.box = box;
      box.addEventListener("click", (event) => {
        const button = event.target.closest("button[data-keep]");
        if (button) study.keep(button.dataset.keep);
      });
    }
    get bodies() { return [...this.box.querySelectorAll("tbody[data-trial]")]; }
    update() {
      for (const body of this.bodies) {
        const trial = this.study.trials.get(body.dataset.trial);
        if (!trial) continue;
        body.classList.toggle("filtered", !this.study.passes(trial));
        const isKept = this.study.kept.has(trial.id);
        body.classList.toggle("is-kept", isKept);
        body.querySelector("button[data-keep]")?.setAttribute("aria-pressed", String(isKept));
      }
    }
    // Rows of trials that have changed or are new, in the columns of the page.
    merge(trials) {
      const table = this.box.querySelector("table");
      const known = new Map(this.bodies.map((body) => [body.dataset.trial, body]));
      for (const [id, body] of known) if (!this.study.trials.has(id)) body.remove();
      const names = [...table.querySelectorAll("th[data-setting]")].map((head) => head.dataset.setting);
      const { element } = plotTools;
      for (const trial of trials) {
        const number = (value) => element("td", { class: "num", text: value === null || value === undefined ? "" : String(value) });
        const head = element("th", { scope: "row" },
          element("button", { type: "button", class: "link", "data-keep": trial.id, "aria-pressed": "false", title: "Keep in the figures" },
            element("code", { text: trial.id.slice(0, 10) })));
        const row = element("tr", {}, head, element("td", { text: trial.stage }), element("td", { class: "family", text: trial.family }), number(trial.seed),
          ...names.map((name) => number(this.study.value(trial, name))), number(trial.step),
          number(trial.score === null ? "\u2013" : trial.score.toFixed(1)), element("td", { text: trial.split }), element("td", { text: trial.status }));
        const body = known.get(trial.id) ?? element("tbody", { "data-trial": trial.id, class: `k-${trial.kind}` });
        plotTools.refill(body, row);
        if (!known.has(trial.id)) table.append(body);
      }
      const count = this.box.closest("details")?.querySelector("summary span");
      if (count) count.textContent = String(this.study.trials.size);
    }
  }

  class Feed {
    constructor(view) {
      this.view = view;
      this.study = view.study;
      this.version = view.study.version;
      this.held = new Map(); // the step up to which a curve was fetched, by trial
      this.state = view.host.querySelector(".live-state");
      this.isBusy = false;
    }
    async ask(address) {
      const answer = await fetch(address, { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error(`${answer.status}`);
      return answer.json();
    }
    async poll() {
      if (this.isBusy || document.hidden) return;
      this.isBusy = true;
      try {
        const settings = encodeURIComponent(this.study.settings.join("\n"));
        const news = await this.ask(`${this.study.live}/trials?since=${encodeURIComponent(this.version ?? "")}&settings=${settings}`);
        this.version = news.version;
        const isChanged = news.trials.length > 0 || this.study.trials.size !== news.count;
        if (isChanged) {
          this.study.merge(news);
          if (this.study.trials.size !== news.count) this.version = ""; // some were removed: the next answer holds all
          if (news.trials.length === news.count) this.held.clear();
          if (this.study.missing.length) permalink.read(false);
          this.view.curves.fillChoices();
          this.view.table.merge(news.trials);
        }
        await this.fetchCurves(isChanged);
        const problems = news.problems.length ? ` Not shown, because it cannot be read: ${news.problems.slice(0, 3).join("; ")}.` : "";
        this.tell(`Live, as of ${new Date().toLocaleTimeString()}. Tables of confirmed results are as of when this page was loaded.${problems}`);
      } catch (error) {
        this.tell(error.message === "404" ? "This sweep is not in the storage any more; this page shows what it had."
          : `No answer from trm ui (${error.message}); this page shows what it had.`);
      } finally {
        this.isBusy = false;
      }
    }
    tell(text) { if (this.state.textContent !== text) this.state.textContent = text; }
    // The curves that are drawn, and of these only those that have grown.
    async fetchCurves(isChanged) {
      const wanted = this.study.drawn.filter((trial) => this.held.get(trial.id) !== `${trial.step} ${trial.status}`);
      for (let start = 0; start < wanted.length; start += MOST_IDS) {
        const some = wanted.slice(start, start + MOST_IDS);
        const found = await this.ask(`${this.study.live}/curves?trials=${some.map((trial) => trial.id).join(",")}`);
        for (const trial of some) {
          if (found[trial.id]) this.study.curves.set(trial.id, found[trial.id]);
          this.held.set(trial.id, `${trial.step} ${trial.status}`);
        }
      }
      if (isChanged) this.study.changed();
      else if (wanted.length) this.view.curves.draw();
    }
  }

  for (const host of document.querySelectorAll(".explorer")) {
    const study = new Study(host);
    study.version = host.dataset.version;
    const curves = new Curves(study, host.querySelector(".curves-figure"));
    const parallel = new Parallel(study, host.querySelector(".parallel-figure"));
    const itemsFigure = host.querySelector(".items-figure");
    const items = itemsFigure ? new Items(study, itemsFigure) : null;
    const table = new Table(study, document.getElementById(host.dataset.table));
    const view = { host, study, curves, parallel, table };
    const feed = study.live ? new Feed(view) : null;
    for (const name of ["sweep", "stage"]) {
      host.querySelector(`[data-control="${name}"]`)?.addEventListener("change", (event) => {
        study[name] = event.target.value;
        parallel.draw();
        study.changed();
      });
    }
    let isWaiting = false;
    let isNew = true;
    study.listeners.push(() => {
      if (isWaiting) return;
      isWaiting = true;
      requestAnimationFrame(() => {
        isWaiting = false;
        parallel.follow();
        curves.draw();
        table.update();
        if (!isNew) permalink.write();
        isNew = false;
        if (feed) feed.fetchCurves(false).catch((error) => feed.tell(`No answer from trm ui (${error.message}).`));
      });
    });
    explorers.push(study);
    let width = 0;
    new ResizeObserver(() => {
      if (host.clientWidth === width) return;
      width = host.clientWidth;
      // In the next frame: the drawings change the size of what is observed.
      requestAnimationFrame(() => {
        curves.draw();
        parallel.draw();
        items?.draw();
      });
    }).observe(host);
    new MutationObserver(() => { study.changed(); items?.draw(); }).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => study.changed());
    if (feed) {
      feed.poll();
      setInterval(() => feed.poll(), POLL_MS);
      document.addEventListener("visibilitychange", () => feed.poll());
    }
  }
  permalink.read(true);
  explorers.filter((study) => !study.kept.size).forEach((study) => study.changed());
  addEventListener("hashchange", () => permalink.read(true));
})();
