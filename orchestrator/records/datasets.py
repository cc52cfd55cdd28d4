"""Datasets where trials can reach them: built once, kept in the storage, opened from a local disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from orchestrator.storage import LocalStorage, Storage
from trm_data import DataRequest, Dataset, build, open_dataset

Progress = Callable[[str, int, int], None]


def cache_root() -> Path:
    """Where datasets of a remote storage are kept on this machine."""
    return Path.home() / ".cache" / "trm" / "datasets"


def local_root(storage: Storage) -> Path:
    """The folder that datasets are opened from: the storage's own where it is local, else the cache."""
    return storage.root / "datasets" if isinstance(storage, LocalStorage) else cache_root()


def provide(storage: Storage, request: DataRequest, progress: Progress | None = None) -> Dataset:
    """Build what `request` asks for, or find it, and make sure that every node can get it from the storage."""
    dataset = build(request, local_root(storage), progress)
    if not isinstance(storage, LocalStorage):
        _upload(storage, dataset.path)
    return dataset


def find(storage: Storage, name: str, progress: Progress | None = None) -> Dataset:
    """A built dataset by folder or name, else the benchmark's default one, built if need be."""
    if (Path(name) / "manifest.json").is_file():
        return open_dataset(Path(name))
    if "/" not in name and storage.exists(f"datasets/{name}/manifest.json"):
        return ensure_local(storage, name)
    return provide(storage, DataRequest(benchmark=name), progress)


def ensure_local(storage: Storage, name: str) -> Dataset:
    """Open the dataset `name`, fetching it from the storage first where this machine does not have it.

    Raises:
        KeyError: the storage does not hold it.
    """
    path = local_root(storage) / name
    if not path.is_dir() and not isinstance(storage, LocalStorage):
        _download(storage, name, path)
    return open_dataset(path)


def _upload(storage: Storage, path: Path) -> None:
    """The manifest goes last: whoever sees it sees the whole dataset."""
    prefix = f"datasets/{path.name}"
    if storage.exists(f"{prefix}/manifest.json"):
        return
    files = sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.name == "manifest.json")
    for file in files:
        storage.write(f"{prefix}/{file.relative_to(path).as_posix()}", file.read_bytes())


def _download(storage: Storage, name: str, path: Path) -> None:
    prefix = f"datasets/{name}/"
    keys = storage.list(prefix.rstrip("/"))
    if f"{prefix}manifest.json" not in keys:
        raise KeyError(f"{prefix}manifest.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{name}."))
    try:
        for key in keys:
            target = aside / key.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(storage.read(key))
        try:
            aside.rename(path)
        except OSError:
            if not path.is_dir():
                raise
            # another trial on this machine was faster: its copy is as good
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class Library:
    """The datasets of a sweep, provided once each."""

    def __init__(self, storage: Storage, progress: Progress | None = None) -> None:
        self._storage = storage
        self._progress = progress
        self._datasets: dict[DataRequest, Dataset] = {}

    def get(self, request: DataRequest) -> Dataset:
        """Build or find."""
        if request not in self._datasets:
            self._datasets[request] = provide(self._storage, request, self._progress)
        return self._datasets[request]
