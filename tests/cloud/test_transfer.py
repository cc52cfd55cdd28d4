"""Records between the user's storage and the machine: both ways, without locks, and nothing from outside the sweep."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cloud.backend import CloudError, Deployment
from orchestrator.cloud.ssh.connection import Connection
from orchestrator.cloud.ssh.transfer import fetch_records, send_records
from orchestrator.storage import open_storage
from tests.cloud.conftest import Box


def test_records_go_there_and_come_back(box: Box, tmp_path: Path) -> None:
    mine, there = open_storage(str(tmp_path / "mine")), tmp_path / "there/runs"
    for key in ("sweep.json", "trials/a/trial.json", "lock.json", "stop.json"):
        mine.write(f"sweeps/s/{key}", key.encode())
    mine.write("sweeps/other/sweep.json", b"other")
    deployment = Deployment(name="s", backend="ssh", storage=str(there), is_remote=True, created_s=0.0)
    with Connection("box", box.config) as connection:
        assert send_records(connection, mine, deployment) == 2
        remote = open_storage(str(there))
        assert remote.list() == ["sweeps/s/sweep.json", "sweeps/s/trials/a/trial.json"]
        remote.write("sweeps/s/trials/b/result.json", b"new")
        remote.write("sweeps/s/lock.json", b"theirs")
        remote.write("sweeps/other/sweep.json", b"theirs")
        assert fetch_records(connection, mine, deployment) == 3
    assert mine.read("sweeps/s/trials/b/result.json") == b"new"
    assert mine.read("sweeps/s/lock.json") == b"lock.json" and mine.read("sweeps/other/sweep.json") == b"other"


def test_archive_of_a_machine_writes_only_below_its_sweep(tmp_path: Path) -> None:
    """A machine may send anything: links, other sweeps, paths that climb."""
    mine = open_storage(str(tmp_path / "mine"))
    deployment = Deployment(name="s", backend="ssh", storage="x", is_remote=True, created_s=0.0)

    class Hostile(Connection):
        def receive(self, script: str, file: Path) -> None:
            with tarfile.open(file, "w") as tar:
                for name in ("sweeps/s/good", "sweeps/s/../../up", "/abs", "sweeps/other/x", "sweeps/s/../other/x"):
                    entry = tarfile.TarInfo(name)
                    entry.size = 1
                    tar.addfile(entry, io.BytesIO(b"x"))
                link = tarfile.TarInfo("sweeps/s/link")
                link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(link)

    assert fetch_records(Hostile("box"), mine, deployment) == 1
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == ["mine/sweeps/s/good"]


def _sparse(file: Path) -> None:
    """An archive of some kilobytes whose only file would have a terabyte (format of GNU tar)."""
    entry = tarfile.TarInfo("sweeps/s/huge")
    entry.type, entry.size = tarfile.GNUTYPE_SPARSE, 512
    block = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    block[386:398] = b"00000000000\x00"  # at offset 0
    block[398:410] = b"00000001000\x00"  # 512 bytes
    block[483:495] = b"\x80" + (10**12).to_bytes(11, "big")  # of a file of this size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    file.write_bytes(bytes(block) + bytes(512) + bytes(1024))


def _claims_too_much(file: Path) -> None:
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("sweeps/s/huge")
        entry.pax_headers = {"size": "9" * 30}
        tar.addfile(entry)


@pytest.mark.parametrize("write", [_sparse, _claims_too_much])
def test_an_archive_that_unpacks_to_more_than_it_is_writes_nothing(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    class Hostile(Connection):
        def receive(self, script: str, file: Path) -> None:
            write(file)

    mine = open_storage(str(tmp_path / "mine"))
    deployment = Deployment(name="s", backend="ssh", storage="x", is_remote=True, created_s=0.0)
    try:
        assert fetch_records(Hostile("box"), mine, deployment) == 0
    except CloudError as error:
        assert "came damaged" in str(error)
    assert mine.list() == []
