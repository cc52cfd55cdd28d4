"""The databases that `trm ui` keeps up to date: Optuna's of every storage, and MLflow's of records on S3."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from orchestrator.records.reader import read_trials
from orchestrator.records.schema import TrialRecord
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep.settings import configure
from orchestrator.tracking.mlflow import MlflowSync
from orchestrator.tracking.mlflow_connection import default_uri
from orchestrator.web import feed as feed_module
from orchestrator.web.feed import StorageFeed
from orchestrator.web.follower import Follower, views_folder
from tests.support.results import make_record
from tests.support.sweeps import search
from tests.support.tracking import SWEEP, finished, record, write_record


@pytest.fixture(autouse=True)
def read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "READ_EVERY_S", 0.0)
    monkeypatch.setattr(feed_module, "READING_SHARE", 1e9)


SEARCH = search(name="depth")


def explored(cycles: int) -> TrialRecord:
    """A finished trial of the search."""
    config = configure(SEARCH.base, {"model.cycles": cycles, "model.latent_steps": 2})
    return make_record(config, score=0.9, sweep="depth")


def values(url: str) -> list[float | None]:
    study = optuna.load_study(study_name="depth", storage=url)
    return [trial.value for trial in study.get_trials(deepcopy=False)]


def test_optunas_view_follows_the_records(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "runs"))
    told: list[str] = []
    follower = Follower(StorageFeed(storage), told.append, copies_to_mlflow=False)
    follower.sync()
    assert follower.study_ids == {} and not follower.has_searches(), "there is no search yet"
    storage.write("sweeps/depth/sweep.json", to_json_bytes(SEARCH.plain()))
    write_record(storage, explored(1))
    follower.sync()
    assert list(follower.study_ids) == ["depth"] and len(values(follower.optuna_url)) == 1
    write_record(storage, explored(2))
    follower.sync()
    assert len(values(follower.optuna_url)) == 2 and told == []
    assert not (tmp_path / "runs" / "mlflow.db").exists(), "the driver writes to it"


def test_nothing_is_written_again_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(str(tmp_path / "runs"))
    storage.write("sweeps/depth/sweep.json", to_json_bytes(SEARCH.plain()))
    write_record(storage, explored(1))
    follower = Follower(StorageFeed(storage), pytest.fail, copies_to_mlflow=False)
    follower.sync()
    monkeypatch.setattr("orchestrator.tracking.optuna_dashboard.sync", lambda *_: pytest.fail("nothing is new"))
    follower.sync()


def test_a_broken_sweep_is_told_once_and_the_others_follow(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "runs"))
    storage.write("sweeps/broken/sweep.json", b"{")
    storage.write("sweeps/depth/sweep.json", to_json_bytes(SEARCH.plain()))
    write_record(storage, explored(1))
    told: list[str] = []
    follower = Follower(StorageFeed(storage), told.append, copies_to_mlflow=False)
    follower.sync()
    follower.sync()
    assert len(told) == 1 and told[0].startswith("sweep broken: ") and len(values(follower.optuna_url)) == 1


def on_s3(s3_bucket: str) -> Storage:
    storage = open_storage(s3_bucket)
    storage.write("sweeps/depth/sweep.json", to_json_bytes(SWEEP.plain()))
    write_record(storage, finished(0))
    return storage


def test_mlflow_gets_a_copy_of_records_on_s3_that_follows_them(
    s3_bucket: str, tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug E7: `trm ui` refused a storage on S3."""
    monkeypatch.setenv("TRM_CACHE", str(tmp_path / "cache"))
    storage = on_s3(s3_bucket)
    folder = views_folder(storage)
    folder.mkdir(parents=True)
    assert folder.is_relative_to(tmp_path / "cache")
    (folder / "mlflow.db").write_bytes(migrated.read_bytes())
    keys = storage.list()
    follower = Follower(StorageFeed(storage), pytest.fail, copies_to_mlflow=True)
    follower.sync()
    reader = MlflowSync(default_uri(folder))
    assert reader.verify(SWEEP, read_trials(storage, "depth"), is_driven=False) == []
    assert follower.in_mlflow() == {"depth": "exact_accuracy"}
    write_record(storage, record(1, steps=3))
    follower.sync()
    assert reader.verify(SWEEP, read_trials(storage, "depth"), is_driven=False) == []
    assert set(keys) <= set(storage.list()) and not [key for key in storage.list() if "tracking/" in key], (
        "a viewer writes nothing to the bucket"
    )
