"""`trm init`: write a commented starting point for a sweep of your own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import OUTPUT_FOLDER


class Start(StrEnum):
    """List the starting points; each is a folder of `orchestrator/cli/scaffold/`."""

    DEMO = "demo"
    OWN_PUZZLES = "own-puzzles"
    OWN_RECURSION = "own-recursion"


_SCAFFOLD = Path(__file__).parents[1] / "scaffold"


def init(
    start: Annotated[
        Start,
        typer.Argument(
            help="demo: a search over depth and learning rate. own-puzzles: a study on a list of puzzles. "
            "own-recursion: a recursion of your own against the built-in one."
        ),
    ] = Start.DEMO,
    folder: Annotated[
        Path, typer.Argument(help="Folder that receives the files; the current one if left out.", **OUTPUT_FOLDER)
    ] = Path(),
) -> None:
    """Write a commented sweep file, and what it needs, into a folder. Existing files are never overwritten.

    Examples:

    trm init

    trm init own-puzzles my-study
    """
    from orchestrator.cli.views.console import line, out
    from orchestrator.errors import SweepError, command_line

    source = _SCAFFOLD / start.value.replace("-", "_")
    contents = {path.name: path.read_bytes() for path in sorted(source.iterdir()) if path.is_file()}
    if existing := [name for name in contents if (folder / name).exists()]:
        raise SweepError(
            f"{folder / existing[0]} exists, and nothing is overwritten",
            f"Name another folder: {command_line('init', start.value, 'my-sweep')}",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with (folder / name).open("xb") as file:  # also where another process has just written it
            file.write(content)
        out.print(line("wrote ", (str(folder / name), "bold")), soft_wrap=True)
    [sweep] = [folder / name for name in contents if Path(name).stem == "sweep"]
    for verb, what in (("plan", "estimate it"), ("run", "run it")):
        out.print(line(f"{what}: ", (command_line("sweep", verb, str(sweep)), "bold")), soft_wrap=True)
