"""Show from the records that a chaos run came to what an undisturbed run comes to, or say where it did not.

Records are read as any user of the package reads them. What GPU time is compared with comes from elsewhere: a log of
the requests themselves, with the true time of every write of an attempt that was tried.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.records.index import load_definition
from orchestrator.records.progress import sweep_progress
from orchestrator.records.reader import read_sweep
from orchestrator.records.schema import SYSTEM_SPLIT, Row, Status, TrialRecord
from orchestrator.resources.usage import attempt_usage, price_per_gpu_hour, trial_cost
from orchestrator.storage import LocalStorage, Storage
from orchestrator.storage.lease import LOCK

MEASURED = ("train_s", "examples_per_s", "flops_per_s")
"""Metrics that depend on the machine's speed."""
TOLERANCE = 0.01
"""Of the cost."""
MOST_PROBLEMS = 5
"""Lines that a check prints."""
_ATTEMPT = re.compile(r".*/sweeps/(?P<sweep>[^/]+)/trials/(?P<trial>[^/]+)/attempts/(?P<number>\d+)/(?P<file>[^/]+)")


@dataclass(slots=True)
class Check:
    """One thing that was checked, of how many it was checked, and what was wrong."""

    name: str
    compared: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was found, for people."""

    def __str__(self) -> str:
        state = "as it should be" if not self.problems else f"{len(self.problems)} WRONG"
        lines = [f"{self.name:<58} {self.compared:>7}   {state}", *(f"    {text}" for text in self.problems)]
        hidden = len(self.problems) - MOST_PROBLEMS
        more = [f"    and {hidden} more"] * (hidden > 0)
        return "\n".join([*lines[: 1 + MOST_PROBLEMS], *more, *(f"    {text}" for text in self.notes)])


def merged(checks: Iterable[Check]) -> list[Check]:
    """Return one check for all of a name, in the order of the names' first use."""
    found: dict[str, Check] = {}
    for each in checks:
        whole = found.setdefault(each.name, Check(each.name))
        whole.compared += each.compared
        whole.problems += each.problems
        whole.notes += each.notes
    return list(found.values())


def audit_trials(storage: Storage, sweep: str, twins: Mapping[str, TrialRecord]) -> list[Check]:
    """Compare a sweep with its plan and with the same trials of an undisturbed run, by their ids."""
    found = read_sweep(storage, sweep)
    progress = sweep_progress(load_definition(storage, sweep), found.trials)
    once = Check("planned trials finished once", progress.planned)
    once.problems += [f"damaged: {each}" for each in found.damaged]
    records = {record.trial_id: record for record in found.trials}
    if progress.planned != len(twins):
        once.problems.append(f"{sweep}: {progress.planned} trials are planned, {len(twins)} in the undisturbed run")
    once.problems += [f"{sweep}/{trial_id}: no record" for trial_id in twins.keys() - records.keys()]
    once.problems += [f"{sweep}/{trial_id}: not planned" for trial_id in records.keys() - twins.keys()]
    for record in found.trials:
        once.problems += _unfinished(record)
    points = Check("points recorded once")
    curves = Check("points and scores equal to the undisturbed run's")
    for trial_id, record in records.items():
        if trial_id in twins:
            _compare_points(record, twins[trial_id], points)
            _compare_values(record, twins[trial_id], curves)
    return [once, points, curves]


def _name(record: TrialRecord) -> str:
    return f"{record.sweep}/{record.trial_id}"


def _unfinished(record: TrialRecord) -> list[str]:
    if record.status is not Status.FINISHED:
        return [f"{_name(record)}: {record.status} {record.reason}"]
    ends = [attempt.number for attempt in record.attempts if attempt.end and attempt.end.status is Status.FINISHED]
    if ends and ends != [record.attempts[-1].number]:
        return [f"{_name(record)}: attempts {ends} of {len(record.attempts)} finished it"]
    return []


def _points(record: TrialRecord) -> list[tuple[str, int]]:
    return [(row.split, row.step) for row in record.rows if row.split != SYSTEM_SPLIT]


def _compare_points(record: TrialRecord, twin: TrialRecord, check: Check) -> None:
    found, expected = Counter(_points(record)), Counter(_points(twin))
    check.compared += sum(expected.values())
    for point in sorted(found.keys() | expected.keys()):
        if found[point] != expected[point]:
            split, step = point
            what = f"{found[point]} times instead of {expected[point]}"
            check.problems.append(f"{_name(record)}: step {step} of {split} is recorded {what}")
    steps: dict[str, int] = {}
    for split, step in _points(record):
        if step <= steps.get(split, -1):
            check.problems.append(f"{_name(record)}: step {step} of {split} follows step {steps[split]}")
        steps[split] = step


def _values(rows: Iterable[Row]) -> dict[tuple[str, int, str], float]:
    return {
        (row.split, row.step, name): value
        for row in rows
        if row.split != SYSTEM_SPLIT
        for name, value in row.metrics.items()
        if name not in MEASURED
    }


def _compare_values(record: TrialRecord, twin: TrialRecord, check: Check) -> None:
    found: dict[Any, Any] = {**_values(record.rows), **_scores(record)}
    expected: dict[Any, Any] = {**_values(twin.rows), **_scores(twin)}
    check.compared += len(expected)
    for key in expected.keys() | found.keys():
        if found.get(key) != expected.get(key):
            what = f"{found.get(key)} instead of {expected.get(key)}"
            check.problems.append(f"{_name(record)}: {' '.join(map(str, key))} is {what}")


def _scores(record: TrialRecord) -> dict[Any, Any]:
    result = record.result
    return {("result", "score"): result and (result.metrics, result.per_item, result.steps)}


def entries(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of the endpoint's log."""
    for line in log.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the endpoint was killed while it wrote this line
            continue


def observed_durations(log: Path) -> dict[tuple[str, str, int], float]:  # (sweep, trial id, attempt)
    """Return for how many seconds each attempt held its GPU, from its start to its end or its last sign of life.

    A write counts from its first try, which an outage of the endpoint does not hide, and only if it arrived. A process
    that is killed before its start arrives leaves the number of its attempt to the next one, so that only the tries of
    the process count whose write arrived first.
    """
    tries: dict[str, list[dict[str, Any]]] = {}
    first_s: dict[str, float] = {}
    for entry in entries(log):
        if entry["kind"] == "tried":
            tries.setdefault(entry["path"], []).append(entry)
        elif entry["kind"] == "arrived" and entry["path"] not in first_s and (known := tries.get(entry["path"])):
            own = [each["time_s"] for each in known if each.get("pid") == known[-1].get("pid")]
            first_s[entry["path"]] = min(own)
    starts_s: dict[tuple[str, str, int], float] = {}
    last_s: dict[tuple[str, str, int], float] = {}
    for path, time_s in first_s.items():
        write = _ATTEMPT.fullmatch(path)
        if write is None or write["file"].endswith("-folded.jsonl"):  # the driver folds rows after the attempt
            continue
        key = (write["sweep"], write["trial"], int(write["number"]))
        last_s[key] = max(time_s, last_s.get(key, time_s))
        if write["file"] == "start.json":
            starts_s[key] = time_s
    return {key: last_s[key] - start_s for key, start_s in starts_s.items()}


def audit_cost(records: Iterable[TrialRecord], observed: Mapping[tuple[str, str, int], float]) -> Check:
    """Compare GPU-hours and USD of trials, as results and budgets count them, with what was observed."""
    check = Check(f"GPU-hours and USD within {TOLERANCE:.0%} of what was observed")
    found, used = (dict.fromkeys(("GPU-hours", "USD"), 0.0) for _ in range(2))
    differences: list[str] = []
    for record in records:
        check.compared += len(record.attempts)
        if cost := trial_cost(record):
            found["GPU-hours"] += cost.gpu_hours
            found["USD"] += cost.usd or 0.0
        for attempt, usage in zip(record.attempts, attempt_usage(record), strict=True):
            seconds = observed.get((record.sweep, record.trial_id, attempt.number))
            if seconds is None:
                check.problems.append(f"{_name(record)}: attempt {attempt.number} was not observed")
                continue
            if abs(usage.duration_s - seconds) > max(1.0, TOLERANCE * seconds):
                differences.append(
                    f"{_name(record)}: attempt {attempt.number}: {usage.duration_s:.1f} and {seconds:.1f} s"
                )
            hours = (attempt.start.gpu_count or 0.0) * seconds / 3600
            used["GPU-hours"] += hours
            used["USD"] += hours * (price_per_gpu_hour(attempt.start.gpu_type, attempt.start.market) or 0.0)
    for unit, value in used.items():
        text = f"{found[unit]:.5f} {unit} are recorded, {value:.5f} were used"
        if abs(found[unit] - value) <= TOLERANCE * value:
            check.notes.append(text)
        else:
            check.problems.append(text)
    check.notes += differences
    return check


AWAY = "exit 2 while the head of the cluster was down"
ENDS = {AWAY, "exit 0", "exit 3", "exit 130", "exit 143", "signal 2", "signal 9", "signal 15"}
"""How drivers may end here. An error that nobody caught, and Ray where it ends its caller, give 1."""


def audit_ends(ends: Mapping[str, int], *, has_failed: bool) -> Check:
    """Compare how the drivers ended with how they may end; with exit code 1 only where a trial has failed."""
    allowed = ENDS | {"exit 1"} if has_failed else ENDS
    problems = [f"{count} ended with {name}" for name, count in sorted(ends.items()) if name not in allowed]
    return Check("drivers ended with the exit code of their end", sum(ends.values()), problems)


def audit_leftovers(storages: Sequence[Storage], folders: Sequence[Path], processes: Sequence[str]) -> list[Check]:
    """Find locks and requests to stop in storages, temporary files and folders of processes, and processes."""
    locks = Check("no lock or request to stop is left")
    temporary = Check("no temporary file is left")
    for storage in storages:
        keys = storage.list()
        locks.compared += len(keys)
        locks.problems += [key for key in keys if key.rpartition("/")[2] in (LOCK, "stop.json")]
        if isinstance(storage, LocalStorage):
            files = [path for path in storage.root.rglob("*") if path.is_file()]
            temporary.compared += len(files)
            temporary.problems += [str(path) for path in files if path.name.endswith(".tmp")]
    temporary.compared += len(folders)
    temporary.problems += [str(path) for path in folders]
    left = Check("no process is left", len(processes), list(processes))
    return [locks, temporary, left]


def audit_tracker(trm: Sequence[str], sweep: str, storage: Storage, uri: str) -> Check:
    """Let `trm track` send what an outage kept from the tracker, and compare the tracker with the records."""
    check = Check("sweeps of which the tracker has every point once", 1)
    where = [sweep, "--storage", storage.url, "--tracking", uri]
    for verb in ("sync", "verify"):
        done = subprocess.run([*trm, "track", verb, *where], capture_output=True, text=True, check=False)
        if done.returncode:
            check.problems.append(f"{sweep}: track {verb}: {(done.stderr + done.stdout).strip()[-300:]}")
    return check
