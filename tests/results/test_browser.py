"""The page in headless Chromium: sorting, filtering, theme, links, narrow screens, no console message, quick to use.

The page is opened from file://. A probe added to a copy of it plays the reader and leaves what it saw as JSON in the
document, which `--dump-dom` prints; so nothing but the browser is needed.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator.records.schema import TrialRecord
from orchestrator.results.baselines import load_baselines
from orchestrator.results.leaderboard import build_leaderboard
from orchestrator.results.report import Report
from orchestrator.results.report.gallery import GallerySource
from tests.support.chromium import QUIET, find_chromium
from tests.support.results import (
    ablation_records,
    arc_gallery,
    demo_gallery,
    demo_records,
    large_records,
    make_config,
    make_record,
    maze_gallery,
)

pytestmark = pytest.mark.slow
NOW = datetime(2026, 11, 21, 22, 0, tzinfo=UTC)
Probe = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def chromium() -> str:
    found = find_chromium()
    if found is None:
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    return found


def drive(chromium: str, folder: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        chromium,
        *QUIET,
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    return done


@pytest.fixture
def probe(chromium: str, tmp_path: Path) -> Probe:
    """Runs a script in a page and returns the object that it evaluates to."""

    def run(page: str, script: str) -> dict[str, Any]:
        errors = "<script>window.problems = []; addEventListener('error', (e) => problems.push(e.message));</script>"
        reader = f"""<script>(() => {{ const seen = (() => {{ {script} }})();
          const out = document.createElement("pre"); out.id = "seen"; out.hidden = true;
          out.textContent = JSON.stringify({{ ...seen, problems }}); document.body.append(out); }})();</script>"""
        path = tmp_path / "page with 'quotes' & spaces.html"
        path.write_text(page.replace("<head>", f"<head>{errors}", 1).replace("</body>", f"{reader}</body>"))
        printed = drive(chromium, tmp_path, path, "--dump-dom").stdout
        found = re.search(r'<pre id="seen"[^>]*>(.*?)</pre>', printed, flags=re.DOTALL)
        assert found is not None, "the probe left nothing: the page's script failed"
        seen: dict[str, Any] = json.loads(html.unescape(found[1]))
        assert seen.pop("problems") == []
        return seen

    return run


HELPERS = """
  const open = () => document.querySelectorAll("details").forEach((d) => { d.open = true; });
  const name = (body) => body.rows[0].querySelector("th").innerText.trim();
  const names = (table) => [...table.tBodies].filter((body) => !body.hidden).map(name);
  const board = (text) => [...document.querySelectorAll(".board")]
    .find((one) => one.querySelector("h3").innerText === text);
  const button = (table, text) => [...table.querySelectorAll("button.sort")].find((b) => b.innerText.trim() === text);
"""


def page_of(records: list[TrialRecord], control: str | None = None) -> str:
    return Report(records=records, now=NOW, control=control).html()


def test_browser_sorts_by_number_both_ways_and_keeps_provenance_with_its_row(probe: Probe) -> None:
    script = (
        HELPERS
        + """
      open();
      const table = document.querySelector(".board table");
      const head = button(table, "Score, %").parentElement;
      const start = names(table);
      button(table, "Score, %").click(); const up = names(table), first = head.getAttribute("aria-sort");
      button(table, "Score, %").click(); const down = names(table), second = head.getAttribute("aria-sort");
      const kept = [...table.tBodies].every((b) => b.rows[1].innerText.includes(name(b)));
      return { start, up, down, first, second, kept };"""
    )
    seen = probe(page_of(demo_records()), script)
    assert seen["start"] == seen["down"] == ["best", "hrm", "direct"] and seen["up"] == ["direct", "hrm", "best"]
    assert (seen["first"], seen["second"], seen["kept"]) == ("ascending", "descending", True)


def test_browser_sorts_unknown_values_last_and_cost_by_value(probe: Probe) -> None:
    script = (
        HELPERS
        + """
      open();
      const one = board("ARC-AGI-1, semi-private evaluation, two attempts");
      one.querySelector(".more").click();
      button(one.querySelector("table"), "$ / task").click();
      const cells = [...one.querySelector("table").tBodies].map((b) => b.rows[0].cells[5].dataset.value);
      return { cells };"""
    )
    cells = probe(page_of([]), script)["cells"]
    known = [float(cell) for cell in cells if cell != ""]
    assert len(known) > 100 and known == sorted(known) and cells[: len(known)] == [c for c in cells if c != ""]


def test_browser_filters_every_row_and_shows_them_all_on_request(probe: Probe) -> None:
    script = (
        HELPERS
        + """
      open();
      const one = board("ARC-AGI-1, semi-private evaluation, two attempts");
      const table = one.querySelector("table"), input = one.querySelector("input"), more = one.querySelector(".more");
      const type = (text) => { input.value = text; input.dispatchEvent(new Event("input")); return names(table); };
      const first = names(table).length;
      const found = type("PRO gemini 32k"), none = type("no such system"), back = type("").length;
      more.click(); const all = names(table).length, expanded = more.getAttribute("aria-expanded");
      more.click(); const fewer = names(table).length;
      return { first, found, none, back, all, expanded, fewer };"""
    )
    seen = probe(page_of([]), script)
    assert seen["found"] == ["Gemini 2.5 Pro (Thinking 32K)"] and seen["none"] == []
    assert seen["first"] == seen["back"] == seen["fewer"] < 30 and seen["expanded"] == "true"
    [rows] = [
        len(table.entries)
        for table in build_leaderboard("arc-agi-1", [], load_baselines())
        if table.heading == "ARC-AGI-1, semi-private evaluation, two attempts"
    ]
    assert seen["all"] == rows > 100


def test_browser_filters_the_list_of_trials(probe: Probe) -> None:
    script = (
        HELPERS
        + """
      open();
      const box = document.getElementById("trials-1"), input = document.querySelector('[data-filter="trials-1"]');
      input.value = "stopped"; input.dispatchEvent(new Event("input"));
      return { shown: names(box.querySelector("table")).length };"""
    )
    stopped = sum(record.status == "stopped" for record in demo_records())
    assert probe(page_of(demo_records()), script)["shown"] == stopped > 0


def test_browser_switches_between_light_and_dark_with_enough_contrast(probe: Probe) -> None:
    """Contrast as WCAG 2 defines it: 4.5 for text, also on the tinted cells, whose colour the browser mixes."""
    script = """
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const luminance = (color) => {
        canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
          .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const contrast = (front, behind) => {
        const style = (one) => getComputedStyle(typeof one === "string" ? document.querySelector(one) : one);
        const [a, b] = [luminance(style(front).color), luminance(style(behind).backgroundColor)].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05); };
      const read = () => ({
        text: contrast("body", "body"), soft: contrast("figcaption p", ".panel"), link: contrast("nav a", "body"),
        own: contrast(".own td.interval", ".own td"), label: contrast(".dot-name small", ".panel"),
        cells: Math.min(...[...document.querySelectorAll(".heat td[style]")].map((cell) => contrast(cell, cell))) });
      const paper = () => getComputedStyle(document.body).backgroundColor;
      const first = read(), day = paper(); document.getElementById("theme").click();
      const second = read(), night = paper(); document.getElementById("theme").click();
      return { first, second, changed: day !== night, back: day === paper() };"""
    seen = probe(page_of(grid_records()), script)
    assert seen["changed"] and seen["back"]
    assert min(seen["first"].values()) >= 4.5 and min(seen["second"].values()) >= 4.5, seen


def grid_records() -> list[TrialRecord]:
    """A grid whose cells run through the whole scale of tints, beside the demo."""
    cells = [(cycles, latent) for cycles in range(1, 7) for latent in range(1, 7)]
    scores = [0.02 + 0.96 * index / len(cells) for index in range(len(cells))]
    grid = [
        make_record(make_config(cycles=cycles, latent=latent), score=score, stage="study")
        for (cycles, latent), score in zip(cells, scores, strict=True)
    ]
    return grid + demo_records()[12:]


def test_browser_links_lead_somewhere_and_everything_can_be_reached_by_key(probe: Probe) -> None:
    script = """
      const every = (selector) => [...document.querySelectorAll(selector)];
      const inside = every('a[href^="#"]').map((a) => document.querySelector(a.getAttribute("href")) !== null);
      const keyed = every("button, summary, input, a[href], [tabindex='0']");
      const named = (e) => e.textContent.trim() || e.labels?.[0]?.textContent || e.ariaLabel;
      const unnamed = every("button, input, summary, a, [role='region']").filter((e) => !named(e)).length;
      const unreachable = keyed.filter((e) => e.tabIndex < 0).length;
      return { inside, unreachable, unnamed, count: keyed.length };"""
    seen = probe(page_of(demo_records()), script)
    assert len(seen["inside"]) >= 4 and all(seen["inside"])
    assert seen["unreachable"] == seen["unnamed"] == 0 and seen["count"] > 50


@pytest.mark.parametrize("records", [demo_records(), ablation_records()], ids=["search", "ablation"])
def test_browser_page_fits_a_phone(probe: Probe, records: list[TrialRecord]) -> None:
    control = "base" if records[0].sweep == "ablation" else None
    inner = json.dumps(page_of(records, control)).replace("</", "<\\/")
    script = f"""
      const frame = document.createElement("iframe");
      frame.style.cssText = "width: 390px; height: 800px; border: 0";
      document.body.append(frame);
      frame.contentDocument.open(); frame.contentDocument.write({inner}); frame.contentDocument.close();
      const body = frame.contentDocument.body;
      body.querySelectorAll("details").forEach((d) => {{ d.open = true; }});
      const wide = [...body.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, svg, pre, .visually-hidden")
        && e.getBoundingClientRect().right > 391).map((e) => e.outerHTML.slice(0, 120));
      return {{ width: frame.contentDocument.documentElement.scrollWidth, wide }};"""
    seen = probe("<!DOCTYPE html><html><head></head><body></body></html>", script)
    assert seen == {"width": 390, "wide": []}


@pytest.mark.parametrize("make", [demo_gallery, maze_gallery, arc_gallery], ids=["sudoku", "maze", "arc"])
def test_browser_gallery_is_drawn_and_steps_by_key(probe: Probe, make: GallerySource) -> None:
    """Alternative texts say what is drawn; an answer of another step is another picture."""
    script = """
      const card = document.querySelectorAll(".card")[1], slider = card.querySelector("input");
      const canvas = (name) => card.querySelector(`canvas[data-grid="${name}"]`);
      const inks = (name) => new Set(canvas(name).getContext("2d")
        .getImageData(0, 0, canvas(name).width, canvas(name).height).data).size;
      const look = () => ({ words: card.querySelector(".step-words").innerText, alt: canvas("answer").ariaLabel,
        picture: canvas("answer").toDataURL(), value: slider.ariaValueText });
      const drawn = ["input", "answer", "label"].map(inks);
      const last = look(); slider.value = 1; slider.dispatchEvent(new Event("input")); const first = look();
      return {
        drawn, last, first, focusable: slider.tabIndex >= 0, label: slider.labels[0].innerText };"""
    seen = probe(Report(records=demo_records(), now=NOW, gallery=make).html(), script)
    assert min(seen["drawn"]) > 2 and seen["focusable"] and "Supervision step of test puzzle" in seen["label"]
    first, last = seen["first"], seen["last"]
    assert first["picture"] != last["picture"]
    assert first["alt"].startswith("Answer after supervision step 1: ") and "Step 8 of 8" in last["words"]
    assert first["value"] == first["alt"].split("supervision ")[1].split(";")[0]


def test_browser_marks_wrong_cells_and_leaves_their_digits_readable(probe: Probe) -> None:
    """Bug E13: a slash hid the digit. A wrong cell has the model's digit on a tint, and the label's in its corner."""
    script = """
      const data = JSON.parse(document.querySelector(".gallery script").textContent);
      const cards = [...document.querySelectorAll(".gallery")][0].querySelectorAll(".card");
      const index = data.puzzles.findIndex((puzzle) => !puzzle.exact), puzzle = data.puzzles[index];
      const answer = puzzle.answers.filter(Boolean).pop();
      const canvas = cards[index].querySelector('canvas[data-grid="answer"]'), pen = canvas.getContext("2d");
      const size = canvas.width / 6;
      const { data: pixels } = pen.getImageData(0, 0, canvas.width, canvas.height);
      // Pixels of a part of a cell that are tinted, and that are dark: of a digit.
      const count = (cell, [left, right], [top, bottom]) => {
        const [x, y] = [(cell % 6) * size, Math.floor(cell / 6) * size];
        let tint = 0, ink = 0;
        for (let row = Math.round(y + top * size); row < y + bottom * size; row++)
          for (let column = Math.round(x + left * size); column < x + right * size; column++) {
            const at = 4 * (row * canvas.width + column), [r, g, b] = pixels.subarray(at, at + 3);
            tint += r > 240 && g < 235 && b < 235 && g > 180;
            ink += r + g + b < 450;
          }
        return [tint, ink];
      };
      const cells = [...answer].map((value, cell) => ({ wrong: value !== puzzle.label[cell],
        tint: count(cell, [0.1, 0.9], [0.1, 0.9])[0], digit: count(cell, [0.2, 0.65], [0.35, 0.9])[1],
        corner: count(cell, [0.72, 0.95], [0.08, 0.34])[1] }));
      return { cells };"""
    cells = probe(Report(records=demo_records(), now=NOW, gallery=demo_gallery).html(), script)["cells"]
    wrong = [cell for cell in cells if cell["wrong"]]
    assert wrong and all(cell["tint"] > 100 and cell["digit"] > 5 and cell["corner"] > 3 for cell in wrong)
    assert all(cell["tint"] == cell["corner"] == 0 for cell in cells if not cell["wrong"])


def test_browser_large_page_has_all_its_trials_in_four_megabytes(probe: Probe) -> None:
    """1,000 trials of 200 points; `benchmarks/page.py` measures the time."""
    page = page_of(large_records(1_000, 200))
    seen = probe(page, "return { rows: document.querySelectorAll('#trials-1 tbody').length };")
    assert len(page.encode()) <= 4_000_000 and seen["rows"] == 1_000


@pytest.mark.parametrize("size", ["1280,2400", "500,2400"], ids=["desk", "phone"])
def test_browser_screenshot_shows_a_drawn_page(chromium: str, tmp_path: Path, size: str) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(page_of(demo_records()))
    drive(chromium, tmp_path, page, f"--screenshot={picture}", f"--window-size={size}")
    with Image.open(picture) as image:
        colors = image.convert("RGB").getcolors(maxcolors=1 << 24) or []
        assert image.size == tuple(map(int, size.split(",")))
    assert len(colors) > 200  # a blank page has one
