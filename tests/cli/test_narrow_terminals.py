"""Tables on terminals of 60 to 200 columns: names stay readable, scores are whole, nothing is wider."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from orchestrator.api.status import status as read_status
from orchestrator.api.terminal import SafeConsole
from orchestrator.cli.views.console import table
from orchestrator.cli.views.status import sweep_view
from orchestrator.records.schema import Status
from orchestrator.results.baselines import load_baselines
from orchestrator.results.leaderboard import build_leaderboard
from orchestrator.results.report.formats import COLUMNS, cells, to_rich
from orchestrator.storage import open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep import choice
from orchestrator.sweep.fitted_table import LEAST, Column, fit
from orchestrator.sweep.trials import study_trials
from tests.records.test_extend import ran
from tests.results.test_leaderboard import demo_records
from tests.support.sweeps import fingerprint, study
from trm_model.checkpoints.known import KNOWN

WIDTHS = (60, 80, 100, 120, 200)
COMMANDS = (
    ("leaderboard", "sudoku-extreme"),
    ("sweep", "status", "study"),
    ("sweep", "status"),
    ("sweep", "plan", "study"),
    ("recipes",),
    ("data", "list"),
    ("checkpoint", "known"),
)
SESSION = """
import fcntl, struct, sys, termios
from orchestrator.cli import main
commands = [line.split() for line in sys.argv[1].splitlines()]
for width in map(int, sys.argv[2].split(",")):
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    for command in commands:
        print(f"$ {width} {' '.join(command)}", flush=True)
        try:
            main(command)
        except SystemExit as ended:
            assert not ended.code, ended.code
        sys.stdout.flush()
"""


def on_a_terminal(folder: Path, commands: Sequence[Sequence[str]]) -> dict[tuple[int, str], list[str]]:
    """The lines that each command prints at each width, on a pseudo-terminal that is resized in between."""
    ours, theirs = pty.openpty()
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    text = "\n".join(" ".join(command) for command in commands)
    process = subprocess.Popen(
        [sys.executable, "-c", SESSION, text, ",".join(map(str, WIDTHS))],
        cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    printed = b""
    while True:
        try:
            if not (more := os.read(ours, 65536)):
                break
        except OSError:  # the other side is closed
            break
        printed += more
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed.decode()).replace("\r", "")
    assert process.wait() == 0, plain
    found: dict[tuple[int, str], list[str]] = {}
    for line in plain.splitlines():
        if heading := re.fullmatch(r"\$ (\d+) (.+)", line):
            lines = found[int(heading[1]), heading[2]] = []
        else:
            lines.append(line)
    return found


@pytest.fixture(scope="module")
def screens(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], list[str]]:
    folder = tmp_path_factory.mktemp("narrow")
    storage = open_storage(str(folder / "runs"))
    sweep = study()
    storage.write("sweeps/study/sweep.json", to_json_bytes(sweep.plain()))
    statuses = (Status.FINISHED, Status.OUT_OF_MEMORY, Status.STOPPED, Status.FINISHED)
    for number, (trial, status) in enumerate(zip(study_trials(sweep, fingerprint), statuses, strict=False)):
        ran(storage, sweep, trial, status, value=0.123 + number / 10)
    return on_a_terminal(folder, COMMANDS)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_table_is_wider_than_the_terminal(width: int, screens: dict[tuple[int, str], list[str]]) -> None:
    for command in COMMANDS:
        lines = screens[width, " ".join(command)]
        assert lines
        # Commands and paths to copy are printed whole, behind a colon; the terminal wraps them.
        wide = [
            line for line in lines if cell_len(line) > width and not re.match(r"\w[\w ]*([.:] ?.*)?: ?\S|page: ", line)
        ]
        assert not wide, command


@pytest.mark.parametrize("width", WIDTHS)
def test_leaderboard_has_every_system_and_its_whole_score(
    width: int, screens: dict[tuple[int, str], list[str]]
) -> None:
    text = "\n".join(screens[width, "leaderboard sudoku-extreme"])
    entries = [entry for table in build_leaderboard("sudoku-extreme", [], load_baselines()) for entry in table.entries]
    assert len(entries) > 5
    for entry in entries:
        row = cells(entry)
        line = next(line for line in text.splitlines() if entry.system[:LEAST] in line and f" {row[2]} " in line)
        assert line.startswith("│")
    assert ("not shown at this width" in text) == (width < 100)


@pytest.mark.parametrize("width", WIDTHS)
def test_status_has_every_trial_with_its_status_and_score(
    width: int, screens: dict[tuple[int, str], list[str]]
) -> None:
    lines = screens[width, "sweep status study"]
    for trial, status, score in zip(
        study_trials(study(), fingerprint),
        ("finished", "out of memory", "stopped", "finished"),
        ("12.3 %", "22.3 %", "32.3 %", "42.3 %"),
        strict=False,
    ):
        [line] = [line for line in lines if line.startswith(trial.trial_id[:6])]
        assert status in line and score in line and trial.family[:LEAST] in line
    [header] = [line for line in lines if line.startswith("trial ")]
    notes = [line for line in lines if line.startswith("not shown at this width: ")]
    missing = [name for name in ("stage", "seed", "step", "on") if f" {name}" not in header]
    assert not {"seed", "step"} & set(missing), "what tells trials apart is kept"
    assert any(next(iter(study_trials(study(), fingerprint))).trial_id in line for line in lines) == (width >= 100)
    assert notes == ([f"not shown at this width: {', '.join(missing)}"] if missing else [])
    assert bool(missing) == (width <= 60)


@pytest.mark.parametrize("width", WIDTHS)
def test_configurations_that_differ_at_their_end_are_told_apart(width: int, tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    sweep = study(space={"T": choice(2), "n": choice(1), "N_sup": choice(4), "aug": choice(10, 100)}, seeds=1)
    storage.write("sweeps/study/sweep.json", to_json_bytes(sweep.plain()))
    for trial in study_trials(sweep, fingerprint):
        ran(storage, sweep, trial, Status.FINISHED)
    console = SafeConsole(width=width)
    console.file = io.StringIO()
    console.print(sweep_view(read_status("study", storage)), crop=False)
    lines = console.file.getvalue().splitlines()
    words = " ".join(lines).split()
    assert {"aug=10", "aug=100"} <= set(words) and words.count("N_sup=4") == 2
    assert all(cell_len(line) <= width for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_plan_and_lists_keep_what_they_are_read_for(width: int, screens: dict[tuple[int, str], list[str]]) -> None:
    plan = screens[width, "sweep plan study"]
    assert [line for line in plan if line.startswith("T=2 n=2") and " 12 " in line and "MB" in line]
    assert any(line.startswith("sudoku-9x9-mini ") for line in screens[width, "recipes"])
    assert any(line.startswith("sudoku-extreme ") for line in screens[width, "data list"])
    assert [line for line in screens[width, "checkpoint known"] if line.startswith("hf:")] == [
        each.address for each in KNOWN
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_own_results_keep_score_and_system(width: int) -> None:
    console = SafeConsole(width=width)
    console.file = io.StringIO()
    found = build_leaderboard(None, demo_records(), load_baselines())[0]
    console.print(to_rich(found))
    lines = console.file.getvalue().splitlines()
    header = next(line for line in lines if "System" in line)
    assert len(re.split("[┃│]", header)[1 + ("Rank" in header)]) - 2 >= min(
        LEAST, max(len(e.system) for e in found.entries)
    )
    for entry in found.entries:
        assert any(f" {cells(entry)[COLUMNS.index('Score %')]} " in line for line in lines)
    assert all(cell_len(line) <= width for line in lines)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(1, 60), st.booleans()), min_size=1, max_size=8),
    st.integers(20, 250),
)
def test_numbers_are_whole_or_left_out_and_texts_keep_12_characters(
    drawn: list[tuple[bool, int, int, bool]], room: int
) -> None:
    columns = [Column(str(index), number, drop, is_word=word) for index, (number, drop, _, word) in enumerate(drawn)]
    natural = [width for _, _, width, _ in drawn]
    widths = fit(columns, natural, room, 2)
    shown = [index for index, width in enumerate(widths) if width is not None]
    total = sum(widths[index] or 0 for index in shown) + 2 * (len(shown) - 1)
    for index in shown:
        assert widths[index] == natural[index] or not columns[index].is_rigid
        assert (widths[index] or 0) >= min(natural[index], LEAST)
    hidden = [column.drop for index, column in enumerate(columns) if index not in shown]
    kept = [columns[index].drop for index in shown if columns[index].drop]
    assert all(hidden) and max(kept, default=0) <= min(hidden, default=9)
    assert total <= room or not kept, "all that may be left out is left out before anything is too wide"
    if sum(natural) + 2 * (len(natural) - 1) <= room:
        assert widths == natural


def test_what_is_left_out_is_said() -> None:
    rows = table("cell", "steps", "memory", right=("steps", "memory"), drop=("memory",))
    rows.add_row("T=2 n=4 with a long name", "1,000,000", "646.1 MB")
    for width, hidden in ((60, False), (30, True)):
        console = SafeConsole(width=width)
        console.file = io.StringIO()
        console.print(rows)
        text = console.file.getvalue()
        assert "1,000,000" in text and ("646.1 MB" in text) != hidden
        assert ("not shown at this width: memory" in " ".join(text.split())) == hidden
