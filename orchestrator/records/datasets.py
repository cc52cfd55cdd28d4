"""Provide datasets to trials: built once, kept in the storage, opened from a local disk."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.records.stored import DamagedRecordError, read_json
from orchestrator.storage import LocalStorage, Storage
from trm_data import DataRequest, Dataset, build, fingerprint, open_dataset
from trm_data import find as find_built
from trm_data.building.identity import public_request
from trm_data.config import MANIFEST
from trm_data.dataset.manifest import Manifest, UnknownKindError
from trm_data.errors import ConfigError, DataError
from trm_data.files import temporary_folder
from trm_data.sources.files import parse_address

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
CACHE_VARIABLE = "TRM_CACHE"
_SET_CACHE = f"Set {CACHE_VARIABLE} to a folder that can be written"


class CacheError(ConfigError):
    """Report that this machine has no folder for what can be downloaded again, or cannot write to it."""


def cache_folder() -> Path:
    """Return the folder for what can be downloaded or built again: `TRM_CACHE`, or `~/.cache/trm`.

    A container or a cluster node may have no home folder that can be written.

    Raises:
        CacheError: the variable is not set, and this user has no home folder.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    try:
        return Path.home() / ".cache" / "trm"
    except RuntimeError:
        raise CacheError("this user has no home folder to keep downloads in", _SET_CACHE) from None


def cache_root() -> Path:
    """Return the folder of this machine that caches the datasets of remote storages."""
    return cache_folder() / "datasets"


def local_root(storage: Storage) -> Path:
    """Return the folder from which datasets are opened: the storage's own if it is local, else the cache."""
    return storage.root / "datasets" if isinstance(storage, LocalStorage) else cache_root()


def provide(storage: Storage, request: DataRequest, progress: Progress | None = None) -> Dataset:
    """Find or build the dataset of `request`, and make sure that every node can get it from the storage."""
    root = local_root(storage)
    if not isinstance(storage, LocalStorage):
        _make_cache(root)
    dataset = build(request, root, progress)
    if not isinstance(storage, LocalStorage):
        _upload(storage, dataset.path)
    return dataset


def find(storage: Storage, name: str, progress: Progress | None = None) -> Dataset:
    """Open a built dataset by folder or name, else the benchmark's default one, which is built if necessary."""
    if (Path(name) / "manifest.json").is_file():
        return open_dataset(Path(name))
    if "/" not in name and storage.exists(f"datasets/{name}/manifest.json"):
        return ensure_local(storage, name)
    return provide(storage, DataRequest(benchmark=name), progress)


def locate(storage: Storage, name: str, progress: Progress | None = None) -> Path:
    """Return the folder of a dataset, resolved as by `find` but without opening it: it may be damaged."""
    if (Path(name) / MANIFEST).is_file():
        return Path(name)
    if "/" not in name and storage.exists(f"datasets/{name}/{MANIFEST}"):
        return _local_folder(storage, name)
    built = find_built(DataRequest(benchmark=name), local_root(storage))
    return provide(storage, DataRequest(benchmark=name), progress).path if built is None else built


def ensure_local(storage: Storage, name: str) -> Dataset:
    """Open the dataset `name`, downloading it from the storage first if this machine lacks it or has damaged it.

    Raises:
        KeyError: the storage does not hold it.
        DataError: the name leads out of the folder of datasets, or the storage's copy is damaged.
        CacheError: this machine cannot store what it downloads.
    """
    path = _local_folder(storage, name)
    try:
        return open_dataset(path)
    except UnknownKindError:
        raise
    except DataError as error:
        if isinstance(storage, LocalStorage):
            raise
        logger.warning("%s: it is downloaded again", error.what)
    _download(storage, name, path, replace=True)
    return open_dataset(path)


def _local_folder(storage: Storage, name: str) -> Path:
    if not name or name != Path(name).name or name.startswith("."):  # may come from another user's record
        raise DataError(f"{name!r} is not a name of a dataset in {storage.url}", "Name a built dataset with --dataset")
    path = local_root(storage) / name
    if not path.is_dir() and not isinstance(storage, LocalStorage):
        _download(storage, name, path)
    return path


def provide_stored(storage: Storage, request: DataRequest, progress: Progress | None = None) -> Dataset:
    """Provide the dataset of a stored request: generated if necessary, but from a source only if it is built already.

    The source is a path or address of the record's author: reading it here could expose files of the current user.

    Raises:
        DataError: the storage holds no dataset that was built from this source.
    """
    sources = [source for source in (request.source, request.extra_training) if source is not None]
    if not sources:
        return provide(storage, request, progress)
    wanted = public_request(request)
    for key in sorted(storage.list("datasets")):
        _, name, *rest = key.split("/")
        if rest == [MANIFEST] and _request_of(storage, key) == wanted.plain():
            return ensure_local(storage, name)
    raise DataError(
        f"{storage.url} holds no dataset built from {parse_address(sources[0])}, which only a record names",
        "Build it with `trm data build`, or name the sweep's own file: trm sweep run FILE",
    )


def _request_of(storage: Storage, key: str) -> Any:
    """Return what a stored manifest says that its dataset was built for; None if it is damaged or has just gone."""
    try:
        return read_json(storage, key).get("request")
    except (KeyError, DamagedRecordError):
        return None


def _make_cache(root: Path) -> None:
    """Create the folder for the datasets of remote storages. Raises CacheError if it cannot be written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(root, error) from error


def _unwritable(root: Path, error: OSError) -> CacheError:
    return CacheError(f"cannot write to the cache {root}: {error.strerror or error}", _SET_CACHE)


def _upload(storage: Storage, path: Path) -> None:
    """Upload a dataset unless the storage has all of its files."""
    manifest = Manifest.read(path)
    if not _is_held(storage, path.name, manifest):
        _write_files(storage, path, manifest)


def _write_files(storage: Storage, path: Path, manifest: Manifest) -> None:
    """Write the files of a dataset to a remote storage, the manifest last. Other files stay local."""
    for name in [*sorted(manifest.files), MANIFEST]:
        storage.write(f"datasets/{path.name}/{name}", (path / name).read_bytes())


def _is_held(storage: Storage, name: str, manifest: Manifest) -> bool:
    """Return whether the storage has every file of a dataset, whatever is in it."""
    return {f"datasets/{name}/{file}" for file in (*manifest.files, MANIFEST)} <= set(storage.list(f"datasets/{name}"))


def _is_intact(storage: Storage, name: str, manifest: Manifest) -> bool:
    """Return whether the storage has every file of a dataset as it was built. Reads all of them."""
    if isinstance(storage, LocalStorage):
        return _is_whole(local_root(storage) / name)
    prefix = f"datasets/{name}"
    try:
        if Manifest.model_validate(read_json(storage, f"{prefix}/{MANIFEST}"), context={}) != manifest:
            return False
        for file, wanted in manifest.files.items():
            _fetched(storage, f"{prefix}/{file}", wanted)
    except (KeyError, ValidationError, DamagedRecordError, DataError):
        return False
    return True


def _is_whole(path: Path) -> bool:
    """Return whether a folder of this machine holds a dataset as it was built."""
    try:
        open_dataset(path)
    except DataError:
        return False
    return True


def _download(storage: Storage, name: str, path: Path, *, replace: bool = False) -> None:
    """Download the files that the manifest names, and only these.

    Args:
        replace: what is in the cache is damaged.

    Raises:
        KeyError: the storage does not hold the dataset.
        DataError: a file is missing or is not the one that the manifest names.
        CacheError: this machine cannot store them.
    """
    _make_cache(path.parent)
    prefix = f"datasets/{name}"
    try:
        with temporary_folder(path.parent) as aside:
            (aside / MANIFEST).write_bytes(storage.read(f"{prefix}/{MANIFEST}"))
            for file, wanted in Manifest.read(aside).files.items():
                (aside / file).write_bytes(_fetched(storage, f"{prefix}/{file}", wanted))
            if replace:
                _discard(path)
            try:
                aside.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
                # another trial on this machine has downloaded the same files already
    except OSError as error:  # the cache's: a storage raises errors of its own
        raise _unwritable(path.parent, error) from error


def _discard(path: Path) -> None:
    """Remove a folder of the cache in one step, so that no other trial finds a part of it."""
    with temporary_folder(path.parent) as aside, suppress(FileNotFoundError):
        path.rename(aside / path.name)


def _fetched(storage: Storage, key: str, wanted: str) -> bytes:
    remedy = f"Delete {key.rsplit('/', 1)[0]} from the storage and build the dataset again"
    try:
        content = storage.read(key)
    except KeyError:
        raise DataError(f"{key} is missing in the storage", remedy) from None
    if hashlib.sha256(content).hexdigest() != wanted:
        raise DataError(f"{key}: its content has changed since it was built", remedy)
    return content


class Library:
    """Build or open each dataset of a sweep once."""

    def __init__(self, storage: Storage, progress: Progress | None = None, *, is_stored: bool = False) -> None:
        """Set `is_stored` if the requests come from a record, so that no source is opened (`provide_stored`)."""
        self._storage = storage
        self._provide = provide_stored if is_stored else provide
        self._progress = progress
        self._datasets: dict[DataRequest, Dataset] = {}
        self._doubted: set[DataRequest] = set()

    def get(self, request: DataRequest) -> Dataset:
        """Return the dataset of a request, built if necessary."""
        if request not in self._datasets:
            self._datasets[request] = self._provide(self._storage, request, self._progress)
        return self._datasets[request]

    def doubt(self, request: DataRequest) -> None:
        """Let the next `hold` of a dataset read its files: a trial has found that they are missing or damaged."""
        self._doubted.add(request)

    def hold(self, request: DataRequest) -> Dataset:
        """Return the dataset that `get` returns, restored if the storage has lost files of it since.

        Raises:
            DataError: it cannot be restored as it was.
        """
        known = self.get(request)
        if not self._is_usable(request, known):
            known = self._restored(request, known)
            if not self._is_usable(request, known):
                raise DataError(
                    f"{self._storage.url} still lacks files of the dataset {known.path.name} after they were written",
                    f"Delete datasets/{known.path.name} from the storage, then resume the sweep",
                )
            self._datasets[request] = known
        self._doubted.discard(request)
        return known

    def _is_usable(self, request: DataRequest, known: Dataset) -> bool:
        """Return whether a trial can use a dataset: by the names of its files, which every start of a trial can afford
        to list, or once by their content."""
        check = _is_intact if request in self._doubted else _is_held
        return check(self._storage, known.path.name, known.manifest)

    def _restored(self, request: DataRequest, known: Dataset) -> Dataset:
        """Write a dataset to the storage again: from this machine's cache if it has the whole of it, else as by `get`.

        A storage that still has the manifest counts as one that has the dataset, so that `get` would write nothing.
        """
        name, is_remote = known.path.name, not isinstance(self._storage, LocalStorage)
        logger.warning("files of the dataset %s are gone from the storage or damaged, it is provided again", name)
        if is_remote and _is_whole(known.path):
            _write_files(self._storage, known.path, known.manifest)
            return known
        found = self._provide(self._storage, request, self._progress)
        if found.fingerprint != known.fingerprint:
            raise DataError(
                f"the dataset {name} is gone from the storage or damaged, and its source has changed since then",
                "Restore the dataset or its source, then resume the sweep",
            )
        if is_remote and not self._is_usable(request, found):
            _write_files(self._storage, found.path, found.manifest)
        return found

    def fingerprint(self, request: DataRequest) -> str:
        """Return the identity of the dataset that `get` returns, without generating it."""
        has_source = request.source is not None or request.extra_training is not None
        if has_source and self._provide is provide_stored:
            return self.get(request).fingerprint
        return fingerprint(request)
