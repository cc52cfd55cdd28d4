"""What is printed: foreign text as it is, commands that can be pasted, and displays that never stop a sweep."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shlex
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.api.progress import ProgressBars
from orchestrator.api.terminal import SafeConsole, printable, progress_bar
from orchestrator.api.train import TrainOutcome
from orchestrator.cli.views import console
from orchestrator.cli.views.console import line, table
from orchestrator.cli.views.live import LiveView, show_outcome
from orchestrator.cli.views.train import show_outcome as show_run
from orchestrator.errors import command_line
from orchestrator.execution.options import SweepOutcome, SweepSnapshot, SweepStatus, TrialSnapshot
from orchestrator.records.progress import SweepProgress
from orchestrator.records.schema import Status
from orchestrator.storage import open_storage
from orchestrator.sweep.trials import study_trials
from tests.support.commands import call
from tests.support.sweeps import fingerprint, record_of, study
from trm_data.errors import UserError
from trm_data.files import write_atomic, write_output, writing_remedy

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:54321"


def printed(*what: object, width: int = 200) -> str:
    """What a console of ours writes."""
    safe = SafeConsole(width=width)
    safe.file = io.StringIO()
    for each in what:
        safe.print(each)
    text: str = safe.file.getvalue()
    return text


def test_what_a_sweep_file_prints_is_no_part_of_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prints.py"
    file.write_text(
        "from orchestrator import Sweep, choice, get_recipe\n"
        "print('from the file')\n"
        "sweep = Sweep(name='prints', base=get_recipe('sudoku-mini'), space={'T': choice(1, 2)})\n"
    )
    words = ("sweep", "plan", str(file), "--storage", str(tmp_path / "runs"))
    code, out, err = call(capsys, *words, "--json")
    assert code == 0 and json.loads(out)["num_trials"] == 2 and "from the file" in err
    code, out, err = call(capsys, *words)
    assert code == 0 and "from the file" in out, "without --json it stays where it was printed"


@pytest.mark.parametrize("text", [GLOO, "[lower case]", "[bold]x[/]", "[/x]", ":smile:", "\\[x]", "[link=file:///]y"])
def test_foreign_text_is_printed_as_it_is(text: str) -> None:
    rows = table("name")
    rows.add_row(text)
    rows.add_row(line(("name ", "bold"), text))
    for out in (printed(text), printed(line(text)), printed(rows)):
        assert text in out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J\x1b[31mred", "ared"),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "alink"),
        ("a\x9b31mb\x00\x07\rc", "abc"),
        ("abc\u202edef", "abcdef"),
        ("a\u061cb\u2028c\u2029d\u206ae\u206ff\u200bg\u200dh\u2060i\ufeffj\u00adk\u3164l\U000e0041m", "abcdefghijklm"),
        ("file\udcff.txt", "file\\xff.txt"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_control_characters_are_dropped_everywhere(text: str, shown: str) -> None:
    assert printable(text) == shown
    rows = table("name")
    rows.add_row(line((text, "bold")))
    for out in (printed(text), printed(rows)):
        assert not {"\x1b", "\x9b", "\x07", "\x00", "\r", "\u202e", "\udcff"} & set(out)


@given(st.text())
def test_any_text_can_be_printed_and_controls_nothing(text: str) -> None:
    out = printed(text)
    out.encode()
    assert all(character in "\n\t" or not "\x00" <= character < "\x20" for character in out)


@pytest.mark.parametrize("url", ["/data/my runs/[x]", "s3://bucket/a b?region=eu-west-1", "../it's"])
def test_command_can_be_pasted(url: str) -> None:
    command = command_line("sweep", "resume", "my sweep [1]", storage=url)
    assert shlex.split(command) == ["trm", "sweep", "resume", "my sweep [1]", "--storage", url]


def test_command_leaves_out_the_default_storage_of_this_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command_line("ui", storage="runs") == command_line("ui", storage=str(tmp_path / "runs")) == "trm ui"
    elsewhere = str(tmp_path / "elsewhere" / "runs")  # its name is the default, but it is another folder
    assert command_line("ui", storage=elsewhere) == f"trm ui --storage {elsewhere}"


TRIAL = TrialSnapshot("3f2a", "study", "T=[1] n=2", 0, Status.FAILED, 4, 12, 0.5, f"RuntimeError: {GLOO}")
PROGRESS = SweepProgress(planned=4, done=1, failed=1)


def test_live_view_prints_a_trials_error_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    view = LiveView()
    snapshot = SweepSnapshot("a [b]", "exact_accuracy", PROGRESS, (TRIAL, replace(TRIAL, status=Status.RUNNING)))
    view.on_sweep_start(snapshot)
    view.on_progress(snapshot)
    view.on_trial_end(TRIAL, PROGRESS)
    view.on_message("see [/tmp/x]")
    view.close()
    err = " ".join(capsys.readouterr().err.split())
    assert GLOO in err and "see [/tmp/x]" in err and "T=[1] n=2" in err and "sweep a [b]: 4 trials" in err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_command_in_a_message_is_in_one_piece_however_long_it_is(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line break in a path makes two words of it once it is pasted."""
    command = command_line("track", "sync", "depth", storage="/mnt/big/recursive models/" + "runs of november " * 9)
    safe = SafeConsole(width=60)
    safe.file = io.StringIO()
    monkeypatch.setattr(SafeConsole, "is_terminal", property(lambda _: is_terminal))
    monkeypatch.setattr("orchestrator.cli.views.live.err", safe)
    LiveView().on_message(f"MLflow was not brought up to date: no answer for 5 s. `{command}` sends the rest")
    safe.print(line("dim: ", (command, "dim")))
    assert safe.file.getvalue().count(command) == 2


def test_live_view_shows_what_is_waited_for_the_time_left_the_best_so_far_and_the_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    safe, clock = SafeConsole(width=200), [1000.0]
    safe.file = io.StringIO()
    monkeypatch.setattr(SafeConsole, "is_terminal", property(lambda _: True))
    opened: list[Any] = []

    def opens(first: Any, **_: Any) -> Any:
        opened.append(first)
        return contextlib.nullcontext()

    monkeypatch.setattr("orchestrator.cli.views.live.Live", opens)
    monkeypatch.setattr("orchestrator.cli.views.live.err", safe)
    monkeypatch.setattr("orchestrator.cli.views.live.time.monotonic", lambda: clock[0])
    view = LiveView()

    def shown(**values: Any) -> str:
        safe.file = io.StringIO()
        safe.print(view.table(SweepSnapshot("s", "exact_accuracy", SweepProgress(4, 1, 0), **values)))
        return " ".join(safe.file.getvalue().split())

    view.on_sweep_start(SweepSnapshot("s", "exact_accuracy", SweepProgress(4, 0, 0), ()))
    view.close()
    assert [str(each) for each in opened] == ["starting Ray"]
    assert "starting trials" in shown(trials=())
    running = replace(TRIAL, status=Status.RUNNING, step=0, value=None, reason="")
    done = replace(TRIAL, trial_id="77", status=Status.FINISHED, step=12, value=0.936, family="T=2", reason="")
    confirmed = replace(done, trial_id="78", stage="confirm", value=0.99)
    clock[0] += 100
    text = shown(trials=(done, replace(running, step=6)), gpu_hours=2.3, usd=4.1)
    # One and a half of four trials in 100 s.
    assert "1 min 40 s, about 3 min left, best so far 93.6 % (T=2), 2.3 GPU-hours ($4.10)" in text
    assert "93.6 %" in shown(trials=(done, confirmed, running)), "scores on the test split are no better ones"
    assert "(price unknown)" in shown(trials=(done, running), gpu_hours=2.3, usd=None)


def test_progress_bars_show_foreign_text_as_it_is() -> None:
    safe = SafeConsole(width=200)
    safe.file = io.StringIO()
    bars = ProgressBars(safe)
    bars.on_progress(SweepSnapshot("a [b]", "exact_accuracy", PROGRESS, (replace(TRIAL, status=Status.RUNNING),)))
    bars.on_message("see [/tmp/x]")
    bars.close()
    with progress_bar(safe) as bar:
        bar.add_task("[lower case]", total=1, note=GLOO)
    text = safe.file.getvalue()
    assert all(each in text for each in ("a [b]", "T=[1] n=2", "see [/tmp/x]", "[lower case]", GLOO))


@pytest.mark.parametrize(
    ("total", "slots", "shown"),
    [
        (1, 8, "sweep study: 1 trial. "),
        (4, 1, "sweep study: 4 trials, one at a time. "),
        (4, 8, "sweep study: 4 trials, up to 4 at once. "),
    ],
)
def test_live_view_counts_trials_in_words(
    total: int, slots: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    view = LiveView()
    view.on_sweep_start(SweepSnapshot("study", "exact_accuracy", SweepProgress(total, 0, 0), (), slots))
    view.close()
    assert shown in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "progress", "shown", "code"),
    [
        (SweepStatus.COMPLETE, SweepProgress(4, 4, 0), ["is complete: "], 0),
        (
            SweepStatus.COMPLETE,
            SweepProgress(4, 4, 1),
            [
                "but 1 failed: ",
                "\nTry the failed trials again: {trm} sweep retry study {at} && {trm} sweep resume study",
            ],
            1,
        ),
        (SweepStatus.STOPPED, SweepProgress(4, 2, 0), ["2 of 4 trials remaining", "{trm} sweep resume study {at}"], 3),
        (SweepStatus.STOPPED, SweepProgress(1, 0, 0), ["1 of 1 trial remaining"], 3),
        (
            SweepStatus.OUT_OF_BUDGET,
            SweepProgress(4, 2, 0),
            ["out of budget (why [x])", "without a limit: {trm} sweep resume study {at}\n", "\n--max-trials, "],
            3,
        ),
        (SweepStatus.FAILING, SweepProgress(4, 2, 2), ["sweep retry study {at} && {trm} sweep resume study {at}"], 1),
    ],
)
def test_outcome_names_what_is_left_and_the_next_command(
    status: SweepStatus,
    progress: SweepProgress,
    shown: list[str],
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    storage = open_storage(str(tmp_path / "my runs"))
    snapshot = SweepSnapshot("study", "exact_accuracy", progress, ())
    outcome = SweepOutcome(status, snapshot, "" if status is SweepStatus.COMPLETE else "why [x]")
    show_outcome(study(), storage, outcome, None)
    out = capsys.readouterr().out
    for text in shown:
        assert text.format(trm="trm", at=f"--storage '{storage.url}'") in out
    assert outcome.exit_code == code


def test_consoles_of_the_command_line_are_safe() -> None:
    assert isinstance(console.out, SafeConsole) and isinstance(console.err, SafeConsole)


@pytest.mark.parametrize("words", [["--help"], ["sweep", "plan", "--recipe", "sudoku-mini", "--vary", "T=1"]])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_output_without_space_is_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-m", "orchestrator.cli", *words], stdout=full, stderr=subprocess.PIPE)
    text = done.stderr.decode()
    assert done.returncode == 2 and text.count("\n") == 1 and "there is no space left" in text


def test_output_that_the_user_names_goes_where_a_link_leads_and_into_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to("old")
    write_output(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "old").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to("later")
    write_output(tmp_path / "dangling", b"new")
    assert (tmp_path / "dangling").is_symlink() and (tmp_path / "later").read_bytes() == b"new"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="it is no regular file"):
        write_atomic(pipe, b"x")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_output(pipe, b"new")
        assert os.read(reader, 10) == b"new" and stat.S_ISFIFO(pipe.stat().st_mode)
    finally:
        os.close(reader)
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for path in (tmp_path / "a", tmp_path):
        with pytest.raises(UserError, match="cannot write"):
            write_output(path, b"x")
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


def test_new_folder_of_an_output_is_named_and_full_disks_alone_want_space(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("new/deep/x.gif", "new/deep/y.gif"):
        write_output(tmp_path / name, b"x")
    assert [record.getMessage() for record in caplog.records] == [f"made the new folder {tmp_path / 'new/deep'}"]
    with pytest.raises(UserError, match=r"cannot write /proc/nope: .*\. Name another folder$"):
        write_output(Path("/proc/nope/x.gif"), b"x")
    assert "Free some space" in writing_remedy(OSError(errno.ENOSPC, "full"))


def test_a_training_run_whose_puzzles_have_no_known_answer_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    record = record_of(next(iter(study_trials(study(), fingerprint))), Status.FINISHED)
    assert record.result is not None
    unscored = replace(record, result=record.result.model_copy(update={"items": 0, "metrics": {}}))
    assert show_run(TrainOutcome(unscored, Status.FINISHED, 12, "", "runs/x"), as_json=False) == 0
    assert "no answer of the test puzzles is known" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sweep", "run", "-f.py"), "trm sweep run ./-f.py"),
        (("sweep", "run", "-a/f.py", "--seeds", "2"), "trm sweep run ./-a/f.py --seeds 2"),
        (("train", "--set", "lr=-0.5", "-vv"), "trm train --set lr=-0.5 -vv"),
        (("data", "build", "-1.5", "./-f.py"), "trm data build -1.5 ./-f.py"),
    ],
)
def test_path_that_begins_with_a_dash_is_no_option_of_a_command_that_is_named(
    words: tuple[str, ...], said: str
) -> None:
    assert command_line(*words) == said
