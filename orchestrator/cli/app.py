"""Define the tree of commands, and the options that precede them."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.commands import (
    baselines,
    checkpoint,
    compare,
    data,
    doctor,
    evaluate,
    init,
    leaderboard,
    notify,
    results,
    solve,
    sweep,
    track,
    train,
    trial,
    ui,
)

app = typer.Typer(
    name="trm",
    help="Sweeps, ablations and leaderboards for the Tiny Recursion Model and other recursive puzzle solvers.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # a defect shows its plain traceback
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version as version_of

        print(f"trm {version_of('trm-orchestrator')}")
        raise typer.Exit


@app.callback()
def common(
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


app.command("init")(init.init)
app.add_typer(data.app, name="data")
app.add_typer(sweep.app, name="sweep")
app.add_typer(trial.app, name="trial")
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(baselines.app, name="baselines")
app.add_typer(results.app, name="results")
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("solve")(solve.solve)
app.command("export")(solve.export)
app.command("recipes")(train.recipes)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("ablate")(compare.ablate)
app.add_typer(track.app, name="track")
app.command("ui")(ui.ui)
app.command("notify")(notify.notify)
app.command("doctor")(doctor.doctor)
