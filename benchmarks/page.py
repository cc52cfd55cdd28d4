"""Measure the leaderboard of 1,000 runs with 200 points each: time to build it and its page, bytes, and browser
time.

    python benchmarks/page.py [--runs 1000] [--points 200] [--profile]

The browser's time is that of its own clock from navigation, from file://, three times: until the scripts have run
("ready") and until the curves are drawn ("curves"). Then, each with the layout that follows: another metric, a brush on
the scores, a sort and a filter of the list of all trials. Needs Chromium for that part.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))
from orchestrator.results.baselines import load_baselines
from orchestrator.results.leaderboard import build_leaderboard
from orchestrator.results.report import Report
from orchestrator.results.report.page import script_text
from tests.support.chromium import browser, find_chromium
from tests.support.results import large_records

T = TypeVar("T")
WATCH = """<script>window.readyAt = performance.now();
  (function watch() {
    if (document.querySelector(".curves-figure path.line")) window.curvesAt = performance.now();
    else requestAnimationFrame(watch);
  })();</script></body>"""
PROBE = """(() => {
  const timed = (act) => { const start = performance.now(); act(); document.body.offsetHeight;
    return performance.now() - start; };
  const list = document.getElementById("trials-1"), study = explorers[0];
  const select = document.querySelector('[data-control="metric"]');
  const metric = timed(() => { select.value = "cell"; select.dispatchEvent(new Event("change")); });
  list.closest("details").open = true;
  const open = timed(() => {});
  const sort = timed(() => list.querySelectorAll("button.sort")[3].click());
  const input = document.querySelector('[data-filter="trials-1"]');
  const filter = timed(() => { input.value = "confirm"; input.dispatchEvent(new Event("input")); });
  const brush = timed(() => study.brushes.set("score", (trial) => trial.score > 60));
  return new Promise((done) => { const start = performance.now(); study.changed();
    requestAnimationFrame(() => { document.body.offsetHeight;
      done({ ready: readyAt, curves: curvesAt, metric, open, sort, filter, brush: performance.now() - start }); }); });
})()"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--profile", action="store_true", help="print where the time of the page goes")
    options = parser.parse_args()
    records = large_records(options.runs, options.points)
    baselines = load_baselines()
    print(f"{options.runs:,} runs of {options.points} points; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    timed("leaderboard", lambda: build_leaderboard(None, records, baselines))
    profile = cProfile.Profile() if options.profile else None
    page = timed("page", lambda: render(records, baselines, profile))
    library = len(script_text("d3.min.js").encode())
    print(f"size           {len(page.encode()) / 1e6:6.2f} MB, {library / 1e6:.2f} MB of them the plotting library")
    if profile is not None:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(25)
    chromium = find_chromium()
    for _ in range(3 if chromium else 0):
        seen = browse(str(chromium), page)
        print("browser        " + "  ".join(f"{name} {value:.0f} ms" for name, value in seen.items()))


def render(records: list, baselines: list, profile: cProfile.Profile | None) -> str:
    """Render the page, under the profiler if there is one."""
    report = Report(records=records, now=datetime(2026, 11, 22, tzinfo=UTC), baselines=baselines)
    if profile is None:
        return report.html()
    return profile.runcall(report.html)


def timed(name: str, work: Callable[[], T]) -> T:
    """Run a function, and print wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    done = work()
    print(f"{name:14} {time.perf_counter() - wall:6.2f} s, {time.process_time() - cpu:6.2f} s of a processor")
    return done


def browse(chromium: str, page: str) -> dict[str, float]:
    """Measure milliseconds in a fresh browser."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, browser(chromium, Path(folder)) as window:
        path = Path(folder, "page.html")
        path.write_text(page.replace("</body>", WATCH))
        window.size(1400, 1000)
        window.open(path.as_uri())
        window.until("window.curvesAt > 0")
        return dict(window.evaluate(PROBE))


if __name__ == "__main__":
    main()
