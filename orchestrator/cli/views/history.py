"""Show the events of a sweep from its records, wherever it runs: `trm sweep watch` and `trm sweep logs`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from rich.live import Live

from orchestrator.api.status import read_state, status
from orchestrator.cli.views.console import clock_of, ending_with_reader, err, line, out
from orchestrator.cli.views.status import show_sweep, sweep_view
from orchestrator.records.events import TrialEvent, trial_events
from orchestrator.records.index import load_definition, sweep_folder
from orchestrator.records.reader import SweepReader
from orchestrator.records.schema import TrialRecord
from orchestrator.storage import Storage, StorageError
from orchestrator.storage.lease import driver_of
from trm_data.settings import strict_json

EVERY_S = 2.0
"""Time between two passes over the records; on S3 each costs a listing and a read per small file."""
TELL_S = 15.0
"""Time between two lines about what is being waited for."""
STYLES = {"ended": "yellow", "stopped": "yellow", "finished": "green", "retried": "cyan"}
Sleep = Callable[[float], None]


def watch(storage: Storage, name: str, sleep: Sleep = time.sleep) -> None:
    """Show a sweep until no driver runs it: a live table on a terminal, lines elsewhere."""
    load_definition(storage, name)
    if not err.is_terminal:
        follow(storage, name, [], as_json=False, sleep=sleep)
    elif driver_of(sweep_folder(storage, name)) is not None:
        reader = SweepReader(storage, name)
        with Live(console=err, refresh_per_second=4, transient=True) as live, suppress(KeyboardInterrupt):
            is_running = True
            while is_running:
                with suppress(StorageError):  # an outage: the next pass shows what is new
                    state = read_state(storage, name, reader)
                    is_running = state.driver is not None
                    live.update(sweep_view(state))
                if is_running:
                    sleep(EVERY_S)
    show_sweep(status(name, storage), storage)


def show_log(storage: Storage, name: str, trials: list[str], as_json: bool) -> None:
    """Print every event so far."""
    with ending_with_reader():
        for event in trial_events(_chosen(SweepReader(storage, name), trials), rows=True):
            _print(event, as_json)


def follow(storage: Storage, name: str, trials: list[str], as_json: bool, sleep: Sleep = time.sleep) -> None:
    """Print events, old and new, until no driver runs the sweep; Ctrl-C only ends the display.

    Before the first event, standard error says what is being waited for, and for how long.
    """
    has_event, waited_s = False, 0.0

    def tell(seconds: float) -> None:
        nonlocal waited_s
        sleep(seconds)
        before, waited_s = waited_s, waited_s + seconds
        if not has_event and before // TELL_S < waited_s // TELL_S:
            text = f"  {waited_s:.0f} s: the driver builds the dataset and starts the first trial"
            err.print(text, style="dim", soft_wrap=True)

    with ending_with_reader(), suppress(KeyboardInterrupt):
        for event in new_events(storage, name, trials, tell):
            has_event = True
            _print(event, as_json)


def new_events(storage: Storage, name: str, trials: list[str], sleep: Sleep) -> Iterator[TrialEvent]:
    """Yield every event once. The records are read again after the driver has exited: it writes until it ends."""
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
        print(strict_json(event._asdict()), flush=True)
        return
    text = (event.text, STYLES.get(event.kind, "default"))
    out.print(line(f"{clock_of(event.time_s)} ", (event.trial_id, "dim"), " ", text), soft_wrap=True)
    if event.detail:
        out.print(event.detail.rstrip(), style="dim", soft_wrap=True)
