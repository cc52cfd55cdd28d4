"""Language models measured here: strict reading, retries, money, resume, and a row beside the same puzzles only."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli import main
from orchestrator.cli.run_llm import api_key
from orchestrator.evaluation.llm.answers import Answers
from orchestrator.evaluation.llm.endpoint import Endpoint, EndpointError, Request
from orchestrator.evaluation.llm.ledger import Ledger, Prices
from orchestrator.evaluation.llm.measure import Effort, Ending, Interview
from orchestrator.evaluation.llm.questions import Question, load_questions, read_answer
from orchestrator.evaluation.llm.score import score, summarise
from orchestrator.records.schema import DatasetInfo
from orchestrator.results.baselines import load_baselines
from orchestrator.results.leaderboard import Table, build_leaderboard
from orchestrator.results.llm_results import Measured, Plan, read_measurements
from orchestrator.results.stats import wilson
from orchestrator.storage import LocalStorage
from tests.support.llm_server import ChatServer, Say, chat_server
from tests.support.results import make_config, make_record
from trm_data import DataRequest, Dataset, build
from trm_data.puzzles.arc import crop, frame

PUZZLES = 12
PRICES = Prices(1.0, 10.0)
TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
QUICK = Effort(attempts=1, concurrency=3, retries=4, backoff_s=0.01)


@pytest.fixture(scope="module")
def storage_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llm")


@pytest.fixture(scope="module")
def dataset(storage_root: Path) -> Dataset:
    request = DataRequest(benchmark="sudoku-4x4", num_train=8, num_validation=2, num_test=PUZZLES)
    return build(request, storage_root / "datasets")


@pytest.fixture(scope="module")
def questions(dataset: Dataset) -> list[Question]:
    return load_questions(dataset, "test", None)


def lines(cells: np.ndarray, side: int) -> str:
    return "\n".join("".join(str(int(cell) - 1) for cell in row) for row in cells.reshape(side, side))


def solution(question: Question) -> str:
    return f"First I look.\n<answer>\n{lines(question.label, 4)}\n</answer>"


def wrong(question: Question) -> str:
    return f"<answer>\n{lines((question.label - 1) % 4 + 2, 4)}\n</answer>"


def oracle(questions: list[Question], solved: set[int]) -> Callable[[str, int], Say]:
    """Solves the items named, at the first attempt."""
    known = {question.text: question for question in questions}

    def answer(text: str, _: int) -> Say:
        question = known[text]
        return Say(solution(question) if question.item in solved else wrong(question))

    return answer


def interview(
    dataset: Dataset,
    server: ChatServer,
    folder: Path,
    *,
    effort: Effort = QUICK,
    limit_usd: float = 100.0,
    timeout_s: float = 5.0,
    max_tokens: int = 1_000,
    prices: Prices = PRICES,
) -> tuple[Interview, Answers, Ledger]:
    answers = Answers(LocalStorage(folder))
    ledger = Ledger(limit_usd, answers.spent_usd + answers.lost_usd)
    endpoint = Endpoint(server.url, Request("m", max_tokens), key=None, timeout_s=timeout_s)
    talk = Interview(dataset, endpoint, answers, ledger, prices, effort, stop=threading.Event(), rng=random.Random(0))
    return talk, answers, ledger


# Questions and answers.


def test_question_shows_the_puzzle_and_not_its_solution(questions: list[Question]) -> None:
    for question in questions:
        shown = "\n".join(
            "".join(str(int(cell) - 1) if cell > 1 else "." for cell in row) for row in question.input.reshape(4, 4)
        )
        assert shown in question.text and lines(question.label, 4) not in question.text
        assert "box of 2 rows by 2 columns" in question.text


def test_questions_are_the_items_that_evaluation_scores_first(dataset: Dataset, questions: list[Question]) -> None:
    rows = dataset.rows("test")
    assert [question.item for question in questions] == list(range(PUZZLES))
    assert all((question.input == dataset.inputs[row]).all() for question, row in zip(questions, rows, strict=True))
    few = load_questions(dataset, "test", 5)
    assert [question.text for question in few] == [question.text for question in questions[:5]]


SUDOKU = "1234\n3412\n2143\n4321"
SUPERSCRIPT_ONE = "\N{SUPERSCRIPT ONE}"


@pytest.mark.parametrize(
    "text",
    [
        f"<answer>{SUDOKU}</answer>",
        f"<answer>\n{SUDOKU}\n</answer>\nDone.",
        "<answer>\n1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1\n</answer>",
        f"I will write it in <answer> tags.\n<answer>\n{SUDOKU}\n</answer>",
        f"<answer>4321\n2143\n3412\n1234</answer> No, rather <answer>{SUDOKU}</answer>",
    ],
)
def test_whole_grid_in_the_last_block_is_read(text: str) -> None:
    cells = read_answer(text, "sudoku", 4)
    assert cells is not None and lines(cells, 4) == SUDOKU


@pytest.mark.parametrize(
    "text",
    [
        "",
        SUDOKU,
        f"<answer>{SUDOKU}",
        f"</answer>{SUDOKU}<answer>",
        f"<answer>{SUDOKU}\n1234</answer>",
        f"<answer>{SUDOKU[:-1]}</answer>",
        f"<answer>{SUDOKU.replace('1', '5')}</answer>",
        f"<answer>{SUDOKU.replace('1', '.')}</answer>",
        f"<answer>{SUDOKU.replace('1', SUPERSCRIPT_ONE)}</answer>",
        f"<answer>The grid is:\n{SUDOKU}</answer>",
        f"<answer>```\n{SUDOKU}\n```</answer>",
        f"<answer>{SUDOKU}</answer> I am not sure: <answer>?</answer>",
    ],
)
def test_anything_but_a_whole_grid_is_no_answer(text: str) -> None:
    assert read_answer(text, "sudoku", 4) is None


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_arc_answer_is_read_back_whatever_its_shape(height: int, width: int, seed: int) -> None:
    grid = np.random.default_rng(seed).integers(0, 10, (height, width), dtype=np.uint8)
    cells = read_answer(f"<answer>{json.dumps(grid.tolist())}</answer>", "arc", 30)
    assert cells is not None and (cells == frame(grid)).all() and (crop(cells) == grid).all()


@pytest.mark.parametrize(
    "body",
    [
        *("[]", "[[]]", "[[1], [2, 3]]", "[[10]]", "[[-1]]", "[[true]]", "[[1.0]]", "[1]", "{}", "[[1]", "[" * 100_000),
        *(json.dumps([[0] * 31]), json.dumps([[0]] * 31)),
    ],
)
def test_arc_answer_that_is_no_grid_is_none(body: str) -> None:
    assert read_answer(f"<answer>{body}</answer>", "arc", 30) is None


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    for family, side in (("sudoku", 4), ("maze", 8), ("arc", 30)):
        assert read_answer(f"<answer>{text}</answer>", family, side) is None or text.strip()  # type: ignore[arg-type]


# Scores.


def test_scores_are_those_of_the_answers(dataset: Dataset, questions: list[Question], tmp_path: Path) -> None:
    with chat_server(oracle(questions, {0, 3, 4})) as server:
        talk, answers, _ = interview(dataset, server, tmp_path)
        assert talk.run(questions) is Ending.COMPLETE
    found = score(dataset, questions, answers, 1)
    assert found.metrics == {"exact_accuracy": 3 / PUZZLES, "valid_accuracy": 3 / PUZZLES}
    assert np.flatnonzero(found.exact).tolist() == [0, 3, 4]


def test_second_attempt_is_paid_for_only_where_the_first_is_wrong(
    dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    known, asked = {question.text: question for question in questions}, dict.fromkeys(range(PUZZLES), 0)

    def answer(text: str, _: int) -> Say:
        item = known[text].item
        asked[item] += 1
        right = item < 4 or (item < 6 and asked[item] == 2)
        return Say(solution(known[text]) if right else wrong(known[text]))

    with chat_server(answer) as server:
        talk, answers, _ = interview(dataset, server, tmp_path, effort=Effort(attempts=2, backoff_s=0.01))
        assert talk.run(questions) is Ending.COMPLETE
    assert asked == {item: 1 if item < 4 else 2 for item in range(PUZZLES)}
    metrics = score(dataset, questions, answers, 2).metrics
    assert (metrics["exact_accuracy"], metrics["pass@2"]) == (4 / PUZZLES, 6 / PUZZLES)


def test_maze_answer_with_another_shortest_path_is_valid_and_not_exact(tmp_path: Path) -> None:
    request = DataRequest(benchmark="maze-8x8", num_train=4, num_validation=2, num_test=6)
    mazes = build(request, tmp_path / "datasets")
    questions = load_questions(mazes, "test", None)
    symbols = {1: "#", 2: ".", 3: "S", 4: "G", 5: "o"}

    def text_of(cells: np.ndarray) -> str:
        return "\n".join("".join(symbols[int(cell)] for cell in row) for row in cells.reshape(8, 8))

    assert all(text_of(question.input) in question.text for question in questions)
    known = {question.text: question for question in questions}

    def answer(text: str, number: int) -> Say:
        question = known[text]
        cells = question.label.copy()
        if question.item == 1:  # a free cell more: no shortest path any more
            cells[np.flatnonzero(cells == 2)[0]] = 5
        return Say(f"<answer>{text_of(cells)}</answer>")

    with chat_server(answer) as server:
        talk, answers, _ = interview(mazes, server, tmp_path / "llm")
        talk.run(questions)
    metrics = score(mazes, questions, answers, 1).metrics
    assert metrics == pytest.approx({"exact_accuracy": 5 / 6, "valid_accuracy": 5 / 6})


def test_arc_scores_are_means_over_tasks(tmp_path: Path) -> None:
    """Three tasks with 1, 2 and 1 test inputs; the second is half solved, the third at the second attempt."""
    tasks = {
        f"{name:08x}": {
            "train": [{"input": [[name, 1]], "output": [[1, name]]}],
            "test": [{"input": [[name, other]], "output": [[other, name]]} for other in range(2, 2 + count)],
        }
        for name, count in ((3, 1), (4, 2), (5, 1))
    }
    dataset = arc_dataset(tmp_path, tasks)
    questions = load_questions(dataset, "test", None)
    assert [question.puzzle for question in questions] == sorted(question.puzzle for question in questions)
    names = [dataset.names[question.puzzle] for question in questions]
    known = {question.text: (question, name) for question, name in zip(questions, names, strict=True)}
    seen: dict[int, int] = {}

    def answer(text: str, _: int) -> Say:
        question, name = known[text]
        seen[question.item] = seen.get(question.item, 0) + 1
        first_of_task = all(q.item >= question.item for q in questions if q.puzzle == question.puzzle)
        right = {"00000003": True, "00000004": first_of_task, "00000005": seen[question.item] == 2}[name]
        grid = crop(question.label).tolist() if right else [[0]]
        return Say(f"<answer>{json.dumps(grid)}</answer>")

    with chat_server(answer) as server:
        talk, answers, _ = interview(dataset, server, tmp_path / "llm", effort=Effort(2, 2, 2, 0.01))
        talk.run(questions)
    found = score(dataset, questions, answers, 2)
    assert found.per_task == {"pass@1": [1.0, 0.5, 0.0], "pass@2": [1.0, 0.5, 1.0]}
    assert found.metrics["pass@1"] == pytest.approx(0.5) and found.metrics["pass@2"] == pytest.approx(2.5 / 3)
    assert found.metrics["task_pass@2"] == pytest.approx(2 / 3)
    assert "Example 1\ninput: [[3, 1]]\noutput: [[1, 3]]" in questions[0].text


def arc_dataset(folder: Path, tasks: dict[str, Any]) -> Dataset:
    """Evaluation tasks from JSON files, and one training task that nobody is asked."""
    source = folder / "source"
    training = {"0000000a": {"train": [{"input": [[9]], "output": [[8]]}], "test": [{"input": [[8]], "output": [[9]]}]}}
    for subset, found in (("training", training), ("evaluation", tasks)):
        (source / subset).mkdir(parents=True)
        for name, task in found.items():
            (source / subset / f"{name}.json").write_text(json.dumps(task))
    request = DataRequest(benchmark="arc-agi-1", source=str(source), num_validation=0)
    return build(request, folder / "datasets")


# Retries.


def test_rate_limit_is_waited_out_by_everybody(dataset: Dataset, questions: list[Question], tmp_path: Path) -> None:
    solve = oracle(questions, set(range(PUZZLES)))

    def answer(text: str, number: int) -> Say:
        return Say(status=429, headers={"Retry-After": "1"}, body="{}") if number == 2 else solve(text, number)

    with chat_server(answer) as server:
        talk, answers, ledger = interview(dataset, server, tmp_path)
        assert talk.run(questions) is Ending.COMPLETE
    refused_s = server.heard[2].at_s
    under_way = [heard for heard in server.heard[3:] if heard.at_s < refused_s + 0.2]
    later = [heard for heard in server.heard[3:] if heard not in under_way]
    assert len(under_way) <= QUICK.concurrency and min(heard.at_s for heard in later) >= refused_s + 0.99
    assert len(server.heard) == PUZZLES + 1 and answers.lost == 0
    assert ledger.spent_usd == pytest.approx(PUZZLES * PRICES.usd(100, 200))


def test_long_retry_after_ends_the_run_in_one_line(dataset: Dataset, questions: list[Question], tmp_path: Path) -> None:
    body = json.dumps({"error": {"message": "daily limit"}})
    with chat_server(lambda *_: Say(status=429, headers={"Retry-After": "7200"}, body=body)) as server:
        talk, answers, _ = interview(dataset, server, tmp_path)
        with pytest.raises(EndpointError, match=r"asks to wait 120 minutes \(rate limit: daily limit\)"):
            talk.run(questions)
    assert len(server.heard) == 1 and answers.lost == 0


BROKEN = [
    Say(status=500, body=json.dumps({"error": {"message": "overloaded"}})),
    Say(status=503, body="<html>busy</html>"),
    Say(body="{"),
    Say(body=json.dumps({"choices": []})),
    Say(body=json.dumps({"choices": [{"message": {"content": [1]}}]})),
    Say(hang_up=True),
    Say(delay_s=1.0),
]


@pytest.mark.parametrize("broken", BROKEN, ids=["500", "503", "cut JSON", "no choice", "no text", "hang-up", "slow"])
def test_broken_reply_is_asked_for_again(
    broken: Say, dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    """What may have cost money without an answer stays counted, at the most that it can have cost."""
    solve = oracle(questions, set(range(PUZZLES)))
    with chat_server(lambda text, number: broken if number == 4 else solve(text, number)) as server:
        talk, answers, ledger = interview(dataset, server, tmp_path, timeout_s=0.6)
        assert talk.run(questions) is Ending.COMPLETE
        assert len(server.heard) == PUZZLES + 1
    assert answers.lost == (0 if broken.status >= 500 else 1)
    assert ledger.spent_usd == pytest.approx(answers.spent_usd + answers.lost_usd)
    again = Answers(LocalStorage(tmp_path))
    assert (again.spent_usd, again.lost_usd) == pytest.approx((answers.spent_usd, answers.lost_usd))


def test_question_that_never_gets_an_answer_is_left_for_the_next_run(
    dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    solve = oracle(questions, set(range(PUZZLES)))

    def answer(text: str, number: int) -> Say:
        return Say(status=500, body="{}") if text == questions[5].text else solve(text, number)

    with chat_server(answer) as server:
        talk, _, _ = interview(dataset, server, tmp_path)
        assert talk.run(questions) is Ending.UNANSWERED
    with chat_server(solve) as server:
        talk, _, _ = interview(dataset, server, tmp_path)
        assert talk.run(questions) is Ending.COMPLETE
        assert [heard.question for heard in server.heard] == [questions[5].text]


def test_endpoint_that_goes_away_ends_the_run(dataset: Dataset, questions: list[Question], tmp_path: Path) -> None:
    solve = oracle(questions, set(range(PUZZLES)))
    with chat_server(lambda text, n: solve(text, n) if n < 3 else Say(status=502, body="gone")) as server:
        talk, answers, _ = interview(dataset, server, tmp_path)
        with pytest.raises(EndpointError, match="stopped answering: status 502: gone"):
            talk.run(questions)
    assert sum(answers.get(question.item, 1) is not None for question in questions) == 3


def test_truncated_and_unreadable_answers_are_wrong_and_counted(
    dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    known = {question.text: question for question in questions}

    def answer(text: str, _: int) -> Say:
        item = known[text].item
        if item == 0:
            return Say(solution(known[text]), finish="length")
        return Say("I give up." if item == 1 else solution(known[text]))

    with chat_server(answer) as server:
        talk, answers, _ = interview(dataset, server, tmp_path)
        talk.run(questions)
    found = summarise(plan_of(dataset), dataset, questions, answers, 1)
    assert (found.truncated, found.unreadable) == (1, 1)
    assert found.metrics["exact_accuracy"] == pytest.approx((PUZZLES - 2) / PUZZLES)


def plan_of(dataset: Dataset, **changes: Any) -> Plan:
    values = {"benchmark": dataset.benchmark, "fingerprint": dataset.fingerprint, "split": "test"}
    return Plan(**{**values, "endpoint": "http://x/v1", "model": "M", "max_tokens": 100, **changes})


def test_newer_name_of_the_token_limit_is_used_where_it_is_asked_for(
    dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    solve, refusal = oracle(questions, set()), "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'."

    def answer(text: str, number: int) -> Say:
        refused = Say(status=400, body=json.dumps({"error": {"message": refusal}}))
        return refused if "max_tokens" in server.heard[number].body else solve(text, number)

    with chat_server(answer) as server:
        talk, _, _ = interview(dataset, server, tmp_path)
        assert talk.run(questions) is Ending.COMPLETE
        assert server.heard[-1].body["max_completion_tokens"] == 1_000 and len(server.heard) == PUZZLES + 1


# Money.


@given(
    st.floats(0, 50),
    st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 1)), max_size=30),
    st.integers(1, 6),
)
def test_ledger_never_passes_its_limit(limit: float, questions: list[tuple[float, float]], at_once: int) -> None:
    """Whatever the order in which answers come back, with at most `at_once` under way."""
    ledger, under_way = Ledger(limit, 0.0), []
    for most, share in questions:
        if len(under_way) == at_once:
            ledger.settle(*under_way.pop(0))
        room = limit - ledger.spent_usd - sum(m for m, _ in under_way)
        while under_way and most > room - 1e-9:  # it would wait for one of these to come back
            ledger.settle(*under_way.pop(0))
            room = limit - ledger.spent_usd - sum(m for m, _ in under_way)
        if ledger.reserve(most):
            under_way.append((most, most * share))
        assert ledger.spent_usd + sum(m for m, _ in under_way) <= limit + 1e-9


def test_run_stops_before_the_limit_and_a_higher_one_goes_on(
    dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    most = PRICES.usd(len(questions[0].text.encode()) + 64, 1_000)
    limit = most + 4.5 * PRICES.usd(100, 200)
    solve = oracle(questions, set(range(PUZZLES)))
    with chat_server(solve) as server:
        talk, answers, ledger = interview(dataset, server, tmp_path, limit_usd=limit)
        assert talk.run(questions) is Ending.BUDGET
        assert 3 <= len(server.heard) <= 5 and answers.spent_usd == ledger.spent_usd <= limit
        first = len(server.heard)
        talk, answers, _ = interview(dataset, server, tmp_path, limit_usd=10.0)
        assert talk.run(questions) is Ending.COMPLETE
        assert len(server.heard) == PUZZLES and first < PUZZLES


def test_uncounted_tokens_are_charged_at_the_most_that_they_can_be(
    dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    with chat_server(lambda *_: Say("<answer></answer>", tokens=None)) as server:
        talk, answers, _ = interview(dataset, server, tmp_path)
        talk.run(questions[:1])
    answer = answers.get(0, 1)
    assert answer is not None and answer.estimated
    assert answer.usd == PRICES.usd(len(questions[0].text.encode()), 1_000)


# The command.


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


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


REFUSALS = [
    (
        Say(body="<html><body>Welcome</body></html>"),
        "is no OpenAI-compatible endpoint: the reply is no chat completion: an HTML page",
    ),
    (Say(status=404, body="<html>no</html>"), "refuses the question with status 404: an HTML page. Check --endpoint"),
    (Say(status=401, body=json.dumps({"error": {"message": "bad key"}})), "status 401: bad key. Give a valid key"),
    (Say(body=json.dumps({"hello": "world"})), "is no OpenAI-compatible endpoint"),
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
        ([*good, "--endpoint", "nowhere"], "--endpoint 'nowhere' is no address"),
        ([*good, "--api-key-file", str(tmp_path / "none.txt")], "cannot read the key"),
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
            paused.wait(20)
        return solve(text, number)

    with chat_server(answer) as server:
        line = [*TRM, *command(server.url, tmp_path, dataset, "--concurrency", "2")]
        first = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(server.heard) < 7 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        paused.set()
        folder = next((tmp_path / "llm").iterdir())
        before = Answers(LocalStorage(folder))
        assert before.lost == 2 and before.spent_usd == pytest.approx(5 * PRICES.usd(100, 200))
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
        assert len(server.heard) == PUZZLES + 2  # only the two that were under way were asked again
    assert "of it at most $0.021 on 2 questions without an answer" in " ".join(done.stderr.split())
    (measured,) = read_measurements(LocalStorage(tmp_path))
    assert measured.metrics["exact_accuracy"] == 1.0


# The leaderboard.


def measured_of(dataset: DatasetInfo, puzzles: int, solved: int, **changes: Any) -> Measured:
    plan = Plan(
        benchmark=dataset.benchmark,
        fingerprint=dataset.fingerprint,
        split=changes.pop("split", "test"),
        endpoint="http://x/v1",
        model="M",
        max_tokens=100,
    )
    values: dict[str, Any] = {
        "name": "m-1",
        "plan": plan,
        "generated": dataset.generated,
        "puzzles": puzzles,
        "puzzles_in_split": dataset.counts["test"],
        "items": puzzles,
        "attempts": 1,
        "metrics": {"exact_accuracy": solved / puzzles},
        "per_item": "",
        "per_task": {},
        "usd": 1.0,
        "answers": puzzles,
        "tokens_in": 1,
        "tokens_out": 1,
        "estimated": False,
        "truncated": 0,
        "unreadable": 0,
        "ended_s": 1_790_000_000.0,
    }
    return Measured(**values | changes)


def table_with(tables: list[Table], system: str) -> Table:
    (found,) = [table for table in tables if any(entry.system == system for entry in table.entries)]
    return found


def test_language_model_stands_beside_own_runs_on_exactly_its_puzzles() -> None:
    record = make_record(make_config(), score=0.9, stage="confirm", family="best")
    tables = build_leaderboard(None, [record], [], [measured_of(record.dataset, 80, 20)])
    assert [table.items for table in tables] == [500, 80]  # the page speaks of the first one
    table = table_with(tables, "M")
    assert table.split == "80 of 500 test items" and table.items == 80
    scores = {entry.system: entry.score for entry in table.entries}
    exact = np.unpackbits(np.frombuffer(bytes.fromhex(record.result.per_item), np.uint8))[:80]  # type: ignore[union-attr, arg-type]
    assert scores == pytest.approx({"best": 100 * exact.mean(), "M": 25.0})
    whole = table_with(build_leaderboard(None, [record], [], [measured_of(record.dataset, 500, 100)]), "M")
    assert whole.split == "test" and {entry.system for entry in whole.entries} == {"best", "M"}


@pytest.mark.parametrize(
    "changes",
    [{"fingerprint": "ffff"}, {"benchmark": "sudoku-9x9"}],
    ids=["other puzzles", "other benchmark"],
)
def test_language_model_is_never_ranked_with_other_puzzles(changes: dict[str, Any]) -> None:
    record = make_record(make_config(), score=0.9, stage="confirm", family="best")
    tables = build_leaderboard(
        None, [record], load_baselines(), [measured_of(record.dataset.model_copy(update=changes), 80, 20)]
    )
    assert [entry.system for entry in table_with(tables, "M").entries] == ["M"]


def test_language_model_on_validation_or_with_another_metric_has_no_row() -> None:
    record = make_record(make_config(), score=0.9, stage="confirm", family="best")
    on_validation = measured_of(record.dataset, 80, 20, split="validation")
    other_metric = measured_of(record.dataset, 80, 20, metrics={"valid_accuracy": 0.5})
    for measured in (on_validation, other_metric):
        systems = {e.system for table in build_leaderboard(None, [record], [], [measured]) for e in table.entries}
        assert "M" not in systems


def test_language_model_on_all_public_arc_tasks_is_ranked_with_published_rows_by_task() -> None:
    dataset = DatasetInfo(benchmark="arc-agi-2", fingerprint="f", counts={"test": 120})
    shares = [1.0] * 10 + [0.5] * 4 + [0.0] * 106
    mean = sum(shares) / 120
    measured = measured_of(
        dataset, 120, 0, metrics={"pass@2": mean, "exact_accuracy": 0.1}, per_task={"pass@2": shares}, items=172
    )
    tables = [t for t in build_leaderboard("arc-agi-2", [], load_baselines(), [measured]) if t.metric == "pass@2"]
    table = table_with(tables, "M")
    assert table.split == "public-eval" and "TRM-Att" in {entry.system for entry in table.entries}
    row = next(entry for entry in table.entries if entry.system == "M")
    assert row.score == pytest.approx(10.0) and row.items == 120
    assert row.item_interval == pytest.approx((5.4, 15.4), abs=0.6)  # mean of 10 with sd 28.4 over 120 tasks
