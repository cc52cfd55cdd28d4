"""Telling somebody how a sweep ended, failed or used up its budget: a webhook, or a command.

    send(parse_targets(["https://hooks.example/T1", "notify-send sweep"]), Event("complete", "demo", "12 finished", {}))

A webhook gets the event as a JSON POST (`text` is what chat services show), a command gets the same JSON on its
standard input. What cannot be delivered is said and forgotten: a notification never harms a sweep.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from orchestrator.records.schema import Status, TrialRecord
from trm_data.errors import UserError, nearest

Kind = Literal["complete", "stopped", "failed", "trial_failed", "budget", "status"]
PAUSES_S = (0.0, 1.0, 4.0)
"""Before each attempt at a webhook."""
WEBHOOK_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 60.0
FAILED = (Status.FAILED, Status.DIVERGED, Status.OUT_OF_MEMORY)


class NotifyError(UserError):
    """A target that can be neither a webhook nor a command."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth an interruption."""

    event: Kind
    sweep: str
    text: str
    """One line."""
    counts: dict[str, int] = field(default_factory=dict)
    """Trials by status."""


@dataclass(frozen=True, slots=True)
class Target:
    """Exactly one of the two is set."""

    url: str = ""
    command: tuple[str, ...] = ()


def parse_targets(texts: Sequence[str]) -> list[Target]:
    """`http(s)://...` is a webhook, anything else a command.

    Raises:
        NotifyError: an address without a host, or a program that is not installed.
    """
    return [_parse(text) for text in texts]


def _parse(text: str) -> Target:
    parts = urlsplit(text)
    if parts.scheme in ("http", "https"):
        if not parts.hostname:
            raise NotifyError(f"webhook {text!r} names no host", "Write https://HOST/PATH")
        return Target(url=text)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise NotifyError(f"command {text!r}: {error}", "Close the quotation") from error
    if not words or shutil.which(words[0]) is None:
        name = words[0] if words else text
        hint = nearest(parts.scheme, ("http", "https")) if "://" in text else "Name a program of this machine, or a URL"
        raise NotifyError(f"cannot notify {name!r}: no such program", hint)
    return Target(command=tuple(words))


def send(targets: Sequence[Target], event: Event, sleep: Callable[[float], None] = time.sleep) -> list[str]:
    """Tell every target; what went wrong, one line each, is returned and never raised."""
    data = json.dumps(asdict(event)).encode()
    tried = [_post(target.url, data, sleep) if target.url else _call(target.command, data) for target in targets]
    return [problem for problem in tried if problem]


def _post(url: str, data: bytes, sleep: Callable[[float], None]) -> str:
    """What the last attempt ran into; empty if one was accepted."""
    problem = ""
    for pause_s in PAUSES_S:
        sleep(pause_s)
        request = urllib.request.Request(url, data, {"Content-Type": "application/json", "User-Agent": "trm"})
        try:
            urllib.request.urlopen(request, timeout=WEBHOOK_TIMEOUT_S).close()
            return ""
        except urllib.error.HTTPError as error:
            problem = f"{urlsplit(url).hostname} answered {error.code}"
            error.close()
            if error.code < 500 and error.code != 429:
                return problem
        except (OSError, ValueError) as error:
            problem = f"{urlsplit(url).hostname}: {getattr(error, 'reason', None) or error}"
    return problem


def _call(command: Sequence[str], data: bytes) -> str:
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=COMMAND_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return f"{command[0]} ended with {done.returncode} {lines[-1] if lines else ''}".strip() if done.returncode else ""


def counts_of(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Trials by status, without zeros."""
    counts = Counter(record.status for record in records)
    return {str(status): counts[status] for status in Status if counts[status]}


def words_of(counts: dict[str, int]) -> str:
    """`10 finished, 2 failed`."""
    return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items()) or "no trial"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A sweep at one moment, from its records: from any machine, whether or not its driver lives."""

    sweep: str
    records: Sequence[TrialRecord]
    is_driven: bool
    over_budget: str | None = None


def news(look: Snapshot, before: Snapshot | None, told: set[Kind]) -> list[Event]:
    """What has happened since the look `before`, each kind once (`told`); an end is always the last."""
    counts = counts_of(look.records)
    found: list[tuple[Kind, str]] = []
    failed = [record for record in look.records if record.status in FAILED]
    if failed:
        first = failed[0]
        found.append(("trial_failed", f"{first.family} seed {first.config.seed}: {first.status} ({first.reason})"))
    if look.over_budget:
        found.append(("budget", look.over_budget))
    if not look.is_driven and look.records and all(record.status.is_final for record in look.records):
        found.append(("complete", words_of(counts)))
    elif not look.is_driven and before is not None and before.is_driven:
        found.append(("stopped", f"its driver ended with trials left: {words_of(counts)}"))
    return [
        Event(kind, look.sweep, f"sweep {look.sweep}: {kind.replace('_', ' ')}: {text}", counts)
        for kind, text in found
        if kind not in told
    ]
