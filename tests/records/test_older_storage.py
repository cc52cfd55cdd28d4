"""Records, checkpoints and sweeps that commit a9a5703 has written are shown, compared and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.storage import open_storage
from orchestrator.tracking.mlflow import MlflowSync, default_uri
from tests.support.older import unpack_older

TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return str(unpack_older("storage", tmp_path))


def printed(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What a command prints."""
    with pytest.raises(SystemExit) as ended:
        main(list(command))
    assert ended.value.code == 0
    return capsys.readouterr().out


def by_status(storage: str) -> dict[Status, list[TrialRecord]]:
    found: dict[Status, list[TrialRecord]] = {}
    for record in read_trials(open_storage(storage), "cut"):
        found.setdefault(record.status, []).append(record)
    return found


def test_status_shows_a_finished_an_interrupted_and_a_failed_trial(
    storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = json.loads(printed(capsys, "sweep", "status", "cut", "--storage", storage, "--json"))
    assert shown["counts"] == {"interrupted": 1, "finished": 1, "failed": 1}
    trials = {trial["status"]: trial for trial in shown["trials"]}
    assert trials["failed"]["reason"] == "RuntimeError: the data loader lost its file"
    assert trials["finished"]["step"] == trials["finished"]["max_steps"] == 150
    (interrupted,) = by_status(storage)[Status.INTERRUPTED]
    assert interrupted.attempts[0].start.git.commit == "a9a570308fed48270a58411e43b76fc3a9193e3a"
    assert interrupted.curve("loss", "train")


def test_leaderboard_and_ablation_compare_its_results(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables = json.loads(printed(capsys, "leaderboard", "--storage", storage, "--format", "json"))
    own = {entry["system"]: entry["seeds"] for entry in tables[0]["entries"] if entry["source"] == "this project"}
    assert own == {"T=1 (cut)": 1, "T=1 (compared)": 3, "T=2": 3}
    assert "T=2" in printed(
        capsys, "ablate", "compared", "--control", "T=1", "--storage", storage, "--format", "markdown"
    )


def test_mlflow_gets_every_point_of_it(storage: str, migrated: Path, tmp_path: Path) -> None:
    from orchestrator.records.index import load_definition

    (tmp_path / "mlflow.db").write_bytes(migrated.read_bytes())
    store = open_storage(storage)
    mlflow = MlflowSync(default_uri(tmp_path))
    for name in ("compared", "cut"):
        sweep, records = load_definition(store, name), read_trials(store, name)
        assert mlflow.sync(sweep, records).trials == len(records)
        assert mlflow.verify(sweep, records) == []


def test_resume_continues_from_the_checkpoint_and_repeats_nothing(storage: str) -> None:
    before = by_status(storage)
    (finished,), (interrupted,) = before[Status.FINISHED], before[Status.INTERRUPTED]
    folder = Path(storage) / "sweeps" / "cut" / "trials" / finished.trial_id
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = subprocess.run(
        [*TRM, "sweep", "resume", "cut", "--storage", storage, "--tracking", "none"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "complete, but 1 failed" in done.stdout, done.stderr
    after = by_status(storage)
    assert {status: len(records) for status, records in after.items()} == {Status.FINISHED: 3, Status.FAILED: 1}
    (resumed,) = [record for record in after[Status.FINISHED] if record.trial_id == interrupted.trial_id]
    assert [attempt.start.from_step for attempt in resumed.attempts] == [0, 28], "step of its checkpoint"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
