"""Detect the file system of a path: a database file on a network file system loses data."""

from __future__ import annotations

from pathlib import Path

from orchestrator.storage.base import StorageError
from trm_data.addresses import split_address

NETWORK = ("nfs", "cifs", "smb", "lustre", "beegfs", "ceph", "glusterfs", "9p", "fuse.sshfs", "fuse.s3fs")
MOUNTS = Path("/proc/self/mounts")


def file_system(path: Path, mounts: str | None = None) -> str:
    """Return the type of the file system of a path, existing or not (`ext4`, `nfs4`); empty if unknown.

    `mounts`: the content of `/proc/self/mounts`.
    """
    if mounts is None:
        try:
            mounts = MOUNTS.read_text()
        except OSError:
            return ""
    target = path.absolute()
    found = [line.split() for line in mounts.splitlines()]
    holders = [(fields[1].replace("\\040", " "), fields[2]) for fields in found if len(fields) > 2]
    best = [(len(point), kind) for point, kind in holders if target == Path(point) or Path(point) in target.parents]
    return max(best, default=(0, ""))[1]  # of several mounts on one point the last hides the others; they sort alike


def refuse_network_database(uri: str, mounts: str | None = None) -> None:
    """Raise StorageError for an SQLite file, or an Optuna journal, on a network file system.

    Locks are unreliable there: writers on two machines silently destroy the file.
    """
    parts = split_address(uri)
    if parts.scheme.partition("+")[0] not in ("sqlite", "journal", ""):
        return
    path = Path(parts.path[1:] if parts.scheme and parts.path.startswith("//") else parts.path)
    kind = file_system(path, mounts)
    if kind.startswith(NETWORK):
        raise StorageError(
            f"the database {path} lies on a network file system ({kind}), where its locks do not hold",
            "Name a file on a local disk, a server (--tracking http://HOST:PORT), or --tracking none",
        )
