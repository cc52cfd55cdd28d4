"""`trm trial`: one trial, from its record."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.completion import trial_addresses
from orchestrator.cli.options import JsonOption, StorageOption, TrustOption, trust_files

app = typer.Typer(help="Show one trial, or run it again.", no_args_is_help=True)

TrialArgument = Annotated[
    str,
    typer.Argument(
        help="A trial's id, a prefix of it, SWEEP/TRIAL, or train/last, SWEEP/last, SWEEP/best.",
        metavar="ID",
        show_default=False,
        autocompletion=trial_addresses,
    ),
]


@app.command()
def show(trial: TrialArgument, storage: StorageOption = "runs", as_json: JsonOption = False) -> None:
    """Show a trial: its configuration, machines, curve and result.

    Examples:

    trm trial show 3f9a0c1b2d4e

    trm trial show demo/3f9a --json
    """
    from orchestrator.cli.views.trial import show_trial
    from orchestrator.storage import storage_to_read

    show_trial(storage_to_read(storage), trial, as_json)


@app.command()
def reproduce(
    trial: TrialArgument,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Largest difference of a metric that counts as the same.")
    ] = 0.0,
    trust: TrustOption = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Run a finished trial again on this machine, outside its sweep, and compare. Exit code 1 if it differs.

    On a CPU with the same number of threads and the same versions the result is the same to the last bit.

    Examples:

    trm trial reproduce 3f9a0c1b2d4e

    trm trial reproduce demo/3f9a --tolerance 0.01
    """
    from orchestrator.api.reproduce import reproduce as run_again
    from orchestrator.cli.views.reproduce import show_reproduction
    from orchestrator.cli.views.train import TrainView
    from orchestrator.execution.callbacks import open_callbacks
    from orchestrator.storage import open_storage

    trust_files(trust)
    with open_callbacks([TrainView()]) as events:
        found = run_again(open_storage(storage), trial, events)
    raise typer.Exit(show_reproduction(found, tolerance, as_json))
