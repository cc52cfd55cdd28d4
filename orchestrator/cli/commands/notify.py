"""`trm notify`: word of how a sweep gets on, from its records; and `--notify` of `trm sweep run`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import StorageOption
from trm_data.errors import UserError

if TYPE_CHECKING:
    from orchestrator.records.schema import TrialRecord
    from orchestrator.resources.usage import Budget
    from orchestrator.storage import Storage
    from orchestrator.tracking.notifications import Event, Kind, Snapshot, Target

POLL_S = 10.0
TargetsOption = Annotated[
    list[str] | None,
    typer.Option("--notify", help="Webhook URL or command to tell how it ended (repeatable).", metavar="TARGET"),
]


def notify(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep.", show_default=False)],
    to: Annotated[
        list[str],
        typer.Option("--to", help="Webhook URL, or a command that reads JSON (repeatable).", show_default=False),
    ],
    storage: StorageOption = "runs",
    gpu_hours: Annotated[float | None, typer.Option("--gpu-hours", help="Tell when so many are used.")] = None,
    usd: Annotated[float | None, typer.Option("--usd", help="Tell when so much is spent.")] = None,
    wall_hours: Annotated[float | None, typer.Option("--wall-hours", help="Tell when so much time is over.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Tell the present state and end, to try a target.")] = False,
) -> None:
    """Watch a sweep from any machine and tell its first failed trial, a budget that is used up, and its end.

    Also when its driver dies. Nothing is stopped by a budget here: `trm sweep watchdog` does that.

    Examples:

    trm notify demo --to https://hooks.example.com/T1 --usd 50

    trm notify demo --to "notify-send trm" --once
    """
    from orchestrator.records.index import load_definition
    from orchestrator.resources.usage import Budget
    from orchestrator.storage import open_storage
    from orchestrator.tracking.notifications import Event, counts_of, parse_targets, words_of

    targets = parse_targets(to)
    store = open_storage(storage)
    load_definition(store, sweep)
    budget = Budget.parse({"gpu_hours": gpu_hours, "usd": usd, "wall_hours": wall_hours})
    if once:
        counts = counts_of(_look(store, sweep, budget).records)
        tell(targets, Event("status", sweep, f"sweep {sweep}: {words_of(counts)}", counts))
    else:
        _watch(lambda: _look(store, sweep, budget), targets)


def _watch(look: Callable[[], Snapshot], targets: Sequence[Target]) -> None:
    """Tell what is new until the sweep is over."""
    from orchestrator.storage import StorageError
    from orchestrator.tracking.notifications import news

    before: Snapshot | None = None
    told: set[Kind] = set()
    while not told & {"complete", "stopped"}:
        with suppress(StorageError):  # an outage of the storage: the next look will tell
            now = look()
            for event in news(now, before, told):
                tell(targets, event)
                told.add(event.event)
            before = now
        if not told & {"complete", "stopped"}:
            time.sleep(POLL_S)


def _look(storage: Storage, sweep: str, budget: Budget) -> Snapshot:
    from orchestrator.records.index import sweep_folder
    from orchestrator.records.reader import read_trials
    from orchestrator.resources.usage import exceeded, spending
    from orchestrator.storage.lease import driver_of
    from orchestrator.tracking.notifications import Snapshot

    is_driven = driver_of(sweep_folder(storage, sweep)) is not None  # first: records are complete when it has ended
    records = read_trials(storage, sweep)
    return Snapshot(sweep, records, is_driven, exceeded(spending(records, time.time()), budget))


def tell(targets: Sequence[Target], event: Event) -> None:
    """Send, and say what could not be delivered."""
    from orchestrator.cli.views.console import err
    from orchestrator.tracking.notifications import send

    err.print(event.text, markup=False)
    for problem in send(targets, event):
        err.print(f"not delivered: {problem}", style="yellow", markup=False)


@contextmanager
def notified(storage: Storage, sweep: str, texts: Sequence[str] | None) -> Iterator[None]:
    """Tell the targets how what is inside ended: complete, stopped (by a budget, where the watchdog said so) or failed.

    Raises:
        NotifyError: a target is neither an address nor a program; nothing has been started then.
    """
    from orchestrator.records.reader import read_trials
    from orchestrator.tracking.notifications import Event, counts_of, parse_targets, words_of

    targets = parse_targets(texts or [])
    if not targets:
        yield
        return
    try:
        yield
    except Exception as error:
        tell(targets, Event("failed", sweep, f"sweep {sweep}: failed: {' '.join(str(error).split())}"))
        raise
    with suppress(UserError):  # the storage went away: the sweep has said so
        records = read_trials(storage, sweep)
        counts = counts_of(records)
        kind, why = _ending(storage, sweep, records)
        tell(targets, Event(kind, sweep, f"sweep {sweep}: {kind}: {why or words_of(counts)}", counts))


def _ending(storage: Storage, sweep: str, records: Sequence[TrialRecord]) -> tuple[Kind, str]:
    from orchestrator.records.index import stop_reason, stop_requested, sweep_folder

    folder = sweep_folder(storage, sweep)
    if stop_requested(folder):
        reason = stop_reason(folder)
        return ("budget", reason) if reason else ("stopped", "")
    return ("complete" if all(record.status.is_final for record in records) else "stopped"), ""
