"""Datasets named by records and storages of others: nothing unlisted, changed or outside their folder is opened."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records import datasets
from orchestrator.records.datasets import Library, ensure_local, provide
from orchestrator.storage import LocalStorage, Storage, open_storage
from tests.support.commands import call
from tests.support.sweeps import TINY, set_options
from trm_data.config import DataRequest
from trm_data.errors import DataError

REQUEST = DataRequest(benchmark="sudoku-4x4", blanks=6, num_train=8, num_validation=4, num_test=4)


@pytest.fixture
def bucket(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Storage, str, Path]:
    """A remote storage with one dataset, its name, and the empty cache of another reader."""
    storage, cache = open_storage(s3_bucket), tmp_path / "cache"
    monkeypatch.setattr(datasets, "cache_root", lambda: tmp_path / "builder")
    name = provide(storage, REQUEST).path.name
    monkeypatch.setattr(datasets, "cache_root", lambda: cache)
    return storage, name, cache


def edit(storage: Storage, key: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file of a storage."""
    values = json.loads(storage.read(key))
    change(values)
    storage.write(key, json.dumps(values).encode())


def test_download_takes_only_what_the_manifest_lists(bucket: tuple[Storage, str, Path]) -> None:
    storage, name, cache = bucket
    for extra in ("sitecustomize.py", "deep/evil.arrow"):
        storage.write(f"datasets/{name}/{extra}", b"unlisted")
    dataset = ensure_local(storage, name)
    listed = {"manifest.json", ".checked.json", *dataset.manifest.files}
    assert {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()} == {
        f"{name}/{file}" for file in listed
    }


def test_download_of_a_changed_file_is_refused(bucket: tuple[Storage, str, Path]) -> None:
    storage, name, cache = bucket
    storage.write(f"datasets/{name}/puzzles.arrow", b"something else")
    with pytest.raises(DataError, match=r"puzzles\.arrow: its content has changed"):
        ensure_local(storage, name)
    storage.delete(f"datasets/{name}/puzzles.arrow")
    with pytest.raises(DataError, match=r"puzzles\.arrow is missing"):
        ensure_local(storage, name)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("lost", ["manifest.json", "examples.arrow"])
def test_dataset_of_which_a_bucket_lost_a_file_is_uploaded_again(
    lost: str, bucket: tuple[Storage, str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, name, cache = bucket
    monkeypatch.setattr(datasets, "cache_root", lambda: tmp_path / "builder")
    library = Library(storage)
    assert library.hold(REQUEST) is library.hold(REQUEST)
    storage.delete(f"datasets/{name}/{lost}")
    library.hold(REQUEST)
    monkeypatch.setattr(datasets, "cache_root", lambda: cache)
    assert ensure_local(storage, name).path == cache / name


@pytest.fixture
def held(bucket: tuple[Storage, str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """The library of a driver that has the dataset of `bucket` in its own cache."""
    monkeypatch.setattr(datasets, "cache_root", lambda: tmp_path / "builder")
    library = Library(bucket[0])
    library.get(REQUEST)
    return library


def is_readable_elsewhere(storage: Storage, name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether a machine with an empty cache can open a dataset."""
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "cache_root", lambda: cache)
        return ensure_local(storage, name).path == cache / name


@pytest.mark.parametrize("lost", ["examples.arrow", "manifest.json", ""])
def test_dataset_from_a_source_that_a_bucket_lost_is_uploaded_from_the_cache(
    lost: str, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed sweep does not open its source: only the cache of its driver still has the dataset."""
    monkeypatch.setattr(datasets, "cache_root", lambda: tmp_path / "builder")
    source, storage = tmp_path / "mine.txt", open_storage(s3_bucket)
    rows = ["".join(".1234"[cell - 1] for cell in cells) for cells in provide(storage, REQUEST).inputs]
    source.write_text("\n".join(rows))
    request = REQUEST.model_copy(update={"source": str(source), "blanks": None})
    name = provide(storage, request).path.name
    source.unlink()
    library = Library(storage, is_stored=True)
    library.hold(request)
    for key in list(storage.list(f"datasets/{name}")):
        if key.endswith(lost):
            storage.delete(key)
    assert library.hold(request).path.name == name
    assert is_readable_elsewhere(storage, name, tmp_path / "node", monkeypatch)


@pytest.mark.parametrize("damaged", ["examples.arrow", "manifest.json"])
def test_damaged_file_of_a_bucket_is_replaced_once_a_trial_has_found_it(
    damaged: str, held: Library, bucket: tuple[Storage, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, name, cache = bucket
    storage.write(f"datasets/{name}/{damaged}", b"something else")
    held.hold(REQUEST)
    assert storage.read(f"datasets/{name}/{damaged}") == b"something else", "only names are compared at each start"
    held.doubt(REQUEST)
    held.hold(REQUEST)
    assert is_readable_elsewhere(storage, name, cache, monkeypatch)


def test_damaged_file_of_a_bucket_is_replaced_by_a_new_build_where_no_cache_has_it(
    held: Library, bucket: tuple[Storage, str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, name, cache = bucket
    storage.write(f"datasets/{name}/examples.arrow", b"something else")
    shutil.rmtree(tmp_path / "builder")
    held.doubt(REQUEST)
    held.hold(REQUEST)
    assert is_readable_elsewhere(storage, name, cache, monkeypatch)


def test_dataset_that_cannot_be_restored_is_one_line_with_the_way_out(
    held: Library, bucket: tuple[Storage, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, name, _ = bucket
    monkeypatch.setattr(datasets, "_write_files", lambda *_: None)
    storage.delete(f"datasets/{name}/examples.arrow")
    with pytest.raises(DataError, match=f"still lacks files of the dataset {name}.*Delete datasets/{name}"):
        held.hold(REQUEST)


def test_damaged_dataset_of_a_folder_is_refused_with_the_way_out_once_a_trial_has_found_it(tmp_path: Path) -> None:
    library = Library(LocalStorage(tmp_path))
    path = library.hold(REQUEST).path
    (path / "examples.arrow").write_bytes(b"something else")
    library.hold(REQUEST)
    library.doubt(REQUEST)
    for _ in range(2):
        with pytest.raises(DataError, match=r"examples\.arrow: its content has changed.*Delete the dataset's folder"):
            library.hold(REQUEST)


@pytest.mark.parametrize("damage", ["bytes", "file", "manifest"])
def test_damaged_copy_in_a_cache_is_downloaded_again(damage: str, bucket: tuple[Storage, str, Path]) -> None:
    storage, name, cache = bucket
    path = ensure_local(storage, name).path
    if damage == "bytes":
        (path / "examples.arrow").write_bytes(b"something else")
    else:
        (path / {"file": "examples.arrow", "manifest": "manifest.json"}[damage]).unlink()
    assert ensure_local(storage, name).path == path
    assert list(cache.iterdir()) == [path]


def test_dataset_that_is_gone_is_not_built_from_a_source_that_has_changed(tmp_path: Path) -> None:
    source, storage = tmp_path / "mine.txt", LocalStorage(tmp_path / "runs")
    rows = ["".join(".1234"[cell - 1] for cell in cells) for cells in provide(storage, REQUEST).inputs]
    source.write_text("\n".join(rows))
    library = Library(storage)
    request = REQUEST.model_copy(update={"source": str(source), "blanks": None})
    built = library.hold(request).path
    shutil.rmtree(storage.root / "datasets")
    source.write_text("\n".join(reversed(rows)))
    with pytest.raises(DataError, match="its source has changed"):
        library.hold(request)
    source.write_text("\n".join(rows))
    assert library.hold(request).path == built


KILLED = """
import os, sys
from pathlib import Path
from orchestrator.records import datasets
from orchestrator.storage import open_storage

url, name, cache = sys.argv[1:]
datasets.cache_root = lambda: Path(cache)
datasets._fetched = lambda *arguments: os._exit(9)
datasets.ensure_local(open_storage(url), name)
"""


def test_download_removes_what_a_killed_download_left(bucket: tuple[Storage, str, Path], s3_bucket: str) -> None:
    storage, name, cache = bucket
    killed = subprocess.run([sys.executable, "-c", KILLED, s3_bucket, name, str(cache)])
    assert killed.returncode == 9
    (left,) = cache.iterdir()
    assert left.name.startswith(".") and (left / "manifest.json").is_file()
    path = ensure_local(storage, name).path
    assert list(cache.iterdir()) == [path]


@pytest.mark.parametrize("file", ["../../escaped.arrow", "/tmp/escaped.arrow", "conftest.py"])
def test_manifest_that_lists_files_elsewhere_is_refused(file: str, bucket: tuple[Storage, str, Path]) -> None:
    storage, name, cache = bucket
    edit(storage, f"datasets/{name}/manifest.json", lambda manifest: manifest["files"].update({file: "0" * 64}))
    with pytest.raises(DataError, match="is not a name of a dataset's file"):
        ensure_local(storage, name)
    assert list(cache.iterdir()) == []


def test_dataset_of_a_record_lies_in_the_storage(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "runs")
    elsewhere = provide(LocalStorage(tmp_path / "other"), REQUEST).path
    for name in (str(elsewhere), f"../../other/datasets/{elsewhere.name}", ".hidden", ""):
        with pytest.raises(DataError, match="is not a name of a dataset"):
            ensure_local(storage, name)


@pytest.fixture
def own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, Path, str]:
    """A list of puzzles, a storage in which a trial was trained on it, and the trial's address."""
    source, storage = tmp_path / "mine.txt", tmp_path / "runs"
    inputs = provide(LocalStorage(tmp_path / "generated"), REQUEST).inputs
    source.write_text("".join("".join(".1234"[cell - 1] for cell in cells) + "\n" for cells in inputs))
    sizes = {"data.num_train": 8, "data.num_validation": 4, "data.num_test": 4}
    settings = {**TINY, **sizes, "data.blanks": "null", "data.source": source}
    options = [*set_options(settings), "--storage", str(storage)]
    code, out, err = call(capsys, "train", *options, "--json")
    assert code == 0, err
    return source, storage, f"train/{json.loads(out)['trial_id']}"


def test_source_that_a_checkpoint_names_is_not_opened(
    own: tuple[Path, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, storage, address = own
    folder = storage / "sweeps" / address.replace("/", "/trials/") / "checkpoints"
    checkpoint = max(folder.glob("step-*"))
    code, _, err = call(capsys, "eval", str(checkpoint), "--storage", str(storage))
    assert code == 0, f"the dataset is built: {err}"
    code, _, err = call(capsys, "eval", str(checkpoint), "--storage", str(tmp_path / "empty"))
    assert code == 2 and f"holds no dataset built from {source}" in err and len(err.splitlines()) == 1


def test_source_that_only_a_stored_sweep_names_is_not_opened(
    own: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    source, storage, address = own
    config = json.loads((storage / "sweeps" / address.replace("/", "/trials/") / "trial.json").read_text())["config"]
    (storage / "sweeps/theirs").mkdir()
    (storage / "sweeps/theirs/sweep.json").write_text(json.dumps({"name": "theirs", "base": config}))
    shutil.rmtree(storage / "datasets")
    for name, manifest in (("deep", "[" * 100_000), ("empty", "")):
        (storage / "datasets" / name).mkdir(parents=True)
        (storage / "datasets" / name / "manifest.json").write_text(manifest)
    code, _, err = call(capsys, "sweep", "resume", "theirs", "--storage", str(storage), "--tracking", "none")
    assert code == 2 and f"holds no dataset built from {source}" in err and len(err.splitlines()) == 1
    assert {path.name for path in (storage / "datasets").iterdir()} == {"deep", "empty"}
    code, _, err = call(capsys, "trial", "reproduce", address, "--storage", str(storage))
    assert code == 2 and "holds no dataset built from" in err
