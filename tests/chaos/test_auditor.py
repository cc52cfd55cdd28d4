"""The auditor of chaos runs finds what is wrong: each tampering with records fails the check that it should fail."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.records.reader import read_trials
from orchestrator.records.rows import dump_rows
from orchestrator.records.schema import Attempt, AttemptEnd, AttemptStart, Row, Status, TrialRecord
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from tests.chaos.auditor import (
    AWAY,
    Check,
    audit_cost,
    audit_ends,
    audit_leftovers,
    audit_tracker,
    audit_trials,
    entries,
    merged,
    observed_durations,
)
from tests.chaos.clock import StandInClock
from tests.chaos.plan import Fault, plan
from tests.support.infra import free_port
from tests.support.tracking import START_S, SWEEP, finished, write_record

ONCE, POINTS, VALUES = "finished once", "recorded once", "equal to the undisturbed"
DURATION_S = 360.0


def made(seed: int) -> TrialRecord:
    """A finished trial of six minutes on half an L40S, which took two attempts."""
    record = finished(seed)
    start = AttemptStart.parse({**record.attempts[0].start.plain(), "gpu_count": 0.5, "pid": 1})
    end = AttemptEnd(status=Status.INTERRUPTED, step=20, ended_s=START_S + 30, elapsed_s=30.0)
    again = AttemptStart.parse({**start.plain(), "from_step": 20, "started_s": START_S + 60})
    last = AttemptEnd(status=Status.FINISHED, step=50, ended_s=START_S + 390, elapsed_s=330.0)
    return dataclasses.replace(record, attempts=[Attempt(1, start, end), Attempt(2, again, last)])


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """The sweep `depth`: four trials, whose first attempts reached step 20."""
    opened = open_storage(str(tmp_path / "runs"))
    opened.write("sweeps/depth/sweep.json", to_json_bytes(SWEEP.plain()))
    for seed in range(4):
        record = made(seed)
        write_record(opened, record)
        opened.write(rows(record.trial_id, 1), dump_rows(record.rows[:4]))
        opened.write(rows(record.trial_id, 2), dump_rows(record.rows[4:]))
    return opened


@pytest.fixture
def twins() -> dict[str, TrialRecord]:
    return {record.trial_id: record for record in map(made, range(4))}


def trial(name: str = "") -> str:
    return f"sweeps/depth/trials/{made(0).trial_id}/{name}".rstrip("/")


def rows(trial_id: str, attempt: int) -> str:
    return f"sweeps/depth/trials/{trial_id}/attempts/{attempt:03d}/rows-000001.jsonl"


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if check.problems]


def test_sound_records_pass(storage: Storage, twins: dict[str, TrialRecord]) -> None:
    checks = audit_trials(storage, "depth", twins)
    assert not failed(checks) and [check.compared for check in checks] == [4, 40, 84]
    assert "as it should be" in str(checks[0])
    assert [check.compared for check in merged([*checks, *checks])] == [8, 80, 168]


def _forget(storage: Storage) -> None:
    storage.delete_many(storage.list(trial()))


def _unfinish(storage: Storage) -> None:
    storage.delete(trial("result.json"))
    storage.delete(trial("attempts/002/end.json"))


def _finish_twice(storage: Storage) -> None:
    storage.write(trial("attempts/001/end.json"), storage.read(trial("attempts/002/end.json")))


def _damage(storage: Storage) -> None:
    storage.write(trial("trial.json"), storage.read(trial("trial.json"))[:50])


def _repeat(storage: Storage) -> None:
    name = rows(made(0).trial_id, 2)
    storage.write(name.replace("000001", "000002"), storage.read(name))


def _lose(storage: Storage) -> None:
    name = rows(made(0).trial_id, 1)
    storage.write(name, b"".join(storage.read(name).splitlines(keepends=True)[1:]))


def _disorder(storage: Storage) -> None:
    name = rows(made(0).trial_id, 2)
    storage.write(name, b"".join(reversed(storage.read(name).splitlines(keepends=True))))


def _change(storage: Storage) -> None:
    name = rows(made(0).trial_id, 2)
    storage.write(name, storage.read(name).replace(b'"exact_accuracy": 0.3', b'"exact_accuracy": 0.30000000000000004'))


def _rescore(storage: Storage) -> None:
    storage.write(trial("result.json"), storage.read(trial("result.json")).replace(b"0.91", b"0.92"))


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (_forget, ONCE),
        (_unfinish, ONCE),
        (_finish_twice, ONCE),
        (_damage, ONCE),
        (_repeat, POINTS),
        (_lose, POINTS),
        (_disorder, POINTS),
        (_change, VALUES),
        (_rescore, VALUES),
    ],
)
def test_each_tampering_fails_its_check(
    storage: Storage, twins: dict[str, TrialRecord], tamper: Callable[[Storage], None], expected: str
) -> None:
    tamper(storage)
    checks = audit_trials(storage, "depth", twins)
    assert any(expected in name for name in failed(checks))
    assert "WRONG" in "".join(map(str, checks))


def test_trial_that_was_not_planned_is_found(storage: Storage, twins: dict[str, TrialRecord]) -> None:
    write_record(storage, made(7))
    assert any(ONCE in name for name in failed(audit_trials(storage, "depth", twins)))


class TestCost:
    def log(self, folder: Path, seconds: tuple[float, float] = (30.0, 330.0)) -> Path:
        """What was seen of all attempts: the start is tried twice, and one segment of rows never arrives."""
        file, lines = folder / "requests.jsonl", []
        for record in map(made, range(4)):
            for attempt, duration_s in zip(record.attempts, seconds, strict=True):
                folder_of = f"/chaos/runs/sweeps/depth/trials/{record.trial_id}/attempts/{attempt.number:03d}"
                tried = [("start.json", 0.0), ("start.json", 5.0), ("rows-000001.jsonl", duration_s / 2)]
                tried += [("end.json", duration_s), ("rows-000002.jsonl", 1000.0), ("rows-folded.jsonl", 2000.0)]
                for name, at_s in tried:
                    path, time_s = f"{folder_of}/{name}", 1e9 * attempt.number + at_s
                    lines.append({"kind": "tried", "path": path, "time_s": time_s})
                    if name != "rows-000002.jsonl":
                        lines.append({"kind": "arrived", "path": path, "time_s": time_s + 60})
        file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "ref')
        return file

    def test_cost_that_was_observed_passes(self, storage: Storage, tmp_path: Path) -> None:
        observed = observed_durations(self.log(tmp_path))
        assert sorted(observed.values()) == [30.0] * 4 + [330.0] * 4
        check = audit_cost(read_trials(storage, "depth"), observed)
        assert not check.problems and check.compared == 8
        assert check.notes[0] == "0.20000 GPU-hours are recorded, 0.20000 were used"

    def test_an_attempt_begins_with_the_process_whose_start_arrived(self, tmp_path: Path) -> None:
        """Another one was killed during an outage before its start arrived, so that the number was free again."""
        path, log = "/chaos/runs/sweeps/depth/trials/a/attempts/002", tmp_path / "requests.jsonl"
        writes = [("start.json", 0.0, 1), ("start.json", 40.0, 2), ("start.json", 44.0, 2), ("end.json", 50.0, 2)]
        lines = [
            {"kind": "tried", "path": f"{path}/{name}", "time_s": time_s, "pid": pid} for name, time_s, pid in writes
        ]
        lines[3:3] = [{"kind": "arrived", "path": f"{path}/start.json", "time_s": 45.0}]
        lines += [{"kind": "arrived", "path": f"{path}/end.json", "time_s": 50.0}]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert observed_durations(log) == {("depth", "a", 2): 10.0}

    @pytest.mark.parametrize("elapsed_s", [330 * 1.02, 330 * 0.98, 3930.0])
    def test_cost_that_is_wrong_by_more_than_a_percent_fails(
        self, storage: Storage, tmp_path: Path, elapsed_s: float
    ) -> None:
        for seed in range(4):
            name = f"sweeps/depth/trials/{made(seed).trial_id}/attempts/002/end.json"
            storage.write(name, storage.read(name).replace(b"330.0", str(elapsed_s).encode()))
        check = audit_cost(read_trials(storage, "depth"), observed_durations(self.log(tmp_path)))
        assert len(check.problems) == 2 and "GPU-hours" in check.problems[0] and "USD" in check.problems[1]
        assert len(check.notes) == 4 and all("attempt 2: " in note and "and 330.0 s" in note for note in check.notes)

    def test_write_is_logged_although_nothing_listens(self, tmp_path: Path) -> None:
        clock = StandInClock(tmp_path / "clock", tmp_path / "requests.jsonl")
        clock.step(3600.0)
        path = f"/chaos/runs/{rows(made(0).trial_id, 1)}"
        tries = f"import http.client; http.client.HTTPConnection('127.0.0.1', {free_port()}).request('PUT', '{path}')"
        began_s = time.time()
        done = subprocess.run([sys.executable, "-c", tries], env=os.environ | clock.environment(""), check=False)
        (entry,) = entries(tmp_path / "requests.jsonl")
        assert done.returncode and entry["kind"] == "tried" and entry["path"] == path
        assert began_s <= entry["time_s"] <= time.time(), "it is the true time"

    def test_attempt_that_was_not_observed_fails(self, storage: Storage) -> None:
        assert len(audit_cost(read_trials(storage, "depth"), {}).problems) == 8 + 2


class TestLeftovers:
    def test_nothing_left_passes(self, storage: Storage) -> None:
        assert not failed(audit_leftovers([storage], [], []))

    @pytest.mark.parametrize("name", ["lock.json", "stop.json"])
    def test_lock_or_request_fails(self, storage: Storage, name: str) -> None:
        storage.write(f"sweeps/depth/{name}", b"{}")
        assert failed(audit_leftovers([storage], [], [])) == ["no lock or request to stop is left"]

    def test_temporary_file_or_folder_fails(self, storage: Storage, tmp_path: Path) -> None:
        assert failed(audit_leftovers([storage], [tmp_path / "1-2"], [])) == ["no temporary file is left"]
        (tmp_path / "runs/sweeps/depth/.0123456789ab-1-1-01234567.tmp").touch()
        assert failed(audit_leftovers([storage], [], [])) == ["no temporary file is left"]

    def test_process_fails(self, storage: Storage) -> None:
        assert failed(audit_leftovers([storage], [], ["12: python"])) == ["no process is left"]


@pytest.mark.parametrize("verb", ["sync", "verify"])
def test_tracker_that_differs_fails(storage: Storage, verb: str) -> None:
    refuses = [sys.executable, "-c", f"import sys; sys.exit(sys.argv[2] == {verb!r} and 'no')"]
    agrees = [sys.executable, "-c", ""]
    assert audit_tracker(refuses, "depth", storage, "http://tracker").problems == [f"depth: track {verb}: no"]
    assert not audit_tracker(agrees, "depth", storage, "http://tracker").problems


@pytest.mark.parametrize("minutes", [2, 15])
def test_plan_follows_from_the_seed_and_breaks_everything(minutes: float) -> None:
    planned = plan(1, 60 * minutes)
    assert planned == plan(1, 60 * minutes) != plan(2, 60 * minutes)
    counts = Counter(each.fault for each in planned)
    assert set(counts) == set(Fault) and planned == sorted(planned)
    assert max(counts.values()) <= 2 * min(counts.values()) + 4
    assert planned[-1].at_s < 60 * minutes


def test_made_up_row_is_one_that_the_reader_returns(storage: Storage) -> None:
    (record,) = [each for each in read_trials(storage, "depth") if each.trial_id == made(0).trial_id]
    assert list(record.rows) == list(made(0).rows) and isinstance(record.rows[0], Row)


def test_a_driver_that_ends_with_an_exit_code_of_nothing_is_found() -> None:
    ends = {"exit 0": 2, "exit 3": 4, "signal 9": 1}
    assert audit_ends(ends, has_failed=False).problems == []
    assert audit_ends(ends | {"exit 1": 1}, has_failed=True).problems == []
    assert audit_ends(ends | {AWAY: 1}, has_failed=False).problems == []
    assert audit_ends(ends | {"exit 1": 1, "signal 11": 2}, has_failed=False).problems == [
        "1 ended with exit 1",
        "2 ended with signal 11",
    ]
