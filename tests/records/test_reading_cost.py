"""The cost of reading records grows with what is new, and not with what was read before."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.views.status import used
from orchestrator.execution.watchdog import Watchdog, guard
from orchestrator.records import finished_index
from orchestrator.records.reader import SweepReader, read_sweep, read_trial, read_trials
from orchestrator.records.schema import Row, TrialRecord
from orchestrator.resources.usage import trial_cost
from orchestrator.search.planner import Planner
from orchestrator.storage import LocalStorage, Storage, open_storage
from orchestrator.sweep.budget import Budget
from orchestrator.tracking.notifications import SweepWatcher
from tests.records.test_reader import TRIALS, announce, run, sweep_of
from tests.support.sweeps import fingerprint, study


class Counts:
    """Count what a local storage asks of the system: files read, folders listed, bytes read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: list[str] = []
        self.folders = self.num_bytes = 0
        read, scan = LocalStorage.read, os.scandir

        def counted_read(storage: LocalStorage, key: str) -> bytes:
            data = read(storage, key)
            self.files.append(key)
            self.num_bytes += len(data)
            return data

        def counted_scan(*arguments: Any) -> Any:
            self.folders += 1
            return scan(*arguments)

        monkeypatch.setattr(LocalStorage, "read", counted_read)
        monkeypatch.setattr(os, "scandir", counted_scan)

    def clear(self) -> None:
        self.files, self.folders, self.num_bytes = [], 0, 0


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the time of a folder at once: nothing here writes twice within a tick of the clock."""
    monkeypatch.setattr("orchestrator.storage.local_files.SETTLED_S", -1.0)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    found = open_storage(str(tmp_path))
    assert isinstance(found, LocalStorage)
    return found


def test_an_indexed_trial_costs_no_file_and_no_listing(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {}
    for count in (4, 8):
        folder = sweep_of(storage, count)
        finished_index.update(folder)
        counts = Counts(monkeypatch)
        assert len(read_trials(storage, "study")) == count
        assert counts.files == [finished_index.KEY]
        costs[count] = counts
        monkeypatch.undo()
        monkeypatch.setattr("orchestrator.storage.local_files.SETTLED_S", -1.0)
    assert costs[8].folders == costs[4].folders == 2, "only the folder of all trials, and for what else is in it"
    assert (costs[8].num_bytes - costs[4].num_bytes) / 4 < 1_500, "bytes of the index per trial"


def test_a_pass_over_nothing_new_reads_nothing(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_index.update(sweep_of(storage, 4))
    reader = SweepReader(storage, "study")
    before, version = reader.read().trials, reader.version
    counts = Counts(monkeypatch)
    assert all(one is other for one, other in zip(reader.read().trials, before, strict=True))
    assert counts.files == [] and counts.folders == 1 and reader.version == version


def test_one_trial_is_read_without_the_others(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_of(storage, 4)
    counts = Counts(monkeypatch)
    assert read_trial(storage, "study", TRIALS[2].trial_id).trial_id == TRIALS[2].trial_id
    assert len(counts.files) == 4 and all(TRIALS[2].trial_id in file for file in counts.files)
    assert counts.folders == 3, "the three folders of the trial"


def test_the_step_of_a_lost_trial_is_known_from_its_newest_segment(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = announce(storage, 0)
    for step in (1, 2, 3, 4):
        writer.add(Row(step, 100.0 + step, "validation", {"exact_accuracy": 0.5}))
        writer.flush()
    counts = Counts(monkeypatch)
    assert read_trial(storage, "study", TRIALS[0].trial_id).step == 4
    assert len([file for file in counts.files if "/rows-" in file]) == 1


def test_a_pass_of_the_watchdog_reads_what_is_new(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_of(storage, 4)
    passes: list[list[str]] = []

    def watch(watchdog: Watchdog) -> str:
        for _ in range(2):
            counts = Counts(monkeypatch)
            assert len(watchdog.read()) == 4
            passes.append(counts.files)
        return "watched"

    monkeypatch.setattr(Watchdog, "run", watch)
    assert guard(storage.url, "study", Budget(trials=9)) == "watched"
    assert len(passes[0]) > 4 and passes[1] == []


def test_a_pass_of_notifications_reads_what_is_new(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_of(storage, 4)
    watcher = SweepWatcher(storage, "study", Budget())
    assert len(watcher.snapshot().records) == 4
    counts = Counts(monkeypatch)
    assert len(watcher.snapshot().records) == 4
    assert not any("trials/" in file for file in counts.files)


def test_a_pass_reads_what_is_new(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_of(storage, 4)
    reader = SweepReader(storage, "study")
    reader.read()
    run(storage, 4)
    counts = Counts(monkeypatch)
    assert len(reader.read().trials) == 5
    new = f"trials/{TRIALS[4].trial_id}"
    assert Counter(key.rpartition("/")[0] for key in counts.files) == {new: 2, f"{new}/attempts/001": 2}
    assert counts.folders == 1 + 3, "the folder of all trials, and the three folders of the new one"


def test_a_file_that_is_edited_in_place_is_read_again(storage: LocalStorage) -> None:
    """The time of its folder does not change."""
    folder = sweep_of(storage, 3)
    finished_index.update(folder)
    reader = SweepReader(storage, "study")
    reader.read()
    path = storage.root / f"sweeps/study/trials/{TRIALS[1].trial_id}/result.json"
    before = path.parent.stat().st_mtime_ns
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.25"))
    assert path.parent.stat().st_mtime_ns == before
    for found in (reader.read(), read_sweep(storage, "study")):
        result = {record.trial_id: record for record in found.trials}[TRIALS[1].trial_id].result
        assert result is not None and result.metrics["exact_accuracy"] == 0.25


@pytest.mark.parametrize("key", ["stopped.json", "retries/001.json", "attempts/002/start.json"])
def test_a_file_that_appears_or_goes_is_noticed(storage: LocalStorage, key: str) -> None:
    folder = sweep_of(storage, 3)
    finished_index.update(folder)
    reader = SweepReader(storage, "study")
    first = reader.read()
    folder.write(f"trials/{TRIALS[1].trial_id}/{key}", b"damaged")
    assert [each.file.endswith(key) for each in reader.read().damaged] == [True]
    assert read_sweep(storage, "study") == reader.read()
    folder.delete(f"trials/{TRIALS[1].trial_id}/{key}")
    assert reader.read() == first == read_sweep(storage, "study")


def test_a_folder_that_has_just_changed_is_listed_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change within a tick of the file system's clock would leave no trace in the time of the folder."""
    monkeypatch.setattr("orchestrator.storage.local_files.SETTLED_S", 3600.0)
    finished_index.update(sweep_of(storage, 2))
    counts = Counts(monkeypatch)
    read_trials(storage, "study")
    assert counts.folders > 2 and counts.files == [finished_index.KEY], "listed, but not read again"


def test_two_drivers_that_write_the_index_at_once_leave_a_whole_one(storage: Storage) -> None:
    """The last one wins; what it lacks is read from the records and added by the next update."""
    folder = sweep_of(storage, 2)
    finished_index.update(folder)
    theirs = folder.read(finished_index.KEY)
    run(storage, 2)
    finished_index.update(folder)
    folder.write(finished_index.KEY, theirs)
    assert len(read_trials(storage, "study")) == 3
    assert finished_index.update(folder) == 3


def test_trials_of_one_configuration_share_its_parts(storage: Storage) -> None:
    finished_index.update(sweep_of(storage, 4))
    records = read_trials(storage, "study")
    assert len({id(record.config.optimizer) for record in records}) == 1
    assert len({id(record.dataset) for record in records}) == 1
    assert len({record.config.model for record in records}) > 1


def test_the_index_of_an_older_version_costs_time_only(storage: Storage) -> None:
    folder = sweep_of(storage, 2)
    before = read_trials(storage, "study")
    trial_id = before[0].trial_id
    folder.write(finished_index.KEY, b'["%s", {"trial.json": "1-1"}, 5]\t{"files": {}}' % trial_id.encode())
    assert read_trials(storage, "study") == before
    assert finished_index.update(folder) == 2 and read_trials(storage, "study") == before


def test_the_cost_of_a_trial_on_a_cpu_is_known_without_its_rows(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_of(storage, 1)
    writer = announce(storage, 1)
    for step in (1, 2):
        writer.add(Row(step, 100.0 + step, "train", {"loss": 1.0}))
        writer.flush()
    records = read_trials(storage, "study")
    counts = Counts(monkeypatch)
    assert [trial_cost(record) for record in records] == [None, None] and counts.files == []


def test_status_reads_no_rows_of_ended_trials_whatever_version_recorded_them(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first versions did not record how long an attempt lasted."""
    sweep_of(storage, 2)
    records = read_trials(storage, "study")
    assert all(one.end and one.end.elapsed_s is None for record in records for one in record.attempts)
    counts = Counts(monkeypatch)
    assert used(records) == "3 min 20 s of trial time" and counts.files == []


def test_a_resumed_sweep_reads_no_rows_of_finished_trials(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_of(storage, 8)
    records: list[TrialRecord] = read_trials(storage, "study")
    counts = Counts(monkeypatch)
    planner = Planner(study(), fingerprint, records)
    assert planner.is_done and counts.files == []
    assert {state.value for state in planner.trials.values()} == {0.5}
    assert len(planner.trials[records[0].trial_id].rungs) == 2 and len(counts.files) == 1, "until a decision needs them"
