"""`trm baselines run-llm`: nothing is paid for twice, and mistakes are one line each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from orchestrator.cli.run_llm import api_key
from orchestrator.evaluation.llm.answers import Answers
from orchestrator.evaluation.llm.questions import Question
from orchestrator.results.llm_results import read_measurements
from orchestrator.results.stats import wilson
from orchestrator.storage import LocalStorage
from orchestrator.storage.lease import Lease
from tests.support.commands import call
from tests.support.llm import (
    PRICES,
    PUZZLES,
    TRM,
    oracle,
)
from tests.support.llm_server import Say, chat_server
from trm_data import Dataset


def command(url: str, storage: Path, dataset: Dataset, *more: str) -> list[str]:
    prices = ["--usd-per-mtok-in", "1", "--usd-per-mtok-out", "10"]
    line = ["baselines", "run-llm", "--endpoint", url, "--model", "Big Model", "--benchmark", dataset.path.name]
    return [*line, "--max-usd", "5", "--max-tokens", "1000", *prices, "--storage", str(storage), *more]


def test_command_measures_once_and_pays_for_nothing_twice(
    dataset: Dataset, questions: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "datasets").symlink_to(dataset.path.parent)
    key = tmp_path / "key.txt"
    key.write_text("sk-secret-1\n")
    with chat_server(oracle(questions, {0, 2})) as server:
        line = command(server.url, tmp_path, dataset, "--api-key-file", str(key), "--limit")
        code, out, _ = call(capsys, *line, "4", "--json")
        assert code == 0 and json.loads(out)["metrics"]["exact_accuracy"] == 0.5
        assert {heard.key for heard in server.heard} == {"sk-secret-1"} and len(server.heard) == 6
        code, out, _ = call(capsys, *line, "4")
        assert code == 0 and len(server.heard) == 6
        assert "50.0 % of the first 4 sudoku-4x4-generated test puzzles" in " ".join(out.split())
        code, _, _ = call(capsys, *line, "6")
        assert code == 0 and len(server.heard) == 10
        code, _, _ = call(capsys, *line, "4")
        assert code == 0 and len(server.heard) == 10
    (measured,) = read_measurements(LocalStorage(tmp_path))
    assert measured.puzzles == 6 and measured.answers == 10
    stored = [path for path in (tmp_path / "llm").rglob("*") if path.is_file()]
    assert stored and not any(b"sk-secret" in path.read_bytes() for path in stored)
    code, out, _ = call(capsys, "leaderboard", "sudoku-4x4", "--storage", str(tmp_path), "--format", "json")
    tables = {table["metric"]: table for table in json.loads(out)}
    assert set(tables) == {"exact_accuracy", "pass@2"}
    (row,) = tables["exact_accuracy"]["entries"]
    assert (row["system"], row["evidence"], row["items"]) == ("Big Model", "measured here", 6)
    low, high = wilson(2 / 6, 6)
    assert row["item_interval"] == pytest.approx([100 * low, 100 * high])
    assert row["cost_per_task_usd"] == pytest.approx(10 * PRICES.usd(100, 200) / 6)
    code, _, _ = call(capsys, "leaderboard", "--storage", str(tmp_path))
    assert code == 0 and "Big Model" in (tmp_path / "leaderboard.html").read_text()


def test_a_model_that_another_process_measures_is_not_paid_for_twice(
    dataset: Dataset, questions: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "datasets").symlink_to(dataset.path.parent)
    with chat_server(oracle(questions, {0, 2})) as server:
        line = command(server.url, tmp_path, dataset, "--limit")
        assert call(capsys, *line, "1")[0] == 0
        num_paid = len(server.heard)
        (folder,) = (tmp_path / "llm").iterdir()
        with Lease(LocalStorage(folder), "Big Model"):
            code, _, err = call(capsys, *line, "2")
        assert code == 2 and "Big Model is already being measured by another process" in err
        assert len(server.heard) == num_paid


REFUSALS = [
    (
        Say(body="<html><body>Welcome</body></html>"),
        "is not an OpenAI-compatible endpoint: the reply is not a chat completion: an HTML page",
    ),
    (Say(status=404, body="<html>no</html>"), "refuses the question with status 404: an HTML page. Check --endpoint"),
    (Say(status=401, body=json.dumps({"error": {"message": "bad key"}})), "status 401: bad key. Give a valid key"),
    (Say(body=json.dumps({"hello": "world"})), "is not an OpenAI-compatible endpoint"),
    (
        Say(status=429, body=json.dumps({"error": {"code": "insufficient_quota", "message": "no money"}})),
        "status 429: no money",
    ),
]


@pytest.mark.parametrize(("say", "words"), REFUSALS, ids=["HTML", "404", "401", "other JSON", "no quota"])
def test_endpoint_that_is_none_or_refuses_is_one_line(
    say: Say, words: str, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "datasets").symlink_to(dataset.path.parent)
    with chat_server(lambda *_: say) as server:
        code, out, err = call(capsys, *command(server.url, tmp_path, dataset))
        assert (code, out, err.count("\n")) == (2, "", 1) and words in err
        assert len(server.heard) == 1
    assert list((tmp_path / "llm").rglob("asked/*.json")) == []


def test_mistakes_are_one_line_each(dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "datasets").symlink_to(dataset.path.parent)
    good = command("http://127.0.0.1:9/v1", tmp_path, dataset)
    no_prices = [word for word in good if word not in ("--usd-per-mtok-in", "1", "--usd-per-mtok-out", "10")]
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    for line, words in (
        (good, "no language model answers at http://127.0.0.1:9/v1"),
        (no_prices, "--max-usd needs prices to keep. Give --usd-per-mtok-in and --usd-per-mtok-out"),
        ([*good, "--endpoint", "nowhere"], "--endpoint 'nowhere' is not an address"),
        ([*good, "--api-key-file", str(tmp_path / "none.txt")], "none.txt' does not exist"),
        ([*good, "--api-key-file", str(empty)], "holds no key"),
        ([*good, "--benchmark", "sudoku-44"], "Did you mean 'sudoku-4x4'"),
        ([*good, "--split", "tset"], "'test'"),
        ([*good, "--max-usd", "0.001"], "one answer can cost $0.01, more than --max-usd $0.001 leaves"),
    ):
        code, out, err = call(capsys, *line)
        assert (code, out, err.count("\n")) == (2, "", 1) and words in err, line


def test_key_from_the_environment_is_not_sent_in_the_clear(
    dataset: Dataset,
    questions: list[Question],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    assert api_key("https://api.example.org/v1", None) == api_key("http://localhost:8000/v1", None) == "sk-env"
    assert api_key("http://example.org/v1", None) is None


def test_killed_run_goes_on_and_counts_what_was_under_way(
    dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    (tmp_path / "datasets").symlink_to(dataset.path.parent)
    solve, paused = oracle(questions, set(range(PUZZLES))), threading.Event()

    def answer(text: str, number: int) -> Say:
        if number >= 5:
            paused.wait(600)
        return solve(text, number)

    with chat_server(answer) as server:
        line = [*TRM, *command(server.url, tmp_path, dataset, "--concurrency", "2")]
        first = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 600
        while len(server.heard) < 7 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        paused.set()
        folder = next((tmp_path / "llm").iterdir())
        before = Answers(LocalStorage(folder))
        assert before.lost == 2 and before.spent_usd == pytest.approx(5 * PRICES.usd(100, 200))
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        assert len(server.heard) == PUZZLES + 2  # only the two that were under way were asked again
    assert "of it at most $0.021 on 2 questions without an answer" in " ".join(done.stderr.split())
    (measured,) = read_measurements(LocalStorage(tmp_path))
    assert measured.metrics["exact_accuracy"] == 1.0
