"use strict";
(() => {
  const POLL_MS = 2000;
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  const make = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  const words = (text) => text.replaceAll("_", " ");

  const bar = (sweep) => {
    const share = (count) => `width:${(100 * count) / Math.max(1, sweep.planned)}%`;
    const { finished = 0, stopped = 0, running = 0 } = sweep.counts;
    const parts = [["finished", finished], ["stopped", stopped], ["failed", sweep.failed], ["running", running]];
    const track = make("div", { class: "track", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": sweep.planned, "aria-valuenow": sweep.done,
      "aria-label": `${sweep.done} of ${sweep.planned} trials of ${sweep.name} done` });
    for (const [name, count] of parts) if (count) track.append(make("i", { class: name, style: share(count), title: `${count} ${name}` }));
    return track;
  };
  const card = (sweep, tools) => {
    const problems = sweep.problems.length ? [make("p", { class: "problems" }, sweep.problems.slice(0, 3).join("; "))] : [];
    const made = make("article", { class: "panel sweep", "data-sweep": sweep.name });
    if (sweep.planned === undefined) {
      made.append(make("h2", {}, sweep.name), ...problems);
      return made;
    }
    const address = `/sweeps/${encodeURIComponent(sweep.name)}`;
    const best = make("div", { class: "best" });
    if (sweep.best !== null) best.append(percent(sweep.best), make("small", {}, `best ${words(sweep.metric)}${sweep.kind === "search" ? " on validation" : ""} so far`));
    const counts = Object.entries(sweep.counts).map(([name, count]) => `${count.toLocaleString()} ${words(name)}`).join(", ");
    const facts = make("p", { class: "facts" });
    facts.append(sweep.driver ? make("span", { class: "runs" }, "runs") : sweep.done >= sweep.planned ? "complete" : "does not run");
    facts.append(`${sweep.driver ? ` as ${sweep.driver}` : ""}; ${sweep.done.toLocaleString()} of ${sweep.planned.toLocaleString()} trials done${counts ? ` (${counts})` : ""}`);
    const links = make("p", { class: "links" }, make("a", { href: address }, "Report"));
    for (const tool of Object.values(tools)) {
      const link = tool.sweeps?.[sweep.name];
      if (link && tool.is_ready) links.append(make("a", { href: link }, tool.title));
    }
    made.append(make("h2", {}, make("a", { href: address }, sweep.name), make("small", {}, sweep.kind)), best, bar(sweep), facts, links, ...problems);
    return made;
  };

  let etag = null;
  const show = (state) => {
    document.getElementById("where").textContent = state.storage;
    const tools = Object.values(state.tools).map((tool) => (tool.is_ready ? make("a", { href: tool.url }, tool.title)
      : make("span", {}, `${tool.title}: ${tool.note || "starting"}`)));
    document.getElementById("tools").replaceChildren(make("a", { href: "/leaderboard" }, "Leaderboard of all sweeps"), ...tools);
    const box = document.getElementById("sweeps");
    const focused = document.activeElement?.closest?.("[data-sweep]") && document.activeElement.getAttribute("href");
    const none = make("p", { class: "lead" }, "There is no sweep here yet. `trm sweep run demo` runs one, and it appears here.");
    box.replaceChildren(...(state.sweeps.length ? state.sweeps.map((sweep) => card(sweep, state.tools)) : [none]));
    if (focused) [...box.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
  };
  const poll = async () => {
    if (document.hidden) return;
    const status = document.getElementById("state");
    try {
      const answer = await fetch("/api/sweeps", { headers: etag ? { "If-None-Match": etag } : {} });
      if (answer.status === 200) {
        etag = answer.headers.get("ETag");
        show(await answer.json());
      } else if (answer.status !== 304) throw new Error(await answer.text());
      status.textContent = "";
    } catch (error) {
      status.textContent = `No answer from trm ui: ${error.message}`;
    }
  };
  poll();
  setInterval(poll, POLL_MS);
  document.addEventListener("visibilitychange", poll);
})();
