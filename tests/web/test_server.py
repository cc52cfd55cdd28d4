"""`trm ui`: three servers on localhost that serve no other site, and nothing left of them after a signal."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cli import main
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.tracking.optuna_dashboard import default_url, sync
from orchestrator.web.app import HEADERS, pages
from orchestrator.web.feed import StorageFeed
from orchestrator.web.serving import optuna_app, serving, serving_wsgi
from tests.support.infra import free_port, wait_until_ended
from tests.support.results import make_config, make_record
from tests.support.sweeps import search
from tests.support.tracking import START_LIMIT_S, write_record


@pytest.fixture
def storage(tmp_path: Path, migrated: Path) -> Storage:
    place = open_storage(str(tmp_path / "runs"))
    place.write("sweeps/depth/sweep.json", to_json_bytes(search(name="depth").plain()))
    for seed in range(2):
        write_record(place, make_record(make_config(cycles=2, latent=2, seed=seed), score=0.9, sweep="depth"))
    shutil.copy(migrated, tmp_path / "runs" / "mlflow.db")
    return place


def three_free_ports() -> int:
    """The first of three neighbours."""
    while True:
        port = free_port()
        taken = {connection.laddr.port for connection in psutil.net_connections("tcp") if connection.laddr}
        if port < 65000 and not taken & {port + 1, port + 2}:
            return port


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_three_servers_answer_on_localhost_and_end_without_a_trace(storage: Storage) -> None:
    port = three_free_ports()
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "ui"]
    process = subprocess.Popen(
        [*command, "--storage", storage.url, "--port", str(port)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda stream: lines.extend(stream), args=(process.stdout,), daemon=True)
    reader.start()
    family: list[psutil.Process] = []
    try:
        urls = [
            f"http://127.0.0.1:{port}/sweeps/depth",
            f"http://127.0.0.1:{port + 1}/",
            f"http://127.0.0.1:{port + 2}/",
        ]
        deadline = time.monotonic() + START_LIMIT_S
        while not all(map(answers, urls)):
            assert process.poll() is None and time.monotonic() < deadline, "".join(lines)
            time.sleep(0.2)
        for each in range(port, port + 3):
            assert request(each, Host="evil.example")[0] == 403
            assert request(each, Host=f"evil.example:{each}")[0] == 403
            assert request(each, Origin="http://evil.example")[0] == 403
            assert request(each, Origin=f"http://127.0.0.1:{each - 1}")[0] == 403
            assert request(each, Host=f"localhost:{each}", Origin=f"http://127.0.0.1:{each}")[0] in (200, 302)
        assert request(port + 1, "/version", Host="evil.example")[0] == 403, "MLflow itself answers this"
        # The start page learns of MLflow's answers at its next poll.
        while not all((tools := shown_tools(port))[name]["is_ready"] for name in ("mlflow", "optuna")):
            assert process.poll() is None and time.monotonic() < deadline, f"{tools} {''.join(lines)}"
            time.sleep(0.2)
        assert "/studies/" in tools["optuna"]["sweeps"]["depth"]
        family = psutil.Process(process.pid).children(recursive=True)
        listening = [
            connection.laddr.ip
            for member in [psutil.Process(process.pid), *family]
            for connection in member.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) >= 3 and set(listening) == {"127.0.0.1"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
    finally:
        process.kill()
        process.wait()
        reader.join(60)
        process.stdout.close()
    text = "".join(lines)
    assert all(f"http://127.0.0.1:{each}" in text for each in range(port, port + 3))
    assert len(family) >= 1
    wait_until_ended(family)


def shown_tools(port: int) -> dict[str, Any]:
    """What the start page says of MLflow and Optuna, by name."""
    return dict(json.loads(request(port, "/api/sweeps")[1])["tools"])


def request(port: int, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, str]:
    """(status, body) of a request to a server of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class TestPage:
    @pytest.fixture
    def port(self, storage: Storage) -> Iterator[int]:
        number = free_port()
        with serving(pages(StorageFeed(storage)), number, HEADERS):
            yield number

    def test_only_the_page_is_served(self, port: int) -> None:
        """The files of the storage and their listings are not."""
        assert request(port)[0] == 200 and "<h1>Sweeps</h1>" in request(port)[1]
        for path in ("/sweeps/", "/sweeps/depth/sweep.json", "/mlflow.db", "/../mlflow.db", "//mlflow.db"):
            assert request(port, path)[0] == 404
        assert request(port, method="POST")[0] == 405

    def test_a_foreign_host_is_refused(self, port: int) -> None:
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
            assert request(port, Host=host)[0] == 403
        assert request(port, Host=f"localhost:{port}")[0] == 200


def test_optunas_dashboard_refuses_what_another_site_requests(storage: Storage) -> None:
    url, port = default_url(storage), free_port()
    sync(storage, "depth", url)
    with optuna_app(url) as app, serving_wsgi(app, port):
        assert request(port, "/api/studies")[0] == 200
        assert request(port, "/api/studies/1", "DELETE", Host="evil.example")[0] == 403
        assert request(port, "/api/studies/1", "DELETE", Origin="http://evil.example")[0] == 403
        assert '"study_name": "depth"' in request(port, "/api/studies")[1]
        assert request(port, "/api/studies/1", "DELETE", Origin=f"http://127.0.0.1:{port}")[0] == 204


def test_database_of_another_version_is_one_line(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(Path(storage.url) / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'fffffffffff1'")
    with pytest.raises(SystemExit) as ended:
        main(["ui", "--storage", storage.url, "--port", str(three_free_ports())])
    captured = capsys.readouterr()
    assert ended.value.code == 2 and "newer MLflow" in captured.err and captured.err.count("\n") == 1
