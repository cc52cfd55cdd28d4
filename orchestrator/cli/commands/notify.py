"""`trm notify`: send sweep status to a webhook or a command; and `--notify` of `trm sweep run`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import StorageOption, SweepArgument

if TYPE_CHECKING:
    from orchestrator.tracking.notifications import Event, Target

TargetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--notify",
        help="Webhook URL or command that gets the result of the run (repeatable).",
        metavar="TARGET",
        envvar="TRM_NOTIFY",
        show_envvar=True,
    ),
]


def notify(
    sweep: SweepArgument,
    to: Annotated[
        list[str],
        typer.Option(
            "--to",
            help="Webhook URL, or a command that reads JSON (repeatable).",
            show_default=False,
            envvar="TRM_NOTIFY",
            show_envvar=True,
        ),
    ],
    storage: StorageOption = "runs",
    gpu_hours: Annotated[float | None, typer.Option("--gpu-hours", help="Report when this many are used.")] = None,
    usd: Annotated[float | None, typer.Option("--usd", help="Report when this much is spent.")] = None,
    wall_hours: Annotated[
        float | None, typer.Option("--wall-hours", help="Report when this much time has passed.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Send the current state and exit, to test a target; 1 if one is not reached.")
    ] = False,
) -> None:
    """Watch a sweep from any machine and report its first failed trial, a budget that is used up, and its end.

    This works even if the driver dies. Budgets are only reported here: `trm sweep watchdog` enforces them.

    Examples:

    trm notify demo --to https://hooks.example.com/T1 --usd 50

    trm notify demo --to "notify-send trm" --once
    """
    from orchestrator.storage import open_storage
    from orchestrator.sweep.budget import Budget
    from orchestrator.tracking.notifications import SweepWatcher, parse_targets

    targets = parse_targets(to)
    budget = Budget.parse({"gpu_hours": gpu_hours, "usd": usd, "wall_hours": wall_hours})
    watcher = SweepWatcher(open_storage(storage), sweep, budget)
    if once:
        problems = deliver(targets, watcher.snapshot().event("status"))
        raise typer.Exit(1 if problems else 0)
    else:
        watcher.watch(lambda event: deliver(targets, event))


def deliver(targets: Sequence[Target], event: Event) -> list[str]:
    """Send an event, show it, and show and return what could not be delivered."""
    from orchestrator.cli.views.console import err
    from orchestrator.tracking.notifications import send

    err.print(event.text)
    problems = send(targets, event)
    for problem in problems:
        err.print(f"not delivered: {problem}", style="yellow")
    if len(problems) == len(targets):
        err.print("nothing was delivered", style="yellow")
    return problems
