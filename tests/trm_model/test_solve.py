"""Puzzles that a person writes down: read, solved, judged, drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trm_data import build
from trm_data.benchmarks import Benchmark, list_benchmarks
from trm_data.config import DataRequest
from trm_data.dataset.render import save_answers
from trm_data.dataset.schema import vocab_size
from trm_data.errors import DataError
from trm_data.puzzles.text import family_of, read_questions, write_rows
from trm_model.checkpoints.store import CheckpointError
from trm_model.checkpoints.trained import Trained
from trm_model.config import TrialConfig
from trm_model.evaluation.solve import Solution, Solved, solve, solve_text
from trm_model.model.recursion import build_model

EASY = "1.3434.22.434.2."
ANSWER = "1234341221434321"
MAZE = "S   \n.## \n #G \n    \n"


def trained(symbols: int, cells: int, ids: int = 1, **sections: Any) -> Trained:
    shape = {"hidden_size": 16, "num_heads": 2, "cycles": 1, "latent_steps": 1, "num_layers": 1}
    config = TrialConfig.parse({"model": {**shape, "supervision_steps": 3}, **sections})
    model = build_model(config.model, vocab_size=symbols, seq_len=cells, num_identifiers=ids)
    return Trained(model, config, 0, "shared")


def no_dataset() -> Any:
    raise AssertionError("only ARC models need their dataset")


OWN = [each for each in list_benchmarks() if each.name != "official"]


@pytest.mark.parametrize("benchmark", OWN, ids=[each.name for each in OWN])
def test_sizes_tell_the_kind_of_puzzle(benchmark: Benchmark) -> None:
    assert family_of(vocab_size(benchmark.family, benchmark.side), benchmark.side) == benchmark.family


def test_sudoku_is_read_as_a_line_as_lines_and_as_a_square() -> None:
    (one,) = read_questions(EASY, "sudoku", 4)
    assert write_rows(one.cells, "sudoku", 4) == ["1.34", "34.2", "2.43", "4.2."]
    assert one.label is not None and "".join(write_rows(one.label, "sudoku", 4)) == ANSWER
    (square,) = read_questions("1 . | 3 4\n3 4 | . 2\n----+----\n2 . | 4 3\n4 . | 2 .\n", "sudoku", 4)
    assert np.array_equal(square.cells, one.cells)
    both = read_questions(f"# a comment\n{EASY}\n\n{EASY.replace('.', '0')} rest\n", "sudoku", 4)
    assert [np.array_equal(each.cells, one.cells) for each in both] == [True, True]
    assert read_questions("." * 16, "sudoku", 4)[0].label is None, "an empty grid has many solutions"


def test_maze_is_read_with_its_shortest_path() -> None:
    (one,) = read_questions(MAZE, "maze", 4)
    assert write_rows(one.cells, "maze", 4) == ["S   ", " ## ", " #G ", "    "]
    assert one.label is not None and write_rows(one.label, "maze", 4) == ["S   ", "o## ", "o#G ", "ooo "]


@pytest.mark.parametrize(
    ("text", "family", "side", "match"),
    [
        ("123", "sudoku", 4, "is no 4x4 Sudoku"),
        (EASY.replace("1", "5"), "sudoku", 4, "Write 16 of 1-4"),
        ("# nothing\n", "sudoku", 4, "no puzzle in the text"),
        (MAZE.replace("S", "x"), "maze", 4, "is no 4x4 maze"),
        (MAZE.replace("G", " "), "maze", 4, "needs one S, one G"),
        ("S  #\n  ##\n ###\n###G", "maze", 4, "a way between them"),
        ("S G", "maze", 4, "a line per row"),
        ("{}", "arc", 30, "no ARC task"),
        ("no json", "arc", 30, "no ARC task"),
        ('{"test": [{"input": [[1], [2, 3]]}]}', "arc", 30, "ragged"),
    ],
)
def test_text_that_is_no_puzzle_is_refused(text: str, family: Any, side: int, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_questions(text, family, side)


def solved(text: str, family: Any, side: int, answer: str) -> Solved:
    """A puzzle with a given answer, in the same notation."""
    (question,) = read_questions(text, family, side)
    letters = "# SGo" if family == "maze" else ".1234"
    cells = np.array([1 + letters.index(letter) for letter in answer.replace("\n", "")], np.uint8)
    return Solved(family, side, question, Solution([cells], [0.5]))


def test_answers_are_judged_by_the_puzzle_and_not_by_one_label() -> None:
    assert solved(EASY, "sudoku", 4, ANSWER).is_valid is True
    assert solved(EASY, "sudoku", 4, ANSWER.replace("1", "2", 1)).is_valid is False
    assert solved("." * 16, "sudoku", 4, ANSWER).is_valid is True
    around = "S   \n ## \n ## \n   G\n"
    assert solved(around, "maze", 4, "Sooo ##o ##o   G").is_valid is True
    assert solved(around, "maze", 4, "S   o## o## oooG").is_valid is True
    assert solved(around, "maze", 4, "S    ##  ##    G").is_valid is False


def test_model_answers_every_puzzle_of_a_text_with_its_steps() -> None:
    found = solve_text(trained(6, 16), f"{EASY}\n{EASY}\n", no_dataset, depth=2)
    assert len(found) == 2
    told = found[0].plain(with_steps=True)
    assert told["puzzle"] == ["1.34", "34.2", "2.43", "4.2."] and len(told["steps"]) == 2
    assert told["steps"][-1] == {"answer": told["answer"], "confidence": told["confidence"]}
    assert "steps" not in found[0].plain(with_steps=False)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three small ARC tasks."""
    folder = tmp_path_factory.mktemp("tasks")
    for number, subset in enumerate(("training", "training", "evaluation"), 1):
        grids = [[[number, other, 0], [0, number, other]] for other in (4, 5, 6, 7)]
        pairs = [{"input": grid, "output": [row[::-1] for row in grid]} for grid in grids]
        (folder / subset).mkdir(exist_ok=True)
        (folder / subset / f"task{number}.json").write_text(json.dumps({"train": pairs[:3], "test": pairs[3:]}))
    return folder


def test_arc_task_is_answered_through_its_own_embedding(tasks: Path, tmp_path: Path) -> None:
    request = DataRequest(benchmark="arc-agi-1", source=str(tasks), num_validation=0)
    dataset = build(request, tmp_path)
    one = trained(12, 900, dataset.num_identifiers(0), data=request.plain())
    assert one.model.puzzle_embedding is not None
    one.model.puzzle_embedding.weight.normal_(generator=torch.Generator().manual_seed(0))
    one = Trained(one.model, one.config, 0, dataset.id_map_hash(0))
    text = (tasks / "evaluation/task3.json").read_text()
    (found,) = solve_text(one, text, lambda: dataset)
    puzzle_id = dataset.identifiers(0).index("task3")
    expected = solve(one.model, found.question.cells, puzzle_id=puzzle_id)
    assert np.array_equal(found.solution.answer, expected.answer)
    assert found.is_valid is False
    unknown = json.loads(text)
    del unknown["test"][0]["output"]
    (found,) = solve_text(one, json.dumps(unknown), lambda: dataset)
    assert found.is_valid is None, "without the output nobody can tell"
    unknown["test"] = [{"input": [[9, 9]]}]
    assert len(solve_text(one, json.dumps(unknown), lambda: dataset)) == 1, "known by its demonstrations"
    unknown["train"] = []
    with pytest.raises(DataError, match="is not in arc-agi-1"):
        solve_text(one, json.dumps(unknown), lambda: dataset)
    with pytest.raises(CheckpointError, match="puzzle-id map"):
        solve_text(Trained(one.model, one.config, 0, "another"), text, lambda: dataset)


@pytest.mark.parametrize(("family", "side", "values"), [("sudoku", 9, 11), ("maze", 15, 6), ("arc", 30, 12)])
def test_picture_has_a_frame_per_supervision_step(family: Any, side: int, values: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    question, *answers = generator.integers(0, values, (4, side * side)).astype(np.uint8)
    save_answers(family, question, answers, tmp_path / "all.gif")
    save_answers(family, question, answers, tmp_path / "last.png")
    with Image.open(tmp_path / "all.gif") as film:
        assert film.n_frames == 3  # type: ignore[attr-defined]
    with Image.open(tmp_path / "last.png") as picture:
        assert picture.size == film.size
