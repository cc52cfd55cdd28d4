"""Rows: every row that was added is read exactly once, whatever the storage refuses and wherever a process dies."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.records.index import new_head
from orchestrator.records.reader import read_sweep, read_trial
from orchestrator.records.rows import Rows, columns_of, dump_rows, parse_rows
from orchestrator.records.schema import AttemptEnd, AttemptStart, DatasetInfo, Row, Status, TrialResult
from orchestrator.records.segments import current_segments, fold, segment_name
from orchestrator.records.writer import FLUSH_S, FOLD_EVERY, TrialWriter
from orchestrator.storage import LocalStorage, Storage, StorageError, open_storage
from orchestrator.sweep.trials import search_trial
from tests.support.sweeps import fingerprint, search

TRIAL = search_trial(search(), fingerprint, "T=1", {"T": 1})
NUMBERS = st.one_of(st.floats(allow_nan=False), st.integers(-(2**53) + 1, 2**53 - 1))
ROWS = st.lists(
    st.builds(
        Row,
        st.integers(0, 10**9),
        st.floats(0, 2e9),
        st.sampled_from(["train", "validation", "system"]),
        st.dictionaries(st.sampled_from(["loss", "exact_accuracy", "a b"]), NUMBERS, max_size=3),
    ),
    max_size=20,
)


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket"))


def announce(storage: Storage) -> TrialWriter:
    head = new_head("explore", "T=1", TRIAL.config, DatasetInfo(benchmark="b", fingerprint="f"))
    storage.write(f"sweeps/s/trials/{TRIAL.trial_id}/trial.json", head.encode())
    writer = TrialWriter(storage, "s", TRIAL.trial_id)
    writer.start(AttemptStart(from_step=0, started_s=1000.0))
    return writer


def row(step: int) -> Row:
    return Row(step, 1000.0 + step, "validation", {"exact_accuracy": step / 100})


def steps(storage: Storage) -> list[int]:
    return [row.step for row in read_trial(storage, "s", TRIAL.trial_id).rows]


def end(step: int) -> AttemptEnd:
    return AttemptEnd(status=Status.FAILED, step=step, ended_s=1.0)


def segments(storage: Storage) -> list[str]:
    return [key.rpartition("/")[2] for key in storage.list(f"sweeps/s/trials/{TRIAL.trial_id}") if "/rows-" in key]


@given(ROWS, ROWS)
def test_rows_read_are_the_rows_written_as_columns_or_not(first: list[Row], second: list[Row]) -> None:
    parts = [parse_rows(dump_rows(rows)) for rows in (first, second)]
    assert [problem for _, problem in parts] == ["", ""]
    read = Rows(lambda: [columns for columns, _ in parts])
    written = first + second
    assert read == written and list(read) == written and len(read) == len(written)
    assert dump_rows(read) == dump_rows(written), "an integer stays one: digests of rows tell 1 from 1.0"
    assert read[-3:] == written[-3:] and (not written or read[-1] == written[-1])
    for metric in ("loss", "a b"):
        curve = [(r.step, r.metrics[metric]) for r in written if r.split == "train" and metric in r.metrics]
        assert read.curve(metric, "train") == curve
    assert read.last_step() == max((r.step for r in written), default=None)


@given(ROWS, st.integers(0, 10**9))
def test_rows_beyond_a_step_are_cut_off(rows: list[Row], step: int) -> None:
    assert Rows(lambda: [columns_of(rows).up_to(step)]) == [row for row in rows if row.step <= step]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.sampled_from(["add", "flush", "refuse", "lose answer", "fold"]), max_size=30))
def test_no_row_is_lost_or_doubled_whatever_the_storage_refuses(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[str]
) -> None:
    storage = LocalStorage(tmp_path_factory.mktemp("runs"), patience_s=0)
    writer, write, added = announce(storage), LocalStorage.write, 0
    with pytest.MonkeyPatch.context() as patch:
        for deed in deeds:

            def faulty(self: LocalStorage, key: str, data: bytes, deed: str = deed) -> None:
                if deed == "lose answer":
                    write(self, key, data)
                raise StorageError("refused")

            patch.setattr(LocalStorage, "write", faulty if deed in ("refuse", "lose answer") else write)
            if deed == "fold":
                fold(writer.folder, 1)
                continue
            added += 1
            writer.add(row(added))
            if deed != "add":
                writer.flush()
        patch.setattr(LocalStorage, "write", write)
        writer.end(end(added))
    assert steps(storage) == list(range(1, added + 1))
    assert len(segments(storage)) <= 1


def test_a_full_disk_is_said_at_once_and_its_rows_stay_pending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(str(tmp_path))
    writer = announce(storage)
    writer.add(row(1))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="no space left") as caught:
            writer.flush()
        assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC
    writer.add(row(2))
    writer.end(end(2))
    assert steps(storage) == [1, 2]


def test_the_end_of_an_attempt_waits_for_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.records.writer.SPACE_POLL_S", 0.01)
    storage = open_storage(str(tmp_path))
    writer = announce(storage)
    fsync, failures = os.fsync, iter(range(3))

    def full_for_a_while(file: int) -> None:
        if next(failures, None) is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, "fsync", full_for_a_while)
    writer.add(row(1))
    writer.finish(TrialResult(split="test", items=1, metrics={"exact_accuracy": 1.0}), {"gallery.json": b"{}"})
    assert read_trial(storage, "s", TRIAL.trial_id).status is Status.FINISHED and steps(storage) == [1]


def test_rows_of_an_attempt_of_any_age_wait_for_seconds_in_a_bounded_number_of_files(tmp_path: Path) -> None:
    now = [0.0]
    storage = open_storage(str(tmp_path))
    announce(storage)
    writer = TrialWriter(storage, "s", TRIAL.trial_id, clock=lambda: now[0])
    writer.start(AttemptStart(from_step=0, started_s=0.0))
    most = 0
    for second in range(1, 3 * 3600):
        now[0] = float(second)
        writer.add(row(second))
        if second % 577 == 0:
            most = max(most, len(segments(storage)))
            assert second - steps(storage)[-1] <= FLUSH_S
    assert most <= FOLD_EVERY + 1
    now[0] += FLUSH_S
    writer.flush_due()
    assert steps(storage)[-1] == 3 * 3600 - 1, "without another row"
    writer.end(end(3 * 3600 - 1))
    assert len(segments(storage)) == 1 and steps(storage) == list(range(1, 3 * 3600))


def test_a_fold_is_one_file_that_readers_prefer_and_that_earlier_versions_read(storage: Storage) -> None:
    writer = announce(storage)
    for step in (1, 2, 3):
        writer.add(row(step))
        writer.flush()
    folder = storage.sub(f"sweeps/s/trials/{TRIAL.trial_id}")
    before = {key: folder.read(key) for key in folder.list("attempts") if "/rows-" in key}
    fold(folder, 1)
    assert segments(storage) == ["rows-000003-folded.jsonl"]
    assert all(name.startswith("rows-") for name in segments(storage)), "the prefix that a9a5703 reads"
    for key, data in before.items():  # as if the process had died before it deleted them
        folder.write(key, data)
    assert steps(storage) == [1, 2, 3]
    folder.write(segment_name(1, 4), dump_rows([row(4)]))  # a process that was taken for dead
    assert steps(storage) == [1, 2, 3, 4]
    fold(folder, 1)
    assert segments(storage) == ["rows-000004-folded.jsonl"] and steps(storage) == [1, 2, 3, 4]


@given(st.lists(st.integers(0, 30), unique=True), st.lists(st.integers(0, 30), unique=True))
def test_current_segments_are_what_was_inherited_the_last_fold_and_what_follows_it(
    plain: list[int], folded: list[int]
) -> None:
    names = [segment_name(1, n) for n in plain] + [segment_name(1, n, folded=True) for n in folded]
    last = max(folded, default=-1)
    wanted = [segment_name(1, 0)] if 0 in plain else []
    wanted += [segment_name(1, last, folded=True)] if folded else []
    wanted += [segment_name(1, n) for n in sorted(plain) if n > max(last, 0)]
    assert current_segments([*names, "attempts/002/rows-000001.jsonl", "trial.json"], 1) == wanted


KILLED = """
import os, sys
from orchestrator.records import segments
from orchestrator.storage import LocalStorage, open_storage
deaths, operation = int(sys.argv[2]), sys.argv[3]
real = getattr(LocalStorage, operation)
def dying(self, key, *rest):
    global deaths
    if deaths == 0:
        os.kill(os.getpid(), 9)
    deaths -= 1
    return real(self, key, *rest)
setattr(LocalStorage, operation, dying)
segments.fold(open_storage(sys.argv[1]), 1)
"""


@pytest.mark.parametrize(("operation", "after"), [("write", 0), ("delete", 0), ("delete", 2), ("delete", 9)])
def test_a_fold_that_is_killed_loses_and_doubles_nothing(tmp_path: Path, operation: str, after: int) -> None:
    storage = open_storage(str(tmp_path))
    writer = announce(storage)
    for step in range(1, 6):
        writer.add(row(step))
        writer.flush()
    folder = f"{storage.url}/sweeps/s/trials/{TRIAL.trial_id}"
    done = subprocess.run([sys.executable, "-c", KILLED, folder, str(after), operation], check=False)
    assert done.returncode == (-9 if after < 5 else 0)
    assert steps(storage) == [1, 2, 3, 4, 5]
    fold(open_storage(folder), 1)
    assert steps(storage) == [1, 2, 3, 4, 5] and len(segments(storage)) == 1


def test_a_reader_that_meets_a_fold_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(str(tmp_path))
    writer = announce(storage)
    for step in (1, 2):
        writer.add(row(step))
        writer.flush()
    writer.folder.write("attempts/001/end.json", end(2).encode())
    record = read_trial(storage, "s", TRIAL.trial_id)
    fold(writer.folder, 1)
    assert [each.step for each in record.rows] == [1, 2]


def test_a_cut_off_segment_keeps_its_damage_to_itself(storage: Storage) -> None:
    writer = announce(storage)
    folder = storage.sub(f"sweeps/s/trials/{TRIAL.trial_id}")
    folder.write(segment_name(1, 1), dump_rows([row(1), row(2)])[:-10])
    folder.write(segment_name(1, 2), dump_rows([row(3)]))
    found = read_sweep(storage, "s")
    assert [each.step for each in found.trials[0].rows] == [1, 3]
    again = read_sweep(storage, "s")
    assert list(again.trials[0].rows)
    fold(folder, 1)
    assert steps(storage) == [1, 3]
    assert writer.attempt == 1


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"step": 1e30, "time_s": 0, "split": "a", "metrics": {}}',
        b'{"step": Infinity, "time_s": 0, "split": "a", "metrics": {}}',
        b'{"step": 1, "time_s": NaN, "split": "a", "metrics": {}}',
        b'{"step": 1, "time_s": 0, "split": "a", "metrics": {"loss": "high"}}',
        b"null",
    ],
)
def test_a_line_that_is_no_row_is_named(line: bytes) -> None:
    columns, problem = parse_rows(dump_rows([row(1)]) + line + b"\n" + dump_rows([row(2)]))
    assert problem.startswith("line 2: ") and columns.steps.tolist() == [1, 2]


def test_an_attempt_that_failed_before_it_trained_hides_nothing(storage: Storage) -> None:
    writer = announce(storage)
    for step in range(1, 6):
        writer.add(row(step))
    writer.end(AttemptEnd(status=Status.INTERRUPTED, step=5, ended_s=1.0))
    failed = TrialWriter(storage, "s", TRIAL.trial_id)
    failed.start(AttemptStart(from_step=0, started_s=2.0))
    failed.end(end(0))
    assert steps(storage) == [1, 2, 3, 4, 5]
    assert read_trial(storage, "s", TRIAL.trial_id).step == 5


@pytest.fixture
def _counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    reads: list[Any] = []
    real = LocalStorage.read
    monkeypatch.setattr(LocalStorage, "read", lambda self, key: (reads.append(key), real(self, key))[1])
    yield reads


def test_rows_of_a_trial_that_has_ended_are_read_when_they_are_used(tmp_path: Path, _counted: list[Any]) -> None:
    storage = open_storage(str(tmp_path))
    writer = announce(storage)
    writer.add(row(7))
    writer.end(end(7))
    _counted.clear()
    record = read_trial(storage, "s", TRIAL.trial_id)
    assert record.step == 7 and not [key for key in _counted if "rows-" in key]
    assert record.curve("exact_accuracy") == [(7, 0.07)]
    assert len([key for key in _counted if "rows-" in key]) == 1
