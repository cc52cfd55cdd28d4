"""Define the options of `trm sweep run`: where to run, the budget, tracking and notifications."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import ABOVE_0
from trm_data.settings import strict_json

if TYPE_CHECKING:
    from orchestrator.sweep.budget import Budget
    from orchestrator.sweep.definition import Sweep

AddressOption = Annotated[
    str | None, typer.Option("--address", help="HOST:PORT of a running Ray cluster; this machine if left out.")
]
ConcurrentOption = Annotated[
    int | None,
    typer.Option("--max-concurrent", min=1, help="Maximum number of concurrent trials; as many as fit if left out."),
]
TrackingOption = Annotated[
    str | None,
    typer.Option("--tracking", help="MLflow tracking URI, or 'none'. SQLite in the storage folder if left out."),
]
MaxGpusOption = Annotated[float | None, typer.Option("--max-gpus", min=0.1, help="Maximum number of GPUs in use.")]
PreferOption = Annotated[
    str, typer.Option("--prefer", help="Which GPU type to prefer if several are allowed.", metavar="cost|time")
]
ShareOption = Annotated[
    bool | None,
    typer.Option(
        "--share-gpus/--no-share-gpus",
        help="Trials that need less than a GPU's memory share one, each with its part. On by default with --gpu auto.",
        show_default=False,
    ),
]
CanaryOption = Annotated[
    bool | None,
    typer.Option(
        "--canary/--no-canary",
        help="The first trial on a GPU type runs 50 steps alone. On by default on clusters with GPUs.",
        show_default=False,
    ),
]
ReuseOption = Annotated[bool, typer.Option("--reuse", help="Reuse finished trials of other sweeps in this storage.")]
ReplayOption = Annotated[
    str | None,
    typer.Option(
        "--replay",
        help="Repeat a search that was recorded, whatever the timing: a sweep of this storage, or FOLDER/sweeps/NAME.",
        metavar="NAME|FOLDER/sweeps/NAME",
    ),
]
MaxFailuresOption = Annotated[
    int,
    typer.Option(
        "--max-failures", min=0, help="Stop after this many consecutive failures with the same reason; 0 never stops."
    ),
]
RetriesOption = Annotated[
    int, typer.Option("--retries", min=0, help="Number of retries of a trial that failed by itself.")
]
MaxTrialsOption = Annotated[int | None, typer.Option("--max-trials", min=1, help="Budget: maximum number of trials.")]
MaxGpuHoursOption = Annotated[float | None, typer.Option("--max-gpu-hours", metavar=ABOVE_0, help="Budget: GPU-hours.")]
MaxUsdOption = Annotated[
    float | None, typer.Option("--max-usd", metavar=ABOVE_0, help="Budget: dollars, by the catalogue's prices.")
]
MaxHoursOption = Annotated[float | None, typer.Option("--max-hours", metavar=ABOVE_0, help="Budget: hours from now.")]


def budget(trials: int | None, gpu_hours: float | None, usd: float | None, hours: float | None) -> Budget:
    """Return the budget that the options describe. Raises ConfigError if one is not above 0, with its name."""
    from orchestrator.sweep.budget import Budget
    from trm_data.errors import ConfigError

    limits = {"trials": trials, "gpu_hours": gpu_hours, "usd": usd, "wall_hours": hours}
    options = dict(zip(limits, ("--max-trials", "--max-gpu-hours", "--max-usd", "--max-hours"), strict=True))
    for name, limit in limits.items():
        try:
            Budget.parse({name: limit})
        except ConfigError as error:
            why = error.what.rpartition(": ")[2]
            raise ConfigError(f"{options[name]} {limit:g}: {why}", "Leave it out for no limit") from None
    return Budget.parse(limits)


def run_and_show(
    sweep: Sweep,
    url: str,
    tracking: str | None,
    notify: Sequence[str] | None,
    options: dict[str, Any],
    *,
    is_stored: bool,
    as_json: bool,
) -> int:
    """Run a sweep with the live view and print its outcome. Return the exit code (`ExitCode`).

    Args:
        options: fields of `RunOptions`.
        is_stored: see `run_defined`.
    """
    from orchestrator.api.inputs import as_run_options
    from orchestrator.api.run import run_defined
    from orchestrator.cli.views.console import only_json
    from orchestrator.cli.views.live import LiveView, outcome_summary, show_outcome
    from orchestrator.execution.options import SweepStatus
    from orchestrator.storage import open_storage
    from orchestrator.tracking.live import resolve_uri

    storage = open_storage(url)
    checked = as_run_options(options)
    with only_json(as_json):
        outcome = run_defined(sweep, storage, tracking, notify or (), [LiveView()], checked, is_stored=is_stored)
    if as_json:
        print(strict_json(outcome_summary(outcome), indent=1))
    else:
        show_outcome(sweep, storage, outcome, resolve_uri(storage, tracking))
    if outcome.status is SweepStatus.ABANDONED:
        sys.stdout.flush()
        os._exit(outcome.exit_code)  # Ray's own shutdown would wait for processes that have exited
    return outcome.exit_code
