"""Notifications of a sweep's end, a failure or a budget, to a webhook on a local server and to a command."""

from __future__ import annotations

import dataclasses
import http.server
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.records.progress import sweep_progress
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.tracking.notifications import Event, NotifyError, Snapshot, end_event, new_events, parse_targets, send
from tests.support.commands import call
from tests.support.tracking import SWEEP, finished, record, write_record


class Hook:
    """A webhook that answers with the given codes, then with 200."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.received: list[dict[str, Any]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                code = outer.codes.pop(0) if outer.codes else 200
                if code == 200:
                    assert self.headers["Content-Type"] == "application/json"
                    outer.received.append(json.loads(data))
                self.send_response(code)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()
    threading.Thread(target=found.server.serve_forever, daemon=True).start()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    place = open_storage(str(tmp_path))
    place.write("sweeps/depth/sweep.json", to_json_bytes(SWEEP.plain()))
    for seed in range(NUM_PLANNED - 1):
        write_record(place, finished(seed))
    return place


NUM_PLANNED = 4
EVENT = Event("complete", "depth", "sweep depth: complete: 1 finished", {"finished": 1})


def answer(server: socket.socket, data: bytes) -> None:
    """Answer every connection with the same bytes, until the server is closed."""
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(data)


def never(seconds: float) -> None:
    """No pause."""


class TestSending:
    def test_webhook_gets_the_event_as_json(self, hook: Hook) -> None:
        assert send(parse_targets([hook.url]), EVENT) == []
        assert hook.received == [dataclasses.asdict(EVENT)]

    def test_webhook_that_fails_at_first_is_tried_again(self, hook: Hook) -> None:
        hook.codes = [503, 429]
        pauses: list[float] = []
        assert send(parse_targets([hook.url]), EVENT, pauses.append) == []
        assert len(hook.received) == 1 and pauses == [0.0, 1.0, 4.0]

    def test_refusal_is_final_and_one_line(self, hook: Hook) -> None:
        hook.codes = [404, 200]
        assert send(parse_targets([hook.url]), EVENT, never) == ["127.0.0.1 answered 404"]
        assert hook.received == []

    def test_a_server_that_is_down_is_one_line_and_the_next_target_is_served(self, hook: Hook) -> None:
        (problem,) = send(parse_targets(["http://127.0.0.1:1/", hook.url]), EVENT, never)
        assert problem.startswith("127.0.0.1: ") and "\n" not in problem
        assert len(hook.received) == 1

    def test_command_reads_the_event(self, tmp_path: Path) -> None:
        code = f"import sys, pathlib; pathlib.Path({str(tmp_path / 'got')!r}).write_text(sys.stdin.read())"
        assert send(parse_targets([f'{sys.executable} -c "{code}"']), EVENT) == []
        assert json.loads((tmp_path / "got").read_text())["counts"] == {"finished": 1}

    def test_command_that_fails_is_one_line(self) -> None:
        (problem,) = send(parse_targets([f"{sys.executable} -c 'raise SystemExit(\"no\")'"]), EVENT)
        assert problem == f"{sys.executable} ended with 1"

    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            ("http://", "names no host"),
            ("htps://hooks.example/x", "Did you mean 'https'"),
            ("no-such-program --x", "no such program"),
            ("'open", "Close the quotation"),
            ("", "no such program"),
            ("x" * 3_000, "no such program"),
        ],
    )
    def test_target_that_is_none(self, text: str, hint: str) -> None:
        with pytest.raises(NotifyError, match=hint) as caught:
            parse_targets([text])
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


class TestSecrets:
    """The address of a webhook is all that is needed to post there: no message shows it."""

    def test_a_failure_names_the_host_only(self, hook: Hook) -> None:
        hook.codes = [404]
        assert send(parse_targets([f"{hook.url}/hunter2"]), EVENT, never) == ["127.0.0.1 answered 404"]
        (problem,) = send(parse_targets(["http://me:hunter2@127.0.0.1:1/hunter2"]), EVENT, never)
        assert "hunter2" not in problem

    @pytest.mark.parametrize(
        "text",
        [
            "https:///hunter2",
            "https://host:hunter2/",
            "htps://hooks.example/hunter2",
            "http://127.0.0.1:9/services/hunter2 x",
            "http://127.0.0.1:9/services/hunter2\r\nHost: x",
            "http://127.0.0.1:9/services/hunter2\x7f",
            "http://127.0.0.1:9/services/hunter2\u2028",
            "curl -d @- 'https://hooks.example/hunter2",
            "'https://hooks.example/hunter2",
            "hooks.example.com/services/hunter2",
            "//hooks.example.com/services/hunter2",
            "/services/hunter2",
            "https:hooks.example.com/hunter2",
            "me:hunter2@hooks.example.com/x",
            "hooks.example.com?token=hunter2",
            "no-such-program -H hunter2 https://hooks.example.com/hunter2",
            "no-such\0program/hunter2",
        ],
    )
    def test_a_target_that_is_refused_is_not_repeated(self, text: str) -> None:
        with pytest.raises(NotifyError) as caught:
            parse_targets([text])
        assert "hunter2" not in str(caught.value)

    def test_an_answer_that_is_not_http_is_one_line(self, capfd: pytest.CaptureFixture[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=answer, args=(server, b"hunter2 garbage\r\n\r\n"), daemon=True).start()
            port = server.getsockname()[1]
            assert send(parse_targets([f"http://127.0.0.1:{port}/hunter2"]), EVENT, never) == [
                "127.0.0.1: BadStatusLine"
            ]
        assert "hunter2" not in capfd.readouterr().err

    def test_no_error_of_a_delivery_shows_the_address(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def fail(*args: object, **more: object) -> None:
            raise LookupError("http://127.0.0.1:9/hunter2")

        monkeypatch.setattr("urllib.request.urlopen", fail)
        (problem,) = send(parse_targets(["http://127.0.0.1:9/hunter2"]), EVENT, never)
        assert problem == "http://127.0.0.1/...: LookupError"
        assert "hunter2" not in capfd.readouterr().err

    def test_what_a_failing_command_prints_is_not_shown(self) -> None:
        code = "import sys; sys.exit('cannot reach ' + sys.argv[1])"
        (problem,) = send(parse_targets([f'{sys.executable} -c "{code}" https://hooks.example/hunter2']), EVENT)
        assert problem == f"{sys.executable} ended with 1"

    def test_targets_may_come_from_the_environment(
        self, storage: Storage, hook: Hook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where they are on no command line, which every user of the machine can list."""
        monkeypatch.setenv("TRM_NOTIFY", hook.url)
        with pytest.raises(SystemExit):
            main(["notify", "depth", "--once", "--storage", storage.url])
        assert [one["event"] for one in hook.received] == ["status"]


class TestSweeps:
    def test_targets_that_hang_delay_the_end_once_and_by_the_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("orchestrator.tracking.notifications.COMMAND_TIMEOUT_S", -0.8)
        monkeypatch.setattr("orchestrator.tracking.notifications.WEBHOOK_PAUSES_S", (0.0,))
        hangs = threading.Event()
        targets = parse_targets(["http://127.0.0.1:1/", "http://127.0.0.1:2/"])
        problems = send(targets, EVENT, lambda _: hangs.wait(120))
        hangs.set()
        assert len(problems) == 2 and all("no answer within" in problem for problem in problems)

    def test_a_wrong_target_is_refused_before_anything_starts(self, tmp_path: Path) -> None:
        options = ["--recipe", "sudoku-mini", "--vary", "T=1,2", "--storage", str(tmp_path / "runs")]
        with pytest.raises(SystemExit) as ended:
            main(["sweep", "run", *options, "--notify", "no-such-program"])
        assert ended.value.code == 2 and not (tmp_path / "runs").exists()


def snapshot(*records: TrialRecord, is_driven: bool = True, over_budget: str | None = None) -> Snapshot:
    return Snapshot("depth", records, sweep_progress(SWEEP, records), is_driven, over_budget)


def kinds(*arguments: Any) -> list[str]:
    return [event.event for event in new_events(*arguments)]


class TestWatching:
    def test_each_kind_of_event_is_sent_once_and_the_end_last(self) -> None:
        failed = record(1, status=Status.DIVERGED)
        before = snapshot(finished())
        assert kinds(snapshot(finished(), failed, over_budget="5 of 5 USD used"), before, set()) == [
            "trial_failed",
            "budget",
        ]
        all_ended = snapshot(finished(), failed, finished(2), finished(3), is_driven=False, over_budget="5")
        found = new_events(all_ended, before, {"trial_failed", "budget"})
        assert [(event.event, event.counts) for event in found] == [("complete", {"finished": 3, "diverged": 1})]

    def test_records_that_have_all_ended_are_not_complete_while_trials_are_planned(self) -> None:
        gone = snapshot(finished(0), finished(1), is_driven=False)
        assert kinds(gone, None, set()) == []
        assert kinds(gone, snapshot(finished(0)), set()) == ["stopped"]

    def test_the_end_of_a_run_is_judged_by_the_plan(self, storage: Storage) -> None:
        """Three of four trials have finished, as with `--max-trials 3`."""
        assert end_event(storage, "depth").event == "stopped"
        write_record(storage, finished(3))
        assert end_event(storage, "depth").event == "complete"

    def test_a_driver_that_ends_is_reported_only_if_it_was_there(self) -> None:
        gone = snapshot(finished(), record(1), is_driven=False)
        assert kinds(gone, snapshot(finished(), record(1)), set()) == ["stopped"]
        assert kinds(gone, None, set()) == [] and kinds(gone, gone, set()) == []

    def test_the_command_watches_until_the_end(
        self, storage: Storage, hook: Hook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orchestrator.tracking.notifications.WATCH_EVERY_S", 0.05)
        write_record(storage, record(3))
        thread = threading.Thread(
            target=lambda: (time.sleep(0.5), write_record(storage, finished(3), segment=2, rows_from=10))
        )
        thread.start()
        with pytest.raises(SystemExit) as ended:
            main(["notify", "depth", "--to", hook.url, "--storage", storage.url])
        thread.join()
        assert ended.value.code == 0
        assert [(one["event"], one["counts"]) for one in hook.received] == [("complete", {"finished": 4})]

    def test_one_damaged_record_does_not_hide_the_others(self, storage: Storage, hook: Hook) -> None:
        damaged = finished(2).trial_id
        storage.write(f"sweeps/depth/trials/{damaged}/result.json", b"{")
        with pytest.raises(SystemExit) as ended:
            main(["notify", "depth", "--to", hook.url, "--once", "--storage", storage.url])
        assert ended.value.code == 0
        assert f"2 finished; 2 of 4 trials left; 1 unreadable ({damaged}/result.json)" in hook.received[0]["text"]

    def test_once_fails_where_a_target_is_not_reached(
        self, storage: Storage, hook: Hook, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ("notify", "depth", "--once", "--storage", storage.url)
        code, _, err = call(capsys, *words, "--to", "false")
        assert code == 1 and "not delivered: false ended with 1" in err and "nothing was delivered" in err
        code, _, err = call(capsys, *words, "--to", "false", "--to", hook.url)
        assert code == 1 and "not delivered" in err and "nothing" not in err

    def test_once_sends_the_present_state(self, storage: Storage, hook: Hook) -> None:
        with pytest.raises(SystemExit):
            main(["notify", "depth", "--to", hook.url, "--once", "--storage", storage.url])
        assert [one["event"] for one in hook.received] == ["status"]
        assert "1 of 4 trials left" in hook.received[0]["text"]
