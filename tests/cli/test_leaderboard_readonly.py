"""`trm leaderboard` on a storage that can only be read, or of which some files cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status
from orchestrator.storage import open_storage
from tests.records.test_extend import recorded_study
from tests.support.commands import call


def test_leaderboard_shows_its_tables_where_the_page_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's own place is taken by a folder, which fails for every user, the superuser included."""
    (tmp_path / "leaderboard.html").mkdir()
    code, out, _ = call(capsys, "leaderboard", "maze-hard", "--storage", str(tmp_path))
    assert code == 0 and "TRM-Att" in out and "the page was not written: " in " ".join(out.split())


def test_leaderboard_fails_if_the_page_that_was_asked_for_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page"
    page.mkdir()
    code, _, err = call(capsys, "leaderboard", "maze-hard", "--storage", str(tmp_path), "--html", str(page))
    assert code == 2 and "is a directory" in err


def test_leaderboard_names_the_files_that_it_skips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = open_storage(str(tmp_path))
    recorded_study(storage, Status.FINISHED, Status.FINISHED, Status.FINISHED)
    first, second, _ = (record.trial_id for record in read_trials(storage, "study"))
    storage.write(f"sweeps/study/trials/{first}/result.json", b"")
    storage.write(f"sweeps/study/trials/{second}/trial.json", b"{}")
    for options in ([], ["--format", "json"]):
        code, out, err = call(capsys, "leaderboard", "--storage", str(tmp_path), *options)
        assert code == 0 and "2 unreadable files skipped:" in err
        assert f"{first}/result.json" in err and f"{second}/trial.json" in err and "unreadable" not in out
