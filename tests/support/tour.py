"""Run the commands of the first session in an empty folder, and write the page again with what they print.

    python -m tests.support.tour docs/first-session.md --demo demo.log

`--demo` takes the output of `make demo` in a fresh clone, which the page shows first.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
PAGE = ROOT / "docs" / "first-session.md"
COLUMNS = 120
MAX_HEARTBEATS = 6
_HEARTBEAT = re.compile(r"(\d\d:\d\d:\d\d )?.*\bstep [\d,]+/[\d,]+\b.*")
"""Lines on the progress of running trials, of which a page shows a few."""
HEAD = """# A first session

What `make demo` and the first commands print: recorded in a fresh clone and an empty folder,
on {machine}, {date}. Written by `python -m tests.support.tour`; a slow test (`tests/project/test_tour.py`) runs the
same commands and checks what they show.
"""
TAIL = """`trm ui` then shows the sweeps in the browser while they run, with MLflow and Optuna
([tracking](tracking.md#trm-ui)). Everything is kept in `runs/` in the current folder; `--storage` names another folder
or bucket. Ctrl-C stops a sweep cleanly. A killed driver loses at most the work since the last checkpoint: rerun the
command, or `trm sweep run NAME`, to resume; finished trials are not repeated.
"""


class Step(NamedTuple):
    """Hold one command of the tour and what it printed."""

    command: str
    output: str
    code: int
    seconds: float


def commands() -> list[str]:
    """Return the commands of the page."""
    return [line.removeprefix("$ ") for line in PAGE.read_text().splitlines() if line.startswith("$ trm ")]


def run(command: str, folder: Path) -> Step:
    """Run one command of the tour in a folder."""
    program, *arguments = shlex.split(command)
    assert program == "trm"
    began_s = time.monotonic()
    environment = {**os.environ, "COLUMNS": str(COLUMNS)}
    done = subprocess.run(
        [*TRM, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )  # as bytes: text mode would make a new line of each overwritten one
    return Step(command, done.stdout.decode(errors="replace"), done.returncode, time.monotonic() - began_s)


def readable(text: str, folders: dict[str, str]) -> str:
    """Return output without colours, overwritten lines, most lines on progress and notes of pip on its mirrors, and
    with the names of `folders` replaced."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    for path, name in folders.items():
        text = text.replace(path, name)
    lines = text.replace("\r\n", "\n").split("\n")
    shown = [
        line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines if not line.startswith("WARNING: Location")
    ]
    found = [number for number, line in enumerate(shown) if _HEARTBEAT.match(line)]
    for number in found[MAX_HEARTBEATS + 1 :]:
        shown[number] = ""
    if len(found) > MAX_HEARTBEATS:
        shown[found[MAX_HEARTBEATS]] = f"({len(found) - MAX_HEARTBEATS} lines like these are left out)"
    return re.sub(r"\n{3,}", "\n\n", "\n".join(shown)).strip("\n")


def page(steps: list[Step], demo: str, folders: dict[str, str]) -> str:
    """Return the page."""
    machine = f"Linux with Python {platform.python_version()} and {os.cpu_count()} cores"
    parts = [HEAD.format(machine=machine, date=time.strftime("%Y-%m-%d"))]
    if demo:
        parts += ["## The demo\n", f"```text\n$ make demo\n{readable(demo, folders)}\n```\n"]
    parts += ["## The tour\n"]
    for step in steps:
        shown = readable(step.output, folders)
        parts += [f"```text\n$ {step.command}\n{shown}\n```\n", f"{step.seconds:.0f} s\n"]
    parts += [TAIL]
    return "\n".join(parts)


def main() -> int:
    """Run the tour and write the page; the exit code is 1 if a command fails."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.tour", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("page", type=Path, help="the file to write")
    parser.add_argument("--demo", type=Path, help="output of `make demo`")
    arguments = parser.parse_args()
    steps = []
    with tempfile.TemporaryDirectory() as folder:
        folders = {folder: "~/puzzles", str(ROOT): "~/trm", str(Path.home()): "~"}
        for command in commands():
            steps.append(run(command, Path(folder)))
            print(f"{steps[-1].seconds:5.0f} s  exit code {steps[-1].code}  {command}", flush=True)
        demo = arguments.demo.read_bytes().decode(errors="replace") if arguments.demo else ""
        arguments.page.write_text(page(steps, demo, folders))
    return int(any(step.code for step in steps))


if __name__ == "__main__":
    sys.exit(main())
