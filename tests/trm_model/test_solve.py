"""Puzzles that a person writes down: read, solved, judged, drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.arc_tasks import pair, task, write_tasks
from trm_data import Dataset, build
from trm_data.benchmarks import Benchmark, list_benchmarks
from trm_data.config import DataRequest
from trm_data.dataset.render import save_answers
from trm_data.errors import ConfigError, DataError
from trm_data.puzzles.kinds import kind_of, kind_that_reads
from trm_data.sources.arc import packaged_tasks
from trm_model.checkpoints.store import CheckpointError
from trm_model.checkpoints.trained import Trained
from trm_model.config import EvaluationConfig, TrialConfig
from trm_model.evaluation.evaluate import evaluate
from trm_model.evaluation.solve import Solution, Solved, solve, solve_text
from trm_model.model.recursion import build_model

EASY = "1.3434.22.434.2."
ANSWER = "1234341221434321"
MAZE = "S   \n.## \n #G \n    \n"


def trained(symbols: int, cells: int, ids: int = 1, **sections: Any) -> Trained:
    shape = {"hidden_size": 16, "num_heads": 2, "cycles": 1, "latent_steps": 1, "num_layers": 1}
    config = TrialConfig.parse({**sections, "model": {**shape, "supervision_steps": 3, **sections.get("model", {})}})
    model = build_model(config.model, vocab_size=symbols, seq_len=cells, num_identifiers=ids)
    return Trained(model, config, 0, "shared")


def no_dataset() -> Any:
    raise AssertionError("only ARC models need their dataset")


OWN = [each for each in list_benchmarks() if each.name != "official"]


@pytest.mark.parametrize("benchmark", OWN, ids=[each.name for each in OWN])
def test_sizes_tell_the_kind_of_puzzle(benchmark: Benchmark) -> None:
    kind = kind_of(benchmark.family)
    assert kind_that_reads(kind.vocab_size(benchmark.side), benchmark.side) is kind
    assert (benchmark.vocab_size, benchmark.has_tasks) == (kind.vocab_size(benchmark.side), kind.has_tasks)


def test_sudoku_is_read_as_a_line_as_lines_and_as_a_square() -> None:
    (one,) = kind_of("sudoku").read(EASY, 4)
    assert kind_of("sudoku").write(one.cells, 4) == ["1.34", "34.2", "2.43", "4.2."]
    assert one.label is not None and "".join(kind_of("sudoku").write(one.label, 4)) == ANSWER
    (square,) = kind_of("sudoku").read("1 . | 3 4\n3 4 | . 2\n----+----\n2 . | 4 3\n4 . | 2 .\n", 4)
    assert np.array_equal(square.cells, one.cells)
    (commented,) = kind_of("sudoku").read("# 1 comment\n1 . | 3 4\n3 4 | . 2\n2 . | 4 3\n4 . | 2 .\n", 4)
    assert (commented.cells == square.cells).all()
    (tdoku,) = kind_of("sudoku").read(f"{EASY}:1:{EASY}\n", 4)
    assert (tdoku.cells == one.cells).all()
    both = kind_of("sudoku").read(f"# a comment\n{EASY}\n\n{EASY.replace('.', '0')} rest\n", 4)
    assert [np.array_equal(each.cells, one.cells) for each in both] == [True, True]
    assert kind_of("sudoku").read("." * 16, 4)[0].label is None, "an empty grid has many solutions"


def test_maze_is_read_with_its_shortest_path() -> None:
    (one,) = kind_of("maze").read(MAZE, 4)
    assert kind_of("maze").write(one.cells, 4) == ["S   ", " ## ", " #G ", "    "]
    assert one.label is not None and kind_of("maze").write(one.label, 4) == ["S   ", "o## ", "o#G ", "ooo "]


@pytest.mark.parametrize(
    ("text", "family", "side", "match"),
    [
        ("123", "sudoku", 4, "is not a 4x4 Sudoku"),
        (EASY.replace("1", "5"), "sudoku", 4, "Write 16 of 1-4"),
        ("11" + "." * 14, "sudoku", 4, "1 stands twice in row 1"),
        ("1..." + "1..." + "." * 8, "sudoku", 4, "1 stands twice in column 1"),
        ("1....1.." + "." * 8, "sudoku", 4, "1 stands twice in box 1"),
        ("# nothing\n", "sudoku", 4, "no puzzle in the text"),
        (MAZE.replace("S", "x"), "maze", 4, "is not a 4x4 maze"),
        (MAZE.replace("G", " "), "maze", 4, "needs one S, one G"),
        ("S  #\n  ##\n ###\n###G", "maze", 4, "a way between them"),
        ("S G", "maze", 4, "one line per row"),
        ("{}", "arc", 30, "not an ARC task"),
        ("no json", "arc", 30, "not an ARC task"),
        ('{"test": [{"input": [[1], [2, 3]]}]}', "arc", 30, "ragged"),
    ],
)
def test_text_that_is_no_puzzle_is_refused(text: str, family: str, side: int, match: str) -> None:
    with pytest.raises(DataError, match=match):
        kind_of(family).read(text, side)


def solved(text: str, family: str, side: int, answer: str) -> Solved:
    """A puzzle with a given answer, in the same notation."""
    (question,) = kind_of(family).read(text, side)
    letters = "# SGo" if family == "maze" else ".1234"
    cells = np.array([1 + letters.index(letter) for letter in answer.replace("\n", "")], np.uint8)
    return Solved(kind_of(family), side, question, Solution([cells], [0.5]))


def test_answers_are_judged_by_the_puzzle_and_not_by_one_label() -> None:
    assert solved(EASY, "sudoku", 4, ANSWER).is_valid is True
    assert solved(EASY, "sudoku", 4, ANSWER.replace("1", "2", 1)).is_valid is False
    assert solved(EASY, "sudoku", 4, ANSWER).problem == ""
    assert (
        solved(EASY, "sudoku", 4, ANSWER.replace("1", "2", 1)).problem == "the given 1 in row 1, column 1 was changed"
    )
    wrong = ANSWER[:1] + ANSWER[2] + ANSWER[2:]
    assert solved(EASY, "sudoku", 4, wrong).problem == f"{ANSWER[2]} stands twice in row 1"
    assert solved(EASY, "sudoku", 4, f"{ANSWER[0]}.{ANSWER[2:]}").problem == "no digit in row 1, column 2"
    assert solved("." * 16, "sudoku", 4, ANSWER).is_valid is True
    around = "S   \n ## \n ## \n   G\n"
    assert solved(around, "maze", 4, "Sooo ##o ##o   G").is_valid is True
    assert solved(around, "maze", 4, "S   o## o## oooG").is_valid is True
    assert solved(around, "maze", 4, "S    ##  ##    G").is_valid is False
    assert solved(around, "maze", 4, "S    ##  ##    G").problem == "not a shortest path from S to G"


def test_model_answers_every_puzzle_of_a_text_with_its_steps() -> None:
    found = solve_text(trained(6, 16), f"{EASY}\n{EASY}\n", no_dataset, steps=2)
    assert len(found) == 2
    told = found[0].plain(with_steps=True)
    assert told["puzzle"] == ["1.34", "34.2", "2.43", "4.2."] and len(told["steps"]) == 2
    assert told["steps"][-1] == {"answer": told["answer"], "confidence": told["confidence"]}
    assert "steps" not in found[0].plain(with_steps=False)


def arc_model(dataset: Dataset) -> Trained:
    """A model with a different embedding per task, so that its answers tell which one was used."""
    one = trained(12, 900, dataset.num_identifiers(0), data={"benchmark": "arc-agi-1"})
    assert one.model.puzzle_embedding is not None
    one.model.puzzle_embedding.weight.normal_(generator=torch.Generator().manual_seed(0))
    return Trained(one.model, one.config, 0, dataset.id_map_hash(0))


def answer_as(one: Trained, dataset: Dataset, name: str, cells: Any) -> list[Any]:
    """The answers with the embedding of the task of that name."""
    solution = solve(one.model, cells, puzzle_id=dataset.identifiers(0).index(name))
    return [answer.tolist() for answer in solution.answers]


@pytest.fixture(scope="module")
def arc(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Tasks of random grids. `twin1` and `twin2` share both demonstrations, `part` one of them."""
    folder = tmp_path_factory.mktemp("tasks")
    part = {"train": [task(4)["train"][0], pair(77)], "test": [pair(78)]}
    tasks = {"training/plain": task(1), "evaluation/tested": task(2, unanswered=1), "training/part": part}
    twins = {f"training/twin{n}": {"train": task(4)["train"], "test": [pair(80 + n)]} for n in (1, 2)}
    write_tasks(folder / "in", {**tasks, **twins})
    return build(DataRequest(benchmark="arc-agi-1", source=str(folder / "in"), num_validation=0), folder / "data")


def test_arc_task_is_answered_through_its_own_embedding(arc: Dataset) -> None:
    one = arc_model(arc)
    for name, content in (("plain", task(1)), ("tested", task(2))):
        (found,) = solve_text(one, json.dumps(content), lambda: arc)
        assert [answer.tolist() for answer in found.solution.answers] == answer_as(one, arc, name, found.question.cells)
        assert found.is_valid is False
    unknown = json.dumps({"train": task(1)["train"], "test": [pair(99, answered=False)]})
    (found,) = solve_text(one, unknown, lambda: arc)
    assert found.is_valid is None, "without the output it cannot be checked"
    assert [answer.tolist() for answer in found.solution.answers] == answer_as(one, arc, "plain", found.question.cells)
    with pytest.raises(CheckpointError, match="puzzle-id map"):
        solve_text(Trained(one.model, one.config, 0, "another"), unknown, lambda: arc)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": [], "test": task(1)["test"]}, "no demonstrations by which to find it"),
        ({"test": task(1)["test"]}, "no demonstrations by which to find it"),
        ({"train": [*task(1)["train"], pair(7)], "test": task(1)["test"]}, "no task of .* has all 3 demonstrations"),
        ({"train": [task(1)["train"][0], task(2)["train"][0]], "test": task(1)["test"]}, "has all 2 demonstrations"),
        ({"train": [{**pair(0), "input": pair(150)["input"]}], "test": task(1)["test"]}, "has all 1 demonstrations"),
        ({"train": task(4)["train"], "test": [pair(99)]}, "fit several tasks: twin1, twin2. Name one with --task"),
        ({"train": [{"input": [[1]]}], "test": []}, "the text is not an ARC task: KeyError 'output'"),
    ],
)
def test_arc_task_that_no_task_or_several_fit_is_refused(content: Any, message: str, arc: Dataset) -> None:
    with pytest.raises(DataError, match=message):
        solve_text(arc_model(arc), json.dumps(content), lambda: arc)


def test_shared_demonstrations_are_told_apart_by_the_test_input_or_by_name(arc: Dataset) -> None:
    one = arc_model(arc)
    for name, seed in (("twin1", 81), ("twin2", 82)):
        for text, named in ((pair(seed), None), (pair(99), name)):
            content = json.dumps({"train": task(4)["train"], "test": [text]})
            (found,) = solve_text(one, content, lambda: arc, task=named)
            answers = [answer.tolist() for answer in found.solution.answers]
            assert answers == answer_as(one, arc, name, found.question.cells)
    with pytest.raises(ConfigError, match=r"no puzzle 'twin3' in .*Did you mean 'twin"):
        solve_text(one, json.dumps(task(4)), lambda: arc, task="twin3")
    with pytest.raises(DataError, match="a sudoku model has no embedding per task"):
        solve_text(trained(6, 16), EASY, no_dataset, task="twin1")


def test_published_tasks_that_share_inputs_are_answered_as_themselves(tmp_path: Path) -> None:
    """In ARC-AGI-1, 070dd51e repeats 40853293, and e179c5f4 has the inputs of a3df8b1e with other outputs."""
    wanted = {"070dd51e", "40853293", "e179c5f4", "a3df8b1e"}
    published = {each.name: each for each in packaged_tasks("arc-agi-1") if each.name in wanted}

    def plain(pairs: Any) -> list[dict[str, Any]]:
        return [{"input": a.tolist(), "output": b.tolist()} for a, b in pairs]

    tasks = {name: {"train": plain(each.demonstrations), "test": plain(each.tests)} for name, each in published.items()}
    write_tasks(tmp_path / "in", {f"{published[name].subset}/{name}": content for name, content in tasks.items()})
    request = DataRequest(
        benchmark="arc-agi-1", source=str(tmp_path / "in"), num_validation=0, allow_overlaps=("40853293",)
    )
    dataset = build(request, tmp_path / "data")
    one = arc_model(dataset)
    for name, named in (("070dd51e", None), ("40853293", "40853293"), ("e179c5f4", None), ("a3df8b1e", None)):
        for found in solve_text(one, json.dumps(tasks[name]), lambda: dataset, task=named):
            answers = [answer.tolist() for answer in found.solution.answers]
            assert answers == answer_as(one, dataset, name, found.question.cells), name


@pytest.mark.parametrize(("rule", "bias", "steps"), [("sign", (-5.0, -9.0), 3), ("continue", (-5.0, -9.0), 1),
                                                     ("sign", (5.0, 9.0), 1), ("continue", (5.0, 9.0), 3),
                                                     ("compare", (-5.0, -9.0), 1)])  # fmt: skip
def test_solving_halts_by_the_rule_of_the_model_as_evaluation_does(
    rule: str, bias: tuple[float, float], steps: int, tmp_path: Path
) -> None:
    dataset = build(DataRequest(benchmark="sudoku-4x4", num_train=1, num_validation=0, num_test=2), tmp_path)
    one = trained(6, 16, model={"hidden_size": 16, "num_heads": 2, "halting": rule, "supervision_steps": 3})
    with torch.no_grad():
        one.model.halt_head.zero_()
        one.model.halt_bias.copy_(torch.tensor(bias))
    assert len(solve(one.model, dataset.inputs[0]).answers) == steps
    result = evaluate(one.model, dataset, "test", EvaluationConfig(halt=True))
    assert result.columns["halting_steps"].tolist() == [steps, steps]


@pytest.mark.parametrize(("family", "side", "values"), [("sudoku", 9, 11), ("maze", 15, 6), ("arc", 30, 12)])
def test_picture_has_a_frame_per_supervision_step(family: str, side: int, values: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    question, *answers = generator.integers(0, values, (4, side * side)).astype(np.uint8)
    save_answers(kind_of(family), question, answers, tmp_path / "all.gif")
    save_answers(kind_of(family), question, answers, tmp_path / "last.png")
    with Image.open(tmp_path / "all.gif") as film:
        assert film.n_frames == 3  # type: ignore[attr-defined]
    with Image.open(tmp_path / "last.png") as picture:
        assert picture.size == film.size


Part = tuple[float, float, float, float]


def in_panel(picture: Image.Image, side: int, row: int, column: int, part: Part) -> set[Any]:
    """The colours of a part of a cell of the answer, which is the right panel of the picture."""
    size = 320 / side
    x, y = 2 * 24 + 320 + column * size, 24 + 26 + row * size
    left, top, right, bottom = part
    box = (x + left * size, y + top * size, x + right * size, y + bottom * size)
    return {colour for _, colour in picture.convert("RGB").crop(tuple(map(round, box))).getcolors(1 << 16) or ()}  # type: ignore[arg-type]


CORNER, CENTRE = (0.7, 0.1, 0.93, 0.35), (0.2, 0.4, 0.65, 0.85)
TINT = (0xFB, 0xD5, 0xD5)


def test_wrong_cell_of_a_sudoku_shows_the_models_digit_on_a_tint_and_the_right_one_small(tmp_path: Path) -> None:
    (one,) = kind_of("sudoku").read(EASY, 4)
    assert one.label is not None
    wrong = one.label.copy()
    wrong[1] = 5  # a 4 where a 2 belongs
    save_answers(kind_of("sudoku"), one.cells, [wrong, one.label, one.label], tmp_path / "all.gif", one.label)
    with Image.open(tmp_path / "all.gif") as film:
        assert film.n_frames == 3  # type: ignore[attr-defined]
        durations = []
        for frame in range(3):
            film.seek(frame)
            durations.append(film.info["duration"])
            tinted = TINT in in_panel(film, 4, 0, 1, CENTRE)
            assert tinted is (frame == 0) and TINT not in in_panel(film, 4, 0, 0, CENTRE)
            if frame == 0:
                assert len(in_panel(film, 4, 0, 1, CORNER)) > 3 and len(in_panel(film, 4, 0, 0, CORNER)) == 1
                first = in_panel(film, 4, 0, 1, CENTRE)
                assert any(red > 150 and green < 80 for red, green, _ in first), "the model's digit"
        assert durations[0] < durations[-1], "the last step stays"


def test_wrong_cell_of_a_maze_or_an_arc_grid_has_the_right_colour_in_its_corner(tmp_path: Path) -> None:
    maze = np.full(16, 2, np.uint8)
    answer = maze.copy()
    answer[5] = 5
    save_answers(kind_of("maze"), maze, [answer], tmp_path / "maze.png", maze)
    with Image.open(tmp_path / "maze.png") as picture:
        assert (0xF4, 0xF1, 0xEA) in in_panel(picture, 4, 1, 1, CORNER)
        assert (0xF2, 0xB4, 0x41) in in_panel(picture, 4, 1, 1, CENTRE)
        assert (0xC8, 0x10, 0x2E) not in in_panel(picture, 4, 0, 0, (0.0, 0.0, 1.0, 1.0))
    label = np.zeros(900, np.uint8)
    label[[0, 1, 30, 31]] = 3  # 2 x 2 cells of colour 1
    answer = label.copy()
    answer[31] = 4
    save_answers(kind_of("arc"), label, [answer], tmp_path / "arc.png", label)
    with Image.open(tmp_path / "arc.png") as picture:
        assert (0x1E, 0x93, 0xFF) in in_panel(picture, 2, 1, 1, CORNER)
        assert (0xF9, 0x3C, 0x31) in in_panel(picture, 2, 1, 1, CENTRE)
