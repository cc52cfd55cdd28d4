"""Word of a sweep's end, failure or budget: to a webhook on a local server, to a command, and to nobody."""

from __future__ import annotations

import dataclasses
import http.server
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.cli.commands.notify import notified
from orchestrator.errors import SweepError
from orchestrator.records.index import request_stop
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.tracking.notifications import Event, NotifyError, Snapshot, news, parse_targets, send
from tests.support.sweeps import study
from tests.support.tracking import finished, record, write_record


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
    place.write("sweeps/depth/sweep.json", to_json_bytes(study(name="depth").plain()))
    write_record(place, finished())
    return place


EVENT = Event("complete", "depth", "sweep depth: complete: 1 finished", {"finished": 1})


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

    def test_nobody_there_is_one_line_and_the_next_target_is_told(self, hook: Hook) -> None:
        (problem,) = send(parse_targets(["http://127.0.0.1:1/", hook.url]), EVENT, never)
        assert problem.startswith("127.0.0.1: ") and "\n" not in problem
        assert len(hook.received) == 1

    def test_command_reads_the_event(self, tmp_path: Path) -> None:
        code = f"import sys, pathlib; pathlib.Path({str(tmp_path / 'got')!r}).write_text(sys.stdin.read())"
        assert send(parse_targets([f'{sys.executable} -c "{code}"']), EVENT) == []
        assert json.loads((tmp_path / "got").read_text())["counts"] == {"finished": 1}

    def test_command_that_fails_is_one_line(self) -> None:
        (problem,) = send(parse_targets([f"{sys.executable} -c 'raise SystemExit(\"no\")'"]), EVENT)
        assert problem.endswith("ended with 1 no")

    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            ("http://", "names no host"),
            ("htps://hooks.example/x", "Did you mean 'https'"),
            ("no-such-program --x", "no such program"),
            ("'open", "Close the quotation"),
            ("", "no such program"),
        ],
    )
    def test_target_that_is_none(self, text: str, hint: str) -> None:
        with pytest.raises(NotifyError, match=hint) as caught:
            parse_targets([text])
        assert "\n" not in str(caught.value)


class TestSweeps:
    def test_end_of_a_sweep_is_told(self, storage: Storage, hook: Hook) -> None:
        with notified(storage, "depth", [hook.url]):
            pass
        assert [(one["event"], one["counts"]) for one in hook.received] == [("complete", {"finished": 1})]

    def test_stop_and_its_budget_are_told_apart(self, storage: Storage, hook: Hook) -> None:
        write_record(storage, record(1))
        for reason in ("", "50.1 of 50 USD used"):
            request_stop(storage.sub("sweeps/depth"), reason)
            with notified(storage, "depth", [hook.url]):
                pass
        assert [one["event"] for one in hook.received] == ["stopped", "budget"]
        assert "50.1 of 50 USD used" in hook.received[1]["text"]

    def test_failure_is_told_and_raised(self, storage: Storage, hook: Hook) -> None:
        with pytest.raises(SweepError), notified(storage, "depth", [hook.url]):
            raise SweepError("the disk is full", "Make room")
        assert hook.received[0]["event"] == "failed" and "disk is full" in hook.received[0]["text"]

    def test_nobody_to_tell_harms_nothing(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("orchestrator.tracking.notifications.PAUSES_S", (0.0,))
        with notified(storage, "depth", ["http://127.0.0.1:1/"]):
            pass
        assert "not delivered: 127.0.0.1" in capsys.readouterr().err

    def test_a_wrong_target_is_refused_before_anything_starts(self, tmp_path: Path) -> None:
        options = ["--recipe", "sudoku-mini", "--vary", "T=1,2", "--storage", str(tmp_path / "runs")]
        with pytest.raises(SystemExit) as ended:
            main(["sweep", "run", *options, "--notify", "no-such-program"])
        assert ended.value.code == 2 and not (tmp_path / "runs").exists()


def looks(*records: TrialRecord, is_driven: bool = True, over_budget: str | None = None) -> Snapshot:
    return Snapshot("depth", records, is_driven, over_budget)


class TestWatching:
    def test_each_kind_of_news_is_told_once_and_the_end_last(self) -> None:
        failed = record(1, status=Status.DIVERGED)
        before = looks(finished())
        found = news(looks(finished(), failed, over_budget="5 of 5 USD used"), before, set())
        assert [event.event for event in found] == ["trial_failed", "budget"]
        found = news(looks(finished(), failed, is_driven=False, over_budget="5"), before, {"trial_failed", "budget"})
        assert [(event.event, event.counts) for event in found] == [("complete", {"finished": 1, "diverged": 1})]

    def test_driver_that_goes_away_is_told_only_if_it_was_there(self) -> None:
        gone = looks(finished(), record(1), is_driven=False)
        assert [event.event for event in news(gone, looks(finished(), record(1)), set())] == ["stopped"]
        assert news(gone, None, set()) == [] and news(gone, gone, set()) == []

    def test_command_watches_until_the_end(self, storage: Storage, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("orchestrator.cli.commands.notify.POLL_S", 0.05)
        write_record(storage, record(1))
        thread = threading.Thread(
            target=lambda: (time.sleep(0.5), write_record(storage, finished(1), segment=2, rows_from=10))
        )
        thread.start()
        with pytest.raises(SystemExit) as ended:
            main(["notify", "depth", "--to", hook.url, "--storage", storage.url])
        thread.join()
        assert ended.value.code == 0
        assert [(one["event"], one["counts"]) for one in hook.received] == [("complete", {"finished": 2})]

    def test_once_tells_the_present_state(self, storage: Storage, hook: Hook) -> None:
        with pytest.raises(SystemExit):
            main(["notify", "depth", "--to", hook.url, "--once", "--storage", storage.url])
        assert [one["event"] for one in hook.received] == ["status"]
