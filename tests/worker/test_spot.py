"""The end of a spot machine, announced by a stand-in for EC2's metadata service."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.errors import ClusterError
from orchestrator.worker import spot
from orchestrator.worker.spot import Metadata, Notice
from tests.support.infra import in_a_thread
from trm_data import files
from trm_data.errors import UserError

AT_S = 1795335720.0
AT = "2026-11-22T08:22:00Z"


class Service(http.server.BaseHTTPRequestHandler):
    """Version 2 of the service: no answer without a token. `script` says what the next requests get."""

    script: list[int]
    tokens: int
    time: object

    def do_PUT(self) -> None:
        if not self.headers["X-aws-ec2-metadata-token-ttl-seconds"]:
            return self._answer(400)
        type(self).tokens += 1
        return self._answer(200, f"token-{self.tokens}")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != f"token-{self.tokens}":
            return self._answer(401)
        code = self.script.pop(0) if self.script else 200
        return self._answer(code, json.dumps({"action": "terminate", "time": self.time}) if code == 200 else "")

    def _answer(self, code: int, text: str = "") -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(*script: int, at: object = AT) -> Iterator[http.server.HTTPServer]:
    """A service that answers the first questions with these codes and all further ones with a notice."""
    handler = type("Scripted", (Service,), {"script": list(script), "tokens": 0, "time": at})
    with in_a_thread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield server


@contextmanager
def announcing() -> Iterator[str]:
    """The address of a service that announces the end in two minutes."""
    with serving(at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))) as server:
        yield url_of(server)


def url_of(server: http.server.HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_no_notice_is_the_usual_answer() -> None:
    with serving(404, 404) as server:
        metadata = Metadata(url_of(server), 60.0)
        assert metadata.notice() is None and metadata.notice() is None
        assert server.RequestHandlerClass.tokens == 1  # type: ignore[attr-defined]


def test_a_notice_says_what_happens_and_when() -> None:
    with serving() as server:
        assert Metadata(url_of(server), 60.0).notice() == Notice("terminate", AT_S)


def test_an_answer_without_end_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spot, "MAX_ANSWER_BYTES", 20)  # fewer than the notice has
    with serving() as server, pytest.raises(OSError, match="not a spot notice"):
        Metadata(url_of(server), 60.0).notice()


def test_an_expired_token_is_renewed() -> None:
    with serving() as server:
        metadata = Metadata(url_of(server), 60.0, _token="old")
        assert metadata.notice() is None
        assert metadata.notice() == Notice("terminate", AT_S)


def test_the_watch_survives_trouble_and_leaves_once_the_head_listens() -> None:
    pauses: list[float] = []
    tries: list[Notice] = []

    def leave(notice: Notice) -> None:
        tries.append(notice)
        if len(tries) < 3:
            raise ClusterError("the head does not answer")

    with serving(404, 500, 503, 404) as server:
        assert spot.watch(Metadata(url_of(server), 60.0), leave, pauses.append) == Notice("terminate", AT_S)
    assert tries == [Notice("terminate", AT_S)] * 3
    assert pauses == [spot.POLL_S] * 4 + [1.0, 1.0]


@pytest.mark.parametrize("at", ["soon", "", None, 5, {}, "9999-99-99T00:00:00Z"])
def test_the_watch_survives_an_answer_that_is_no_notice(at: object, caplog: pytest.LogCaptureFixture) -> None:
    with serving(404, 200, at=at) as server:

        def mended(seconds: float) -> None:
            if len(server.RequestHandlerClass.script) == 0 and "a spot notice" in caplog.text:  # type: ignore[attr-defined]
                server.RequestHandlerClass.time = AT  # type: ignore[attr-defined]

        assert spot.watch(Metadata(url_of(server), 60.0), lambda notice: None, mended) == Notice("terminate", AT_S)
    assert "its answer is not a spot notice" in caplog.text


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"action": "stop"}', b"\xff", b"[" * 100_000])
def test_another_service_at_the_address_is_no_ec2(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Metadata, "_get", lambda self, path: answer)
    with pytest.raises(OSError, match="its answer is not a spot notice"):
        spot.watch(Metadata(), lambda notice: None)


def test_a_server_of_another_protocol_is_no_ec2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(OSError, match="does not speak HTTP"):
            spot.watch(Metadata(f"http://127.0.0.1:{listener.getsockname()[1]}"), lambda notice: None)
        thread.join()


def test_a_machine_outside_ec2_ends_the_watch_in_one_line() -> None:
    command = [sys.executable, "-m", "orchestrator.worker.spot", "127.0.0.1:1", "--node-id", "ab"]
    done = subprocess.run([*command, "--metadata-url", "http://127.0.0.1:1"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.startswith("no EC2 metadata service here") and done.stderr.count("\n") == 1


def test_a_node_that_leaves_is_announced_to_ray_before_its_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else Ray may place a trial that has left there again."""
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    known: list[bool] = []
    monkeypatch.setattr(spot, "drain", lambda *arguments: known.append(spot.is_leaving("node-a")))
    spot.leave_node("10.0.0.5:6379", "node-a", Notice("terminate", AT_S))
    assert known == [False] and spot.is_leaving("node-a")
    assert not spot.is_leaving("node-b")
    (marker,) = (path for path in tmp_path.rglob("node-a*"))
    assert [path.stat().st_mode & 0o777 for path in marker.parents][:2] == [0o700, 0o700]


def test_trials_are_notified_where_the_head_does_not_answer_or_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    with pytest.raises(ClusterError, match="no Ray cluster answers"):
        spot.leave_node("127.0.0.1:1", "node-a", Notice("terminate", AT_S))
    assert spot.is_leaving("node-a")

    known: list[bool] = []

    def hang(*arguments: object) -> None:
        deadline_s = time.monotonic() + 60
        while not spot.is_leaving("node-b") and time.monotonic() < deadline_s:
            time.sleep(0.01)
        known.append(spot.is_leaving("node-b"))

    monkeypatch.setattr(spot, "DRAIN_S", 0.05)
    monkeypatch.setattr(spot, "drain", hang)
    spot.leave_node("10.0.0.5:6379", "node-b", Notice("terminate", AT_S))
    assert known == [True]


def test_other_users_cannot_announce_the_end_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever could would stop all trials of the node."""
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(spot, "drain", lambda *arguments: None)
    (tmp_path / "trm-leaving-node-a.json").write_text("{}")  # as earlier versions believed
    assert not spot.is_leaving("node-a")
    spot.leave_node("10.0.0.5:6379", "node-a", Notice("terminate", AT_S))
    assert spot.is_leaving("node-a")
    monkeypatch.setattr(files.os, "getuid", lambda: 12345)  # the folder is now another user's
    (tmp_path / f"trm-{os.getuid()}").mkdir(exist_ok=True)
    assert not spot.is_leaving("node-a")
    with pytest.raises(UserError, match="belongs to another user"):
        spot.leave_node("10.0.0.5:6379", "node-b", Notice("terminate", AT_S))


def test_announcements_of_nodes_that_are_long_gone_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(spot, "drain", lambda *arguments: None)
    spot.leave_node("10.0.0.5:6379", "node-a", Notice("terminate", AT_S))
    (marker,) = (path for path in tmp_path.rglob("node-a*"))
    os.utime(marker, (1.0, 1.0))
    spot.leave_node("10.0.0.5:6379", "node-b", Notice("terminate", AT_S))
    assert spot.is_leaving("node-b") and not spot.is_leaving("node-a")


def test_announcement_that_another_process_removes_at_the_same_time_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(spot, "drain", lambda *arguments: None)
    spot.leave_node("10.0.0.5:6379", "node-a", Notice("terminate", AT_S))
    (marker,) = (path for path in tmp_path.rglob("node-a*"))
    stat = Path.stat

    def removed_meanwhile(path: Path, **options: bool) -> os.stat_result:
        if path == marker:
            path.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", removed_meanwhile)
    spot.leave_node("10.0.0.5:6379", "node-b", Notice("terminate", AT_S))
    assert spot.is_leaving("node-b") and not spot.is_leaving("node-a")


def test_draining_needs_a_head_that_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    with pytest.raises(ClusterError, match="no Ray cluster answers"):
        spot.drain(f"127.0.0.1:{port}", "ab" * 28, "spot terminate", time.time() + 120)
