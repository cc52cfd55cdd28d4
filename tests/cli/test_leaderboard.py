"""What `trm leaderboard` prints after one's own sweeps, and without any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.storage import open_storage
from orchestrator.storage.base import to_json_bytes
from tests.support.commands import call
from tests.support.results import demo_records
from tests.support.sweeps import study
from tests.support.tracking import write_record

PUBLISHED = "TRM-Att"


def test_own_results_stand_alone_and_the_last_lines_say_where_they_can_be_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage(str(tmp_path))
    storage.write("sweeps/demo/sweep.json", to_json_bytes(study(name="demo").plain()))
    for record in demo_records():
        if record.stage == "confirm":
            write_record(storage, replace(record, sweep="demo"))
    code, out, err = call(capsys, "leaderboard", "--storage", str(tmp_path))
    assert code == 0, err
    assert "this project" in out and PUBLISHED not in out
    page, served = out.splitlines()[-2:]
    assert page == f"page: {(tmp_path / 'leaderboard.html').as_uri()}"
    assert served == f"next: serve it with MLflow and Optuna: trm ui --storage {tmp_path}"
    assert "trm leaderboard BENCHMARK" in out


def test_storage_without_results_shows_published_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "leaderboard", "--storage", str(tmp_path))
    assert code == 0 and PUBLISHED in out
    assert out.startswith("no confirmed results in this storage yet. Run a sweep, for example: trm sweep run demo")
    assert "trm ui" not in out
