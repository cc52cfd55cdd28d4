"""Odd values, names and links on pages in Chromium, and records that are damaged or deleted while a page is open."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from orchestrator.records.schema import Row, TrialRecord
from orchestrator.results.report import Report
from orchestrator.storage import open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep.settings import configure
from orchestrator.web.app import HEADERS, pages
from orchestrator.web.feed import StorageFeed
from orchestrator.web.serving import serving
from tests.support.chromium import Browser, eventually
from tests.support.infra import free_port
from tests.support.results import START_S, demo_records, make_config, make_record
from tests.support.tracking import SWEEP, finished, record, write_record
from trm_data.settings import digest

pytestmark = pytest.mark.slow
NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
LINES = "document.querySelectorAll('.curves-figure path.line').length"


class Pages(NamedTuple):
    browser: Browser
    folder: Path

    def show(self, records: list[TrialRecord], ending: str = "") -> Browser:
        """Open the page of records."""
        path = self.folder / "page.html"
        Report(records=records, now=NOW).write(path)
        self.browser.open(f"{path.as_uri()}{ending}")
        self.browser.until("document.querySelector('.curves-figure .plot-note')?.textContent")
        return self.browser


@pytest.fixture
def reader(shared: Browser, tmp_path: Path) -> Iterator[Pages]:
    """Nothing is written to the console."""
    shared.messages.clear()
    shared.size(1400, 1000)
    yield Pages(shared, tmp_path)
    assert shared.messages == []


def choose(page: Browser, figure: str, control: str, value: str) -> None:
    page.evaluate(f"""(() => {{ const one = document.querySelector('.{figure}-figure [data-control="{control}"]');
      if (one.type === "checkbox") one.checked = {str(value == "on").lower()}; else one.value = {value!r};
      one.dispatchEvent(new Event("change")); }})()""")


def press(page: Browser, figure: str, control: str, times: int = 1) -> None:
    for _ in range(times):
        page.evaluate(f"""document.querySelector('.{figure}-figure [data-control="{control}"]').click()""")


def note(page: Browser, figure: str) -> str:
    return str(page.evaluate(f"document.querySelector('.{figure}-figure .plot-note').textContent"))


def table(page: Browser, figure: str, file: str) -> list[dict[str, str]]:
    """The data of a figure as it is downloaded."""
    press(page, figure, "csv")
    path = page.downloads / file
    text = eventually(lambda: path.read_text() if path.exists() else "")
    path.unlink()
    return list(csv.DictReader(io.StringIO(str(text))))


@pytest.mark.parametrize("ending", ["#trial=%", "#trial=%E0%A4%A", "#%"])
def test_a_link_that_is_no_text_shows_the_page(reader: Pages, ending: str) -> None:
    records = demo_records()
    page = reader.show(records, ending)
    page.until(f"{LINES} === {len(records)}")
    page.evaluate(f"location.hash = '#trial={records[0].trial_id.upper()}'")
    page.until("document.querySelectorAll('[data-kept]').length === 1")


def test_a_link_to_a_trial_that_is_not_there_says_so(reader: Pages) -> None:
    records = demo_records()
    page = reader.show(records, f"#trial={records[0].trial_id},zz%3Cb%3E")
    page.until("document.querySelector('.kept').textContent.includes('No trial here begins with zz<b>')")
    assert page.evaluate("document.querySelectorAll('[data-kept]').length") == 1
    page.evaluate("document.querySelector('[aria-label=\"Release zz<b>\"]').click()")
    page.until(f"location.hash === '#trial={records[0].trial_id}'")


def test_buttons_zoom_neither_beyond_the_data_nor_into_nothing(reader: Pages) -> None:
    page = reader.show(demo_records())
    ticks = "[...document.querySelectorAll('.curves-figure .axis:not(.y) .tick text')].map((e) => e.textContent)"
    choose(page, "curves", "log", "on")
    before = page.evaluate(ticks)
    press(page, "curves", "out", 12)
    assert page.evaluate(ticks) == before
    choose(page, "curves", "log", "off")
    press(page, "curves", "in", 60)
    shown = [float(tick) for tick in page.evaluate(ticks)]
    assert shown[0] == 0 and shown[-1] >= 0.5, shown
    press(page, "curves", "out", 60)
    assert "1.2k" in page.evaluate(ticks)


def test_axes_hold_the_points_of_a_clock_that_was_set_back(reader: Pages) -> None:
    times = [START_S + (step if step < 80 else step - 1000) for step in range(10, 170, 10)]
    rows = [Row(step, at, "validation", {"exact_accuracy": step / 200}) for step, at in enumerate(times, 1)]
    page = reader.show([replace(one, rows=rows) for one in demo_records()[:3]])
    choose(page, "curves", "x", "s")
    inside = """(() => { const box = document.querySelector('.curves-figure .brush .overlay').getBBox();
      return [...document.querySelectorAll('.curves-figure path.line')].every((line) => { const b = line.getBBox();
        return b.x >= box.x - 1 && b.x + b.width <= box.x + box.width + 1; }); })()"""
    assert page.evaluate(LINES) == 3 and page.evaluate(inside)


def test_a_log_axis_says_how_many_points_it_cannot_show(reader: Pages) -> None:
    rows = [Row(step, START_S + step, "validation", {"exact_accuracy": max(0, step - 5) / 10}) for step in range(1, 11)]
    page = reader.show([replace(one, rows=rows) for one in demo_records()[:2]])
    choose(page, "curves", "log-y", "on")
    assert "10 points at 0 or below, which a log axis cannot show" in note(page, "curves")
    choose(page, "curves", "log-y", "off")
    assert "log axis" not in note(page, "curves")


def test_whole_numbers_are_shown_with_all_their_digits(reader: Pages) -> None:
    values = [1_000_001, 1_000_002, 20_261_130]
    base = make_config()
    page = reader.show([make_record(configure(base, {"data.build_seed": value}), score=0.5) for value in values])
    ticks = "[...document.querySelectorAll('[data-axis=\"data.build_seed\"] .tick-text')]"
    drawn = page.evaluate(f"{ticks}.map((each) => each.textContent)")
    assert drawn == [str(value) for value in values]
    assert len(set(page.evaluate(f"{ticks}.map((each) => each.getAttribute('y'))"))) == 3


def test_long_values_that_differ_at_their_ends_can_be_told_apart(reader: Pages) -> None:
    base = make_config()
    records = [make_record(configure(base, {"optimizer.betas": (0.9, last)}), score=0.5) for last in (0.951, 0.952)]
    ticks = "[...document.querySelectorAll('[data-axis=\"optimizer.betas\"] .tick-text')].map((e) => e.textContent)"
    assert reader.show(records).evaluate(ticks) == ["0.9\u20260.951", "0.9\u20260.952"]


def test_downloads_hold_what_is_shown_and_run_no_formula(reader: Pages) -> None:
    names = ["  =1+1", "a;=1+2", "\uff1d1+1", "plain", "-x"]
    records = [make_record(make_config(cycles=1 + i), score=0.5, stage="study", family=n) for i, n in enumerate(names)]
    page = reader.show(records)
    found = {row["family"] for row in table(page, "curves", "curves.csv")}
    assert found == {"'  =1+1", "a;'=1+2", "'\uff1d1+1", "plain", "'-x"}
    choose(page, "items", "family", "plain")
    choose(page, "items", "which", "every")
    rows = table(page, "items", "puzzles.csv")
    assert list(rows[0]) == ["puzzle", records[3].trial_id] and {row[records[3].trial_id] for row in rows} == {"1"}
    shown = page.evaluate("document.querySelector('.items-figure canvas').ariaLabel")
    assert shown.startswith(f"{len(rows)} of 500 test puzzles")


@pytest.mark.parametrize("width", [1400, 390])
def test_a_name_without_a_space_stays_inside_the_page(reader: Pages, width: int) -> None:
    records = [make_record(make_config(seed=seed), score=0.5, stage="study", family="x" * 400) for seed in range(2)]
    reader.browser.size(width, 900)
    page = reader.show([*records, make_record(make_config(cycles=3), score=0.6, stage="study", family="other")])
    choose(page, "curves", "color", "family")
    page.until("document.querySelectorAll('.legend button').length >= 2")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_scrolls_smoothly_for_readers_who_ask_for_less_motion(reader: Pages) -> None:
    page = reader.show(demo_records())
    smooth = "getComputedStyle(document.documentElement).scrollBehavior"
    assert page.evaluate(smooth) == "smooth"
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert page.evaluate(smooth) == "auto"


class Live(NamedTuple):
    page: Browser
    storage: Any
    folder: Path
    address: str


@pytest.fixture
def live(shared: Browser, tmp_path: Path) -> Iterator[Live]:
    """The page of a sweep with two finished trials and one that runs."""
    storage = open_storage(str(tmp_path / "runs"))
    storage.write("sweeps/depth/sweep.json", to_json_bytes(SWEEP.plain()))
    for made in (trial(0, 1), trial(1, 2), trial(2, 1, steps=2)):
        write_record(storage, made)
    port = free_port()
    shared.size(1400, 1000)
    with serving(pages(StorageFeed(storage)), port, HEADERS):
        shared.open(f"http://127.0.0.1:{port}/sweeps/depth")
        shared.until(f"{LINES} === 3")
        yield Live(shared, storage, tmp_path / "runs" / "sweeps", f"http://127.0.0.1:{port}")
        shared.open("about:blank#end")
    shared.messages.clear()


def trial(seed: int, cycles: int, steps: int | None = None) -> TrialRecord:
    """A finished trial, or one that runs and has made a number of evaluations."""
    made = finished(seed) if steps is None else record(seed, steps)
    config = configure(made.config, {"T": cycles})
    return replace(made, config=config, family=f"T={cycles} n=2", trial_id=digest(config.plain()))


def test_scores_of_running_trials_move_in_every_figure(live: Live) -> None:
    words = f"""document.querySelector('.parallel-figure path.line[data-trial="{trial(2, 1).trial_id}"]').textContent"""
    live.page.until(f"{words}.endsWith('score 20 %')")
    write_record(live.storage, trial(2, 1, steps=9), segment=2, rows_from=4)
    live.page.until(f"{words}.endsWith('score 90 %')")


def test_a_selection_keeps_its_values_when_trials_with_other_values_arrive(live: Live) -> None:
    axis = """document.querySelector('[data-axis="T"]')"""
    live.page.evaluate(f"{axis}.focus()")
    live.page.key("ArrowUp")
    live.page.until(f"{axis}.getAttribute('aria-valuetext') === '1 selected'")
    for made in (trial(3, 3), trial(4, 4)):
        write_record(live.storage, made)
    live.page.until(f"{axis}.querySelectorAll('.tick-text').length === 4")
    assert live.page.evaluate(f"{axis}.getAttribute('aria-valuetext')") == "1 selected"
    assert note(live.page, "parallel").startswith("2 of 5 trials") and live.page.evaluate(LINES) == 2
    assert live.page.evaluate("document.activeElement.dataset.axis") == "T", "the focus stays for the keyboard"


def test_the_focus_stays_where_it_is_when_news_arrive(live: Live) -> None:
    running = trial(2, 1).trial_id
    live.page.evaluate("document.querySelector('.trials').open = true")
    row = f"""document.querySelector('#trials-1 tbody[data-trial="{running}"]')"""
    live.page.evaluate(f"{row}.querySelector('button').click()")
    live.page.until("document.querySelector('[data-kept]') !== null")
    for steps, place in ((5, f"{row}.querySelector('button')"), (7, "document.querySelector('[data-kept] button')")):
        live.page.evaluate(f"window.before = {place}; before.focus()")
        write_record(live.storage, trial(2, 1, steps=steps), segment=steps, rows_from=2 * steps - 4)
        live.page.until(f"{row}.textContent.includes('{10 * steps}') && !before.isConnected")
        live.page.until(f"document.activeElement === {place}")


def test_a_trial_whose_record_is_damaged_leaves_the_figures_and_is_named(live: Live) -> None:
    (live.folder / "depth" / "trials" / trial(2, 1).trial_id / "trial.json").write_text("{")
    live.page.until("document.querySelectorAll('#trials-1 tbody').length === 2")
    live.page.until("document.querySelector('.live-state').textContent.includes('trial.json: no JSON')")
    live.page.until(f"{LINES} === 2")
    live.page.size(390, 900)
    live.page.until("document.documentElement.scrollWidth <= 390")


def test_a_sweep_that_is_deleted_is_told_and_its_successor_of_that_name_is_shown(live: Live) -> None:
    shutil.move(live.folder / "depth", live.folder.parent / "deleted")
    state = "document.querySelector('.live-state').textContent"
    live.page.until(f"{state}.startsWith('This sweep is not in the storage any more')")
    live.storage.write("sweeps/depth/sweep.json", to_json_bytes(SWEEP.plain()))
    write_record(live.storage, trial(7, 1))
    live.page.until(f"""document.querySelector('#trials-1 tbody[data-trial="{trial(7, 1).trial_id}"]') !== null""")
    assert live.page.evaluate("document.querySelectorAll('#trials-1 tbody').length") == 1
