"use strict";
/* Figures drawn by Python: downloads, a legend that hides, what a mark says when it is pointed at, and links to figures. */
(() => {
  const OVERHANG = [34, 60, 52, 60]; // pixels of labels around a drawing: top, right, bottom, left
  const NEAR = 24; // pixels within which a mark counts as pointed at
  const studies = typeof explorers === "undefined" ? [] : explorers;
  const studyOf = (figure) => studies.find((each) => each.host === figure.closest("section").querySelector(".explorer"));
  const rowsOf = (figure) => {
    const own = figure.querySelector("script.data");
    if (own) return JSON.parse(own.textContent);
    const study = studyOf(figure);
    const names = JSON.parse(figure.dataset.settings);
    const trials = [...study.trials.values()].filter((trial) => trial.score !== null);
    const head = ["trial", "stage", "family", "seed", ...names, "score_percent", "split", "status"];
    return [head, ...trials.map((trial) => [trial.id, trial.stage, trial.family, trial.seed, ...names.map((name) => study.value(trial, name)),
      trial.score, trial.split, trial.status])];
  };

  const addDownloads = (figure, drawing) => {
    const name = figure.dataset.figure;
    const box = figure.querySelector(".downloads");
    const add = (text, what, act) => box.append(plotTools.element("button", { type: "button", text, "aria-label": `Download ${what} of ${name} as ${text}`, onclick: act }));
    const file = name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");
    if (drawing) add("SVG", "the drawing", () => plotTools.save(`${file}.svg`, "image/svg+xml", plotTools.svgText(drawing, OVERHANG, figure.querySelector(".legend"))));
    add("CSV", "the data", () => plotTools.save(`${file}.csv`, "text/csv", plotTools.csvText(rowsOf(figure))));
  };

  const addLegend = (figure) => {
    for (const button of figure.querySelectorAll(".legend button")) {
      button.addEventListener("click", () => {
        const isOff = button.getAttribute("aria-pressed") === "true";
        button.setAttribute("aria-pressed", String(!isOff));
        const parts = [...figure.querySelectorAll("svg [data-group]")].filter((part) => part.dataset.group === button.dataset.group);
        for (const part of parts) part.classList.toggle("gone", isOff);
      });
    }
  };

  // The words of a mark are shown beside it: of the nearest to the pointer, or, with the arrow keys, of the next.
  const addTip = (figure, drawing) => {
    const marks = [...drawing.querySelectorAll("circle")].filter((mark) => mark.querySelector("title"));
    if (!marks.length) return;
    for (const mark of marks) {
      mark.dataset.words = mark.querySelector("title").textContent;
      mark.querySelector("title").remove(); // the browser would show it a second time
    }
    const box = drawing.parentElement;
    const tip = plotTools.element("div", { class: "tip", role: "status", hidden: "" });
    box.append(tip);
    const visible = () => marks.filter((mark) => !mark.closest(".gone"));
    let shown = null;
    const show = (mark) => {
      if (mark === shown) return;
      shown?.classList.remove("pointed");
      shown = mark;
      tip.hidden = !mark;
      if (!mark) return;
      mark.classList.add("pointed");
      tip.textContent = mark.dataset.words;
      const [around, at] = [box.getBoundingClientRect(), mark.getBoundingClientRect()];
      const left = at.left - around.left + at.width / 2 - tip.offsetWidth / 2;
      tip.style.left = `${Math.max(0, Math.min(left, box.clientWidth - tip.offsetWidth))}px`;
      const isLow = at.top - around.top > around.height / 2;
      tip.style.top = `${isLow ? at.top - around.top - tip.offsetHeight - 8 : at.bottom - around.top + 8}px`;
    };
    drawing.addEventListener("pointermove", (event) => {
      const far = (mark) => {
        const at = mark.getBoundingClientRect();
        return Math.hypot(at.left + at.width / 2 - event.clientX, at.top + at.height / 2 - event.clientY);
      };
      const nearest = visible().map((mark) => [far(mark), mark]).sort((a, b) => a[0] - b[0])[0];
      show(nearest && nearest[0] <= NEAR ? nearest[1] : null);
    });
    drawing.addEventListener("pointerleave", () => show(null));
    drawing.addEventListener("blur", () => show(null));
    const press = () => {
      const ids = shown?.dataset.trials?.split(" ") ?? [];
      const study = studyOf(figure);
      const isKept = ids.every((id) => study.kept.has(id));
      for (const id of ids) if (study.trials.has(id)) study.keep(id, !isKept);
    };
    drawing.addEventListener("click", press);
    drawing.setAttribute("tabindex", "0");
    drawing.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const list = visible();
      if (step && list.length) show(list[(list.indexOf(shown) + step + list.length + (step < 0 && !shown ? 1 : 0)) % list.length]);
      else if (event.key === "Escape") show(null);
      else if (event.key === "Enter") press();
      else return;
      event.preventDefault();
    });
    const study = marks.some((mark) => mark.dataset.trials) ? studyOf(figure) : null;
    const follow = () => {
      for (const mark of marks) mark.classList.toggle("is-kept", (mark.dataset.trials ?? "").split(" ").some((id) => study.kept.has(id)));
    };
    if (study) { study.listeners.push(follow); follow(); }
  };

  // A name that would hang over the edge of its panel goes to the other side of its mark, or away: pointing shows it.
  const fitNames = (figure, drawing) => {
    const panel = figure.getBoundingClientRect();
    const hangs = (name) => { const box = name.getBoundingClientRect(); return box.left < panel.left + 4 || box.right > panel.right - 4; };
    for (const name of drawing.querySelectorAll("text.name")) {
      name.classList.remove("gone");
      if (!hangs(name)) continue;
      const turn = () => {
        for (const side of ["start", "end"]) name.classList.toggle(side);
        name.setAttribute("dx", -Number(name.getAttribute("dx")));
      };
      turn();
      if (hangs(name)) { turn(); name.classList.add("gone"); }
    }
  };

  for (const figure of document.querySelectorAll("figure[data-figure]")) {
    const drawing = figure.querySelector(".plot > svg");
    addDownloads(figure, drawing);
    addLegend(figure);
    if (!drawing) continue;
    addTip(figure, drawing);
    new ResizeObserver(() => { if (drawing.clientWidth) fitNames(figure, drawing); }).observe(drawing);
  }
  // A link to a figure opens what is folded around it.
  const arrive = () => {
    const figure = location.hash.length > 1 && document.getElementById(plotTools.hashText(1));
    if (!figure || !figure.matches("figure")) return;
    for (let box = figure.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    figure.scrollIntoView({ block: "start", behavior: "instant" });
  };
  addEventListener("hashchange", arrive);
  // The curves above it are drawn two frames from now, and move it.
  const later = (frames) => requestAnimationFrame(() => (frames ? later(frames - 1) : arrive()));
  later(3);
})();
