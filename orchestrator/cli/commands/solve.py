"""`trm solve`: solve a puzzle with a trained model; `trm export`: write a model for other runtimes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.lookup import AtOption, CheckpointArgument, WeightsOption
from orchestrator.cli.options import OUTPUT_FILE, JsonOption, StorageOption, TrustOption, trust_files
from trm_data.errors import DataError
from trm_data.settings import strict_json

if TYPE_CHECKING:
    from trm_model.evaluation.solve import Solved

_LONGEST_NAME = 255
_FILE_NAME = re.compile(r"^[^{].*(/|\.[A-Za-z]\w*$)|^/")
_PUZZLE_LETTERS = set("0123456789.# SG")
"""A text is taken for the name of a file if it has a slash or a suffix, and a letter that no puzzle has."""


def solve(
    checkpoint: CheckpointArgument,
    puzzle: Annotated[
        str, typer.Argument(help="The puzzle itself, a file, or - for standard input.", show_default=False)
    ],
    depth: Annotated[int | None, typer.Option("--depth", min=1, help="D: supervision steps at most.")] = None,
    steps: Annotated[bool, typer.Option("--steps", help="Also show the answer after each supervision step.")] = False,
    halt: Annotated[
        bool,
        typer.Option("--halt/--no-halt", help="Stop when the model wants to; or take all D steps, as in training."),
    ] = True,
    picture: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Draw it, wrong cells marked: .png, or .gif with every step.", **OUTPUT_FILE),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="ARC: the task to answer as, by name; found by its pairs if left out.")
    ] = None,
    at: AtOption = "last",
    weights: WeightsOption = "ema",
    trust: TrustOption = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Solve Sudoku, mazes or ARC tasks. Exit code 1 if an answer is known to be wrong.

    A Sudoku is a line of digits with . or 0 for blanks (in a file, one a line), a maze a text of # for walls, S and G,
    an ARC task its JSON; it must be a task whose examples the model was trained with.

    Examples:

    trm solve demo/3f2a91 ....5.4561..2.156...4...31.....4...2 --steps

    trm solve maze.safetensors maze.txt --no-halt --out path.gif

    trm solve arc/9c01d2 007bbfb7.json --json
    """
    from orchestrator.cli.lookup import dataset_for
    from orchestrator.records.checkpoints import find_checkpoint
    from orchestrator.storage import open_storage
    from trm_model.checkpoints.trained import load_trained
    from trm_model.evaluation.solve import solve_text

    _require_drawable(picture)
    trust_files(trust)
    store = open_storage(storage)
    found = find_checkpoint(checkpoint, store, at)
    trained = load_trained(found.load(), weights)
    text, dataset = _text(puzzle), partial(dataset_for, found, trained.config, None, store)
    solved = solve_text(trained, text, dataset, depth, task=task, halt=halt)
    if picture is not None:
        _draw(solved, picture)
    if as_json:
        print(strict_json([one.plain(steps) for one in solved], indent=1))
    else:
        for one in solved:
            _show(one, steps)
    raise typer.Exit(1 if any(one.is_valid is False for one in solved) else 0)


def _text(puzzle: str) -> str:
    """Return the puzzle itself, or the text of the file that is named. Raises DataError for what is not text."""
    where = "standard input" if puzzle == "-" else puzzle
    try:
        if puzzle == "-":
            return sys.stdin.read()
        is_name = len(os.fsencode(puzzle)) <= _LONGEST_NAME and "\n" not in puzzle
        if not is_name or not Path(puzzle).exists():
            if is_name and _FILE_NAME.search(puzzle) and set(puzzle) - _PUZZLE_LETTERS:
                raise DataError(f"no file {puzzle!r}", "Name a file with a puzzle, or give the puzzle itself")
            return puzzle
        return Path(puzzle).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {where}: {error.strerror or error}", "Name a file with a puzzle") from None
    except UnicodeDecodeError:
        raise DataError(f"{where} is not text", "Give a line of digits, a maze, or an ARC task as JSON") from None


def _require_drawable(picture: Path | None) -> None:
    """Raise ConfigError unless a picture of that name can be drawn: before a model is loaded."""
    if picture is not None:
        from trm_data.dataset.render import require_picture

        require_picture(picture)


def _draw(solved: Sequence[Solved], picture: Path) -> None:
    """Draw the first puzzle, and say so if there are others."""
    from orchestrator.cli.views.console import err, line
    from trm_data.dataset.render import save_answers

    one = solved[0]
    save_answers(one.kind, one.question.cells, one.solution.answers, picture, one.question.label)
    which = f" (the first of {len(solved)} puzzles)" if len(solved) > 1 else ""
    err.print(line("picture: ", (str(picture), "bold"), which), soft_wrap=True)


def _show(one: Solved, steps: bool) -> None:
    from orchestrator.cli.views.console import line, out

    verdicts = {True: ("valid", "green"), False: ("not valid", "red"), None: ("cannot be checked", "default")}
    solution = one.solution
    if steps:
        for number, (answer, sure) in enumerate(zip(solution.answers, solution.confidences, strict=True), 1):
            out.print(f"step {number}, halting score {sure:.3f}", style="dim")
            print("\n".join(one.rows(answer)))
    word = "step" if len(solution.answers) == 1 else "steps"
    after = f" after {len(solution.answers)} supervision {word}, confidence {solution.confidence:.3f}"
    reason = f" ({one.problem})" if one.problem else ""
    out.print(line(verdicts[one.is_valid], reason, after))
    if not steps:
        print("\n".join(one.rows(solution.answer)))


def export(
    checkpoint: CheckpointArgument,
    output: Annotated[Path, typer.Option("--out", "-o", help="File to write.", **OUTPUT_FILE)],
    format_: Annotated[str, typer.Option("--format", help="onnx, or torch (a torch.export program).")] = "onnx",
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="D: a loop of this many supervision steps; one step if left out."),
    ] = None,
    at: AtOption = "last",
    weights: WeightsOption = "ema",
    trust: TrustOption = None,
    storage: StorageOption = "runs",
) -> None:
    """Write a trained model as a program for other runtimes, checked against PyTorch before it is written.

    One supervision step takes and gives the states; a loop of D steps gives the answer. The batch size is free.

    Examples:

    trm export demo/3f2a91 --format onnx --steps 16 -o sudoku.onnx

    trm export model.safetensors --format torch -o step.pt2
    """
    from orchestrator.cli.views.console import out
    from orchestrator.records.checkpoints import find_checkpoint
    from orchestrator.storage import open_storage
    from orchestrator.sweep.text import num_bytes
    from trm_model.checkpoints.export import export as write
    from trm_model.checkpoints.export import kind_of
    from trm_model.checkpoints.trained import load_trained

    trust_files(trust)
    kind = kind_of(format_)
    trained = load_trained(find_checkpoint(checkpoint, open_storage(storage), at).load(), weights)
    written = write(trained.model, output, kind=kind, steps=steps)
    what = "one supervision step" if steps is None else f"{steps} supervision steps"
    out.print(
        f"{output}: {what}, {num_bytes(written.num_bytes)}, "
        f"largest difference from PyTorch {written.largest_difference:.1g}"
    )
