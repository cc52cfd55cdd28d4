"""`trm leaderboard` on a storage that can only be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import main


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def test_leaderboard_shows_its_tables_where_the_page_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's own place is taken by a folder, which fails for every user, the superuser included."""
    (tmp_path / "leaderboard.html").mkdir()
    code, out, _ = call(capsys, "leaderboard", "maze-hard", "--storage", str(tmp_path))
    assert code == 0 and "TRM-Att" in out and "the page is not written: cannot write" in " ".join(out.split())


def test_leaderboard_fails_if_the_page_that_was_asked_for_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page"
    page.mkdir()
    code, _, err = call(capsys, "leaderboard", "maze-hard", "--storage", str(tmp_path), "--html", str(page))
    assert code == 2 and "cannot write" in err
