"""Copy the records of a sweep between the user's storage and the head, as one tar stream in each direction."""

from __future__ import annotations

import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

from orchestrator.cloud.backend import CloudError, Deployment
from orchestrator.cloud.ssh.connection import Connection, quoted
from orchestrator.storage import Storage
from orchestrator.storage.keys import checked_key
from orchestrator.storage.lease import LOCK, STOP

_NOT_COPIED = (LOCK, STOP)
"""Files of a sweep that are about a process of one machine."""


def send_records(connection: Connection, storage: Storage, deployment: Deployment) -> int:
    """Copy what the user's storage has of the sweep to the head, so that it is resumed there. Return how many files."""
    keys = [key for key in storage.list(f"sweeps/{deployment.name}") if _is_copied(key)]
    if not keys:
        return 0
    with tempfile.TemporaryDirectory(prefix="trm-upload-") as folder:
        archive = Path(folder) / "records.tar"
        with tarfile.open(archive, "w") as tar:
            for key in keys:
                data = storage.read(key)
                entry = tarfile.TarInfo(key)
                entry.size, entry.mtime, entry.mode = len(data), int(storage.modified_s(key)), 0o644
                tar.addfile(entry, BytesIO(data))
        connection.send(archive, deployment.storage)
    return len(keys)


def fetch_records(connection: Connection, storage: Storage, deployment: Deployment) -> int:
    """Copy what the head has of the sweep into the user's storage. Return how many files were written.

    The archive comes from another machine: only regular files below the folder of this sweep are taken.

    Raises:
        CloudError: the archive cannot be read.
    """
    top = f"sweeps/{deployment.name}"
    with tempfile.TemporaryDirectory(prefix="trm-fetch-") as folder:
        archive = Path(folder) / "records.tar"
        script = f"cd {quoted(deployment.storage)} && if [ -d {quoted(top)} ]; then tar -cf - {quoted(top)}; fi"
        connection.receive(script, archive)
        if not archive.stat().st_size:
            return 0
        count = 0
        try:
            with tarfile.open(archive) as tar:
                for entry in tar:
                    # A sparse file of a few bytes may unpack to terabytes.
                    is_plain = entry.isfile() and not entry.issparse() and entry.size <= archive.stat().st_size
                    file = tar.extractfile(entry) if is_plain else None
                    if file is None or not entry.name.startswith(f"{top}/") or not _is_copied(entry.name):
                        continue
                    storage.write(checked_key(entry.name), file.read())
                    count += 1
        except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
            raise CloudError(f"the records of {connection.host} came damaged: {error}", "Try again") from None
    return count


def _is_copied(key: str) -> bool:
    parts = key.split("/")
    return parts[-1] not in _NOT_COPIED and not any(part.startswith(".") for part in parts)
