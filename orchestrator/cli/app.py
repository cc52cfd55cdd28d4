"""Define the tree of commands, and the options that precede them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

COMMANDS = {
    "init": "init:init",
    "data": "data:app",
    "sweep": "sweep:app",
    "cloud": "cloud:app",
    "trial": "trial:app",
    "checkpoint": "checkpoint:app",
    "baselines": "baselines:app",
    "results": "results:app",
    "train": "train:train",
    "eval": "evaluate:evaluate",
    "solve": "solve:solve",
    "submit": "submit:submit",
    "export": "solve:export",
    "recipes": "train:recipes",
    "leaderboard": "leaderboard:leaderboard",
    "ablate": "compare:ablate",
    "track": "track:app",
    "ui": "ui:ui",
    "notify": "notify:notify",
    "doctor": "doctor:doctor",
}
"""A module of `orchestrator.cli.commands` for each command, and its function or group in it."""


def build_app(arguments: Sequence[str] = ()) -> typer.Typer:
    """Return the tree of commands; if the arguments begin with a command, only that one, which takes less time."""
    first = next((argument for argument in arguments if not argument.startswith("-")), "")
    app = typer.Typer(
        name="trm",
        help="Sweeps, ablations and leaderboards for the Tiny Recursion Model and other recursive puzzle solvers.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,  # a defect shows its plain traceback
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_common)
    for name in [first] if first in COMMANDS else COMMANDS:
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(import_module(f"orchestrator.cli.commands.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version as version_of

        print(f"trm {version_of('trm-orchestrator')}")
        raise typer.Exit


def _common(
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Log changes of state; -vv logs everything.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    from orchestrator.cli.logs import set_levels

    set_levels(verbose, quiet)
