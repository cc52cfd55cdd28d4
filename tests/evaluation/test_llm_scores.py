"""Language models: prompts, strict parsing of replies, and scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.evaluation.llm.measure import Effort, RunStatus
from orchestrator.evaluation.llm.questions import Question, load_questions, read_answer
from orchestrator.evaluation.llm.score import score
from tests.support.arc_tasks import task
from tests.support.llm import (
    PUZZLES,
    arc_dataset,
    lines,
    measurement,
    oracle,
    solution,
    wrong,
)
from tests.support.llm_server import Say, chat_server
from trm_data import DataRequest, Dataset, build
from trm_data.puzzles.arc import crop, frame
from trm_data.puzzles.kinds import kind_of


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
    cells = read_answer(text, kind_of("sudoku"), 4)
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
    assert read_answer(text, kind_of("sudoku"), 4) is None


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_arc_answer_is_read_back_whatever_its_shape(height: int, width: int, seed: int) -> None:
    grid = np.random.default_rng(seed).integers(0, 10, (height, width), dtype=np.uint8)
    cells = read_answer(f"<answer>{json.dumps(grid.tolist())}</answer>", kind_of("arc"), 30)
    assert cells is not None and (cells == frame(grid)).all() and (crop(cells) == grid).all()


@pytest.mark.parametrize(
    "body",
    [
        *("[]", "[[]]", "[[1], [2, 3]]", "[[10]]", "[[-1]]", "[[true]]", "[[1.0]]", "[1]", "{}", "[[1]", "[" * 100_000),
        *(json.dumps([[0] * 31]), json.dumps([[0]] * 31)),
    ],
)
def test_arc_answer_that_is_no_grid_is_none(body: str) -> None:
    assert read_answer(f"<answer>{body}</answer>", kind_of("arc"), 30) is None


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    for family, side in (("sudoku", 4), ("maze", 8), ("arc", 30)):
        assert read_answer(f"<answer>{text}</answer>", kind_of(family), side) is None or text.strip()


def test_scores_are_those_of_the_answers(dataset: Dataset, questions: list[Question], tmp_path: Path) -> None:
    with chat_server(oracle(questions, {0, 3, 4})) as server:
        run, answers, _ = measurement(dataset, server, tmp_path)
        assert run.run(questions) is RunStatus.COMPLETE
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
        run, answers, _ = measurement(dataset, server, tmp_path, effort=Effort(attempts=2, backoff_s=0.01))
        assert run.run(questions) is RunStatus.COMPLETE
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
        run, answers, _ = measurement(mazes, server, tmp_path / "llm")
        run.run(questions)
    metrics = score(mazes, questions, answers, 1).metrics
    assert metrics == pytest.approx({"exact_accuracy": 5 / 6, "valid_accuracy": 5 / 6})


def test_test_inputs_without_an_answer_are_not_asked(tmp_path: Path) -> None:
    dataset = arc_dataset(tmp_path, {"half": task(1, tests=3, unanswered=2), "none": task(2, tests=1, unanswered=1)})
    (question,) = load_questions(dataset, "test", None)
    assert (dataset.names[question.puzzle], question.item) == ("half", 0)


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
        run, answers, _ = measurement(dataset, server, tmp_path / "llm", effort=Effort(2, 2, 2, 0.01))
        run.run(questions)
    found = score(dataset, questions, answers, 2)
    assert found.per_task == {"pass@1": [1.0, 0.5, 0.0], "pass@2": [1.0, 0.5, 1.0]}
    assert found.metrics["pass@1"] == pytest.approx(0.5) and found.metrics["pass@2"] == pytest.approx(2.5 / 3)
    assert found.metrics["task_pass@2"] == pytest.approx(2 / 3)
    assert "Example 1\ninput: [[3, 1]]\noutput: [[1, 3]]" in questions[0].text
