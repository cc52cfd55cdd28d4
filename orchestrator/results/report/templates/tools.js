"use strict";
/* Downloads of figures as SVG and of their data as CSV, and what the other scripts use to build elements. */
const plotTools = (() => {
  const PROPERTIES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "fill-opacity", "opacity",
    "font-family", "font-size", "font-weight", "text-anchor", "display", "visibility", "stroke-linejoin", "stroke-linecap", "paint-order",
    "vector-effect"];
  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const copyStyle = (from, to) => {
    const style = getComputedStyle(from);
    for (const name of PROPERTIES) to.style.setProperty(name, style.getPropertyValue(name));
    to.removeAttribute("class");
    [...from.children].forEach((child, i) => copyStyle(child, to.children[i]));
  };
  // The groups of a legend that are shown, as SVG from a height on; `used` is its own height.
  const legendSvg = (legend, left, top, width) => {
    const root = document.createElementNS("http://www.w3.org/2000/svg", "g");
    const draw = (name, attributes) => root.appendChild(Object.entries(attributes).reduce((made, [key, value]) => {
      made.setAttribute(key, value);
      return made;
    }, document.createElementNS("http://www.w3.org/2000/svg", name)));
    let [x, y] = [left, top + 18];
    const shown = [...legend.querySelectorAll("button")].filter((each) => each.getAttribute("aria-pressed") === "true");
    for (const button of shown) {
      const { width: room } = button.getBoundingClientRect();
      if (x > left && x + room > left + width) [x, y] = [left, y + 20];
      const style = getComputedStyle(button);
      draw("rect", { x, y: y - 6, width: 16, height: 3, fill: getComputedStyle(button.querySelector("i")).backgroundColor });
      draw("text", { x: x + 23, y, fill: style.color, "font-size": "13px", "font-family": style.fontFamily }).textContent = button.textContent.trim();
      x += room + 8;
    }
    return { root, used: shown.length ? y - top + 12 : 0 };
  };
  // A drawing with its styles written out, room for the labels that hang over its edge, and its legend.
  const svgText = (svg, margins = [0, 0, 0, 0], legend = null) => {
    const copy = svg.cloneNode(true);
    copyStyle(svg, copy);
    const { width, height } = svg.getBoundingClientRect();
    const [top, right, bottom, left] = margins;
    const { root, used } = legend ? legendSvg(legend, Math.max(left, 16), height + top + bottom, width) : { used: 0 };
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("width", width + left + right);
    copy.setAttribute("height", height + top + bottom + used);
    if (copy.hasAttribute("viewBox")) copy.setAttribute("viewBox", `0 0 ${width} ${height + used}`);
    else {
      const inner = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      inner.append(...copy.childNodes);
      for (const [name, value] of Object.entries({ x: left, y: top, width, height })) inner.setAttribute(name, value);
      inner.style.overflow = "visible";
      copy.append(inner);
    }
    if (root) copy.append(root);
    copy.style.background = getComputedStyle(svg.closest(".panel") ?? document.body).backgroundColor;
    return new XMLSerializer().serializeToString(copy);
  };
  const field = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    // A spreadsheet would run a text that starts like a formula, also after a semicolon: see report/escape.py.
    const safe = typeof value !== "string" ? text
      : text.replace(/^(?=[\s"]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r])/, "'").replace(/;(?=[\s"]*[=+\-@\uff1d\uff0b\uff0d\uff20])/g, ";'");
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const csvText = (rows) => rows.map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";
  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "text") made.textContent = value;
      else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  };
  // What the address has from a character on, as it stands if it was written by hand and has a lone %.
  const hashText = (from) => {
    const text = location.hash.slice(from);
    try { return decodeURIComponent(text); } catch { return text; }
  };
  // Replace what is in a box; the focus stays on the control of the same name.
  const refill = (box, ...children) => {
    const nameOf = (each) => each.getAttribute("aria-label") ?? each.dataset.group ?? each.textContent;
    const focused = box.contains(document.activeElement) ? nameOf(document.activeElement) : null;
    box.replaceChildren(...children);
    if (focused !== null) [...box.querySelectorAll("a, button")].find((each) => nameOf(each) === focused)?.focus({ preventScroll: true });
  };
  // The room inside an element, in pixels.
  const roomIn = (box) => {
    const style = getComputedStyle(box);
    return Math.max(240, box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
  };
  return { save, svgText, csvText, element, hashText, refill, roomIn };
})();
