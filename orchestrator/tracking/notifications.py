"""Send sweep status to a webhook or a command: the end of a sweep, a failed trial, an exceeded budget.

    send(parse_targets(["https://hooks.example/T1", "notify-send sweep"]), Event("complete", "demo", "12 finished", {}))

A webhook receives the event as a JSON POST (chat services show its `text`), a command receives the same JSON on its
standard input. A failed delivery is returned as one line and not repeated later: a notification never affects a sweep.
The address of a webhook is a secret, and an argument of a command may be one, so messages show only the host of a
webhook and the program of a command.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import shlex
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from orchestrator.records.index import load_definition, stop_reason, stop_requested, sweep_folder
from orchestrator.records.progress import SweepProgress, format_counts, sweep_progress
from orchestrator.records.reader import SweepReader
from orchestrator.records.schema import TrialRecord
from orchestrator.records.state import counted, standing
from orchestrator.resources.usage import exceeded, spending
from orchestrator.storage import Storage, StorageError
from orchestrator.storage.lease import DriverHours, driver_of, start_of_driver
from orchestrator.sweep.budget import Budget
from trm_data.addresses import hide_credentials, shown_webhook
from trm_data.errors import UserError, nearest

logger = logging.getLogger(__name__)

Kind = Literal["complete", "stopped", "failed", "trial_failed", "budget", "status"]
ENDS: frozenset[Kind] = frozenset(("complete", "stopped"))
"""Kinds after which there is nothing more to report."""
WEBHOOK_PAUSES_S = (0.0, 1.0, 4.0)
"""Before each attempt at a webhook."""
WEBHOOK_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 60.0
WATCH_EVERY_S = 10.0


class NotifyError(UserError):
    """Raised for a target that is neither a webhook nor a command."""


@dataclass(frozen=True, slots=True)
class Event:
    """Describe a change of state that is worth a message."""

    event: Kind
    sweep: str
    text: str
    """Description in one line."""
    counts: dict[str, int] = field(default_factory=dict)
    """Trials by status."""


@dataclass(frozen=True, slots=True)
class Target:
    """Hold a webhook or a command: exactly one of the two is set."""

    url: str = ""
    command: tuple[str, ...] = ()

    def __str__(self) -> str:
        return shown_webhook(self.url) if self.url else self.command[0]


def parse_targets(texts: Sequence[str]) -> list[Target]:
    """Parse targets: `http(s)://...` is a webhook, anything else a command.

    Raises:
        NotifyError: an address without a host, or a program that is not installed.
    """
    if isinstance(texts, str):
        texts = [texts]
    return [_parse_target(text) for text in texts]


def _parse_target(text: str) -> Target:
    scheme, separator, _ = text.partition("://")
    if scheme in ("http", "https") and separator:
        _require_webhook(scheme, text)
        return Target(url=text)
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise NotifyError(f"a command cannot be split into words: {error}", "Close the quotation") from None
    if not command or not _is_program(command[0]):
        words = re.fullmatch(r"[\w.+-]+", scheme) and separator
        hint = nearest(scheme, ("http", "https")) if words else "Name a program of this machine, or a URL"
        raise NotifyError(f"cannot notify {_shown_program(command)!r}: no such program", hint)
    return Target(command=tuple(command))


def _require_webhook(scheme: str, url: str) -> None:
    """Raise NotifyError, which does not repeat the address, if it is none that an HTTP request can name."""
    if any(character.isspace() or not character.isprintable() for character in url):
        raise NotifyError(f"the webhook ({scheme}://...) contains a space or a control character", "Remove it")
    try:
        has_host = bool(urlsplit(url).hostname) and urlsplit(url).port != 0
    except ValueError:
        has_host = False
    if not has_host:
        raise NotifyError(f"the webhook ({scheme}://...) names no host", "Write https://HOST/PATH")


def _is_program(word: str) -> bool:
    try:
        return shutil.which(word) is not None
    except ValueError:  # a NUL byte
        return False


def _shown_program(command: Sequence[str]) -> str:
    """Return the beginning of a word that names no program: it may be an address without its scheme."""
    word = command[0] if command else ""
    shown = re.match(r"[\w.+-]{0,60}(://)?", word)
    return word if shown is None or shown[0] == word else f"{shown[0]}..."


def send(targets: Sequence[Target], event: Event, sleep: Callable[[float], None] = time.sleep) -> list[str]:
    """Send an event to all targets at once; return what could not be delivered, one line each. Raises nothing.

    Returns within `COMMAND_TIMEOUT_S`, also where a server keeps a connection open without an answer.
    """
    data = json.dumps(asdict(event)).encode()
    problems = [f"{target}: no answer within {COMMAND_TIMEOUT_S:.0f} s" for target in targets]

    def deliver(index: int, target: Target) -> None:
        try:
            problems[index] = _post(target.url, data, sleep) if target.url else _run(target.command, data)
        except Exception as error:  # the traceback that a thread prints would show the address
            problems[index] = f"{target}: {type(error).__name__}"

    threads = [threading.Thread(target=deliver, args=each, name="notify", daemon=True) for each in enumerate(targets)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + COMMAND_TIMEOUT_S + 1
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    logger.info("sent %s of sweep %s to %d targets", event.event, event.sweep, len(targets))
    return [problem for problem in problems if problem]


def _post(url: str, data: bytes, sleep: Callable[[float], None]) -> str:
    """Return why the last attempt failed; an empty string if one was accepted."""
    problem = ""
    host = urlsplit(url).hostname
    for pause_s in WEBHOOK_PAUSES_S:
        sleep(pause_s)
        request = urllib.request.Request(url, data, {"Content-Type": "application/json", "User-Agent": "trm"})
        try:
            urllib.request.urlopen(request, timeout=WEBHOOK_TIMEOUT_S).close()
            return ""
        except urllib.error.HTTPError as error:
            problem = f"{host} answered {error.code}"
            error.close()
            if error.code < 500 and error.code != 429:
                return problem
        except (OSError, ValueError, http.client.HTTPException) as error:
            problem = f"{host}: {hide_credentials(str(getattr(error, 'reason', None) or type(error).__name__))}"
    return problem


def _run(command: Sequence[str], data: bytes) -> str:
    """Run a command and return why it failed; an empty string if it succeeded.

    What it prints is not part of the reason: programs repeat the address that they were given.
    """
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=COMMAND_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"{command[0]}: has not ended within {COMMAND_TIMEOUT_S:.0f} s"
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    return f"{command[0]} ended with {done.returncode}" if done.returncode else ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Hold the state of a sweep at one moment, by its records: also without its driver, from any machine."""

    sweep: str
    records: Sequence[TrialRecord]
    progress: SweepProgress
    is_driven: bool
    over_budget: str | None = None
    unreadable: Sequence[str] = ()
    """Trials whose records are damaged: they are in none of the counts."""

    @property
    def text(self) -> str:
        """Return counts by status, and how many of the planned trials are left."""
        counts = format_counts(counted(self.records)) or "no trial"
        left = self.progress.left
        parts = [counts, f"{left} of {self.progress.planned} trials left" if left else ""]
        parts.append(f"{len(self.unreadable)} unreadable ({', '.join(self.unreadable)})" if self.unreadable else "")
        return "; ".join(filter(None, parts))

    def event(self, kind: Kind, text: str = "") -> Event:
        """Return an event for this snapshot."""
        line = f"sweep {self.sweep}: {kind.replace('_', ' ')}: {text or self.text}"
        return Event(kind, self.sweep, line, counted(self.records))


def new_events(now: Snapshot, before: Snapshot | None, sent: set[Kind]) -> list[Event]:
    """Return the events since the snapshot `before`, each kind once (`sent`); the end of the sweep comes last."""
    found: list[tuple[Kind, str]] = []
    failed = [record for record in now.records if record.status.is_failure]
    if failed:
        first = failed[0]
        ended = f"{first.status.words} ({first.reason})"
        found.append(("trial_failed", f"{first.family} seed {first.config.seed}: {ended}"))
    if now.over_budget:
        found.append(("budget", now.over_budget))
    if not now.is_driven and now.records and now.progress.is_complete:
        found.append(("complete", ""))
    elif not now.is_driven and before is not None and before.is_driven:
        found.append(("stopped", f"its driver has ended: {now.text}"))
    return [now.event(kind, text) for kind, text in found if kind not in sent]


class SweepWatcher:
    """Take snapshots of a sweep, reading only what is new.

    Raises:
        SweepError: there is no such sweep.
    """

    def __init__(self, storage: Storage, sweep: str, budget: Budget) -> None:
        self._folder = sweep_folder(storage, sweep)
        self._storage = storage
        self._name = sweep
        self._budget = budget
        self._hours = DriverHours()
        self._is_driven = False
        self._records = SweepReader(storage, sweep)
        load_definition(storage, sweep)

    def snapshot(self) -> Snapshot:
        """Read what is new and return the state of the sweep."""
        # First: after its end the records are complete. That end is told, so it must not seem to have come.
        driver = driver_of(self._folder, if_silent="watch" if self._is_driven else "dead")
        is_driven = self._is_driven = driver is not None
        hours = self._hours.of(driver)
        records, damaged = self._records.read()
        definition = load_definition(self._storage, self._name)
        progress = sweep_progress(definition, records)
        now_s, since_s = (time.time(), start_of_driver(driver)) if driver else (None, None)
        over_budget = exceeded(spending(records, now_s, since_s, hours), self._budget)
        unreadable = [each.file.rpartition("/trials/")[2] for each in damaged]
        shown = standing(definition, records, is_driven=is_driven)
        return Snapshot(self._name, shown, progress, is_driven, over_budget, unreadable)

    def watch(self, report: Callable[[Event], object]) -> None:
        """Report every event until the sweep is over."""
        before: Snapshot | None = None
        sent: set[Kind] = set()
        while True:
            try:
                now = self.snapshot()
            except StorageError as error:  # an outage: the next snapshot shows what has happened meanwhile
                logger.info("sweep %s cannot be read: %s", self._name, error)
            else:
                for event in new_events(now, before, sent):
                    report(event)
                    sent.add(event.event)
                before = now
            if sent & ENDS:
                return
            time.sleep(WATCH_EVERY_S)


def end_event(storage: Storage, sweep: str) -> Event:
    """Return the event for a driver that has ended: complete, stopped, or stopped by the budget of the watchdog."""
    snapshot = SweepWatcher(storage, sweep, Budget()).snapshot()
    folder = sweep_folder(storage, sweep)
    if snapshot.progress.is_complete:
        return snapshot.event("complete")
    reason = stop_reason(folder) if stop_requested(folder) else ""
    return snapshot.event("budget", reason) if reason else snapshot.event("stopped")
