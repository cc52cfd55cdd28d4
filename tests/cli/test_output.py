"""What is printed: foreign text as it is, commands that can be pasted, and displays that never stop a sweep."""

from __future__ import annotations

import io
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.api.terminal import SafeConsole, printable
from orchestrator.cli.views import console
from orchestrator.cli.views.console import line, table
from orchestrator.cli.views.live import LiveView
from orchestrator.errors import command_line
from orchestrator.records.schema import AttemptEnd, Status
from orchestrator.search.planner import Planner
from tests.support.sweeps import fingerprint, record_of, study

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:54321"


def printed(*what: object, width: int = 200) -> str:
    """What a console of ours writes."""
    safe = SafeConsole(width=width)
    safe.file = io.StringIO()
    for each in what:
        safe.print(each)
    text: str = safe.file.getvalue()
    return text


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


def test_live_view_prints_a_trials_error_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    planner = Planner(study(), fingerprint, ())
    trial = planner.next()
    assert trial is not None
    record = record_of(trial, Status.FAILED)
    end = AttemptEnd(status=Status.FAILED, step=4, ended_s=0.0, reason=f"RuntimeError: {GLOO}")
    record = replace(record, attempts=[replace(record.attempts[0], end=end)])
    view = LiveView()
    view.started(planner, 1)
    planner.ended(record)
    view.trial_ended(planner, record)
    view.remark("see [/tmp/x]")
    view.close()
    err = capsys.readouterr().err
    assert GLOO in " ".join(err.split()) and "see [/tmp/x]" in err


def test_consoles_of_the_command_line_are_safe() -> None:
    assert isinstance(console.out, SafeConsole) and isinstance(console.err, SafeConsole)
