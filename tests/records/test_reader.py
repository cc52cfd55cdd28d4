"""Reading sweeps: damage stops nothing, what did not change is not read again, and the index is never trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.api.status import status
from orchestrator.records import finished_index
from orchestrator.records.index import load_definition, load_definitions, new_head, stop_reason, sweep_names
from orchestrator.records.reader import SweepReader, read_sweep, read_trial, read_trials
from orchestrator.records.schema import (
    AttemptEnd,
    AttemptStart,
    DatasetInfo,
    Row,
    Status,
    TrialRecord,
    TrialResult,
)
from orchestrator.records.stored import DamagedRecordError
from orchestrator.records.writer import TrialWriter
from orchestrator.resources.usage import attempt_usage
from orchestrator.storage import LocalStorage, Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep.trials import study_trials
from tests.support.commands import call
from tests.support.foreign import put
from tests.support.sweeps import fingerprint, search, study

FINGERPRINT = fingerprint(study().base.data.request())
TRIALS = sorted(study_trials(study(), fingerprint), key=lambda trial: trial.trial_id)


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket"))


def announce(storage: Storage, number: int) -> TrialWriter:
    trial = TRIALS[number]
    head = new_head(trial.stage, trial.family, trial.config, DatasetInfo(benchmark="sudoku-4x4", fingerprint="f"))
    storage.write(f"sweeps/study/trials/{trial.trial_id}/trial.json", head.encode())
    writer = TrialWriter(storage, "study", trial.trial_id)
    writer.start(AttemptStart(from_step=0, started_s=100.0))
    return writer


def run(storage: Storage, number: int, status: Status = Status.FINISHED) -> None:
    writer = announce(storage, number)
    for step in (4, 8):
        writer.add(Row(step, 100.0 + step, "validation", {"exact_accuracy": step / 100, "raw_cell_accuracy": 0.5}))
    if status is Status.FINISHED:
        writer.finish(
            TrialResult(split="test", items=8, metrics={"exact_accuracy": 0.5, "cell_accuracy": 0.5}, per_item="ff"), {}
        )
    if status is not Status.RUNNING:
        writer.end(AttemptEnd(status=status, step=8, ended_s=200.0))
    else:
        writer.flush()


def sweep_of(storage: Storage, count: int = 4) -> Storage:
    storage.write("sweeps/study/sweep.json", to_json_bytes(study().plain()))
    for number in range(count):
        run(storage, number)
    return storage.sub("sweeps/study")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads: list[str] = []
    real = LocalStorage.read
    monkeypatch.setattr(LocalStorage, "read", lambda self, key: (reads.append(key), real(self, key))[1])
    return reads


DAMAGE: dict[str, tuple[str, bytes]] = {
    "empty head": ("trial.json", b""),
    "truncated head": ("trial.json", b'{"stage": "study", "fam'),
    "head of another kind": ("trial.json", b"[]"),
    "head of a newer version": ("trial.json", b'{"stage": "polish", "family": "", "config": {}, "dataset": {}}'),
    "start without a step": ("attempts/001/start.json", b"{}"),
    "end of a newer version": ("attempts/001/end.json", b'{"status": "hibernated", "step": 1, "ended_s": 1}'),
    "result without a score": ("result.json", b'{"split": "test", "items": 3}'),
    "result that is not text": ("result.json", b"\xff\xfe"),
    "stop without a step": ("stopped.json", b'{"reason": "rank"}'),
    "retry of nothing": ("retries/001.json", b"{}"),
    "head that exceeds the parser": ("trial.json", b"[" * 100_000),
    "start at no time": ("attempts/001/start.json", b'{"from_step": 0, "started_s": NaN}'),
    "start with more GPUs than there are": (
        "attempts/001/start.json",
        b'{"from_step": 0, "started_s": 1, "gpu_count": 1e300}',
    ),
    "start with fewer than no GPUs": ("attempts/001/start.json", b'{"from_step": 0, "started_s": 1, "gpu_count": -1}'),
    "start on infinite CPUs": ("attempts/001/start.json", b'{"from_step": 0, "started_s": 1, "cpu_count": Infinity}'),
    "end after training beyond the calendar": (
        "attempts/001/end.json",
        b'{"status": "finished", "step": 8, "ended_s": 1, "elapsed_s": 1e300}',
    ),
    "result of more energy than there is": (
        "result.json",
        b'{"split": "test", "items": 3, "metrics": {}, "energy_j": 1e300}',
    ),
    "end beyond the calendar": ("attempts/001/end.json", b'{"status": "finished", "step": 8, "ended_s": 1e308}'),
    "end after infinite training": (
        "attempts/001/end.json",
        b'{"status": "finished", "step": 8, "ended_s": 1, "train_s": Infinity}',
    ),
    "result at no time": ("result.json", b'{"split": "test", "items": 3, "metrics": {}, "ended_s": NaN}'),
    **{
        f"result of {name} {value}": (
            "result.json",
            f'{{"split": "test", "items": 3, "metrics": {{"{name}": {value}}}}}'.encode(),
        )
        for name in ("exact_accuracy", "pass@2")
        for value in ("1e308", "Infinity", "NaN", "-0.1")
    },
    "result of infinite work": ("result.json", b'{"split": "test", "items": 3, "metrics": {}, "train_flops": 1e999}'),
    "result of an infinite task": (
        "result.json",
        b'{"split": "test", "items": 3, "metrics": {}, "per_task": {"a": [1e308]}}',
    ),
    "result of a share of nothing": (
        "result.json",
        b'{"split": "test", "items": 0, "metrics": {"exact_accuracy": 0.5}}',
    ),
    "result of fewer than no items": ("result.json", b'{"split": "test", "items": -3, "metrics": {}}'),
}


@pytest.mark.parametrize(("name", "data"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_or_newer_record_is_skipped_and_named(storage: Storage, name: str, data: bytes) -> None:
    folder = sweep_of(storage, 3)
    bad = TRIALS[1].trial_id
    folder.write(f"trials/{bad}/{name}", data)
    found = read_sweep(storage, "study")
    assert [record.trial_id for record in found.trials] == [TRIALS[0].trial_id, TRIALS[2].trial_id]
    assert [each.file for each in found.damaged] == [f"{folder.url}/trials/{bad}/{name}"]
    assert read_trials(storage, "study") == found.trials
    with pytest.raises(DamagedRecordError, match=name) as caught:
        read_trial(storage, "study", bad)
    assert "\n" not in str(caught.value) and "delete" not in str(caught.value), "a newer version can read it"


def copy_trial(folder: Storage, of: str, name: str, **changes: Any) -> None:
    """Change the head of a trial, and copy its folder."""
    head = json.loads(folder.read(f"trials/{of}/trial.json"))
    folder.write(f"trials/{of}/trial.json", to_json_bytes({**head, **changes}))
    for key in folder.list(f"trials/{of}"):
        folder.write(key.replace(of, name), folder.read(key))


@pytest.mark.parametrize("name", ["0" * 12, "f" * 12, "copy of it"])
@pytest.mark.parametrize("is_stated", [True, False])
def test_a_copied_trial_is_named_and_counts_once(storage: Storage, name: str, is_stated: bool) -> None:
    folder, trial = sweep_of(storage, 3), TRIALS[1]
    before = read_sweep(storage, "study")
    reader = SweepReader(storage, "study")
    reader.read()
    changes: dict[str, Any] = {"trial_id": trial.trial_id} if is_stated else {}
    copy_trial(folder, trial.trial_id, name, dataset={"benchmark": "sudoku-4x4", "fingerprint": FINGERPRINT}, **changes)
    for _ in range(2):  # without the index, and with it
        found = read_sweep(storage, "study")
        assert [record.trial_id for record in found.trials] == [record.trial_id for record in before.trials]
        assert [each.file for each in found.damaged] == [f"{folder.url}/trials/{name}/trial.json"]
        assert trial.trial_id in found.damaged[0].reason and reader.read() == found
        finished_index.update(folder)
    state = status("study", storage)
    assert state.progress.done == 3 and "1 unreadable file" in str(state)
    for key in folder.list(f"trials/{trial.trial_id}") if is_stated else ():
        folder.delete(key)
    is_counted = name in [record.trial_id for record in read_sweep(storage, "study").trials]
    assert not is_counted, "without its original, a copy is a folder that was renamed"


def test_of_copies_whose_original_is_not_known_one_counts(storage: Storage) -> None:
    folder = sweep_of(storage, 3)
    copy_trial(folder, TRIALS[1].trial_id, "f" * 12, family="by an older version")
    found = read_sweep(storage, "study")
    assert [record.trial_id for record in found.trials] == [trial.trial_id for trial in TRIALS[:3]]
    assert [each.file for each in found.damaged] == [f"{folder.url}/trials/{'f' * 12}/trial.json"]


def test_a_finished_trial_whose_result_is_lost_is_named_and_open(storage: Storage) -> None:
    folder, trial_id = sweep_of(storage, 3), TRIALS[1].trial_id
    finished_index.update(folder)
    folder.delete(f"trials/{trial_id}/result.json")
    for _ in range(2):
        found = read_sweep(storage, "study")
        assert [record.status for record in found.trials] == [Status.FINISHED, Status.INTERRUPTED, Status.FINISHED]
        assert [each.file for each in found.damaged] == [f"{folder.url}/trials/{trial_id}/result.json"]
        finished_index.update(folder)
    again = TrialWriter(storage, "study", trial_id)
    again.start(AttemptStart(from_step=8, started_s=300.0))
    again.finish(TrialResult(split="test", items=8, metrics={"exact_accuracy": 0.5}), {})
    again.end(AttemptEnd(status=Status.FINISHED, step=8, ended_s=310.0))
    found = read_sweep(storage, "study")
    assert {record.status for record in found.trials} == {Status.FINISHED} and found.damaged == []


def test_a_result_that_is_newer_than_the_listing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(str(tmp_path))
    folder, trial_id = sweep_of(storage, 1), TRIALS[0].trial_id
    key, real = f"trials/{trial_id}/result.json", LocalStorage.snapshot

    def listed_before(self: LocalStorage, *arguments: Any) -> Any:
        data = folder.read(key)
        folder.delete(key)
        found = real(self, *arguments)
        folder.write(key, data)
        return found

    monkeypatch.setattr(LocalStorage, "snapshot", listed_before)
    assert read_trial(storage, "study", trial_id).status is Status.FINISHED


def test_a_folder_in_place_of_a_result_is_damage_that_no_attempt_can_mend(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    folder, trial_id = sweep_of(storage, 2), TRIALS[0].trial_id
    folder.delete(f"trials/{trial_id}/result.json")
    (tmp_path / f"sweeps/study/trials/{trial_id}/result.json").mkdir()
    found = read_sweep(storage, "study")
    assert [record.trial_id for record in found.trials] == [TRIALS[1].trial_id]
    assert found.damaged_trials()[trial_id].file == f"{folder.url}/trials/{trial_id}/result.json"


def test_a_result_that_does_not_fit_how_its_trial_ended_counts_and_is_named(storage: Storage) -> None:
    folder, (diverged, lost) = sweep_of(storage, 2), (trial.trial_id for trial in TRIALS[:2])
    end = AttemptEnd(status=Status.DIVERGED, step=8, ended_s=200.0)
    folder.write(f"trials/{diverged}/attempts/001/end.json", end.encode())
    folder.delete_many(folder.list(f"trials/{lost}/attempts"))
    found = read_sweep(storage, "study")
    assert [record.status for record in found.trials] == [Status.FINISHED] * 2
    files = [f"{diverged}/attempts/001/end.json", f"{lost}/result.json"]
    assert [each.file for each in found.damaged] == [f"{folder.url}/trials/{file}" for file in files]
    assert "diverged" in found.damaged[0].reason


def test_metrics_of_weights_that_diverged_are_read_as_what_they_are(storage: Storage) -> None:
    writer = announce(storage, 0)
    writer.add(Row(4, 104.0, "train", {"loss": math.nan, "grad_norm": math.inf}))
    writer.add(Row(4, 104.0, "validation", {"exact_accuracy": 0.0, "confidence": math.nan}))
    writer.finish(TrialResult(split="test", items=8, metrics={"exact_accuracy": 0.0, "confidence": math.nan}), {})
    writer.end(AttemptEnd(status=Status.DIVERGED, step=4, ended_s=200.0))
    storage.write("sweeps/study/sweep.json", to_json_bytes(study().plain()))
    (found,) = read_sweep(storage, "study").trials
    assert found.result is not None and math.isnan(found.result.metrics["confidence"])
    assert math.isnan(found.curve("loss", "train")[0][1]) and found.curve("grad_norm", "train") == [(4, math.inf)]


def test_keys_of_newer_versions_and_missing_optional_keys_are_read(storage: Storage) -> None:
    folder = sweep_of(storage, 1).sub(f"trials/{TRIALS[0].trial_id}")
    for name in ("trial.json", "attempts/001/start.json", "attempts/001/end.json", "result.json"):
        folder.write(name, to_json_bytes({**json.loads(folder.read(name)), "colour": "blue"}))
    (record,) = read_trials(storage, "study")
    assert record.status is Status.FINISHED and record.attempts[0].start.gpu_type is None


def test_stray_files_are_no_records(storage: Storage) -> None:
    folder = sweep_of(storage, 1)
    for key in ("trials/note.txt", "trials/lost/attempts/001/start.json", f"trials/{TRIALS[0].trial_id}/attempts/x"):
        folder.write(key, b"{}")
    folder.write(f"trials/{TRIALS[0].trial_id}/attempts/abc/start.json", b"{}")
    found = read_sweep(storage, "study")
    assert [record.trial_id for record in found.trials] == [TRIALS[0].trial_id] and found.damaged == []
    assert TrialWriter(storage, "study", TRIALS[0].trial_id).attempt == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"name": "study", "warp": 9}',
        b"[" * 100_000,
        json.dumps(study().plain() | {"forbidden": None}).encode(),
        json.dumps(study().plain() | {"forbidden": "T=1"}).encode(),
        json.dumps(study().plain() | {"forbidden": ["T=1"]}).encode(),
        json.dumps(study().plain() | {"only_if": {"T": 1}}).encode(),
        json.dumps(study(name="another").plain()).encode(),
        json.dumps(search(name="broken").plain() | {"stopping": None}).encode(),
        json.dumps(study(name="broken").plain() | {"variants": [{"name": "v", "settings": {"zz": 1}}]}).encode(),
    ],
)
def test_a_damaged_definition_is_named_and_the_other_sweeps_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    storage = open_storage(str(tmp_path))
    sweep_of(storage, 2)
    storage.write("sweeps/broken/sweep.json", data)
    storage.write("sweeps/study/stop.json", data)
    assert stop_reason(storage.sub("sweeps/study")) == ""
    definitions, damaged = load_definitions(storage)
    assert [sweep.name for sweep in definitions] == ["study"] and len(damaged) == 1
    with pytest.raises(DamagedRecordError, match=r"sweeps/broken[/ ]"):
        load_definition(storage, "broken")
    code, out, err = call(capsys, "sweep", "status", "--storage", storage.url)
    assert code == 0 and "study" in out and "1 unreadable file skipped" in err and "broken/sweep.json" in err
    code, _, err = call(capsys, "sweep", "status", "broken", "--storage", storage.url)
    assert code == 2 and err.count("\n") == 1


def test_status_names_a_sweep_whose_values_no_trial_can_have_and_lists_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage(str(tmp_path))
    sweep_of(storage, 2)
    broken = study(name="broken").plain() | {"variants": [{"name": "v", "settings": {"T": "x"}}]}
    storage.write("sweeps/broken/sweep.json", to_json_bytes(broken))
    code, out, err = call(capsys, "sweep", "status", "--storage", storage.url)
    assert code == 0 and "study" in out and "1 unreadable file skipped" in err and "broken/sweep.json" in err


def test_status_of_a_damaged_lock_names_the_command_that_removes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage(str(tmp_path))
    sweep_of(storage, 2)
    storage.write("sweeps/study/lock.json", b"garbage")
    _, out, _ = call(capsys, "sweep", "status", "study", "--storage", storage.url)
    assert "study (study) has a damaged lock" in out and "trm sweep unlock study" in out and "process 0" not in out
    assert "damaged lock" in call(capsys, "sweep", "status", "--storage", storage.url)[1]
    assert "has a damaged lock" in str(status("study", storage))


def test_status_counts_and_names_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = open_storage(str(tmp_path))
    folder = sweep_of(storage, 3)
    folder.write(f"trials/{TRIALS[0].trial_id}/result.json", b"")
    code, out, err = call(capsys, "sweep", "status", "study", "--storage", storage.url)
    assert code == 0 and "2 finished" in out and f"{TRIALS[0].trial_id}/result.json" in err
    code, out, _ = call(capsys, "sweep", "status", "study", "--storage", storage.url, "--json")
    assert code == 0 and len(json.loads(out)["damaged"]) == 1


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(str(tmp_path))
    sweep_of(storage, 3)
    writer = announce(storage, 3)
    reader, reads = SweepReader(storage, "study"), counted(monkeypatch)
    first, version = reader.read().trials, reader.version
    reads.clear()
    assert all(one is other for one, other in zip(reader.read().trials, first, strict=True))
    assert reads == [] and reader.version == version
    for step in (1, 2):
        writer.add(Row(step, 1.0, "validation", {"exact_accuracy": 0.1}))
        writer.flush()
        changed = {r.trial_id: r for r in reader.read().trials}[TRIALS[3].trial_id]
        assert changed.step == step and len(list(changed.rows)) == step
    assert reader.version > version and len([key for key in reads if "rows-" in key]) == 2, "a segment is read once"
    storage.delete(f"sweeps/study/trials/{TRIALS[0].trial_id}/trial.json")
    assert len(reader.read().trials) == 3


def test_two_processes_that_begin_a_trial_at_once_have_attempts_of_their_own(storage: Storage) -> None:
    """The process of a killed driver begins its attempt after the one of the next driver has looked for a number."""
    sweep_of(storage, 0)
    head = new_head("study", "T=1", TRIALS[0].config, DatasetInfo(benchmark="sudoku-4x4", fingerprint="f"))
    storage.write(f"sweeps/study/trials/{TRIALS[0].trial_id}/trial.json", head.encode())
    late, early = (TrialWriter(storage, "study", TRIALS[0].trial_id) for _ in range(2))
    for writer, started_s in ((early, 100.0), (late, 200.0)):
        writer.inherit([Row(2, 50.0, "validation", {"exact_accuracy": 0.1})])
        writer.start(AttemptStart(from_step=2, started_s=started_s))
    early.add(Row(4, 130.0, "validation", {"exact_accuracy": 0.2}))
    late.add(Row(4, 240.0, "validation", {"exact_accuracy": 0.2}))
    assert early.flush() and late.flush()
    (record,) = read_trials(storage, "study")
    assert [(attempt.number, attempt.start.started_s) for attempt in record.attempts] == [(1, 100.0), (2, 200.0)]
    assert [usage.duration_s for usage in attempt_usage(record)] == [30.0, 40.0]
    assert [(row.step, row.time_s) for row in record.rows] == [(2, 50.0), (4, 240.0)]


def test_a_lost_attempt_keeps_the_rows_that_the_next_one_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(str(tmp_path))
    run(storage, 0, Status.RUNNING)  # rows of steps 4 and 8
    again = TrialWriter(storage, "study", TRIALS[0].trial_id)
    again.start(AttemptStart(from_step=4, started_s=500.0))
    again.add(Row(8, 508.0, "validation", {"exact_accuracy": 0.5}))
    again.flush()
    reader = SweepReader(storage, "study")
    (record,) = reader.read().trials
    assert [(row.step, row.time_s) for row in record.attempts[0].rows] == [(4, 104.0), (8, 108.0)]
    assert [(row.step, row.time_s) for row in record.rows] == [(4, 104.0), (8, 508.0)]
    read: list[str] = []
    monkeypatch.setattr(LocalStorage, "read", lambda self, key: read.append(key))
    assert record.attempts[1].rows[0].time_s == 508.0 and not read, "every segment is read once"
    run_again, _ = reader.read()
    assert run_again == [record] and record.attempts[0].rows[1].step == 8 and not read


def test_a_value_that_changes_without_changing_its_size_is_seen(storage: Storage) -> None:
    folder = sweep_of(storage, 1)
    reader = SweepReader(storage, "study")
    assert reader.read().trials[0].result
    key = f"trials/{TRIALS[0].trial_id}/result.json"
    folder.write(key, folder.read(key).replace(b"0.5", b"0.7"))
    result = reader.read().trials[0].result
    assert result and result.metrics["exact_accuracy"] == 0.7


@pytest.fixture
def _index_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished_index, "WORTH_READING", 0)


@pytest.mark.usefixtures("_index_at_once")
class TestIndex:
    def test_trials_at_rest_are_read_from_one_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        storage = open_storage(str(tmp_path))
        folder = sweep_of(storage, 3)
        run(storage, 3, Status.RUNNING)
        before = read_trials(storage, "study")
        assert finished_index.update(folder) == 3
        reads = counted(monkeypatch)
        assert read_trials(storage, "study") == before
        own = [key for key in reads if TRIALS[3].trial_id in key or "rows-" in key]
        assert set(reads) - set(own) == {finished_index.KEY}

    def test_it_exists_while_a_sweep_runs(self, storage: Storage) -> None:
        """A full disk then has a file whose deletion loses nothing, for the lease of what frees space."""
        folder = storage.sub("sweeps/study")
        with finished_index.indexed(folder):
            assert finished_index.KEY in folder.list() and finished_index.read(folder) == {}
            sweep_of(storage, 2)
        assert len(finished_index.read(folder)) == 2

    def test_it_is_brought_up_to_date(self, storage: Storage) -> None:
        folder = sweep_of(storage, 2)
        assert finished_index.update(folder) == 2
        version = folder.versions()[finished_index.KEY]
        assert finished_index.update(folder) == 2 and folder.versions()[finished_index.KEY] == version
        run(storage, 2)
        folder.delete(f"trials/{TRIALS[0].trial_id}/trial.json")
        assert finished_index.update(folder) == 2
        assert {r.trial_id for r in read_trials(storage, "study")} == {TRIALS[1].trial_id, TRIALS[2].trial_id}

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
    @given(
        changes=st.lists(
            st.tuples(
                st.integers(0, 3),
                st.sampled_from(["retry", "stop", "rescore", "drop result", "damage", "damage index", "update", "run"]),
            ),
            max_size=8,
        ),
        few=st.booleans(),
    )
    def test_with_and_without_it_the_records_are_the_same(
        self, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, str]], few: bool
    ) -> None:
        storage = open_storage(str(tmp_path_factory.mktemp("runs")))
        folder = sweep_of(storage, 3)
        with pytest.MonkeyPatch.context() as patch:
            if few:  # as with many trials, of which some are outdated and the new ones are read in several parts
                patch.setattr(finished_index, "WORTH_READING", 0)
                patch.setattr(finished_index, "AT_ONCE", 1)
            finished_index.update(folder)
            for number, change in changes:
                _change(storage, folder, number, change)
            with_index = read_sweep(storage, "study")
        folder.delete(finished_index.KEY)
        assert read_sweep(storage, "study") == with_index

    def test_an_update_keeps_the_lines_of_trials_that_did_not_change(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = open_storage(str(tmp_path))
        folder = sweep_of(storage, 3)
        finished_index.update(folder)
        before = folder.read(finished_index.KEY).split(b"\n")[1:]
        run(storage, 3)
        reads = counted(monkeypatch)
        assert finished_index.update(folder) == 4
        assert {key.split("/")[1] for key in reads if key != finished_index.KEY} == {TRIALS[3].trial_id}
        after = folder.read(finished_index.KEY).split(b"\n")[1:]
        assert len(after) == 4 and len(set(before) & set(after)) >= 2, "all but outdated times of folders"

    @pytest.mark.parametrize("data", [b"", b"\xff\n[]\n{}", b'["x", 3]\tno'])
    def test_a_damaged_one_costs_time_only(self, storage: Storage, data: bytes) -> None:
        folder = sweep_of(storage, 2)
        before = read_trials(storage, "study")
        folder.write(finished_index.KEY, data)
        assert read_trials(storage, "study") == before
        assert finished_index.update(folder) == 2 and read_trials(storage, "study") == before


def _change(storage: Storage, folder: Storage, number: int, change: str) -> None:
    trial = f"trials/{TRIALS[number].trial_id}"
    deeds: dict[str, Callable[[], object]] = {
        "retry": lambda: folder.write(
            f"{trial}/retries/001.json", b'{"was": "failed", "after_attempt": 1, "requested_s": 1.0}'
        ),
        "stop": lambda: folder.write(f"{trial}/stopped.json", b'{"step": 4, "reason": "rank"}'),
        "rescore": lambda: folder.write(
            f"{trial}/result.json", b'{"split": "test", "items": 1, "metrics": {"exact_accuracy": 0.25}}'
        ),
        "drop result": lambda: folder.delete(f"{trial}/result.json"),
        "damage": lambda: folder.write(f"{trial}/trial.json", b"{"),
        "damage index": lambda: folder.write(finished_index.KEY, folder.read(finished_index.KEY)[:-40]),
        "update": lambda: finished_index.update(folder),
        "run": lambda: run(storage, number),
    }
    deeds[change]()


def test_sweeps_are_listed_without_listing_their_trials(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_of(storage, 1)
    storage.write("sweeps/no-sweep/trials/x/trial.json", b"{}")
    monkeypatch.setattr(type(storage), "list", lambda *_: pytest.fail("every file of the storage is listed"))
    assert sweep_names(storage) == ["study"]


def test_every_key_of_a_training_result_has_a_place_in_the_record() -> None:
    """`trm_model` makes the result; a key that the record does not know would be dropped in silence."""
    import ast
    import inspect

    from trm_model.training import loop

    keys = {
        key.value
        for node in ast.walk(ast.parse(inspect.getsource(loop._result)))
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "result"
        and isinstance(node.value, ast.Dict)
        for key in node.value.keys
        if isinstance(key, ast.Constant)
    }
    assert keys and keys <= set(TrialResult.model_fields)


def test_what_was_given_is_written_and_nothing_else() -> None:
    start = AttemptStart(from_step=0, started_s=1.0, gpu_type=None)
    assert start.plain() == {"from_step": 0, "started_s": 1.0, "gpu_type": None}
    assert AttemptStart.parse(start.plain()) == start


def test_a_record_is_the_same_object_for_the_same_files(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    sweep_of(storage, 1)
    one, other = read_trials(storage, "study")[0], read_trials(storage, "study")[0]
    assert isinstance(one, TrialRecord) and one == other and one.config.model is other.config.model


@pytest.mark.parametrize("at", ["sweeps/a\nb/sweep.json", "sweeps/study/trials/a\nb/trial.json"])
def test_folders_whose_names_cannot_be_printed_are_named_and_the_others_are_read(
    tmp_path: Path, at: str, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage(str(tmp_path))
    sweep_of(storage, 0)
    run(storage, 0, Status.FAILED)
    put(storage, at, b"{}")
    for words in (["sweep", "status"], ["leaderboard"]):
        code, _, err = call(capsys, *words, "--storage", str(tmp_path))
        assert code == 0 and "1 unreadable file skipped" in err
        assert r"it holds 'a\nb', whose name cannot be printed" in err
    found = read_sweep(storage, "study")
    assert len(found.trials) == 1 and not found.damaged_trials()


def test_a_file_in_place_of_the_trials_of_one_sweep_is_named_and_the_others_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage(str(tmp_path))
    sweep_of(storage, 0)
    run(storage, 0, Status.FAILED)
    storage.write("sweeps/other/sweep.json", to_json_bytes(study(name="other").plain()))
    storage.write("sweeps/other/trials", b"")
    for words in (["sweep", "status"], ["leaderboard"], ["sweep", "status", "other"]):
        code, _, err = call(capsys, *words, "--storage", str(tmp_path))
        assert code == 0 and f"{tmp_path}/sweeps/other/trials: it is a file, and no folder" in err
