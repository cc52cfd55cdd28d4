"""Accuracy over D, and the best published score over time, in Chromium: legend, hover, keys, links, downloads, axes."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.results.report import Report
from tests.support.chromium import Browser, eventually
from tests.support.results import make_config, make_record, scored_at

pytestmark = pytest.mark.slow
NOW = datetime(2026, 11, 21, 22, 0, tzinfo=UTC)
RECORDS = [
    scored_at(steps, score, 0.1 * cycles, seed, family=f"T={cycles} D={steps}")
    for cycles, scores in ((1, (0.3, 0.5, 0.6)), (2, (0.4, 0.7, 0.97)))
    for steps, score in zip((2, 4, 16), scores, strict=True)
    for seed in (0, 1)
]
DEPTH = "study-1-accuracy-over-supervision-steps-at-test-time"
TIME = "published-1-sudoku-extreme-test-split-exact-accuracy-best-over-time"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "page.html"
    Report(records=RECORDS, now=NOW).write(path)
    return path.as_uri()


@pytest.fixture(params=[DEPTH, TIME], ids=["depth", "time"])
def figure(request: pytest.FixtureRequest, shared: Browser, address: str) -> Iterator[tuple[Browser, str]]:
    """The page, opened by the link to a figure; it wrote nothing to the console and loaded nothing but itself."""
    name = str(request.param)
    shared.messages.clear()
    shared.requests.clear()
    shared.size(1400, 1000)
    shared.open(f"{address}#{name}")
    one = f"document.getElementById('{name}')"
    shared.until(f"{one} !== null && scrollY > 100 && Math.abs({one}.getBoundingClientRect().top) < 200")
    yield shared, one
    assert shared.messages == []
    assert [url for url in shared.requests if not url.startswith((address, "about:", "data:", "blob:"))] == []


@pytest.fixture
def depth(shared: Browser, address: str) -> Browser:
    shared.size(1400, 1000)
    shared.open(f"{address}#{DEPTH}")
    return shared


def every(page: Browser, script: str) -> list[Any]:
    found: list[Any] = page.evaluate(script)
    return found


def visible_marks(page: Browser, figure: str) -> int:
    marks = f"[...{figure}.querySelectorAll('.plot circle')].filter((each) => each.getClientRects().length)"
    return int(page.evaluate(f"{marks}.length"))


def downloaded(page: Browser, name: str) -> str:
    path: Path = page.downloads / name
    content = eventually(lambda: path.read_text() if path.exists() else "")
    path.unlink()
    return str(content)


def test_a_link_to_a_figure_opens_the_page_there(figure: tuple[Browser, str]) -> None:
    page, one = figure
    page.until(f"Math.abs({one}.getBoundingClientRect().top) < 200 && scrollY > 100")
    page.evaluate("scrollTo(0, 0)")
    own = page.evaluate(f"{one}.querySelector('h3 a').hash")
    assert own == page.evaluate("location.hash"), "its heading is the link"


def test_a_link_opens_what_is_folded_around_the_figure(shared: Browser, address: str) -> None:
    shared.open(address)
    folded = "[...document.querySelectorAll('details:not([open]) figure[id]')].pop()"
    name = shared.evaluate(f"{folded}.id")
    shared.evaluate(f"location.hash = '{name}'")
    shared.until(f"document.getElementById('{name}').closest('details').open")


def test_the_legend_hides_and_shows_a_group(figure: tuple[Browser, str]) -> None:
    page, one = figure
    total = visible_marks(page, one)
    groups = every(page, f"[...{one}.querySelectorAll('.legend button')].map((each) => each.dataset.group)")
    marked = every(page, f"[...new Set([...{one}.querySelectorAll('[data-group]')].map((e) => e.dataset.group))]")
    assert len(groups) > 1 and set(groups) == set(marked)
    for number, group in enumerate(groups):
        button = f"{one}.querySelectorAll('.legend button')[{number}]"
        size = page.evaluate(f"""{one}.querySelectorAll('svg [data-group="{group}"] circle').length""")
        page.evaluate(f"{button}.focus({{ preventScroll: true }})")
        page.key("Enter")
        page.until(f"{button}.getAttribute('aria-pressed') === 'false'")
        assert visible_marks(page, one) == total - size
        page.key("Enter")
        page.until(f"{button}.getAttribute('aria-pressed') === 'true'")
        assert visible_marks(page, one) == total


def words_at(page: Browser, figure: str, mark: str) -> Any:
    """What the figure says with the pointer on a mark, and from where to where; None if nothing."""
    x, y = page.evaluate(f"(() => {{ const b = {mark}.getBoundingClientRect();"
                         " return [b.left + b.width / 2, b.top + b.height / 2]; })()")  # fmt: skip
    page.mouse("mouseMoved", x + 1, y)
    return page.evaluate(f"""(() => {{ const tip = {figure}.querySelector('.tip'), box = tip.getBoundingClientRect();
      return tip.hidden ? null : [tip.textContent, box.left, box.right]; }})()""")


def test_a_mark_says_what_it_is_when_it_is_pointed_at(figure: tuple[Browser, str]) -> None:
    page, one = figure
    for width in (1400, 800, 390):
        page.size(width, 1000)
        page.evaluate(f"{one}.querySelector('.plot').scrollIntoView({{ behavior: 'instant', block: 'center' }})")
        for mark in (f"{one}.querySelector('.plot circle')", f"[...{one}.querySelectorAll('.plot circle')].pop()"):
            words, left, right = eventually(partial(words_at, page, one, mark))
            assert "%" in words if "D = " in words else "20" in words, words
            assert 0 <= left < right <= width, "it stays inside the page"
    page.mouse("mouseMoved", 2, 2)
    page.until(f"{one}.querySelector('.tip').hidden")


def test_arrow_keys_go_from_mark_to_mark(figure: tuple[Browser, str]) -> None:
    page, one = figure
    tip = f"{one}.querySelector('.tip')"
    page.evaluate(f"{one}.querySelector('.plot > svg').focus({{ preventScroll: true }})")
    page.key("ArrowRight")
    page.until(f"!{tip}.hidden")
    first = page.evaluate(f"{tip}.textContent")
    page.key("ArrowRight")
    page.until(f"{tip}.textContent !== {first!r}")
    page.key("Escape")
    page.until(f"{tip}.hidden")


def test_axes_contain_their_data_and_state_their_units(figure: tuple[Browser, str]) -> None:
    page, one = figure
    titles = every(page, f"[...{one}.querySelectorAll('.axis-title')].map((each) => each.textContent)")
    assert set(titles) in (
        {"exact accuracy, %", "D, supervision steps at test time"},
        {"exact accuracy, %", "date of the source"},
    )
    for width in (1400, 800, 390):
        page.size(width, 1000)
        outside = page.evaluate(f"""(() => {{
          const box = {one}.querySelector('.plot > svg').getBoundingClientRect();
          return [...{one}.querySelectorAll('.plot circle, .plot path')].map((each) => each.getBoundingClientRect())
            .filter((b) => b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 1
              || b.bottom > box.bottom + 1).length; }})()""")
        assert outside == 0, width
        overlaps = page.evaluate(f"""(() => {{
          const boxes = [...{one}.querySelectorAll('.tick')].map((each) => each.getBoundingClientRect())
            .filter((b) => b.width);
          return boxes.filter((a, i) => boxes.slice(i + 1).some((b) => a.left < b.right && b.left < a.right
            && a.top < b.bottom && b.top < a.bottom)).length; }})()""")
        cut = page.evaluate(f"""(() => {{ const panel = {one}.getBoundingClientRect();
          return [...{one}.querySelectorAll('text')].map((each) => each.getBoundingClientRect())
            .filter((b) => b.width && (b.left < panel.left || b.right > panel.right)).length; }})()""")
        assert (overlaps, cut) == (0, 0), f"labels at {width} pixels"


def test_no_label_of_any_figure_hangs_over_its_panel(shared: Browser, tmp_path: Path) -> None:
    records = [
        make_record(make_config(cycles=cycles, seed=seed), score=0.9 + 0.02 * cycles, stage="confirm",
                    family=f"best T={cycles} n=4 N_sup=8 lr=0.0123 wd=0.1")
        for cycles in (1, 2, 3) for seed in (0, 1)
    ]  # fmt: skip
    Report(records=records, now=NOW).write(tmp_path / "page.html")
    for width in (1400, 800, 390):
        shared.size(width, 1000)
        shared.open((tmp_path / "page.html").as_uri())
        hanging = """(() => { const found = [];
          for (const panel of document.querySelectorAll('.figures figure')) {
            panel.style.contentVisibility = 'visible';
            const edge = panel.getBoundingClientRect();
            for (const each of panel.querySelectorAll('text')) { const box = each.getBoundingClientRect();
              if (box.width && (box.left < edge.left || box.right > edge.right)) found.push(each.textContent); }
          }
          return found; })()"""
        shared.evaluate(hanging)
        shared.until(f"{hanging}.length === 0")
    names = "[...document.querySelectorAll('.figures text.name')].filter((each) => each.getClientRects().length)"
    shared.size(1400, 1000)
    shared.until(f"{names}.length > 0")


def test_the_drawing_downloads_as_svg_and_its_data_as_csv(figure: tuple[Browser, str]) -> None:
    page, one = figure
    name = page.evaluate(f"{one}.id").partition("-1-")[2]
    count = visible_marks(page, one)
    rows = page.evaluate(f"JSON.parse({one}.querySelector('script.data').textContent)")
    for form in ("SVG", "CSV"):
        page.evaluate(
            f"[...{one}.querySelectorAll('.downloads button')].find((e) => e.textContent === '{form}').click()"
        )
        content = downloaded(page, f"{name}.{form.lower()}")
        if form == "SVG":
            drawing = ET.fromstring(content)
            circles = drawing.findall(".//{*}circle")
            assert len(circles) == count and "fill: rgb" in str(circles[0].get("style"))
            assert "supervision steps" in content or "date of the source" in content
            words = {each.text for each in drawing.findall(".//{*}text")}
            groups = every(page, f"[...{one}.querySelectorAll('.legend button')].map((each) => each.dataset.group)")
            assert words >= set(groups), "its legend is part of it"
            styles = [str(each.get("style")) for each in drawing.findall(".//{*}path")]
            assert styles and all("non-scaling-stroke" in each for each in styles), "lines are as wide as on the page"
        else:
            table = list(csv.reader(io.StringIO(content)))
            assert len(table) == len(rows) > 5 and table[0] == rows[0]


def test_a_click_on_a_depth_keeps_its_trials_and_the_address_names_them(depth: Browser, address: str) -> None:
    page, one = depth, f"document.getElementById('{DEPTH}')"
    mark = f"[...{one}.querySelectorAll('.plot circle')].find((e) => e.dataset.words.startsWith('T=2, D = 16'))"
    page.until(f"Math.abs({one}.getBoundingClientRect().top) < 200")
    x, y = page.evaluate(f"(() => {{ const b = {mark}.getBoundingClientRect();"
                         " return [b.left + b.width / 2, b.top + b.height / 2]; })()")  # fmt: skip
    page.click(x, y)
    ids = {record.trial_id for record in RECORDS if record.family == "T=2 D=16"}
    page.until("location.hash.startsWith('#trial=')")
    assert set(page.evaluate("location.hash").removeprefix("#trial=").split(",")) == ids
    page.until(f"{mark}.classList.contains('is-kept')")
    page.open(f"{address}#trial={sorted(ids)[0]}")
    page.until(f"{mark}.classList.contains('is-kept')")
    assert page.evaluate(f"{one}.querySelectorAll('circle.is-kept').length") == 2, "at D=1 it was scored, too"
