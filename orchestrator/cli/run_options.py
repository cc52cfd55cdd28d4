"""What `trm sweep run` and `resume` share: where to run, within which budget, and the run itself."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.errors import SweepError
from orchestrator.resources.usage import Budget
from trm_data.errors import nearest

if TYPE_CHECKING:
    from orchestrator.sweep.definition import Sweep

AddressOption = Annotated[
    str | None, typer.Option("--address", help="HOST:PORT of a running Ray cluster; this machine if left out.")
]
ConcurrentOption = Annotated[
    int | None, typer.Option("--max-concurrent", min=1, help="Trials at once; as many as fit if left out.")
]
TrackingOption = Annotated[
    str | None,
    typer.Option("--tracking", help="MLflow tracking URI, or 'none'. SQLite in the storage folder if left out."),
]
MaxGpusOption = Annotated[float | None, typer.Option("--max-gpus", min=0.1, help="GPUs in use at once.")]
PreferOption = Annotated[
    str, typer.Option("--prefer", help="Which GPU type first, where several will do.", metavar="cost|time")
]
ShareOption = Annotated[
    bool, typer.Option("--share-gpus", help="Trials that need less than a GPU's memory share one, each with its part.")
]
CanaryOption = Annotated[
    bool | None,
    typer.Option(
        "--canary/--no-canary",
        help="The first trial on a GPU type makes 50 steps alone. On by default on clusters with GPUs.",
        show_default=False,
    ),
]
ReuseOption = Annotated[
    bool, typer.Option("--reuse", help="Take over trials that other sweeps of the storage have finished.")
]
MaxFailuresOption = Annotated[
    int,
    typer.Option(
        "--max-failures", min=0, help="Stop after so many failures in a row with the same reason; 0 never stops."
    ),
]
RetriesOption = Annotated[
    int, typer.Option("--retries", min=0, help="Times that a trial which failed by itself runs again.")
]
MaxTrialsOption = Annotated[int | None, typer.Option("--max-trials", min=1, help="Budget: trials that may start.")]
MaxGpuHoursOption = Annotated[float | None, typer.Option("--max-gpu-hours", min=0, help="Budget: GPU-hours.")]
MaxUsdOption = Annotated[
    float | None, typer.Option("--max-usd", min=0, help="Budget: dollars, by the catalogue's prices.")
]
MaxHoursOption = Annotated[float | None, typer.Option("--max-hours", min=0, help="Budget: hours from now.")]


def run_options(
    *,
    address: str | None,
    max_concurrent: int | None,
    max_gpus: float | None,
    prefer: str,
    share_gpus: bool,
    canary: bool | None,
    reuse: bool,
    max_failures: int,
    retries: int,
    **limits: float | None,
) -> dict[str, Any]:
    """Build the arguments of `RunOptions`. Raises UserError for an empty limit or an unknown preference."""
    if prefer not in ("cost", "time"):
        raise SweepError(f"--prefer {prefer!r} is neither cost nor time", nearest(prefer, ["cost", "time"]))
    return {
        "address": address,
        "max_concurrent": max_concurrent,
        "max_gpus": max_gpus,
        "prefer": prefer,
        "share_gpus": share_gpus,
        "canary": canary,
        "reuse": reuse,
        "max_failures": max_failures or None,
        "retries": retries,
        "budget": Budget.parse(limits, "budget"),
    }


def drive(sweep: Sweep, url: str, tracking: str | None, notify: list[str] | None, options: dict[str, Any]) -> None:
    """Run, show, track. Exits with a code of `ExitCode`."""
    from orchestrator.cli.commands.notify import notified
    from orchestrator.cli.views.live import Live, closing_words
    from orchestrator.execution.run import RunOptions, SweepStatus, run_sweep
    from orchestrator.storage import open_storage
    from orchestrator.storage.mounts import refuse_network_database
    from orchestrator.tracking.live import resolve_uri, tracked

    storage = open_storage(url)
    refuse_network_database(resolve_uri(storage, tracking) or "http://")
    with (
        notified(storage, sweep.name, notify),
        tracked(sweep, storage, tracking, _warn) as tracker,
        Live(sweep) as live,
    ):
        ran = run_sweep(sweep, storage, RunOptions(**options), [live])
    closing_words(sweep, storage, ran, tracker.uri)
    if ran.status is SweepStatus.ABANDONED:
        sys.stdout.flush()
        os._exit(ran.exit_code)  # Ray's own shutdown at exit would wait for what is gone
    raise typer.Exit(ran.exit_code)


def _warn(text: str) -> None:
    from orchestrator.cli.views.console import err

    err.print(text, style="yellow", markup=False)
