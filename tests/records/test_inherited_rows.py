"""Rows that an attempt inherited from a shorter trial are told from its own, whichever version stored them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from orchestrator.records.index import new_head
from orchestrator.records.reader import read_trial
from orchestrator.records.rows import dump_rows
from orchestrator.records.schema import GPU_ENERGY, AttemptStart, DatasetInfo, Origin, Row, TrialRecord
from orchestrator.records.segments import fold, segment_name
from orchestrator.records.writer import TrialWriter
from orchestrator.resources.usage import measured_kwh
from orchestrator.storage import Storage, open_storage
from orchestrator.sweep.trials import search_trial
from tests.support.sweeps import fingerprint, search

TRIAL = search_trial(search(), fingerprint, "T=1", {"T": 1})
SHORTER = [Row(50, 50.0, "train", {"loss": 2.0}), Row(100, 100.0, "system", {GPU_ENERGY: 7.2e6})]
OWN = [
    [Row(100, 200.0, "system", {GPU_ENERGY: 1.0})],
    [Row(110, 210.0, "train", {"loss": 1.0})],
    [Row(120, 220.0, "train", {"loss": 0.5})],
]
"""A segment each, of the attempt that starts from the checkpoint of the shorter trial."""
CURVE = [*SHORTER, *(rows[0] for rows in OWN)]
INHERITED, FOLDED = segment_name(1, 0), segment_name(1, 2, folded=True)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path))


def started(storage: Storage, inherited: Iterable[Row] | None, from_step: int = 100) -> TrialWriter:
    """Return the writer of the next attempt of a trial that continues a shorter one."""
    origin, dataset = Origin(kind="continued", trial_id="shorter"), DatasetInfo(benchmark="b", fingerprint="f")
    head = new_head("study", "T=1", TRIAL.config, dataset, origin)
    storage.write(f"sweeps/s/trials/{TRIAL.trial_id}/trial.json", head.encode())
    writer = TrialWriter(storage, "s", TRIAL.trial_id)
    if inherited is not None:
        writer.inherit(list(inherited))
    writer.start(AttemptStart(from_step=from_step, started_s=150.0, gpu_type="H100", gpu_count=1, device="cuda"))
    return writer


def add_segments(writer: TrialWriter, segments: Iterable[list[Row]]) -> None:
    for rows in segments:
        for row in rows:
            writer.add(row)
        writer.flush()


def stored(folder: Storage) -> dict[str, bytes]:
    return {name: folder.read(name) for name in folder.list("attempts") if "/rows-" in name}


def read(storage: Storage) -> TrialRecord:
    return read_trial(storage, "s", TRIAL.trial_id)


def fold_of_earlier_version(*parts: Iterable[Row]) -> bytes:
    return b"".join(dump_rows(rows) for rows in parts)


@pytest.mark.parametrize("marked", [False, True], ids=["of that version", "written again by this one"])
def test_an_interrupted_fold_of_an_earlier_version_doubles_nothing(storage: Storage, marked: bool) -> None:
    """Its writer died, or its storage failed, between the fold and the deletion of what it holds."""
    folder = started(storage, []).folder
    folder.write(INHERITED, dump_rows(SHORTER, inherited=marked))
    for number, rows in enumerate(OWN, 1):
        folder.write(segment_name(1, number), dump_rows(rows))
    folder.write(FOLDED, fold_of_earlier_version(SHORTER, *OWN[:2]))
    assert read(storage).rows == CURVE
    assert read(storage).attempts[0].rows == CURVE[2:]
    assert measured_kwh(read(storage)) == pytest.approx(1 / 3.6e6)
    fold(folder, 1)
    assert list(stored(folder)) == [segment_name(1, 3, folded=True)] and read(storage).rows == CURVE
    assert read(storage).attempts[0].rows == CURVE[3:], "from the first row after the checkpoint, as that version did"


def test_rows_that_a_fold_leaves_out_are_read_next_to_it(storage: Storage) -> None:
    """Commit 6c0fc557 did not fold what was inherited."""
    folder = started(storage, []).folder
    folder.write(INHERITED, dump_rows(SHORTER))
    folder.write(FOLDED, fold_of_earlier_version(*OWN[:2]))
    folder.write(segment_name(1, 3), dump_rows(OWN[2]))
    assert read(storage).rows == CURVE
    assert read(storage).attempts[0].rows == CURVE[2:]
    fold(folder, 1)
    assert list(stored(folder)) == [segment_name(1, 3, folded=True)] and read(storage).rows == CURVE


def test_a_shorter_trial_with_rows_at_its_checkpoint_only_is_not_part_of_a_longer_one(storage: Storage) -> None:
    """Nor is its energy, where an earlier version has folded both."""
    folder = started(storage, None).folder
    folder.write(FOLDED, fold_of_earlier_version(SHORTER[1:], *OWN[:2]))
    assert read(storage).rows == CURVE[1:4]
    assert read(storage).attempts[0].rows == CURVE[3:4]
    assert measured_kwh(read(storage)) is None, "the one sample is from the shorter trial, or may be"


@pytest.mark.parametrize("shorter", [SHORTER, SHORTER[1:]], ids=["curve", "rows at the checkpoint"])
def test_a_fold_tells_inherited_rows_from_own_ones_of_the_same_step(storage: Storage, shorter: list[Row]) -> None:
    writer = started(storage, shorter)
    add_segments(writer, OWN)
    before = stored(writer.folder)
    fold(writer.folder, 1)
    after = stored(writer.folder)
    assert list(after) == [segment_name(1, 3, folded=True)]
    for left in ([], [INHERITED], [segment_name(1, 2), segment_name(1, 3)], list(before)):
        for name in left:  # as if the process had died before it deleted them
            writer.folder.write(name, before[name])
        assert read(storage).rows == [*shorter, *CURVE[2:]]
        assert read(storage).attempts[0].rows == CURVE[2:]
        assert measured_kwh(read(storage)) == pytest.approx(1 / 3.6e6)
        fold(writer.folder, 1)
        assert stored(writer.folder) == after


def test_a_fold_is_for_earlier_versions_what_they_would_have_written(storage: Storage) -> None:
    writer = started(storage, SHORTER)
    add_segments(writer, OWN)
    fold(writer.folder, 1)
    ((name, data),) = stored(writer.folder).items()
    lines = [json.loads(line) for line in data.splitlines()]
    assert [line.pop("inherited", False) for line in lines] == [True, True, False, False, False]
    assert name == "attempts/001/rows-000003-folded.jsonl"
    assert lines == [json.loads(line) for line in fold_of_earlier_version(SHORTER, *OWN).splitlines()]


def test_a_resumed_attempt_that_did_not_inherit_keeps_its_rows_at_its_first_step(storage: Storage) -> None:
    """The first attempt has copied the checkpoint, and ended before it was read: it states that it began at step 0."""
    add_segments(first := started(storage, SHORTER, from_step=0), [[Row(0, 160.0, "system", {GPU_ENERGY: 1.0})]])
    add_segments(started(storage, None), OWN)
    for attempt in (1, 2):
        fold(first.folder, attempt)
    assert [one.rows for one in read(storage).attempts] == [[Row(0, 160.0, "system", {GPU_ENERGY: 1.0})], CURVE[2:]]
