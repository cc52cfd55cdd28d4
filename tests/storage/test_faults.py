"""Faults that pass are waited for; those that last are said at once; what dead processes leave is removed."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.failures import FailureKind, classify, is_out_of_space
from orchestrator.storage import LocalStorage, StorageError, open_storage, patience
from orchestrator.storage.patience import TransientError, retry_transient
from trm_data.errors import UserError
from trm_data.files import abandoned_files, machine_id, private_folder, temporary_name, write_atomic, writing_remedy


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.001)


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


def test_what_fails_in_passing_is_repeated_for_the_given_time_and_no_longer() -> None:
    clock, calls = Clock(), []

    def fail() -> None:
        calls.append(clock())
        raise TransientError("busy")

    with pytest.raises(StorageError, match="busy"):
        retry_transient(fail, 300.0, clock=clock, sleep=clock.sleep)
    assert clock.now_s == pytest.approx(300) and len(calls) > 15
    assert max(clock.pauses) <= patience.LONGEST_PAUSE_S
    with pytest.raises(StorageError):
        retry_transient(fail, 0.0, clock=clock, sleep=clock.sleep)


def test_what_lasts_is_not_repeated() -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise StorageError("no such bucket")

    with pytest.raises(StorageError):
        retry_transient(fail, 300.0)
    assert len(calls) == 1


def failing_times(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, times: int, error: Exception) -> list[int]:
    """Let a function fail some times first; the list has an entry per call."""
    real, calls = getattr(target, name), []

    def faulty(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return real(*arguments, **named)

    monkeypatch.setattr(target, name, faulty)
    return calls


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOLCK])
def test_a_network_file_system_that_comes_back_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    storage = open_storage(str(tmp_path))
    failing_times(monkeypatch, os, "fsync", 3, OSError(code, os.strerror(code)))
    storage.write("a", b"1")
    failing_times(monkeypatch, Path, "read_bytes", 3, OSError(code, os.strerror(code)))
    assert storage.read("a") == b"1"


STALE = OSError(errno.ESTALE, os.strerror(errno.ESTALE))


@pytest.mark.parametrize(
    ("target", "name", "call", "expected"),
    [
        (Path, "hardlink_to", lambda storage: storage.create("new", b"2"), True),
        (os, "fsync", lambda storage: storage.create("a", b"2"), False),
        (Path, "replace", lambda storage: storage.replace_if("a", b"2", storage.read_tagged("a").etag) is None, False),
        (Path, "unlink", lambda storage: storage.delete_if("a", storage.read_tagged("a").etag), True),
        (Path, "unlink", lambda storage: storage.delete("a"), None),
        (Path, "stat", lambda storage: storage.exists("a"), True),
        (Path, "stat", lambda storage: storage.age_s("a") >= -1, True),
        (os, "scandir", lambda storage: storage.list(), ["a", "b/c"]),
        (os, "scandir", lambda storage: storage.sizes("b"), {"b/c": 2}),
        (os, "scandir", lambda storage: storage.folders(), ["b"]),
        (os, "scandir", lambda storage: set(storage.snapshots("b", ["c"], {})), set()),
        (os, "scandir", lambda storage: "c" in storage.snapshot("b", ["c"]).files, True),
    ],
)
def test_every_call_waits_for_a_network_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any, name: str, call: Callable[[Any], Any], expected: Any
) -> None:
    storage = open_storage(str(tmp_path))
    storage.write("a", b"1")
    storage.write("b/c", b"22")
    calls = failing_times(monkeypatch, target, name, 2, STALE)
    assert call(storage) == expected
    assert len(calls) > 2


def test_what_succeeded_although_an_error_was_reported_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(str(tmp_path))

    def lost_answer(target: Any, name: str) -> None:
        real, calls = getattr(target, name), []

        def faulty(*arguments: Any, **named: Any) -> Any:
            calls.append(real(*arguments, **named))
            if len(calls) == 1:
                raise STALE
            return calls[-1]

        monkeypatch.setattr(target, name, faulty)

    lost_answer(Path, "hardlink_to")
    assert storage.create("a", b"1") and not storage.create("a", b"1")
    lost_answer(Path, "replace")
    etag = storage.replace_if("a", b"2", storage.read_tagged("a").etag)
    assert etag == storage.read_tagged("a").etag and storage.read("a") == b"2"
    lost_answer(Path, "unlink")
    assert storage.delete_if("a", etag)


def test_a_key_that_is_deleted_during_a_repeated_creation_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, real, calls = open_storage(str(tmp_path)), Path.hardlink_to, []

    def link(self: Path, target: Path) -> None:
        calls.append(self)
        if len(calls) == 1:
            raise STALE
        if len(calls) == 2:  # another process held the key, and deleted it since
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))
        real(self, target)

    monkeypatch.setattr(Path, "hardlink_to", link)
    assert storage.create("lock", b"1") and storage.read("lock") == b"1"
    assert not storage.create("lock", b"2")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_forbidden_disk_is_said_at_once_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    storage = open_storage(str(tmp_path))
    calls = failing_times(monkeypatch, os, "fsync", 99, OSError(code, os.strerror(code)))
    with pytest.raises(StorageError) as caught:
        storage.write("a", b"1")
    assert len(calls) == 1 and isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == code
    assert classify(caught.value) is FailureKind.STORAGE and is_out_of_space(caught.value) == (code == errno.ENOSPC)


def test_a_brief_request_gives_a_server_up_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.storage.s3.BRIEF_S", 0.5)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    errors: list[str] = []

    def read(address: str) -> None:
        try:
            open_storage(address).brief().read("a")
        except StorageError as error:
            errors.append(error.what)

    with socket.create_server(("127.0.0.1", 0)) as server:  # the system accepts, and nothing answers
        address = f"s3://bucket/x?endpoint_override=http://127.0.0.1:{server.getsockname()[1]}&region=us-east-1"
        thread = threading.Thread(target=read, args=(address,), daemon=True)
        thread.start()
        thread.join(40)
        assert errors and "cannot be reached" in errors[0]
        server.accept()[0].close()
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


class TestS3:
    def test_a_body_that_is_cut_off_is_read_again(self, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from botocore.exceptions import IncompleteReadError
        from botocore.response import StreamingBody

        storage = open_storage(s3_bucket)
        storage.write("a", b"whole")
        error = IncompleteReadError(actual_bytes=1, expected_bytes=5)
        calls = failing_times(monkeypatch, StreamingBody, "read", 2, error)
        assert storage.read("a") == b"whole" and len(calls) == 3

    @pytest.mark.parametrize(
        ("code", "status"), [("SlowDown", 503), ("InternalError", 500), ("ConditionalRequestConflict", 409)]
    )
    def test_an_answer_that_passes_is_no_lost_claim(
        self, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, code: str, status: int
    ) -> None:
        from botocore.exceptions import ClientError

        storage = open_storage(s3_bucket)
        assert storage.create("lock", b"1")
        etag = storage.read_tagged("lock").etag
        answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        failing_times(monkeypatch, storage._client, "put_object", 1, ClientError(answer, "PutObject"))  # type: ignore[attr-defined]
        assert storage.replace_if("lock", b"2", etag) is not None
        assert storage.read("lock") == b"2" and storage.replace_if("lock", b"3", etag) is None

    @pytest.mark.parametrize(("code", "status"), [("XMinioStorageFull", 507), ("QuotaExceeded", 403)])
    def test_a_full_server_is_out_of_space_and_not_asked_again(
        self, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, code: str, status: int
    ) -> None:
        from botocore.exceptions import ClientError

        storage = open_storage(s3_bucket)
        answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        refused = ClientError(answer, "PutObject")
        calls = failing_times(monkeypatch, storage._client, "put_object", 99, refused)  # type: ignore[attr-defined]
        with pytest.raises(StorageError, match="no space left on the server") as caught:
            storage.write("a", b"1")
        assert len(calls) == 1 and is_out_of_space(caught.value)

    def test_many_values_are_read_at_the_same_time(self, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        storage, all_are_read = open_storage(s3_bucket), threading.Barrier(8, timeout=120)

        def read(self: Any, key: str) -> bytes:
            all_are_read.wait()
            return key.encode()

        monkeypatch.setattr(type(storage), "read", read)
        keys = [f"k/{number}" for number in range(8)]
        assert storage.read_many(keys) == {key: key.encode() for key in keys}

    def test_a_bucket_that_has_never_answered_is_not_waited_for(
        self, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orchestrator.storage.s3.FIRST_CONTACT_S", 0.0)
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            open_storage("s3://bucket?endpoint_override=http://127.0.0.1:1", attempts=1).read("a")
        assert classify(caught.value) is FailureKind.STORAGE


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return open_storage(str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket"))


class TestContract:
    def test_versions_change_with_the_value_and_only_then(self, storage: Any) -> None:
        storage.write("a/b", b"1")
        storage.write("a/c", b"1")
        before = storage.versions("a")
        assert sorted(before) == ["a/b", "a/c"] and storage.versions("a") == before
        storage.write("a/b", b"2")
        after = storage.versions("a")
        assert after["a/b"] != before["a/b"] and after["a/c"] == before["a/c"]

    def test_snapshots_show_the_files_that_are_asked_for(self, storage: Any) -> None:
        for key in ("t/x/a.json", "t/x/in/b", "t/x/in/deep/c", "t/x/other/d", "t/x/e.json", "t/y/e.json", "t/f"):
            storage.write(key, b"1")
        names = ("a.json", "in/")
        found = storage.snapshots("t", names, {})
        assert sorted(found) == ["x", "y"] and found["y"].names == []
        assert found["x"].names == ["a.json", "in/b", "in/deep/c"]
        assert storage.snapshot("t/x", names).files == found["x"].files
        again = storage.snapshots("t", names, found)
        assert {name: each.files for name, each in again.items()} == {name: each.files for name, each in found.items()}
        storage.write("t/x/in/b", b"22")
        storage.delete("t/x/a.json")
        changed = storage.snapshots("t", names, again)
        assert changed["x"].names == ["in/b", "in/deep/c"] and changed["x"].files != found["x"].files
        assert storage.snapshots("none", names, {}) == {} and storage.snapshot("none", names).names == []

    def test_folders_are_the_direct_ones(self, storage: Any) -> None:
        for key in ("a/x/1", "a/y/z/2", "a/top", "b/3"):
            storage.write(key, b"")
        assert storage.folders("a") == ["x", "y"] and storage.folders() == ["a", "b"] and storage.folders("no") == []

    def test_many_are_read_and_deleted_at_once(self, storage: Any) -> None:
        keys = [f"k/{number}" for number in range(30)]
        for key in keys:
            storage.write(key, key.encode())
        assert storage.read_many([*keys, "k/none"]) == {key: key.encode() for key in keys}
        storage.delete_many([*keys[1:], "k/none"])
        assert storage.list() == keys[:1] and storage.read_many([]) == {}

    def test_a_conditional_deletion_holds_for_one_version(self, storage: Any) -> None:
        storage.write("a", b"1")
        etag = storage.read_tagged("a").etag
        storage.write("a", b"2")
        assert not storage.delete_if("a", etag) and storage.read("a") == b"2"
        assert storage.delete_if("a", storage.read_tagged("a").etag) and not storage.exists("a")
        assert not storage.delete_if("a", etag) and not storage.delete_if("b/c", etag)

    def test_the_age_of_a_new_value_is_small_and_of_none_a_key_error(self, storage: Any) -> None:
        storage.write("a", b"1")
        assert -2 <= storage.age_s("a") < 60
        with pytest.raises(KeyError):
            storage.age_s("b")

    def test_patience_belongs_to_the_view_and_not_to_the_address(self, storage: Any) -> None:
        assert storage.patient(1.0).patience_s == 1.0 and storage.patient(1.0) == storage
        assert storage.patient(1.0).sub("x").patience_s == 1.0


KILLED = "import os, sys; os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
WRITERS: dict[str, str] = {
    "storage": "from orchestrator.storage import open_storage; open_storage(sys.argv[1]).write('a', b'x' * 1000)",
    "dataset": "from pathlib import Path; from trm_data import files; files.write_atomic(Path(sys.argv[1], 'a'), b'x')",
}


@pytest.mark.parametrize("code", WRITERS.values(), ids=WRITERS)
def test_what_a_killed_writer_leaves_is_found_and_goes_with_the_next_write(tmp_path: Path, code: str) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED + code, str(folder)], check=False)
    assert done.returncode == -9 and len(list(folder.iterdir())) == 1
    assert list(abandoned_files(tmp_path)) == list(folder.iterdir())
    open_storage(str(folder)).write("b", b"")
    assert [path.name for path in folder.iterdir()] == ["b"]


def _aged(path: Path, hours: float) -> Path:
    path.write_bytes(b"")
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))
    return path


def test_temporaries_of_the_living_and_new_ones_of_other_machines_stay(tmp_path: Path) -> None:
    stay = [
        _aged(tmp_path / temporary_name(), 99),
        _aged(tmp_path / f".{'0' * 12}-1-1-{'a' * 8}.tmp", 1),
        _aged(tmp_path / ".0123abcd.tmp", 1),
        _aged(tmp_path / "notes.tmp", 99),
        _aged(tmp_path / ".notes.tmp", 99),  # of another program
        _aged(tmp_path / ".sync.4711.tmp", 99),
    ]
    go = [
        _aged(tmp_path / f".{machine_id()}-{os.getpid()}-1-{'a' * 8}.tmp", 0),  # its PID was given to this process
        _aged(tmp_path / f".{'0' * 12}-1-1-{'b' * 8}.tmp", 25),
        _aged(tmp_path / ".4567cdef.tmp", 25),
        _aged(tmp_path / f".{'4567cdef' * 4}.tmp", 25),
        _aged(tmp_path / ".manifest.json.4711.tmp", 25),
    ]
    assert set(abandoned_files(tmp_path)) == set(go)
    open_storage(str(tmp_path)).write("b", b"")
    assert set(tmp_path.iterdir()) == {*stay, tmp_path / "b"}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_remedy_of_a_file_that_may_not_be_written_is_not_space(code: int) -> None:
    assert "space" not in writing_remedy(OSError(code, os.strerror(code)))
    assert "space" in writing_remedy(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


class TestPrivateFolder:
    @pytest.fixture(autouse=True)
    def _own_temporary_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def test_only_its_user_can_enter_it(self, tmp_path: Path) -> None:
        inside = private_folder("ray")
        assert inside == tmp_path / f"trm-{os.getuid()}" / "ray" and inside.is_dir()
        assert stat.S_IMODE(inside.parent.stat().st_mode) == 0o700
        inside.parent.chmod(0o777)
        private_folder()
        assert stat.S_IMODE(inside.parent.stat().st_mode) == 0o700

    @pytest.mark.parametrize("place", [lambda path: path.symlink_to(path.parent), lambda path: path.write_text("")])
    def test_what_somebody_else_put_there_is_refused(self, tmp_path: Path, place: Callable[[Path], object]) -> None:
        place(tmp_path / f"trm-{os.getuid()}")
        with pytest.raises(UserError, match="TMPDIR"):
            private_folder()


def test_an_atomic_write_leaves_no_temporary(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a/b", b"1")
    write_atomic(tmp_path / "a/b", b"2")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"] and (tmp_path / "a/b").read_bytes() == b"2"


def test_an_exclusive_creation_that_nfs_repeats_is_this_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client sends a call without an answer once more, and the server says of the second one that it exists."""
    link = Path.hardlink_to

    def sent_twice(self: Path, target: Path) -> None:
        link(self, target)
        link(self, target)

    monkeypatch.setattr(Path, "hardlink_to", sent_twice)
    storage = LocalStorage(tmp_path)
    assert storage.create("a/lock.json", b"1")
    assert not storage.create("a/lock.json", b"1")


@pytest.mark.parametrize("make", [lambda path, other: path.symlink_to(other), lambda path, other: os.mkfifo(path)])
def test_only_regular_files_are_values(
    make: Callable[[Path, Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("TOPSECRET")
    storage = LocalStorage(tmp_path / "runs")
    storage.write("sweeps/depth/sweep.json", b"{}")
    for key in ("sweeps/depth/trials/0/trial.json", "deployments/x.json"):
        path = tmp_path / "runs" / key
        path.parent.mkdir(parents=True)
        make(path, secret)
        with pytest.raises(KeyError):
            storage.read(key)
        with pytest.raises(KeyError):
            storage.modified_s(key)
        assert not storage.exists(key) and storage.read_many([key]) == {}
    assert storage.list() == ["sweeps/depth/sweep.json"] == list(storage.sizes())
    assert storage.snapshot("sweeps/depth", ["sweep.json", "trials/"]).names == ["sweep.json"]
    assert "trial.json is left out" in caplog.text
    storage.write("deployments/x.json", b"1")
    assert storage.read("deployments/x.json") == b"1" and secret.read_text() == "TOPSECRET"


def test_folders_of_a_sweep_are_no_links(tmp_path: Path) -> None:
    elsewhere = tmp_path / "home"
    elsewhere.mkdir()
    (elsewhere / "id_rsa").write_text("TOPSECRET")
    storage = LocalStorage(tmp_path / "runs")
    storage.write("sweeps/depth/sweep.json", b"{}")
    (tmp_path / "runs/sweeps/depth/trials").symlink_to(elsewhere)
    for folder in (storage.sub("sweeps/depth"), storage.sub("sweeps").sub("depth")):
        with pytest.raises(StorageError, match="trials is a link, which is not followed"):
            folder.read("trials/id_rsa")
        with pytest.raises(StorageError, match="is a link"):
            folder.write("trials/id_rsa", b"")
        assert folder.list() == ["sweep.json"] and folder.folders() == []
    assert (elsewhere / "id_rsa").read_text() == "TOPSECRET"


def test_a_whole_sweep_may_be_on_another_disk(tmp_path: Path) -> None:
    LocalStorage(tmp_path / "disk").write("depth/trials/0/trial.json", b"{}")
    (tmp_path / "runs/sweeps").mkdir(parents=True)
    (tmp_path / "runs/sweeps/depth").symlink_to(tmp_path / "disk/depth")
    storage = LocalStorage(tmp_path / "runs")
    assert storage.folders("sweeps") == ["depth"] and storage.read("sweeps/depth/trials/0/trial.json") == b"{}"


def test_a_link_that_leads_to_itself_hides_no_other_entry(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("sweeps/depth/sweep.json", b"{}")
    for folder in (tmp_path / "sweeps", tmp_path / "sweeps/depth"):
        (folder / "loop").symlink_to("loop")
    (tmp_path / "sweeps/other").symlink_to("depth")
    assert storage.folders("sweeps") == ["depth", "other"]
    assert "sweeps/depth/sweep.json" in storage.list() and not any("loop" in key for key in storage.sizes())
    assert storage.snapshot("sweeps/depth", ["sweep.json", "loop"]).names == ["sweep.json"]
    assert set(storage.snapshots("sweeps", ["sweep.json"], {})) == {"depth", "other"}
