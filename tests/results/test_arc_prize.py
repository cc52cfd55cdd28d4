"""The ARC Prize leaderboard's export in today's form, by address."""

from __future__ import annotations

import http.server
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.results.baselines import load_baselines
from orchestrator.results.baselines.own import OwnBaselines
from orchestrator.storage import LocalStorage
from tests.support.commands import call
from tests.support.infra import in_a_thread

DATASETS = {"public-eval": "v2_Public_Eval", "semi-private": "v2_Semi_Private", "private": "v2_Private_Eval"}


def entry(model: str, dataset: str = "v2_Semi_Private", score: float | None = 0.5, **more: Any) -> dict[str, Any]:
    """An evaluation as `v2.json` has it."""
    name = {"modelDisplayName": model.title(), "modelType": "CoT", "providerId": "X", "display": True}
    return {"modelId": model, "datasetId": dataset, "score": score, **name, **more}


def known() -> list[dict[str, Any]]:
    """Every known row of ARC-AGI-2, as the export would have it."""
    rows = [row for row in load_baselines("arc-agi-2") if row.source == "ARC Prize leaderboard"]
    return [
        entry(
            row.detail.split("; ")[0].removeprefix("id "),
            DATASETS[row.split],
            row.score / 100,
            costPerTask=row.cost_per_task_usd,
        )
        for row in rows
    ]


def export(*entries: dict[str, Any], day: str | None = "2026-11-24") -> bytes:
    whole = {"version": "v2", "evaluations": list(entries)}
    return json.dumps(whole | ({"generatedAt": f"{day}T08:57:24.713Z"} if day else {})).encode()


class Server(http.server.ThreadingHTTPServer):
    """Answers `/v2.json` with `content` and status `code`."""

    daemon_threads = True
    content = b""
    code = 200

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v2.json"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(self.server.code)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)


@pytest.fixture
def server() -> Iterator[Server]:
    with in_a_thread(Server(("127.0.0.1", 0), Handler)) as running:
        yield running


def updated(capsys: pytest.CaptureFixture[str], runs: Path, address: str, *options: str) -> dict[str, Any]:
    code, out, err = call(capsys, "baselines", "update", address, "--storage", str(runs), "--json", *options)
    assert (code, err) == (0, "")
    return dict(json.loads(out))


def test_export_of_one_benchmark_is_read_by_address_and_leaves_the_other_alone(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.content = export(
        *known(), entry("gpt-7", costPerTask=1.25), entry("gpt-7", "v3_Semi_Private", 0.1, cost=4e3)
    )
    found = updated(capsys, tmp_path, server.address, "--write")
    assert found["gone"] == found["changed"] == [] and found["ignored"] == 1
    assert found["unchanged"] == sum(row.source == "ARC Prize leaderboard" for row in load_baselines("arc-agi-2"))
    (row,) = OwnBaselines(LocalStorage(tmp_path)).read()
    assert (row.benchmark, row.system, row.score, row.cost_per_task_usd) == ("arc-agi-2", "Gpt-7", 50.0, 1.25)
    assert (row.date, row.kind, row.samples, row.evidence) == ("2026-11-24", "llm", 1, "verified")
    assert updated(capsys, tmp_path, server.address)["new"] == []


def test_path_of_a_saved_export_does_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "v2.json"
    path.write_bytes(export(*known(), entry("gpt-7")))
    assert [row["system"] for row in updated(capsys, tmp_path / "runs", str(path))["new"]] == ["Gpt-7"]


@pytest.mark.parametrize(
    ("costs", "expected"),
    [({"cost": 264.0}, 2.2), ({"cost": 264.0, "costPerTask": 3.0}, 3.0), ({"cost": None}, None), ({}, None)],
)
def test_cost_of_a_run_becomes_that_of_a_task(
    costs: dict[str, float | None],
    expected: float | None,
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.content = export(entry("gpt-7", **costs))
    (row,) = updated(capsys, tmp_path, server.address)["new"]
    assert row["cost_per_task_usd"] == expected  # of 120 tasks


def test_entries_name_their_kind_and_whether_the_page_shows_them(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.content = export(
        entry("panel", providerId="Human"), entry("team", modelType="Custom", display=False), entry("none", score=None)
    )
    found = updated(capsys, tmp_path, server.address)
    assert [(row["kind"], row["detail"]) for row in found["new"]] == [
        ("human", "id panel"),
        ("system", "id team; not shown on the leaderboard"),
    ]
    assert found["ignored"] == 1


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", 404, "does not exist"),
        (b"", 500, "cannot read"),
        (b"<html>", 200, "is not JSON"),
        (b"{}", 200, "holds no evaluations"),
        (export(entry("a"), day=None), 200, "does not say of which day it is. Name it: --date 2026-11-22"),
        (export(entry("a"), day="2026-01-01"), 200, "is older than the rows of 2026-05-07"),
        (export(entry("a"), entry("a", score=0.6)), 200, "evaluation 2: a has two scores on v2_Semi_Private"),
        (export(entry("a", score=44.6)), 200, "score=44.6 is not in 0 to 1"),
        (export(entry("a", cost=-1)), 200, "cost=-1 is not in 0 to 1e+09"),
        (
            export(entry("a", costPerTask=float("inf"))),
            200,
            "costPerTask=inf is not in 0 to 1e+09. Costs are US",
        ),
        (export(entry("a", cost=float("nan"))), 200, "cost=nan is not in 0 to 1e+09"),
        (export(entry("a", cost=10**400)), 200, "cost=10000000000000000000 is not in 0 to 1e+09"),
        (export(entry("a"), day="2026-13-45"), 200, "the export's date '2026-13-45' is not a day. Give the right one"),
        (export(entry("a"), day="2999-01-01"), 200, "the export's date 2999-01-01 is in the future"),
        (export(entry("a", modelDisplayName=["a"])), 200, "evaluation 1: modelDisplayName=['a'] is not a name"),
        (export(entry("a", modelDisplayName=" ")), 200, "evaluation 1: modelDisplayName=' ' is not a name"),
        (export(entry("a", modelId=None)), 200, "evaluation 1: modelId=None is not the id of a model"),
        (export(entry("a; b")), 200, "evaluation 1: modelId='a; b' is not the id of a model"),
        (export(entry("a ")), 200, "evaluation 1: modelId='a ' is not the id of a model"),
        (export(entry("a", datasetId=["x"])), 200, "datasetId=['x'] is not the name of a test set"),
        (export(entry("a", modelDisplayName="\x1b[2J")), 200, "contains a character that cannot be printed"),
        (export(entry("\u202ea")), 200, "contains a character that cannot be printed"),
    ],
)
def test_address_without_a_usable_export_is_one_line(
    content: bytes, code: int, words: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.content, server.code = content, code
    line = ["baselines", "update", server.address, "--write", "--storage", str(tmp_path / "runs")]
    status, out, err = call(capsys, *line)
    assert (status, out, err.count("\n")) == (2, "", 1) and words in err and not (tmp_path / "runs").exists()


def test_without_a_network_the_update_fails_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        addresses = [f"http://127.0.0.1:{free.getsockname()[1]}/v2.json", "https://nowhere.invalid/v2.json"]
        for address in addresses:  # nobody listens at the first, and the second has no host
            line = ["baselines", "update", address, "--write", "--storage", str(tmp_path / "runs")]
            code, out, err = call(capsys, *line)
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert err.startswith(f"error: cannot read {address}: ") and "Check the address, the network" in err
    assert not (tmp_path / "runs").exists()
