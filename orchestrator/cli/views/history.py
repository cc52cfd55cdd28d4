"""`trm sweep watch` and `trm sweep logs`: a sweep that runs here or elsewhere, seen from its records."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from rich.live import Live
from rich.markup import escape

from orchestrator.cli.views.console import clock_of, err, out
from orchestrator.cli.views.status import show_sweep, sweep_view
from orchestrator.records.events import TrialEvent, trial_events
from orchestrator.records.index import load_definition, sweep_folder
from orchestrator.records.reader import SweepReader, read_trials
from orchestrator.records.schema import TrialRecord
from orchestrator.storage import Storage, StorageError
from orchestrator.storage.lease import driver_of

EVERY_S = 2.0
"""Time between two looks at the records; on S3 each costs a listing and a read per small file."""
STYLES = {"ended": "yellow", "stopped": "yellow", "finished": "green", "retried": "cyan"}
Sleep = Callable[[float], None]


def watch(storage: Storage, name: str, sleep: Sleep = time.sleep) -> None:
    """Show a sweep until no driver runs it: a table that redraws itself on a terminal, lines elsewhere."""
    sweep = load_definition(storage, name)
    folder = sweep_folder(storage, name)
    if not err.is_terminal:
        follow(storage, name, [], as_json=False, sleep=sleep)
    elif driver_of(folder) is not None:
        reader = SweepReader(storage, name)
        with Live(console=err, refresh_per_second=4, transient=True) as live, suppress(KeyboardInterrupt):
            while (driver := driver_of(folder)) is not None:
                with suppress(StorageError):  # an outage: the next look will tell
                    live.update(sweep_view(sweep, reader.read().trials, driver))
                sleep(EVERY_S)
    show_sweep(sweep, read_trials(storage, name), driver_of(folder))


def show_log(storage: Storage, name: str, trials: list[str], as_json: bool) -> None:
    """Everything that has happened so far."""
    for event in trial_events(_chosen(SweepReader(storage, name), trials), rows=True):
        _print(event, as_json)


def follow(storage: Storage, name: str, trials: list[str], as_json: bool, sleep: Sleep = time.sleep) -> None:
    """What has happened, and what happens, until no driver runs the sweep; Ctrl-C ends the watching alone."""
    with suppress(KeyboardInterrupt):
        for event in news(storage, name, trials, sleep):
            _print(event, as_json)


def news(storage: Storage, name: str, trials: list[str], sleep: Sleep) -> Iterator[TrialEvent]:
    """Every event once. The records are read once more after the driver has gone: it writes until it goes."""
    seen: set[TrialEvent] = set()
    reader = SweepReader(storage, name)
    while True:
        runs = driver_of(sweep_folder(storage, name)) is not None
        with suppress(StorageError):
            for event in trial_events(_chosen(reader, trials), rows=True):
                if event not in seen:
                    seen.add(event)
                    yield event
        if not runs:
            return
        sleep(EVERY_S)


def _chosen(reader: SweepReader, trials: list[str]) -> list[TrialRecord]:
    return [r for r in reader.read().trials if not trials or any(r.trial_id.startswith(text) for text in trials)]


def _print(event: TrialEvent, as_json: bool) -> None:
    if as_json:
        print(json.dumps(event._asdict()), flush=True)
        return
    style = STYLES.get(event.kind, "default")
    out.print(f"{clock_of(event.time_s)} [dim]{event.trial_id}[/] [{style}]{escape(event.text)}[/]", soft_wrap=True)
    if event.detail:
        out.print(escape(event.detail.rstrip()), style="dim", soft_wrap=True)
