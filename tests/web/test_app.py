"""The pages of `trm ui`: what is served and what is not, and answers that hold only what is new."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from orchestrator.records.schema import Status
from orchestrator.storage import LocalStorage, Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import Lease
from orchestrator.web import feed as feed_module
from orchestrator.web.app import HEADERS, pages
from orchestrator.web.feed import StorageFeed
from orchestrator.web.serving import serving
from tests.support.infra import free_port
from tests.support.results import make_config, make_record
from tests.support.sweeps import search
from tests.support.tracking import SWEEP, finished, record, write_record

DATA = "f" * 64
"""The fingerprint in the made records."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Site:
    def __init__(self, port: int, storage: Storage) -> None:
        self.port = port
        self.storage = storage

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read().decode())
        finally:
            connection.close()

    def news(self, since: str = "", settings: list[str] | None = None) -> Any:
        given = quote("\n".join(settings or []))
        return self.get(f"/api/sweeps/depth/{DATA}/trials?since={since}&settings={given}").json


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(feed_module, "READ_EVERY_S", 0.0)
    monkeypatch.setattr(feed_module, "READING_SHARE", 1e9)
    storage = open_storage(str(tmp_path / "runs"))
    storage.write("sweeps/depth/sweep.json", to_json_bytes(SWEEP.plain()))
    write_record(storage, finished(0))
    write_record(storage, record(1, steps=2))
    port = free_port()
    with serving(pages(StorageFeed(storage)), port, HEADERS):
        yield Site(port, storage)


def test_only_the_pages_are_served(site: Site) -> None:
    for path in ("/", "/leaderboard", "/sweeps/depth", "/static/d3.min.js", "/static/start.js", "/api/sweeps"):
        assert site.get(path).status == 200, path
    for path in (
        *("/sweeps/", "/sweeps/other", "/sweeps/depth/sweep.json", "/sweeps/..%2f..%2fetc", "/static/", "/api/"),
        *("/static/style.css", "/static/..%2fapp.py", "/static/../app.py", "//etc/passwd", "/leaderboard.html"),
        *(f"/api/sweeps/other/{DATA}/trials", "/api/sweeps/depth/0000/trials"),
    ):
        assert site.get(path).status == 404, path
    assert site.get("/", "POST").status == site.get("/api/sweeps", "DELETE").status == 405


def test_every_answer_forbids_storing_and_loading_from_elsewhere(site: Site) -> None:
    for path in ("/", "/sweeps/depth", "/api/sweeps", "/static/d3.min.js", "/missing"):
        headers = site.get(path).headers
        assert headers["cache-control"] == "no-store" and headers["x-frame-options"] == "DENY"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';") and "http" not in policy


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}])
def test_a_foreign_host_or_origin_is_refused(site: Site, headers: dict[str, str]) -> None:
    for path in ("/", "/api/sweeps", "/sweeps/depth", "/static/d3.min.js", "/missing"):
        answer = site.get(path, **headers)
        assert answer.status == 403 and "localhost only" in answer.body
    assert site.get("/", Host=f"localhost:{site.port}", Origin=f"http://localhost:{site.port}").status == 200


def test_the_start_page_shows_progress_and_changes_with_the_records(site: Site) -> None:
    first = site.get("/api/sweeps")
    (sweep,) = first.json["sweeps"]
    assert (sweep["name"], sweep["planned"], sweep["done"], sweep["best"]) == ("depth", 4, 1, 0.91)
    assert sweep["counts"] == {"interrupted": 1, "finished": 1}, "no driver runs it"
    assert site.get("/api/sweeps", If_None_Match=first.headers["etag"]).status == 304
    write_record(site.storage, finished(1), segment=2, rows_from=4)
    second = site.get("/api/sweeps", If_None_Match=first.headers["etag"])
    assert second.status == 200 and second.json["sweeps"][0]["done"] == 2


def test_the_best_of_a_search_is_one_of_those_it_compares(site: Site) -> None:
    """Confirmed trials are scored on test puzzles: their scores are no better or worse than those on validation."""
    site.storage.write("sweeps/search/sweep.json", to_json_bytes(search(name="search").plain()))
    for stage, score in (("explore", 0.4), ("explore", 0.5), ("confirm", 0.9)):
        config = make_config(cycles=2, latent=2, seed=int(10 * score))
        write_record(site.storage, make_record(config, score=score, stage=stage, sweep="search"))
    best = {sweep["name"]: sweep["best"] for sweep in site.get("/api/sweeps").json["sweeps"]}
    assert best == {"depth": 0.91, "search": pytest.approx(0.5, abs=0.05)}


def test_a_damaged_definition_is_shown_and_keeps_nothing_else_from_being_shown(site: Site) -> None:
    site.storage.write("sweeps/broken/sweep.json", b"{")
    sweeps = {sweep["name"]: sweep for sweep in site.get("/api/sweeps").json["sweeps"]}
    assert sweeps["depth"]["done"] == 1 and "broken/sweep.json" in sweeps["broken"]["problems"][0]
    answer = site.get("/sweeps/broken")
    assert answer.status == 503 and "sweep.json" in answer.body and "Traceback" not in answer.body


@pytest.mark.parametrize("value", ["1.7976931348623157e308", "Infinity", "NaN"])
def test_an_impossible_value_in_a_record_keeps_nothing_else_from_being_shown(site: Site, value: str) -> None:
    folder = site.storage.sub(f"sweeps/depth/trials/{finished(0).trial_id}")
    for metrics in (f'"exact_accuracy": {value}', f'"exact_accuracy": 0.5, "halting_steps": {value}'):
        folder.write("result.json", f'{{"split": "test", "items": 8, "metrics": {{{metrics}}}}}'.encode())
        row = f'{{"step": 10, "time_s": 1, "split": "validation", "metrics": {{{metrics}, "loss": {value}}}}}\n'
        writer_of = site.storage.sub(f"sweeps/depth/trials/{record(1).trial_id}/attempts/001")
        writer_of.write("rows-000009.jsonl", row.encode())
        for path in ("/api/sweeps", f"/api/sweeps/depth/{DATA}/trials", f"/api/sweeps/depth/{DATA}/curves?trials=x"):
            answer = site.get(path)
            assert answer.status == 200 and "Infinity" not in answer.body and "NaN" not in answer.body, path
        for path in ("/leaderboard", "/sweeps/depth"):
            assert site.get(path).status == 200, path
        (row_of,) = site.get("/api/sweeps").json["sweeps"]
        if "0.5" not in metrics:
            assert "result.json" in row_of["problems"][0] and "is no share" in row_of["problems"][0]


def test_news_holds_only_trials_that_have_changed(site: Site) -> None:
    first = site.news()
    assert {trial["id"] for trial in first["trials"]} == {finished(0).trial_id, record(1).trial_id}
    assert site.news(first["version"], first["settings"])["trials"] == []
    write_record(site.storage, record(1, steps=5), segment=2, rows_from=4)
    second = site.news(first["version"], first["settings"])
    assert [(trial["id"], trial["step"]) for trial in second["trials"]] == [(record(1).trial_id, 50)]
    assert len(site.news(first["version"], ["other"])["trials"]) == 2, "other settings vary now: all values moved"
    for since in ("of-an-earlier-process", f"{first['version']}{'9' * 5000}", first["version"].replace("-", "-x")):
        assert len(site.news(since, first["settings"])["trials"]) == 2


def test_news_tells_what_is_not_in_it(site: Site) -> None:
    first = site.news()
    assert first["count"] == 2 and first["problems"] == []
    write_record(site.storage, replace(finished(2), trial_id="0" * 16, family="T=2 n=2"))
    second = site.news(first["version"], first["settings"])
    assert second["count"] == 3 and "0" * 16 in second["lead"]
    site.storage.write(f"sweeps/depth/trials/{'0' * 16}/trial.json", b"{")
    third = site.news(second["version"], second["settings"])
    assert third["trials"] == [] and third["count"] == 2 and "0" * 16 not in third["lead"]
    assert "trial.json" in third["problems"][0]


def test_a_trial_runs_only_as_long_as_its_driver_does(site: Site) -> None:
    def statuses(news: Any) -> dict[str, str]:
        return {trial["id"]: trial["status"] for trial in news["trials"]}

    trial_id = record(1).trial_id
    with Lease(site.storage.sub("sweeps/depth"), "depth"):
        first = site.news()
        assert statuses(first)[trial_id] == "running" and ">running<" in site.get("/sweeps/depth").body
    second = site.news(first["version"], first["settings"])
    assert statuses(second) == {trial_id: "interrupted"}
    page = site.get("/sweeps/depth").body
    assert ">interrupted<" in page and ">running<" not in page


def test_versions_of_a_deleted_sweep_mean_nothing_to_its_successor(site: Site, tmp_path: Path) -> None:
    first, page = site.news(), site.get("/sweeps/depth").body
    shutil.move(tmp_path / "runs" / "sweeps" / "depth", tmp_path / "deleted")
    assert site.get("/api/sweeps").json["sweeps"] == []
    site.storage.write("sweeps/depth/sweep.json", to_json_bytes(SWEEP.plain()))
    write_record(site.storage, finished(3))
    assert [trial["id"] for trial in site.news(first["version"], first["settings"])["trials"]] == [finished(3).trial_id]
    after = site.get("/sweeps/depth").body
    assert after != page and finished(3).trial_id in after and finished(0).trial_id not in after


def test_curves_are_sent_for_the_named_trials(site: Site) -> None:
    wanted = record(1).trial_id
    found = site.get(f"/api/sweeps/depth/{DATA}/curves?trials={wanted},unknown").json
    assert list(found) == [wanted] and found[wanted]["train"]["step"] == [10, 20]
    write_record(site.storage, record(1, steps=5), segment=2, rows_from=4)
    found = site.get(f"/api/sweeps/depth/{DATA}/curves?trials={wanted}").json
    assert found[wanted]["validation"]["step"] == [10, 20, 30, 40, 50]
    assert found[wanted]["validation"]["exact"] == [10, 20, 30, 40, 50]


def test_a_record_that_did_not_change_is_not_read_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.news()
    read: list[str] = []
    real = LocalStorage.read
    monkeypatch.setattr(LocalStorage, "read", lambda self, key: (read.append(key), real(self, key))[1])
    for _ in range(3):
        site.news()
    assert read and not [key for key in read if "trials/" in key]


def test_the_report_is_rendered_again_only_when_the_records_have_changed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = site.get("/sweeps/depth").body
    assert "<script src=" in first and 'data-version="' in first and "<script>" not in first
    assert site.get("/sweeps/depth").body == first
    write_record(site.storage, record(1, steps=5, status=Status.RUNNING), segment=2, rows_from=4)
    assert site.get("/sweeps/depth").body != first
