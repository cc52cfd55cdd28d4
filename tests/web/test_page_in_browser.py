"""The interactive figures in Chromium: what a reader does with mouse and keys, and pages that follow the records."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.results.report import Report
from orchestrator.storage import open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.web.app import HEADERS, pages
from orchestrator.web.feed import StorageFeed
from orchestrator.web.serving import serving
from tests.support.chromium import Browser, eventually
from tests.support.infra import free_port
from tests.support.results import demo_gallery, demo_records
from tests.support.tracking import SWEEP, finished, record, write_record

pytestmark = pytest.mark.slow
NOW = datetime(2026, 11, 21, 22, 0, tzinfo=UTC)
RECORDS = demo_records()
CONFIRMED = next(each for each in RECORDS if each.stage == "confirm")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "page.html"
    Report(records=RECORDS, now=NOW, gallery=demo_gallery).write(path)
    return path.as_uri()


@pytest.fixture
def page(shared: Browser, address: str) -> Iterator[Browser]:
    """The page of the demo at the curves. It wrote nothing to the console and loaded nothing but itself."""
    shared.messages.clear()
    shared.requests.clear()
    shared.size(1400, 1000)
    shared.open(address)
    shared.until("document.querySelectorAll('.curves-figure path.line').length > 0")
    shared.evaluate("document.querySelector('.curves-figure').scrollIntoView({ behavior: 'instant' })")
    yield shared
    assert shared.messages == []
    assert [url for url in shared.requests if not url.startswith((address, "about:", "data:", "blob:"))] == []


LINES = "document.querySelectorAll('.curves-figure path.line').length"


def text(page: Browser, selector: str) -> str:
    return str(page.evaluate(f"document.querySelector({selector!r}).innerText"))


def choose(page: Browser, control: str, value: str) -> None:
    page.evaluate(f"""(() => {{ const one = document.querySelector('.curves-figure [data-control="{control}"]');
      if (one.type === "checkbox") one.checked = {str(value == "on").lower()}; else one.value = {value!r};
      one.dispatchEvent(new Event("change")); }})()""")


def press(page: Browser, selector: str) -> None:
    page.evaluate(f"document.querySelector({selector!r}).click()")


def middle(page: Browser, trial_id: str, figure: str = "curves") -> tuple[float, float]:
    """A place on the curve of a trial, in the window."""
    found = page.evaluate(f"""(() => {{
      const line = document.querySelector('.{figure}-figure path.line[data-trial="{trial_id}"]');
      const at = line.getPointAtLength(line.getTotalLength() * 0.97), matrix = line.getScreenCTM();
      return [at.x * matrix.a + matrix.e, at.y * matrix.d + matrix.f]; }})()""")
    return found[0], found[1]


def plot_box(page: Browser) -> tuple[float, float, float, float]:
    box = page.evaluate("""(() => { const box = document.querySelector('.curves-figure .brush .overlay')
      .getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]; })()""")
    return box[0], box[1], box[2], box[3]


def ticks(page: Browser, axis: int) -> list[str]:
    found: list[str] = page.evaluate(
        f"[...document.querySelectorAll('.curves-figure .axis')[{axis}].querySelectorAll('.tick text')]"
        ".map((each) => each.textContent)"
    )
    return found


def shown_rows(page: Browser) -> int:
    return int(page.evaluate("document.querySelectorAll('#trials-1 tbody:not(.filtered)').length"))


def test_hover_shows_the_settings_of_the_trial(page: Browser) -> None:
    page.mouse("mouseMoved", *middle(page, CONFIRMED.trial_id))
    tip = text(page, ".tip")
    assert "best, seed 0" in tip and "cycles\n3" in tip and "augmented copies per puzzle\n100" in tip
    for width in (390, 1400):
        page.size(width, 1000)
        page.until(f"document.querySelector('.curves-figure svg').clientWidth <= {width}")
        page.evaluate("document.querySelector('.curves-figure').scrollIntoView({ behavior: 'instant' })")
        page.mouse("mouseMoved", *middle(page, CONFIRMED.trial_id))
        box = page.evaluate("(() => { const b = document.querySelector('.tip').getBoundingClientRect();"
                            " return [b.left, b.right]; })()")  # fmt: skip
        assert 0 <= box[0] < box[1] <= width, "it stays inside the page"
    assert re.search(r"[\d.]+ % at [\d.]+ training steps", tip) and "score 96." in tip


def test_click_keeps_and_shift_click_hides(page: Browser) -> None:
    total = page.evaluate(LINES)
    page.click(*middle(page, CONFIRMED.trial_id))
    page.until(f"location.hash.includes('{CONFIRMED.trial_id}') || document.querySelectorAll('.kept li').length")
    (kept,) = page.evaluate("[...document.querySelectorAll('[data-kept]')].map((each) => each.dataset.kept)")
    assert page.evaluate("location.hash") == f"#trial={kept}"
    place = middle(page, CONFIRMED.trial_id)
    page.click(*place, shift=True)
    page.until(f"{LINES} === {total - 1}")
    assert "1 hidden" in text(page, ".curves-figure .plot-note")
    press(page, '[data-control="show-all"]')
    page.until(f"{LINES} === {total}")


def test_the_legend_hides_a_group(page: Browser) -> None:
    total = page.evaluate(LINES)
    page.evaluate("""document.querySelector('.legend button[data-group="hrm"]').focus()""")
    page.key("Enter")
    page.until(f"{LINES} === {total - 3}")
    assert page.evaluate("document.activeElement.dataset.group") == "hrm", "the focus stays for the keyboard"
    press(page, '.legend button[data-group="hrm"]')
    page.until(f"{LINES} === {total}")


def test_dragging_zooms_and_a_double_click_shows_all_again(page: Browser) -> None:
    before = ticks(page, 0)
    left, top, right, bottom = plot_box(page)
    page.drag((left + 0.6 * (right - left), top + 10), (left + 0.9 * (right - left), bottom - 40))
    page.until(f"document.querySelector('.curves-figure .axis .tick text').textContent !== {before[0]!r}")
    steps = [float(tick.replace("k", "e3")) for tick in ticks(page, 0)]
    assert min(steps) >= 600 and max(steps) <= 1150
    press(page, '.curves-figure [data-control="reset"]')
    assert ticks(page, 0) == before
    press(page, '.curves-figure [data-control="in"]')
    assert ticks(page, 0) != before


def test_metric_and_axis_can_be_chosen_and_the_axes_hold_all_points(page: Browser) -> None:
    inside = """(() => { const box = document.querySelector('.curves-figure .brush .overlay').getBBox();
      return [...document.querySelectorAll('.curves-figure path.line')].every((line) => { const b = line.getBBox();
        return b.x >= box.x - 1 && b.y >= box.y - 1 && b.x + b.width <= box.x + box.width + 1
          && b.y + b.height <= box.y + box.height + 1; }); })()"""
    titles = set()
    for metric in ("exact", "cell", "vloss"):
        for axis in ("step", "flops", "s"):
            for log in ("off", "on"):
                choose(page, "metric", metric)
                choose(page, "x", axis)
                choose(page, "log", log)
                assert page.evaluate(LINES) > 0 and page.evaluate(inside), (metric, axis, log)
                found = page.evaluate("[...document.querySelectorAll('.curves-figure .axis-title')]"
                                      ".map((each) => each.textContent)")  # fmt: skip
                titles.add(tuple(found))
    x_titles = {title[0] for title in titles}
    assert "training steps" in x_titles and "training time, min" in x_titles
    assert any(re.fullmatch(r"training compute, [GTP]FLOP", title) for title in x_titles)
    assert "exact accuracy on validation, %" in {title[1] for title in titles}
    absent = page.evaluate("""document.querySelector('[data-control="metric"] option[value="halt"]').disabled""")
    assert absent, "the records have no halting steps"


def test_seeds_become_a_band(page: Browser) -> None:
    total = page.evaluate(LINES)
    choose(page, "band", "on")
    assert page.evaluate("document.querySelectorAll('.seed-band').length") == 3
    assert page.evaluate(LINES) == total - 6, "three configurations of three seeds"


def test_a_brush_filters_curves_and_table(page: Browser) -> None:
    total, rows = page.evaluate(LINES), shown_rows(page)
    page.evaluate("document.querySelector('.parallel-figure').scrollIntoView({ behavior: 'instant' })")
    x, y0, y1 = page.evaluate("""(() => { const box = document.querySelector('[data-axis="score"] line.domain')
      .getBoundingClientRect(); return [box.left, box.top, box.bottom]; })()""")
    page.drag((x, y0 + 0.02 * (y1 - y0)), (x, y0 + 0.2 * (y1 - y0)))
    page.until(f"{LINES} < {total}")
    wanted = sum(each.result is not None and 0.8 <= each.result.metrics["exact_accuracy"] <= 0.98 for each in RECORDS)
    assert shown_rows(page) == page.evaluate(LINES) == wanted < rows
    assert text(page, ".parallel-figure .plot-note").startswith(f"{wanted} of ")
    press(page, '.parallel-figure [data-control="clear"]')
    page.until(f"{LINES} === {total}")
    assert shown_rows(page) == rows


def test_everything_can_be_done_with_keys(page: Browser) -> None:
    total = page.evaluate(LINES)
    page.evaluate("""document.querySelector('[data-axis="T"]').focus()""")
    page.key("ArrowUp")
    page.until(f"{LINES} < {total}")
    axis = """document.querySelector('[data-axis="T"]')"""
    assert page.evaluate(f"{axis}.getAttribute('aria-valuetext')") == "1 selected"
    page.key("ArrowUp")
    page.until(f"{axis}.getAttribute('aria-valuetext') === '2 selected'")
    page.key("Escape")
    page.until(f"{LINES} === {total}")
    page.evaluate("document.querySelector('.trials').open = true")
    page.evaluate(f"""document.querySelector('[data-keep="{CONFIRMED.trial_id}"]').focus()""")
    page.key("Enter")
    page.until(f"""document.querySelector('[data-kept="{CONFIRMED.trial_id}"]') !== null""")
    unreachable = page.evaluate(
        "[...document.querySelectorAll('.explorer button, .explorer select, .explorer input')]"
        ".filter((each) => each.tabIndex < 0).length"
    )
    assert unreachable == 0


def test_a_permalink_keeps_its_trials(page: Browser, address: str) -> None:
    other = RECORDS[0]
    page.open(f"{address}#trial={CONFIRMED.trial_id},{other.trial_id[:8]}")
    page.until("document.querySelectorAll('[data-kept]').length === 2")
    strong = page.evaluate("[...document.querySelectorAll('.curves-figure .is-kept')].map((e) => e.dataset.trial)")
    assert set(strong) == {CONFIRMED.trial_id, other.trial_id}
    press(page, f'[aria-label="Release {other.trial_id}"]')
    page.until(f"location.hash === '#trial={CONFIRMED.trial_id}'")
    page.until("scrollY > 100")


def downloaded(page: Browser, name: str) -> str:
    path: Path = page.downloads / name
    content = eventually(lambda: path.read_text() if path.exists() else "")
    path.unlink()
    return str(content)


def test_figures_download_as_svg_and_their_data_as_csv(page: Browser) -> None:
    press(page, '.curves-figure [data-control="svg"]')
    drawing = ET.fromstring(downloaded(page, "curves.svg"))
    assert drawing.tag.endswith("svg") and len(drawing.findall(".//{*}path")) > 20
    line = next(each for each in drawing.iter() if each.get("data-trial") == CONFIRMED.trial_id)
    assert "stroke: rgb" in str(line.get("style")), "it looks the same without the page's style sheet"
    words = "".join(str(each.text) for each in drawing.findall(".//{*}text"))
    assert "best 3" in words and "other trials" in words, "its legend is part of it"
    press(page, '.curves-figure [data-control="csv"]')
    rows = list(csv.DictReader(io.StringIO(downloaded(page, "curves.csv"))))
    mine = [row for row in rows if row["trial"] == CONFIRMED.trial_id]
    assert [int(row["step"]) for row in mine] == [row.step for row in CONFIRMED.rows]
    exact = [100 * row.metrics["exact_accuracy"] for row in CONFIRMED.rows]
    assert [float(row["value"]) for row in mine] == pytest.approx(exact, rel=1e-3)
    press(page, '.parallel-figure [data-control="csv"]')
    assert len(list(csv.DictReader(io.StringIO(downloaded(page, "trials.csv"))))) == len(RECORDS)
    press(page, '.parallel-figure [data-control="svg"]')
    ET.fromstring(downloaded(page, "settings.svg"))
    buttons = "[...document.querySelectorAll('figure[data-figure] .downloads button')]"
    find = f"{buttons}.find((each) => each.ariaLabel === 'Download the KIND of Supervision steps as FORM').click()"
    page.evaluate(find.replace("KIND", "drawing").replace("FORM", "SVG"))
    assert len(ET.fromstring(downloaded(page, "supervision-steps.svg")).findall(".//{*}circle")) == 12
    page.evaluate(find.replace("KIND", "data").replace("FORM", "CSV"))
    table = list(csv.DictReader(io.StringIO(downloaded(page, "supervision-steps.csv"))))
    assert {row["N_sup"] for row in table} == {"4", "8", "16"} and len(table) == len(RECORDS)
    figures = page.evaluate("document.querySelectorAll('.study figure').length")
    without = page.evaluate(
        "[...document.querySelectorAll('.study figure')].filter((e) => !e.querySelector('.downloads')).length"
    )
    assert figures > 6 and without == 0


def test_the_steps_of_a_puzzle_play_by_themselves_when_they_come_into_view(page: Browser) -> None:
    slider = "document.querySelector('.gallery input[type=range]')"
    assert int(page.evaluate(f"{slider}.value")) == int(page.evaluate(f"{slider}.max")) > 2
    page.evaluate("document.querySelector('.gallery .card').scrollIntoView({ behavior: 'instant' })")
    page.until(f"Number({slider}.value) < Number({slider}.max)")
    assert page.evaluate("document.querySelector('.gallery .play').textContent") == "Pause"
    press(page, ".gallery .play")
    page.until("document.querySelector('.gallery .play').textContent === 'Play the steps'")


def test_the_puzzles_tell_which_trials_solve_them(page: Browser) -> None:
    confirmed = [each for each in RECORDS if each.stage == "confirm"]
    solved = {each.trial_id: np.unpackbits(np.frombuffer(bytes.fromhex(str(each.result.per_item)), np.uint8))[:500]
              for each in confirmed if each.result}  # fmt: skip
    counts = np.sum(list(solved.values()), axis=0)
    words = "document.querySelector('.item-words').textContent"
    page.until(f"{words} !== ''")
    assert page.evaluate(words).startswith(f"Test puzzle 1: solved by {counts[0]} of 9 trials")
    page.evaluate("document.querySelector('.items-figure canvas').focus()")
    page.key("ArrowRight")
    page.until(f"{words}.startsWith('Test puzzle 2: solved by {counts[1]} of 9 trials')")
    page.evaluate("""(() => { const one = document.querySelector('.items-figure [data-control="which"]');
      one.value = "some"; one.dispatchEvent(new Event("change")); })()""")
    (shown,) = np.nonzero((counts > 0) & (counts < 9))
    label = "document.querySelector('.items-figure canvas').ariaLabel"
    assert page.evaluate(label).startswith(f"{len(shown)} of 500 test puzzles")
    press(page, '.items-figure [data-control="csv"]')
    table = list(csv.DictReader(io.StringIO(downloaded(page, "puzzles.csv"))))
    assert [int(row["puzzle"]) for row in table] == (shown + 1).tolist(), "those that are shown"
    assert [int(row[CONFIRMED.trial_id]) for row in table] == solved[CONFIRMED.trial_id][shown].tolist()


@pytest.fixture
def live(shared: Browser, tmp_path: Path) -> Iterator[tuple[Browser, Any, str]]:
    """The pages of `trm ui` over a storage; nothing was asked of another server, nothing written to the console."""
    storage = open_storage(str(tmp_path / "runs"))
    storage.write("sweeps/depth/sweep.json", to_json_bytes(SWEEP.plain()))
    write_record(storage, finished(0))
    write_record(storage, record(1, steps=2))
    port = free_port()
    shared.messages.clear()
    shared.requests.clear()
    shared.size(1400, 1000)
    with serving(pages(StorageFeed(storage)), port, HEADERS):
        site = f"http://127.0.0.1:{port}"
        yield shared, storage, site
        shared.open("about:blank#end")
    assert shared.messages == []
    assert [url for url in shared.requests if not url.startswith((site, "about:", "data:", "blob:"))] == []


def test_a_curve_grows_without_a_reload(live: tuple[Browser, Any, str]) -> None:
    page, storage, site = live
    page.open(f"{site}/sweeps/depth")
    trial_id = record(1).trial_id
    line = f"""document.querySelector('.curves-figure path.line[data-trial="{trial_id}"]')"""
    page.until(f"{line} !== null")
    page.evaluate("window.isSamePage = true")
    corners = f"{line}.getAttribute('d').split('L').length"
    assert page.evaluate(corners) == 2
    write_record(storage, record(1, steps=5), segment=2, rows_from=4)
    page.until(f"{corners} === 5")
    row = f"""document.querySelector('#trials-1 tbody[data-trial="{trial_id}"]')"""
    page.until(f"{row}.textContent.includes('50')")
    write_record(storage, finished(2))
    page.until(f"""document.querySelector('.curves-figure path.line[data-trial="{finished(2).trial_id}"]') !== null""")
    assert page.evaluate("document.querySelectorAll('#trials-1 tbody').length") == 3
    assert page.evaluate("window.isSamePage") and "Live" in text(page, ".live-state")


def test_the_start_page_follows_the_records(live: tuple[Browser, Any, str]) -> None:
    page, storage, site = live
    page.open(site)
    page.until("document.querySelector('[data-sweep=depth] .facts')?.textContent.includes('1 of 4 trials done')")
    write_record(storage, finished(1), segment=2, rows_from=4)
    page.until("document.querySelector('[data-sweep=depth] .facts').textContent.includes('2 of 4 trials done')")
    storage.write("sweeps/other/sweep.json", to_json_bytes({**SWEEP.plain(), "name": "other"}))
    page.until("document.querySelectorAll('[data-sweep]').length === 2")
    page.evaluate("document.querySelector('[data-sweep=depth] h2 a').click()")
    page.until("location.pathname === '/sweeps/depth' && document.querySelector('.curves-figure path.line') !== null")
