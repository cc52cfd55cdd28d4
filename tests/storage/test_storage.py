"""Storage: one contract for the local folder and for S3 (a moto server over HTTP)."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.storage import LocalStorage, Storage, StorageError, open_storage
from tests.support.foreign import LATIN_1, names_of, put
from trm_data.errors import UserError

HOSTILE = ["a'; echo foo", "per cent %2F + #?&=", "naïve ü 漢", "back\\slash", "-rf", "trailing "]


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(str(tmp_path / "it's a folder"))
    bucket, _, query = request.getfixturevalue("s3_bucket").partition("?")
    return open_storage(f"{bucket}/it's a prefix?{query}")


class TestContract:
    def test_a_written_value_is_read_back_and_may_be_overwritten(self, storage: Storage) -> None:
        storage.write("a/b.json", b"first")
        storage.write("a/b.json", b"")
        assert storage.read("a/b.json") == b""
        assert storage.exists("a/b.json")

    def test_a_missing_key_is_a_key_error(self, storage: Storage) -> None:
        storage.write("a/b", b"")
        for call in (storage.read, storage.read_tagged, storage.modified_s):
            for key in ("nothing", "a", "a/b/c"):
                with pytest.raises(KeyError, match=key):
                    call(key)
        assert not storage.exists("a")
        assert not storage.exists("nothing")

    def test_list_is_recursive_sorted_and_respects_whole_folder_names(self, storage: Storage) -> None:
        for key in ("run/2", "run/1/x", "runner/1", "top"):
            storage.write(key, b"")
        assert storage.list() == ["run/1/x", "run/2", "runner/1", "top"]
        assert storage.list("run") == ["run/1/x", "run/2"]
        assert storage.list("absent") == []

    def test_sizes_are_of_the_same_keys_as_the_list(self, storage: Storage) -> None:
        for key, data in (("run/2", b"12"), ("run/1/x", b""), ("runner/1", b"12345")):
            storage.write(key, data)
        assert storage.sizes("run") == {"run/1/x": 0, "run/2": 2}
        assert sorted(storage.sizes()) == storage.list()

    def test_sub_is_the_same_storage_seen_from_below(self, storage: Storage) -> None:
        below = storage.sub("sweeps").sub("depth")
        below.write("plan.jsonl", b"{}")
        assert storage.read("sweeps/depth/plan.jsonl") == b"{}"
        assert below.list() == ["plan.jsonl"]

    def test_delete_removes_and_forgives_a_missing_key(self, storage: Storage) -> None:
        storage.write("a", b"")
        storage.delete("a")
        storage.delete("a")
        storage.delete("b/c")
        assert storage.list() == []

    def test_values_are_copied_without_being_read(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        big = os.urandom(9 * 2**20)
        for key, data in (("one/a", big), ("one/b/c", b""), ("two/a", b"another")):
            storage.write(key, data)
        with monkeypatch.context() as patched:
            for name in ("read", "read_tagged", "read_many", "write"):
                patched.setattr(type(storage), name, lambda *_: pytest.fail("a value passes through the memory"))
            for _ in range(2):  # a copy may be repeated
                storage.copy_many({"one/a": "two/a", "one/b/c": "two/b/c"})
        assert storage.sizes("two") == {"two/a": len(big), "two/b/c": 0} and storage.read("two/a") == big
        storage.write("one/a", b"later")
        storage.delete("one/b/c")
        assert storage.read("two/a") == big and storage.exists("two/b/c")
        with pytest.raises(KeyError, match="nothing"):
            storage.copy_many({"nothing": "two/a"})

    def test_leftovers_are_removed_and_values_stay(self, storage: Storage) -> None:
        storage.write("top/kept/a", b"value")
        storage.write("top/gone/b/c", b"")
        storage.replace_if("top/gone/b/c", b"x", storage.read_tagged("top/gone/b/c").etag)
        storage.delete("top/gone/b/c")
        storage.remove_leftovers("top")
        storage.remove_leftovers("absent")
        assert storage.folders("top") == ["kept"] and storage.list() == ["top/kept/a"]
        storage.delete("top/kept/a")
        storage.remove_leftovers("top")
        assert storage.folders() == [] and not storage.is_blocked("top")

    def test_create_is_exclusive(self, storage: Storage) -> None:
        assert storage.create("locks/lock.json", b"mine")
        assert not storage.create("locks/lock.json", b"mine")  # also with equal bytes
        assert storage.read("locks/lock.json") == b"mine"
        storage.delete("locks/lock.json")
        assert storage.create("locks/lock.json", b"theirs")

    def test_replace_if_holds_only_for_the_version_that_was_read(self, storage: Storage) -> None:
        storage.write("lock", b"one")
        etag = storage.read_tagged("lock").etag
        second = storage.replace_if("lock", b"two", etag)
        assert second is not None and second == storage.read_tagged("lock").etag
        assert storage.replace_if("lock", b"three", etag) is None
        assert storage.read("lock") == b"two"
        storage.delete("lock")
        assert storage.replace_if("lock", b"four", second) is None
        assert storage.replace_if("absent/lock", b"four", second) is None
        assert storage.list() == []

    def test_modification_time_is_now(self, storage: Storage) -> None:
        began_s = time.time()
        storage.write("a", b"")
        assert began_s - 2 < storage.modified_s("a") < time.time() + 2

    def test_hostile_names_survive(self, storage: Storage) -> None:
        keys = [f"{name}/{name}" for name in HOSTILE]
        for key in keys:
            storage.write(key, key.encode())
        assert storage.list() == sorted(keys)
        assert [storage.read(key) for key in keys] == [key.encode() for key in keys]
        assert storage.sub(HOSTILE[0]).list() == [HOSTILE[0]]

    @pytest.mark.parametrize(
        "key", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/", ".hidden", "a/.lock", "nul\0", "new\nline"]
    )
    def test_a_key_that_leaves_its_root_or_hides_is_refused(self, storage: Storage, key: str) -> None:
        with pytest.raises(StorageError, match="is not a key"):
            storage.write(key, b"")

    def test_names_that_are_no_keys_are_in_no_listing_and_go_with_the_leftovers(self, storage: Storage) -> None:
        is_local = isinstance(storage, LocalStorage)
        storage.write("top/one/a", b"")
        storage.write("top/b", b"")
        foreign = ["Icon\r", "new\rline/c", "one/Icon\r", *([LATIN_1] if is_local else ["", "one/", "sent/", "x//y"])]
        for name in [*foreign, ".hidden"]:
            put(storage, f"top/{name}")
        listings = [storage.list(), list(storage.sizes("top")), list(storage.versions("top"))]
        assert all(sorted(found) == ["top/b", "top/one/a"] for found in listings)
        assert storage.snapshot("top", ["one/", "b", "new\rline/", "Icon\r"]).names == ["b", "one/a"]
        assert {*storage.folders("top"), *storage.snapshots("top", ["a"], {})} <= {"one", "sent", "x"}
        unusable = storage.unusable("top", is_deep=True)
        assert len(unusable) == 4 and "it holds 'one/Icon\\r', whose name cannot be printed" in unusable
        assert len(storage.unusable("top")) == (3 if is_local else 2) and not storage.unusable("absent")
        storage.remove_leftovers("top")
        assert names_of(storage) == {"top/one/a", "top/b", "top/.hidden"} and not storage.unusable("top", is_deep=True)

    def test_it_pickles_and_its_address_opens_it_again(self, storage: Storage) -> None:
        storage.write("before", b"1")  # a client exists by now
        for other in (pickle.loads(pickle.dumps(storage)), open_storage(storage.url)):
            assert other == storage
            assert other.read("before") == b"1"

    def test_another_process_goes_on_with_it(self, storage: Storage) -> None:
        code = "import pickle, sys; pickle.load(sys.stdin.buffer).write('from/child', b'hello')"
        subprocess.run([sys.executable, "-c", code], input=pickle.dumps(storage), check=True)
        assert storage.read("from/child") == b"hello"

    def test_a_value_of_several_megabytes_is_whole(self, storage: Storage) -> None:
        data = os.urandom(9 << 20)  # above the size at which upload helpers split a file
        storage.write("checkpoint", data)
        assert storage.read("checkpoint") == data


def in_threads(count: int, call: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=call, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class TestLocal:
    """Races, which only the local backend has to win itself: S3 decides them on its own side."""

    @pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
    def test_what_blocks_a_key_is_seen_and_removed_with_the_leftovers(self, tmp_path: Path, kind: str) -> None:
        storage, path, other = open_storage(str(tmp_path / "it")), tmp_path / "it" / "top" / "a", tmp_path / "other"
        storage.write("top/b", b"")
        storage.write("value", b"")
        other.mkdir()
        (other / "file").touch()
        {"folder": path.mkdir, "link": lambda: path.symlink_to(other), "pipe": lambda: os.mkfifo(path)}[kind]()
        assert storage.is_blocked("top/a") and not storage.is_blocked("value") and not storage.is_blocked("no")
        storage.remove_leftovers("top")
        assert not storage.is_blocked("top/a") and storage.list("top") == ["top/b"] and (other / "file").exists()

    @pytest.mark.parametrize("kind", ["file", "link", "pipe"])
    def test_what_stands_in_place_of_a_folder_holds_nothing_and_is_named(self, tmp_path: Path, kind: str) -> None:
        storage, path, other = open_storage(str(tmp_path / "it")), tmp_path / "it" / "a" / "b" / "c", tmp_path / "other"
        storage.write("a/b/kept", b"")
        other.mkdir()
        (other / "x").mkdir()
        (other / "file").touch()
        {"file": path.touch, "link": lambda: path.symlink_to(other), "pipe": lambda: os.mkfifo(path)}[kind]()
        assert storage.folders("a/b/c") == [] and storage.snapshots("a/b/c", ["x"], {}) == {}
        assert storage.list("a/b/c") == [] and storage.sizes("a/b/c") == {}
        assert storage.unusable("a/b") == []
        assert storage.unusable("a/b/c") == [f"it is a {kind}{' or a device' * (kind == 'pipe')}, and no folder"]

    def test_a_file_system_without_links_copies(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        storage = open_storage(str(tmp_path))
        storage.write("a", b"value")
        monkeypatch.setattr(Path, "hardlink_to", refuse)
        storage.copy_many({"a": "b/c"})
        assert storage.read("b/c") == b"value" and storage.versions("b") == {"b/c": storage.versions()["a"]}

    def test_of_many_creators_exactly_one_wins_and_its_value_stays(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path))
        for round_number in range(20):
            winners: list[int] = []
            key = f"lock-{round_number}"

            def create(index: int, key: str = key, winners: list[int] = winners) -> None:
                if storage.create(key, str(index).encode()):
                    winners.append(index)

            in_threads(8, create)
            assert [str(index).encode() for index in winners] == [storage.read(key)]

    def test_no_increment_is_lost_under_conditional_replacement(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path))
        storage.write("count", b"0")

        def increment(_: int) -> None:
            for _ in range(10):
                while True:
                    data, etag = storage.read_tagged("count")
                    if storage.replace_if("count", str(int(data) + 1).encode(), etag):
                        break

        in_threads(4, increment)
        assert storage.read("count") == b"40"

    def test_a_reader_sees_only_whole_values(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path))
        values = [bytes([letter]) * 100_000 for letter in b"ab"]
        storage.write("value", values[0])
        writer = threading.Thread(target=lambda: [storage.write("value", value) for value in values * 50])
        writer.start()
        while writer.is_alive():
            assert storage.read("value") in values
        writer.join()

    def test_a_killed_writer_leaves_no_key(self, tmp_path: Path) -> None:
        code = (
            "import os, sys; from orchestrator.storage import open_storage\n"
            "os.fsync = lambda _: os._exit(9)\n"
            "open_storage(sys.argv[1]).write('a/b', b'x' * 1000)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
        assert done.returncode == 9
        assert open_storage(str(tmp_path)).list() == []

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            (errno.ENOSPC, "no space left on device. Free some space"),
            (errno.EROFS, "read-only file system. Name a folder"),
        ],
    )
    def test_a_full_or_read_only_disk_is_one_line_and_leaves_the_old_value(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
    ) -> None:
        storage = open_storage(str(tmp_path))
        storage.write("a", b"old")

        def fail(_: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match=message) as caught:
            storage.write("a", b"new")
        assert "\n" not in str(caught.value)
        assert storage.read("a") == b"old"
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_a_file_in_the_way_of_a_folder_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("")
        with pytest.raises(StorageError, match=r"runs/sweeps.*A file stands where a folder is needed"):
            open_storage(str(tmp_path / "runs")).write("sweeps/a", b"")

    def test_a_relative_path_means_the_same_after_a_change_of_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        storage = open_storage("runs")
        monkeypatch.chdir("/")
        storage.write("a", b"")
        assert (tmp_path / "runs" / "a").exists()


class TestS3Errors:
    def test_a_missing_bucket_is_named(self, s3_endpoint: str) -> None:
        storage = open_storage(f"s3://no-such-bucket-here/x?endpoint_override={s3_endpoint}")
        for call in (lambda: storage.read("a"), lambda: storage.write("a", b""), storage.list):
            with pytest.raises(StorageError, match=r"no-such-bucket-here.*the bucket does not exist\. Create it"):
                call()

    def test_an_unreachable_endpoint_is_one_line(self, s3_endpoint: str) -> None:
        storage = open_storage("s3://bucket?endpoint_override=http://127.0.0.1:1", attempts=1, patience_s=0)
        with pytest.raises(StorageError, match=r"cannot be reached\. Check the network") as caught:
            storage.read("a")
        assert isinstance(caught.value, UserError)
        assert "\n" not in str(caught.value)

    def test_missing_credentials_are_named(self, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(StorageError, match="no AWS credentials found"):
            open_storage(f"{s3_bucket}&region=eu-west-1").read("a")  # an own region: a client of its own

    @pytest.fixture
    def strict_s3(self, s3_endpoint: str, s3_bucket: str) -> Iterator[str]:
        """The bucket on a server that checks every signature against IAM."""
        import urllib.request

        def set_checks_after(count: int) -> None:
            request = urllib.request.Request(f"{s3_endpoint}/moto-api/reset-auth", data=str(count).encode())
            request.add_header("Content-Type", "text/plain")
            urllib.request.urlopen(request, timeout=5).close()

        set_checks_after(0)
        yield s3_bucket
        set_checks_after(1_000_000_000)

    def test_wrong_credentials_are_named(self, strict_s3: str) -> None:
        with pytest.raises(StorageError, match="the AWS credentials are wrong or have expired"):
            open_storage(f"{strict_s3}&region=eu-west-2").read("a")

    def test_a_put_whose_answer_was_lost_is_still_ours(self, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first PUT arrives, its answer does not; the repetition is refused because the key exists by now."""
        from botocore.exceptions import ConnectionClosedError
        from botocore.httpsession import URLLib3Session

        send, lost = URLLib3Session.send, []

        def lose_first_put(session: URLLib3Session, request: object) -> object:
            answer = send(session, request)
            if request.method == "PUT" and not lost:  # type: ignore[attr-defined]
                lost.append(request)
                raise ConnectionClosedError(endpoint_url=s3_bucket)
            return answer

        monkeypatch.setattr(URLLib3Session, "send", lose_first_put)
        storage = open_storage(s3_bucket)
        assert storage.create("lock", b"mine")
        assert lost
        assert not storage.create("lock", b"mine")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "empty address"),
        ("gs://bucket/x", "unknown scheme 'gs'"),
        ("s3:///prefix", "names no bucket"),
        ("s3://bucket/a?endpoint=http://x", "unknown option 'endpoint'.*endpoint_override"),
        ("s3://bucket/../x", "is not a key"),
    ],
)
def test_a_wrong_address_is_refused_in_one_line(url: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        open_storage(url)


def test_an_endpoint_that_is_no_address_is_refused_in_one_line() -> None:
    with pytest.raises(StorageError, match="the endpoint is not an address"):
        open_storage("s3://bucket?endpoint_override=nonsense").read("a")


def test_boto3_is_imported_only_for_s3() -> None:
    code = (
        "import sys; from orchestrator.storage import open_storage; open_storage('x'); sys.exit('boto3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
