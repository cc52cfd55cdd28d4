"""Pages in Chromium as they are read: contrast of every text in both themes, widths from phone to desk, and keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.results.report import Report
from orchestrator.storage import open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.web.app import HEADERS, pages
from orchestrator.web.feed import StorageFeed
from orchestrator.web.serving import serving
from tests.support.chromium import Browser
from tests.support.infra import free_port
from tests.support.results import demo_gallery, demo_records, scored_at
from tests.support.tracking import SWEEP, finished, record, write_record

pytestmark = pytest.mark.slow
NOW = datetime(2026, 11, 21, 22, 0, tzinfo=UTC)
RECORDS = [
    *demo_records(),
    *(scored_at(steps, 0.2 * index, 0.1, family=f"T=2 D={steps}") for index, steps in enumerate((2, 4, 8), 1)),
    *(replace(each, sweep="again", trial_id=each.trial_id[::-1]) for each in demo_records()[:4]),
]
FAINT = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const luminance = (color) => { const [r, g, b] = rgba(color).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (node) => { for (let one = node; one; one = one.parentElement) {
    const color = getComputedStyle(one).backgroundColor; if (rgba(color)[3] > 250) return color; } return "white"; };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const words = [...node.childNodes].filter((each) => each.nodeType === 3 && each.textContent.trim());
    if (!words.length || !node.getClientRects().length || node.closest("script, style, title, option")) continue;
    const style = getComputedStyle(node);
    const [a, b] = [luminance(node instanceof SVGElement ? style.fill : style.color), luminance(behind(node))]
      .sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${node.tagName}.${node.className.baseVal ?? node.className}`
      + ` ${words[0].textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return [...new Set(found)];
})()"""
UNREACHABLE = """[...document.querySelectorAll("button, a[href], input, select, summary, [role=slider]")]
  .filter((each) => each.getClientRects().length && (each.tabIndex < 0 || !(each.ariaLabel || each.textContent.trim()
  || each.labels?.[0]?.textContent.trim()))).map((each) => each.outerHTML.slice(0, 120))"""
OPEN = """document.querySelectorAll('.study details, #published > details:first-of-type')
  .forEach((each) => { each.open = true; })"""


@pytest.fixture(params=["report", "start"])
def opened(request: pytest.FixtureRequest, shared: Browser, tmp_path: Path) -> Iterator[Browser]:
    """The page of a report, and the start page of `trm ui` over two sweeps, one of which runs."""
    if request.param == "report":
        Report(records=RECORDS, now=NOW, gallery=demo_gallery).write(tmp_path / "page.html")
        shared.open((tmp_path / "page.html").as_uri())
        shared.until("document.querySelectorAll('.curves-figure path.line').length > 0")
        shared.evaluate(OPEN)
        yield shared
        return
    storage = open_storage(str(tmp_path / "runs"))
    for name in ("depth", "a-sweep-with-a-name-that-is-longer-than-a-phone-is-wide-and-has-no-space"):
        storage.write(f"sweeps/{name}/sweep.json", to_json_bytes({**SWEEP.plain(), "name": name}))
    write_record(storage, finished(0))
    write_record(storage, record(1, steps=2))
    port = free_port()
    with serving(pages(StorageFeed(storage)), port, HEADERS):
        shared.open(f"http://127.0.0.1:{port}")
        shared.until("document.querySelectorAll('[data-sweep]').length === 2")
        yield shared
        shared.open("about:blank#end")


def test_every_text_has_enough_contrast_in_both_themes(opened: Browser) -> None:
    """4.5, as WCAG 2 demands of text: of tables, figures, legends, buttons, and the cells of the puzzles' captions."""
    for dark in (False, True):
        opened.size(1400, 1000, dark=dark)
        opened.until(f"getComputedStyle(document.documentElement).getPropertyValue('--is-dark') == {int(dark)}")
        assert opened.evaluate(FAINT) == [], "dark" if dark else "light"


def test_a_page_is_no_wider_than_the_window_and_everything_can_be_reached_by_key(opened: Browser) -> None:
    for width in (1400, 800, 390):
        opened.size(width, 1000)
        opened.until(f"document.documentElement.scrollWidth <= {width}")
        assert opened.evaluate(UNREACHABLE) == []


def test_sweeps_on_one_dataset_can_be_told_apart(shared: Browser, tmp_path: Path) -> None:
    Report(records=RECORDS, now=NOW).write(tmp_path / "page.html")
    shared.open((tmp_path / "page.html").as_uri())
    lines = "document.querySelectorAll('.curves-figure path.line').length"
    shared.until(f"{lines} > 4")
    choose: Any = """(() => { const one = document.querySelector('.curves-figure [data-control="sweep"]');
      one.value = NAME; one.dispatchEvent(new Event("change")); })()"""
    shared.evaluate(choose.replace("NAME", "'again'"))
    shared.until(f"{lines} === 4")
    rows = "document.querySelectorAll('#trials-1 tbody:not(.filtered)').length"
    shared.until(f"{rows} === 4")
    shared.evaluate(choose.replace("NAME", "''"))
    shared.until(f"{rows} === {len(RECORDS)}")
