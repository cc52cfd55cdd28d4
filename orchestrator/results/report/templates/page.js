"use strict";
(() => {
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // A number in data-value, else the text; what has no value goes last in both directions.
  const key = (body, column) => {
    const cell = body.rows[0].cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = text === "" ? NaN : Number(text);
    return { text, number: Number.isNaN(number) ? null : number };
  };
  const compare = (a, b) => {
    if (a.number !== null && b.number !== null) return a.number - b.number;
    if (a.number !== null || b.number !== null) return a.number !== null ? -1 : 1;
    return a.text.localeCompare(b.text, undefined, { numeric: true });
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    for (const button of table.querySelectorAll("button.sort")) {
      button.addEventListener("click", () => {
        const head = button.parentElement;
        const column = head.cellIndex;
        const descending = head.getAttribute("aria-sort") === "ascending";
        for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        const sign = descending ? -1 : 1;
        const rows = [...table.tBodies].map((body) => ({ body, key: key(body, column) }));
        rows.sort((a, b) => sign * compare(a.key, b.key));
        table.append(...rows.map((row) => row.body));
      });
    }
  }

  const show = (board) => {
    const words = (board.querySelector("[data-filter]")?.value ?? board.dataset.words ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    const all = board.dataset.all === "1" || words.length > 0;
    for (const body of board.querySelectorAll("tbody")) {
      const text = body.rows[0].textContent.toLowerCase();
      const found = words.every((word) => text.includes(word));
      body.hidden = !found || (!all && body.hasAttribute("data-more"));
    }
  };
  for (const input of document.querySelectorAll("[data-filter]")) {
    const board = document.getElementById(input.dataset.filter);
    input.addEventListener("input", () => {
      board.dataset.words = input.value;
      show(board);
    });
  }
  for (const button of document.querySelectorAll("[data-more-for]")) {
    const board = document.getElementById(button.dataset.moreFor);
    const label = button.textContent;
    button.addEventListener("click", () => {
      const all = board.dataset.all !== "1";
      board.dataset.all = all ? "1" : "0";
      button.setAttribute("aria-expanded", String(all));
      button.textContent = all ? "Show fewer" : label;
      show(board);
    });
    show(board);
  }
})();
