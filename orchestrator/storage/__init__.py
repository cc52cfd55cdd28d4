"""Store records and checkpoints in a local folder or below a prefix of an S3 bucket, behind one small interface.

    storage = open_storage("runs")                       # or s3://bucket/prefix?region=eu-west-1&endpoint_override=http://..
    storage.write("sweeps/depth/sweep.json", data)

Invariant: a key holds a whole value or does not exist. A local value is written to a temporary file and renamed (or
linked, for an exclusive creation); on S3 it is one PUT. A storage is a plain value: it can be pickled and used in
another process.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

from orchestrator.errors import DEFAULT_STORAGE
from orchestrator.storage.base import Storage, StorageError, Tagged
from orchestrator.storage.keys import checked_key
from orchestrator.storage.local import LocalStorage
from orchestrator.storage.patience import PATIENCE_S
from orchestrator.storage.s3 import S3Storage
from trm_data.addresses import has_credentials, shown_address
from trm_data.errors import nearest
from trm_data.files import expand_home

__all__ = [
    "LocalStorage",
    "S3Storage",
    "Storage",
    "StorageError",
    "Tagged",
    "as_storage",
    "existing_storage",
    "open_storage",
    "storage_to_read",
]

_INCOMPLETE = re.compile(r"(s3|file):(?=/?[^/]|/?$)")
"""Begins an address that lacks a slash, which would otherwise be taken for a folder."""
_REMEDY = "Name the folder that a sweep wrote to"
_S3_OPTIONS = ("endpoint_override", "region")


def open_storage(url: str, *, attempts: int = 4, patience_s: float = PATIENCE_S) -> Storage:
    """Open a storage by its address: a local path, or `s3://bucket/prefix` with `endpoint_override` and `region` as
    options.

    Nothing is created or contacted yet. Credentials, region and endpoint come from where AWS tools look for them.

    Args:
        attempts: how often botocore tries one S3 request, with pauses of seconds.
        patience_s: for how long a request is repeated after faults that may pass: a lost connection, a busy server.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        if not url:
            raise StorageError("the storage has an empty address", "Name a folder or s3://bucket/prefix")
        if found := _INCOMPLETE.match(url):
            raise StorageError(
                f"storage {url!r}: {found[0]!r} is followed by one slash or none",
                f"Write {found[1]}://..., or ./{url} for a folder of that name",
            )
        return LocalStorage(_absolute(url), patience_s)
    if scheme == "file":
        return LocalStorage(_absolute(rest), patience_s)
    if scheme != "s3":
        raise StorageError(f"storage {url!r}: unknown scheme {scheme!r}", "Name a folder or s3://bucket/prefix")
    return replace(_parse_s3(url, rest, attempts), patience_s=patience_s)


def as_storage(storage: Storage | str | Path) -> Storage:
    """Return the storage, opened with `open_storage` if an address is given."""
    return open_storage(str(storage)) if isinstance(storage, str | Path) else storage


def existing_storage(storage: Storage | str | Path) -> Storage:
    """Return the storage as `as_storage` does.

    Raises:
        StorageError: its address is a folder that does not exist, or a file.
    """
    store = as_storage(storage)
    if store is storage or not isinstance(store, LocalStorage) or store.root.is_dir():
        return store
    if store.root.exists():
        raise StorageError(f"storage {store.url} is a file, not a folder", _REMEDY)
    others = [path.parent.name for path in store.root.parent.glob("*/sweeps")]
    similar = difflib.get_close_matches(store.root.name, others, n=1)
    hint = f"Did you mean {str(store.root.with_name(similar[0]))!r}?" if similar else ""
    raise StorageError(f"no storage {store.url}: there is no such folder", hint or _REMEDY)


def storage_to_read(storage: Storage | str | Path) -> Storage:
    """Return an existing storage, as `existing_storage` does; the default one may have no folder yet."""
    return as_storage(storage) if str(storage) == DEFAULT_STORAGE else existing_storage(storage)


def _absolute(path: str) -> Path:
    return expand_home(path).absolute()  # a worker on this machine may have another current folder


def _parse_s3(url: str, rest: str, attempts: int) -> S3Storage:
    location, _, query = rest.partition("?")
    bucket, _, prefix = location.partition("/")
    if has_credentials(url):
        raise StorageError(
            f"the address of the storage, {shown_address(url)!r}, contains credentials",
            "Leave them out: they come from where AWS tools look (AWS_ACCESS_KEY_ID, ~/.aws, the machine's role)",
        )
    if not bucket:
        raise StorageError(f"storage {url!r} names no bucket", "Write s3://bucket/prefix")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in _S3_OPTIONS:
            raise StorageError(f"storage {url!r}: unknown option {name!r}", nearest(name, _S3_OPTIONS))
    prefix = prefix.strip("/")
    return S3Storage(
        bucket=bucket,
        prefix=checked_key(prefix) if prefix else "",
        endpoint=options.get("endpoint_override"),
        region=options.get("region"),
        attempts=attempts,
    )
