"""`trm init`: write a commented starting point for a sweep of your own."""

from __future__ import annotations

import itertools
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import OUTPUT_FOLDER
from trm_data.errors import nearest


class Start(StrEnum):
    """List the starting points; each is a folder of `orchestrator/cli/scaffold/`."""

    DEMO = "demo"
    OWN_PUZZLES = "own-puzzles"
    OWN_RECURSION = "own-recursion"


_NAMES: dict[str, str] = {Start.DEMO: "first", Start.OWN_PUZZLES: "own-puzzles", Start.OWN_RECURSION: "own-recursion"}
"""The names of the sweeps in these folders."""
SWEEP_FILES = ("sweep.yaml", "sweep.py")
MAX_NAME = 60
"""Longest name of a sweep that is made from that of a folder."""
_SCAFFOLD = Path(__file__).parents[1] / "scaffold"


def init(
    start: Annotated[
        str,
        typer.Argument(
            metavar="[demo|own-puzzles|own-recursion]",
            autocompletion=lambda: list(Start),
            help="demo: a search over depth and learning rate. own-puzzles: a study on a list of puzzles. "
            "own-recursion: a recursion of your own against the built-in one.",
        ),
    ] = Start.DEMO,
    folder: Annotated[
        Path, typer.Argument(help="Folder that receives the files; the current one if left out.", **OUTPUT_FOLDER)
    ] = Path(),
) -> None:
    """Write a commented sweep file, and what it needs, into a folder, after which the sweep is named.

    Existing files are never overwritten.

    Examples:

    trm init

    trm init own-puzzles my-study
    """
    from orchestrator.cli.views.console import line, out
    from orchestrator.errors import SweepError, command_line

    if start not in list(Start):
        folder_command = command_line("init", Start.DEMO, start)
        raise SweepError(
            f"{start!r} is not a starting point; for a folder of that name: {folder_command}", nearest(start, Start)
        )
    source = _SCAFFOLD / start.replace("-", "_")
    contents = {path.name: path.read_bytes() for path in sorted(source.iterdir()) if path.is_file()}
    if existing := [name for name in dict.fromkeys((*contents, *SWEEP_FILES)) if (folder / name).exists()]:
        raise SweepError(
            f"{folder / existing[0]} exists, and nothing is overwritten",
            f"Name a new folder: {command_line('init', start, str(_new_folder(folder)))}",
        )
    old, new = _NAMES[start], _sweep_name(folder) or _NAMES[start]
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if name in SWEEP_FILES:
            content = content.replace(f"name: {old}\n".encode(), f"name: {_yaml(new)}\n".encode())
            content = content.replace(f'name="{old}"'.encode(), f'name="{new}"'.encode())
            content = content.replace(f"trm ablate {old} ".encode(), f"trm ablate {new} ".encode())
        with (folder / name).open("xb") as file:  # also where another process has just written it
            file.write(content)
        out.print(line("wrote ", (str(folder / name), "bold")), soft_wrap=True)
    [sweep] = [folder / name for name in contents if name in SWEEP_FILES]
    out.print(line("the sweep is named ", (new, "bold")), soft_wrap=True)
    for verb, what in (("plan", "estimate it"), ("run", "run it")):
        out.print(line(f"{what}: ", (command_line("sweep", verb, str(sweep)), "bold")), soft_wrap=True)


def _new_folder(folder: Path) -> Path:
    """Return a folder that does not exist yet: `my-sweep`, or the given one with a number."""
    stem = re.sub("-[2-9]$", "", folder.name) or "my-sweep"
    numbered = (folder.parent / f"{stem}-{number}" for number in itertools.count(2))
    candidates = numbered if folder.name else itertools.chain([Path(stem)], numbered)
    return next(path for path in candidates if not path.exists())


def _sweep_name(folder: Path) -> str:
    """Return a name for the sweep of a folder, made from the folder's; empty where nothing of it can be used.

    The sweeps of two folders need two names: their records lie next to each other in one storage.
    """
    from orchestrator.sweep.definition import RESERVED_NAMES

    name = re.sub("[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")[:MAX_NAME].rstrip("-._")
    return f"{name}-sweep" if name.casefold() in RESERVED_NAMES else name


def _yaml(name: str) -> str:
    """Quote a name that YAML could take for a number, a date or a truth value."""
    return name if re.fullmatch("[A-Za-z]+[-_][A-Za-z0-9._-]*|[A-Za-z]{6,}", name) else f'"{name}"'
