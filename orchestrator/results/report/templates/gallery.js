"use strict";
(() => {
  const ARC = ["#000000", "#1e93ff", "#f93c31", "#4fcc30", "#ffdc00", "#999999", "#e53aa3", "#ff851b", "#87d8f1", "#921231"];
  const BOXES = { 4: [2, 2], 6: [2, 3], 9: [3, 3] };
  const SIDE = 236;
  const STEP_MS = 600;
  const cellsOf = (text) => [...text].map((character) => parseInt(character, 36));
  const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // The part of an ARC frame that the grid fills; other puzzles fill theirs.
  const extent = (family, [rows, columns], cells) => {
    if (family !== "arc") return [rows, columns];
    const filled = cells.map((cell, i) => (cell >= 2 ? [Math.floor(i / columns), i % columns] : null)).filter(Boolean);
    return [Math.max(0, ...filled.map(([row]) => row)) + 1, Math.max(0, ...filled.map(([, column]) => column)) + 1];
  };
  // Padding is not answered, nor are ARC's end markers.
  const isAnswered = (family) => (cell) => cell >= (family === "arc" ? 2 : 1);

  // What the label has in a cell that is wrong: a small digit on a tinted cell, or a small square of the right colour in a frame.
  const wrongCell = {
    sudoku(pen, label, x, y, size) {
      pen.fillStyle = themed("--ink");
      pen.font = `600 ${size * 0.33}px system-ui, sans-serif`;
      pen.textAlign = "right";
      pen.textBaseline = "top";
      pen.fillText(String(label - 1), x + size * 0.94, y + size * 0.07);
    },
    grid(pen, label, x, y, size, data) {
      const width = Math.max(1.5, size / 12);
      for (const [style, lineWidth] of [[themed("--panel"), 2 * width], [themed("--cell-wrong"), width]]) {
        pen.strokeStyle = style;
        pen.lineWidth = lineWidth;
        pen.strokeRect(x + width, y + width, size - 2 * width, size - 2 * width);
      }
      const part = size * 0.36;
      pen.save();
      pen.beginPath();
      pen.rect(x + size - part, y, part, part);
      pen.clip();
      painter(data.family)(pen, label, false, x + size - part, y, part, false, data.colours);
      pen.restore();
      pen.lineWidth = 1;
      pen.strokeRect(x + size - part, y, part, part);
    },
  };
  const paint = {
    sudoku(pen, cell, given, x, y, size, isWrong) {
      pen.fillStyle = themed(isWrong ? "--cell-tint" : given ? "--cell-given" : "--panel");
      pen.fillRect(x, y, size, size);
      if (cell < 2) return;
      pen.fillStyle = themed(isWrong ? "--cell-wrong" : given ? "--ink" : "--accent");
      pen.font = `${given ? 600 : 400} ${size * 0.58}px system-ui, sans-serif`;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      const aside = isWrong ? size * 0.08 : 0; // room for the label's digit
      pen.fillText(String(cell - 1), x + size / 2 - aside, y + size * 0.54 + aside);
    },
    maze(pen, cell, given, x, y, size) {
      pen.fillStyle = themed(cell === 1 ? "--maze-wall" : "--panel");
      pen.fillRect(x, y, size + 0.5, size + 0.5);
      if (cell < 3) return;
      pen.fillStyle = { 3: "#2e9e5b", 4: "#d6453d", 5: themed("--maze-path") }[cell] ?? themed("--panel");
      const inset = cell === 5 ? size * 0.2 : 0;
      pen.fillRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset);
    },
    arc(pen, cell, given, x, y, size) {
      pen.fillStyle = cell >= 2 ? ARC[cell - 2] : themed("--panel");
      pen.fillRect(x, y, size, size);
      pen.strokeStyle = "rgba(128, 128, 128, 0.45)";
      pen.lineWidth = 1;
      pen.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
    },
  };
  // A kind that this page does not know is drawn with the colours that came with its puzzles.
  const plain = (pen, cell, given, x, y, size, isWrong, colours) => {
    pen.fillStyle = colours[cell - 1] ?? themed("--panel");
    pen.fillRect(x, y, size, size);
    pen.strokeStyle = "rgba(128, 128, 128, 0.45)";
    pen.lineWidth = 1;
    pen.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
  };
  const painter = (family) => (Object.hasOwn(paint, family) ? paint[family] : plain);
  const rule = (pen, family, rows, columns, size) => {
    if (family !== "sudoku") return;
    const [high, wide] = BOXES[rows] ?? [rows, columns];
    for (let i = 0; i <= rows; i += 1) {
      for (const [bold, line] of [[i % high === 0, [0, i, columns, i]], [i % wide === 0, [i, 0, i, rows]]]) {
        pen.strokeStyle = themed(bold ? "--soft" : "--rule");
        pen.lineWidth = bold ? 1.6 : 0.8;
        pen.beginPath();
        pen.moveTo(line[0] * size, line[1] * size);
        pen.lineTo(line[2] * size, line[3] * size);
        pen.stroke();
      }
    }
  };
  const draw = (canvas, data, cells, input, wrong, shape, label) => {
    const [rows, columns] = shape;
    const scale = devicePixelRatio || 1;
    const size = SIDE / Math.max(rows, columns);
    canvas.width = Math.ceil(columns * size * scale);
    canvas.height = Math.ceil(rows * size * scale);
    canvas.style.aspectRatio = `${columns} / ${rows}`;
    canvas.style.width = `${(100 * columns) / Math.max(rows, columns)}%`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1) {
        const i = row * data.shape[1] + column;
        painter(data.family)(pen, cells[i], input[i] > 1, column * size, row * size, size, wrong.includes(i), data.colours);
      }
    }
    rule(pen, data.family, rows, columns, size);
    for (const i of wrong) {
      const [row, column] = [Math.floor(i / data.shape[1]), i % data.shape[1]];
      if (row < rows && column < columns) wrongCell[data.family === "sudoku" ? "sudoku" : "grid"](pen, label[i], column * size, row * size, size, data);
    }
  };

  const redraws = [];
  for (const panel of document.querySelectorAll(".gallery")) {
    const data = JSON.parse(panel.querySelector("script").textContent);
    const sliders = [];
    const button = panel.querySelector(".play");
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      if (button) button.textContent = "Play the steps";
    };
    const play = () => {
      const most = Math.max(0, ...sliders.map(({ slider }) => Number(slider.max)));
      let step = 0;
      const advance = () => {
        step += 1;
        for (const { slider, show } of sliders) {
          slider.value = Math.min(step, Number(slider.max));
          show();
        }
        if (step >= most) stop();
      };
      if (most < 2) return;
      advance();
      timer = setInterval(advance, STEP_MS);
      button.textContent = "Pause";
    };
    button?.addEventListener("click", () => (timer === null ? play() : stop()));
    // Once, when the puzzles come into view; not for readers who have asked for less motion.
    if (button && !matchMedia("(prefers-reduced-motion: reduce)").matches) {
      const seen = new IntersectionObserver((entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        seen.disconnect();
        play();
      }, { threshold: 0.4 });
      seen.observe(panel.querySelector(".card"));
    }
    for (const card of panel.querySelectorAll("[data-puzzle]")) {
      const puzzle = data.puzzles[Number(card.dataset.puzzle)];
      const [input, label] = [cellsOf(puzzle.input), cellsOf(puzzle.label)];
      const answers = puzzle.answers.reduce((all, text) => [...all, text ? cellsOf(text) : all[all.length - 1]], []);
      const slider = card.querySelector("input");
      const canvas = (name) => card.querySelector(`canvas[data-grid="${name}"]`);
      const counts = isAnswered(data.family);
      const supervised = label.filter(counts).length;
      const show = () => {
        const index = slider ? Number(slider.value) - 1 : 0;
        const wrong = label.flatMap((cell, i) => (counts(cell) && answers[index][i] !== cell ? [i] : []));
        const target = extent(data.family, data.shape, label);
        draw(canvas("input"), data, input, input, [], extent(data.family, data.shape, input));
        draw(canvas("answer"), data, answers[index], input, wrong, target, label);
        draw(canvas("label"), data, label, input, [], target);
        const step = puzzle.steps[index];
        const score = puzzle.halt[index].toFixed(2);
        const words = wrong.length ? `${wrong.length} of ${supervised} cells differ` : "all cells as in the label";
        canvas("answer").setAttribute("aria-label", `Answer after supervision step ${step}: ${words}; halting score ${score}`);
        card.querySelector(".answer-name").textContent = `answer, step ${step}`;
        card.querySelector(".step-words").textContent = `Step ${step} of ${puzzle.steps[puzzle.steps.length - 1]}: ${words}, halting score ${score}`;
        slider?.setAttribute("aria-valuetext", `step ${step}: ${words}`);
        [...card.querySelectorAll(".halts i")].forEach((bar, i) => bar.classList.toggle("now", i === index));
      };
      slider?.addEventListener("input", () => { stop(); show(); });
      if (slider) sliders.push({ slider, show });
      redraws.push(show);
      show();
    }
  }
  const redraw = () => redraws.forEach((show) => show());
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", redraw);
})();
