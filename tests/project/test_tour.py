"""The first session, command by command in an empty folder: each shows what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import tour


def percents(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(\d+(?:\.\d+)?) %", text)]


@pytest.mark.slow
def test_every_command_of_the_tour_shows_something_worth_seeing(tmp_path: Path) -> None:
    shown: dict[str, str] = {}
    for command in tour.commands():
        step = tour.run(command, tmp_path)
        assert step.code == 0, f"{command}\n{step.output}"
        shown[" ".join(command.split()[1:3])] = step.output
    assert "Ray" in shown["doctor"] and "torch" in shown["doctor"]
    assert "arc-agi-1" in shown["data build"] and "400" in shown["data build"]
    assert "007bbfb7" in shown["data show"] and (tmp_path / "arc-agi-1-007bbfb7.png").stat().st_size > 1000
    assert max(percents(shown["train --recipe"])) > 80
    votes = shown["eval train/last"]
    assert "votes=1" in votes and "votes=10" in votes and max(percents(votes)) > 90
    assert "17 trials" in shown["sweep plan"] and "nothing was started" in shown["sweep plan"]
    assert "complete: 4 finished" in shown["sweep run"]
    assert "4 of 4 trials done" in shown["sweep status"]
    best = [line for line in shown["leaderboard"].splitlines() if "this project" in line]
    assert len(best) == 2 and float(re.findall(r"\d+\.\d", best[0])[0]) > 80, shown["leaderboard"]


def test_the_recorded_session_shows_every_command_of_the_tour() -> None:
    recorded = tour.PAGE.read_text()
    assert len(tour.commands()) > 8 and recorded.endswith(tour.TAIL)
    assert "Traceback" not in recorded and str(Path.home()) not in recorded


def test_a_session_is_shown_without_colours_and_without_the_folders_of_the_machine() -> None:
    step = tour.Step("trm doctor", "\x1b[1mfine\x1b[0m in /x/y\n 10 %\r100 %\n", 0, 1.2)
    text = tour.page([step], "installed", {"/x/y": "~/trm"})
    assert "$ make demo\ninstalled" in text
    assert "$ trm doctor\nfine in ~/trm\n100 %\n```" in text
