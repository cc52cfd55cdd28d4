"""Bad input: one line that names file, row and reason, and nothing written. Good input from every kind of address."""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.arc_tasks import task, write_tasks
from tests.support.commands import call
from tests.support.hub import HubHandler, HubServer
from tests.support.infra import in_a_thread
from trm_data import DataRequest, build, find
from trm_data.benchmarks import complete, resolve_benchmark
from trm_data.errors import ConfigError, DataError, UserError
from trm_data.generators.sudoku import generate

MADE = generate(9, 40, 45, 0)


def _text(cells: np.ndarray) -> str:
    return "".join("." if value == 0 else str(value) for value in cells)


PUZZLES = [_text(puzzle) for puzzle in MADE.puzzles]
ANSWERS = [_text(solution) for solution in MADE.solutions]
LIST = "# comment\n" + "\n".join(PUZZLES) + "\n"


def _csv(rows: range, answers: list[str] = ANSWERS) -> str:
    lines = [f"made,{PUZZLES[i]},{answers[i]},{i}" for i in rows]
    return "\n".join(["source,question,answer,rating", *lines]) + "\n"


def _refused(request: DataRequest, root: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(request, root)
    assert "\n" not in str(caught.value)
    assert not root.exists() or not list(root.iterdir())


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair/train.csv").write_text(_csv(range(30)))
    (tmp_path / "pair/test.csv").write_text(_csv(range(30, 40)))
    return tmp_path / "pair"


@pytest.fixture
def server(pair: Path) -> Iterator[tuple[HubServer, str]]:
    handler = functools.partial(HubHandler, directory=str(pair))
    with in_a_thread(HubServer(("127.0.0.1", 0), handler)) as running:
        running.etags = {}
        yield running, f"http://127.0.0.1:{running.server_port}"


def test_puzzle_list_becomes_a_benchmark_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(LIST)
    dataset = build(DataRequest(benchmark="sudoku-9x9", source=str(tmp_path / "mine.txt")), tmp_path / "data")
    assert (dataset.benchmark, dataset.generated) == ("sudoku-9x9-mine", False)
    assert dataset.counts == {"train": 32, "validation": 4, "test": 4}
    assert {_text(row - 1) for row in dataset.inputs} == set(PUZZLES)


def test_equivalent_puzzles_of_a_list_are_kept_once(tmp_path: Path) -> None:
    turned = _text(MADE.puzzles[0].reshape(9, 9).T.reshape(-1))
    (tmp_path / "mine.txt").write_text(LIST + turned + "\n" + PUZZLES[1] + "\n")
    dataset = build(DataRequest(benchmark="sudoku-9x9", source=str(tmp_path / "mine.txt")), tmp_path / "data")
    assert sum(dataset.counts.values()) == 40
    assert dataset.manifest.facts["equivalent_rows_dropped"] == 2


def _square(puzzle: str, between: str = "", line: str = "") -> str:
    rows = [between.join(puzzle[start : start + 9]) + "\n" for start in range(0, 81, 9)]
    return line.join("".join(rows[start : start + 3]) for start in (0, 3, 6))


def _listed(form: str, join: str = "\n") -> str:
    return join.join(form.format(p=p, s=s, i=i) for i, (p, s) in enumerate(zip(PUZZLES, ANSWERS, strict=True))) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("quizzes,solutions\n" + _listed("{p},{s}").replace(".", "0"), id="Kaggle's first million"),
        pytest.param("id,puzzle,solution,clues,difficulty\n" + _listed("{i},{p},{s},36,2.5"), id="Kaggle's three"),
        pytest.param("\ufeffpuzzle,solution\n" + _listed("{p},{s}"), id="a byte order mark"),
        pytest.param('"Solution" , "Puzzle"\r\n' + _listed('"{s}", "{p}"', "\r\n"), id="another order, quoted, spaced"),
        pytest.param(_listed("{p},{s}"), id="without a header"),
        pytest.param("\ufeff# tdoku\n" + _listed("{p}:1:{s}"), id="tdoku's lists"),
        pytest.param(_listed("{p}:1"), id="tdoku's lists without solutions"),
        pytest.param("PUZZLE;Solution\n" + _listed("{p};{s}"), id="semicolons"),
        pytest.param("id\tpuzzle\tsolution\n" + _listed("{i}\t{p}\t{s}"), id="tabs"),
        pytest.param(_listed("{p}|{s}"), id="bars, without a header"),
        pytest.param(_listed("{p} {s}"), id="a space before the solution"),
        pytest.param("id,quizzes\r" + _listed("{i},{p}", "\r"), id="ends of lines of an old Mac, without solutions"),
        pytest.param("puzzle\n" + _listed('"{p}"'), id="one column"),
        pytest.param("puzzle,solution\n" + _listed("{p},{s}") + " \n\n", id="blank lines at the end"),
        pytest.param(_listed("{p}").replace(".", "*"), id="stars for blanks"),
        pytest.param(_listed("{p} : 1 : {s}"), id="tdoku's lists with spaces"),
        pytest.param(_listed("{p} 3.5 # easy"), id="ratings behind puzzles"),
        pytest.param(_listed("{p} ; easy").replace(".", "_"), id="notes behind puzzles"),
        pytest.param("# squares\n\n" + "\n\n".join(_square(p) for p in PUZZLES), id="squares"),
        pytest.param("\n".join(_square(p, " ", "------+-------+------\n") for p in PUZZLES), id="drawn squares"),
    ],
)
def test_lists_of_others_hold_the_same_puzzles(text: str, tmp_path: Path) -> None:
    source = tmp_path / "list.csv"
    source.write_text(text, newline="")
    sizes = {"num_train": 30, "num_validation": 5, "num_test": 5}
    found = build(DataRequest(benchmark="sudoku-9x9", source=str(source), **sizes), tmp_path / "data")
    plain = tmp_path / "plain.txt"
    plain.write_text(LIST)
    expected = build(DataRequest(benchmark="sudoku-9x9", source=str(plain), **sizes), tmp_path / "data")
    assert (found.inputs == expected.inputs).all() and (found.labels == expected.labels).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "bad.csv holds no puzzle", id="empty"),
        pytest.param(b"\n \n", "bad.csv holds no puzzle", id="blank lines"),
        pytest.param(b"puzzle;solution\n", "bad.csv holds no puzzle", id="a header alone"),
        pytest.param(gzip.compress(LIST.encode()), r"bad.csv is compressed \(gzip\)\. Unpack it", id="gzip"),
        pytest.param(b"PK\x03\x04" + bytes(40), r"bad.csv is a zip archive\. Unpack it", id="zip"),
        pytest.param(b"PAR1" + bytes(40), r"bad.csv is a Parquet file\. Save it as CSV", id="Parquet"),
        pytest.param(LIST.encode("utf-16"), r"bad.csv is text in UTF-16 or UTF-32\. Save it as UTF-8", id="UTF-16"),
        pytest.param(LIST.encode("utf-16-le"), "bad.csv, row 1: not text", id="UTF-16 without a mark"),
        pytest.param(b'{"puzzle": "1", "solution": "2"}\n', r"bad.csv is JSON\. Save it as CSV", id="JSON lines"),
        pytest.param(b'\xef\xbb\xbf\n[["1", "2"]]\n', r"bad.csv is JSON\. Save it as CSV", id="JSON"),
        pytest.param(("5" * 256 + "\n").encode(), r"row 1: 256 characters \(16x16\).* Sudoku are 4x4, 6x6", id="16x16"),
        pytest.param(b"a\n" + LIST.encode(), "bad.csv, row 1: 1 characters, a 9x9 puzzle", id="a title"),
        pytest.param(b"quizzes,solutions\n\n1,2,3\n", "bad.csv, row 3: 3 columns instead of 2", id="ragged"),
        pytest.param(_square(PUZZLES[0])[:-12].encode(), "bad.csv, row 8: 8 characters, a line of a square", id="cut"),
        pytest.param(_square(PUZZLES[0])[:-10].encode(), "row 8: the last square has 8 lines", id="a line less"),
        pytest.param(_listed("{i}: {p}").encode(), "bad.csv, row 1: '0:.*' is no puzzle", id="numbered"),
        pytest.param(_listed("{p}:" + "1" * 5000 + ":{s}").encode(), "row 1: '.*' is no puzzle", id="a long number"),
        pytest.param(_listed("{p} {s:.70}").encode(), "row 1: 70 characters, a 9x9 puzzle has 81", id="cut solution"),
        pytest.param(_listed("{p} : 1 : wrong").encode(), "row 1: 5 characters, a 9x9", id="spaces around colons"),
        pytest.param(("\uff15" * 81).encode(), "bad.csv, row 1: character '\uff15' at place 1", id="wide digits"),
    ],
)
def test_list_in_a_form_that_is_not_read_is_named_by_it(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    _refused(DataRequest(benchmark="sudoku-9x9", source=str(tmp_path / "bad.csv")), tmp_path / "data", message)


def test_mazes_of_any_side_are_generated_and_read_from_files(tmp_path: Path) -> None:
    made = build(DataRequest(benchmark="maze-7x7", num_train=6, num_validation=0, num_test=4), tmp_path / "data")
    folder = tmp_path / "own"
    folder.mkdir()
    rows = [
        ",".join("".join("?# SGo"[cell] for cell in cells) for cells in pair)
        for pair in zip(made.inputs, made.labels, strict=True)
    ]
    for split, part in (("train", rows[:6]), ("test", rows[6:])):
        (folder / f"{split}.csv").write_text("\n".join(["question,answer", *part]) + "\n")
    read = build(DataRequest(benchmark="maze-7x7", source=str(folder)), tmp_path / "data")
    assert read.counts["train"] == 6 and read.counts["test"] == 4
    assert {tuple(row) for row in read.inputs.tolist()} == {tuple(row) for row in made.inputs.tolist()}
    _refused(DataRequest(benchmark="maze-7x8"), tmp_path / "none", "mazes are square, of 5 to 60 cells")
    _refused(DataRequest(benchmark="maze-8x8", source=str(folder)), tmp_path / "none", "49 characters instead of 64")


@pytest.mark.parametrize(
    ("header", "row", "end"),
    [
        pytest.param("Question;Answer\n", "{q};{a}\n", "", id="semicolons"),
        pytest.param("question\tanswer\r\n", "{q}\t{a}\r\n", "", id="tabs"),
        pytest.param("", "{q},{a}\n", "", id="no header, and a wall first"),
        pytest.param(
            '# mine\n\n"question" , "answer"\n', '"{q}" , "{a}"\n', " \n", id="quoted, spaced, a comment above"
        ),
    ],
)
def test_mazes_of_others_are_the_same_mazes(header: str, row: str, end: str, tmp_path: Path) -> None:
    made = build(DataRequest(benchmark="maze-7x7", num_train=6, num_validation=0, num_test=4), tmp_path / "data")
    assert (made.inputs[:, 0] == 1).any() and (made.inputs[:, 0] != 1).any()
    for number, letters in enumerate(("?# SGo", "?#.SGo")):
        texts = [["".join(letters[cell] for cell in cells) for cells in part] for part in (made.inputs, made.labels)]
        lines = [row.format(q=question, a=answer) for question, answer in zip(*texts, strict=True)]
        folder = tmp_path / str(number)
        folder.mkdir()
        for split, part in (("train", lines[:6]), ("test", lines[6:])):
            (folder / f"{split}.csv").write_text("".join([header, *part, end]), newline="")
        read = build(DataRequest(benchmark="maze-7x7", source=str(folder)), tmp_path / "data")
        assert {tuple(each) for each in read.inputs.tolist()} == {tuple(each) for each in made.inputs.tolist()}


def test_hidden_files_are_no_tasks_and_endings_may_be_upper_case(tmp_path: Path) -> None:
    folder = _arc_folder(tmp_path / "arc", {"a": _task()})
    (folder / "evaluation/ea.json").write_text(json.dumps(_task(((2, 2),), ((4,),))))
    expected = build(DataRequest(benchmark="arc-agi-1", source=str(folder), num_validation=0), tmp_path / "data")
    (folder / "training/ta.json").rename(folder / "training/ta.JSON")
    (folder / "training/._ta.JSON").write_bytes(b"\x00\x05\x16\x07")
    found = build(DataRequest(benchmark="arc-agi-1", source=str(folder), num_validation=0), tmp_path / "data2")
    assert (found.inputs == expected.inputs).all()
    (folder / "training/re.json").write_text(json.dumps([{"input": [[1]], "output": [[1]]}]))
    _refused(DataRequest(benchmark="arc-agi-1", source=str(folder)), tmp_path / "none", "is a list of examples")


def test_changed_list_is_another_dataset_and_an_equal_copy_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        (tmp_path / folder / "mine.txt").write_text(LIST)
    requests = [DataRequest(benchmark="sudoku-9x9", source=str(tmp_path / f / "mine.txt")) for f in ("a", "b")]
    path = build(requests[0], tmp_path / "data").path
    assert find(requests[1], tmp_path / "data") == path
    (tmp_path / "b/mine.txt").write_text(LIST.replace("# comment\n", ""))
    assert find(requests[1], tmp_path / "data") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PUZZLES[0][:-1], r"bad.txt, row 1: 80 characters, a 9x9 puzzle has 81"),
        (PUZZLES[0] + "\n" + PUZZLES[1] + "1", r"bad.txt, row 2: 82 characters"),
        (PUZZLES[0] + "\nx" + PUZZLES[1][1:], r"bad.txt, row 2: character 'x' at place 1"),
        (
            f"question,answer,rating\n{PUZZLES[0]},,1e99\n",
            r"bad.txt, row 2: rating '1e99' is not a number, or too large",
        ),
        (f'question,note\n{PUZZLES[0]},\'a\n{PUZZLES[1][1:]},"a\nb"\n', r"bad.txt, row 3: 80 characters"),
        ("# nothing\n", r"bad.txt holds no puzzle"),
        ("11" + "." * 79, r"bad.txt, row 1: the puzzle has no solution"),
        ("." * 81, r"bad.txt, row 1: the puzzle has more than one solution"),
        (_csv(range(3), [ANSWERS[1]] * 40), r"bad.txt, row 2: the answer does not solve the puzzle"),
        ("source,question,answer,rating\na,b,c\n", r"bad.txt, row 2: 3 columns"),
        (f"source,question,answer,rating\na,{PUZZLES[0]},,hard\n", r"bad.txt, row 2: rating 'hard' is not a number"),
        (PUZZLES[0], r"bad.txt has 1 inequivalent puzzles, too few for train 1000"),
        (f"question,answer\n{'1' * 200_000},\n", r"bad.txt, row 2: field larger than field limit"),
        (f"question,{'1' * 200_000}\n", r"bad.txt, row 1: field larger than field limit"),
    ],
    ids=range(14),
)
def test_bad_puzzle_list_is_refused_by_row(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text(text)
    number = 1000 if "too few" in message else None
    request = DataRequest(benchmark="sudoku-9x9", source=str(tmp_path / "bad.txt"), num_train=number)
    _refused(request, tmp_path / "data", message)


def test_puzzle_list_that_is_no_text_or_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(PUZZLES[0].encode() + b"\n\xff\xfe")
    _refused(
        DataRequest(benchmark="sudoku-9x9", source=str(tmp_path / "bad.txt")), tmp_path / "data", "row 2: not text"
    )
    _refused(DataRequest(benchmark="sudoku-9x9", source="none.txt"), tmp_path / "data", "none.txt does not exist")
    _refused(
        DataRequest(benchmark="sudoku-9x9", source="ftp://a/b"), tmp_path / "data", "unknown kind of address 'ftp'"
    )


def test_published_pair_draws_train_and_validation_by_seed_and_keeps_its_test(pair: Path, tmp_path: Path) -> None:
    def made(seed: int) -> Any:
        request = DataRequest(
            benchmark="sudoku-extreme", source=str(pair), num_train=10, num_validation=5, build_seed=seed
        )
        return build(request, tmp_path / "data")

    first, second = made(0), made(1)
    assert first.benchmark == "sudoku-extreme" and first.counts == {"train": 10, "validation": 5, "test": 10}
    parts = [{_text(row - 1) for row in first.inputs[first.rows(split)]} for split in ("train", "validation", "test")]
    assert parts[2] == set(PUZZLES[30:]) and not parts[0] & parts[1] and parts[0] | parts[1] <= set(PUZZLES[:30])
    assert {_text(row - 1) for row in second.inputs[second.rows("train")]} != parts[0]
    assert (second.inputs[second.rows("test")] == first.inputs[first.rows("test")]).all()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train.csv", lambda s: s.replace(PUZZLES[4], PUZZLES[4][1:]), "train.csv, row 6: question has 80 characters"),
        ("train.csv", lambda s: s.replace(PUZZLES[4], "x" + PUZZLES[4][1:]), "train.csv, row 6: character 'x'"),
        ("test.csv", lambda s: s.replace(ANSWERS[31], ANSWERS[30]), "test.csv, row 3: the answer does not solve"),
        ("test.csv", lambda s: s.replace(",30\n", ",high\n"), "test.csv, row 2: rating 'high' is not a number"),
        ("test.csv", lambda s: s + f"made,{PUZZLES[2]},{ANSWERS[2]},1\n", "leaks: puzzles .* are equivalent"),
        (
            "test.csv",
            lambda s: s.replace(",30\n", ",1e99\n"),
            "test.csv, row 2: rating '1e99' is not a number, or too large",
        ),
        ("test.csv", lambda s: s + "one,two\n", "test.csv, row 12: 2 columns instead of 4"),
        ("test.csv", lambda s: s + ",,,\n", "test.csv, row 12: question has 0 characters"),
        ("test.csv", lambda s: "[]", r"test.csv is JSON\. Save it as CSV"),
        ("train.csv", lambda s: s.replace(PUZZLES[4], "." * 81), "train.csv, row 6: the puzzle has more than one"),
    ],
)
def test_bad_published_pair_is_refused_by_row(file: str, change: Any, message: str, pair: Path, tmp_path: Path) -> None:
    (pair / file).write_text(change((pair / file).read_text()))
    request = DataRequest(benchmark="sudoku-extreme", source=str(pair), num_train=30, num_validation=0)
    _refused(request, tmp_path / "data", message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace(PUZZLES[20], PUZZLES[20][1:]), "train.csv, row 22: question has 80 characters"),
        (lambda s: s.replace(",20\n", ",high\n"), "train.csv, row 22: rating 'high' is not a number"),
    ],
)
def test_bad_row_among_drawn_ones_is_named_by_its_line(change: Any, message: str, pair: Path, tmp_path: Path) -> None:
    (pair / "train.csv").write_text(change((pair / "train.csv").read_text()))
    # The draw of 12 holds the puzzle 20, and not all before it.
    request = DataRequest(benchmark="sudoku-extreme", source=str(pair), num_train=12, num_validation=0)
    _refused(request, tmp_path / "data", message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace("\n", "\n\n"), "11: question has 80"),
        (lambda s: "# mine\n\n" + s.replace("made", "", 1), "8: question has 80"),
        (lambda s: s.replace("made", '"a\nb"', 3), "9: question has 80"),
        (
            lambda s: s.replace(PUZZLES[4][1:], PUZZLES[4]).replace(",4\n", ",x\n").replace("\n", "\n\n"),
            "11: rating 'x'",
        ),
        (lambda s: s.replace(PUZZLES[4][1:], PUZZLES[5]).replace("\n", "\n \n"), "11: the answer does not solve"),
        (lambda s: s.replace("\n", "\n\n").replace(PUZZLES[3][:3], "\udce9" + PUZZLES[3][:2]), "9: not text"),
        (lambda s: s.replace("\n", "\n\n") + "a,b\n", "63: 2 columns instead of 4"),
    ],
)
def test_row_of_a_published_file_is_its_line(change: Any, message: str, pair: Path, tmp_path: Path) -> None:
    """Line 6 is bad; blank lines, comments and quoted ends of lines count."""
    text = (pair / "train.csv").read_text().replace(PUZZLES[4], PUZZLES[4][1:])
    (pair / "train.csv").write_bytes(change(text).encode(errors="surrogateescape"))
    request = DataRequest(benchmark="sudoku-extreme", source=str(pair), num_train=30, num_validation=0)
    _refused(request, tmp_path / "data", f"train.csv, row {message}")


def test_build_prints_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{p},{s}" for p, s in zip(PUZZLES, ANSWERS, strict=True)]
    (tmp_path / "mine.csv").write_text("\n".join(["puzzle,solution", *rows[:20], ",", "", *rows[:22], " , ", ""]))
    options = ["--source", str(tmp_path / "mine.csv"), "--storage", str(tmp_path / "runs")]
    code, out, _ = call(capsys, "data", "build", "sudoku-9x9", *options)
    assert code == 0 and "2 test, 18 train, 2 validation puzzles" in out
    assert "left out: 20 of its puzzles, which repeat another one" in out
    assert "left out: 2 of its rows, whose cells are empty" in out


def _columns(rows: range, names: str, header: bool = True) -> str:
    """A CSV with the columns of some names in this order."""
    values = [{"source": "made", "question": PUZZLES[i], "answer": ANSWERS[i], "rating": str(i)} for i in rows]
    lines = [",".join(value.get(name.strip('"').lower(), "other") for name in names.split(",")) for value in values]
    return "\n".join([names, *lines] if header else lines) + "\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: _columns(rows, "rating,answer,id,question,source"),
        lambda rows: _columns(rows, "question,answer"),
        lambda rows: "\ufeff" + _columns(rows, '"Source","Question","Answer","Rating"'),
        lambda rows: _columns(rows, "source,question,answer,rating", header=False),
    ],
    ids=["another order", "two columns", "byte order mark, quotes, capitals", "no header"],
)
def test_columns_are_known_by_name_and_a_missing_header_loses_no_puzzle(
    change: Any, pair: Path, tmp_path: Path
) -> None:
    (pair / "train.csv").write_text(change(range(30)))
    (pair / "test.csv").write_text(change(range(30, 40)))
    (tmp_path / "list.csv").write_text(change(range(40)))
    settings = {"num_train": 20, "num_validation": 10}
    published = build(DataRequest(benchmark="sudoku-extreme", source=str(pair), **settings), tmp_path / "data")
    listed = build(DataRequest(benchmark="sudoku-9x9", source=str(tmp_path / "list.csv")), tmp_path / "data")
    for dataset in (published, listed):
        assert {_text(row - 1) for row in dataset.inputs} == set(PUZZLES)
        solved = {_text(a - 1): _text(b - 1) for a, b in zip(dataset.inputs, dataset.labels, strict=True)}
        assert solved == dict(zip(PUZZLES, ANSWERS, strict=True))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("source,given,filled,rating", "train.csv, row 1: no columns question and answer in 'source,given"),
        ("question,answer,question", "train.csv, row 1: column 'question' comes twice"),
        ("question,answer", "train.csv, row 2: 4 columns instead of 2"),
    ],
)
def test_header_that_names_no_puzzles_is_refused(header: str, message: str, pair: Path, tmp_path: Path) -> None:
    lines = (pair / "train.csv").read_text().splitlines()
    (pair / "train.csv").write_text("\n".join([header, *lines[1:]]))
    _refused(DataRequest(benchmark="sudoku-extreme", source=str(pair)), tmp_path / "data", message)


def test_too_many_puzzles_asked_of_a_published_pair(pair: Path, tmp_path: Path) -> None:
    request = DataRequest(benchmark="sudoku-extreme", source=str(pair), num_train=30, num_validation=1)
    _refused(request, tmp_path / "data", "train.csv has 30 rows, too few for train 30 . validation 1")


def test_web_address_gives_the_same_dataset_as_its_local_copy(
    server: tuple[HubServer, str], pair: Path, tmp_path: Path
) -> None:
    settings = {"num_train": 20, "num_validation": 5}
    local = build(DataRequest(benchmark="sudoku-extreme", source=str(pair), **settings), tmp_path / "a")
    web = build(DataRequest(benchmark="sudoku-extreme", source=server[1], **settings), tmp_path / "b")
    assert (local.inputs == web.inputs).all()


def test_interrupted_or_corrupt_download_is_refused(server: tuple[HubServer, str], pair: Path, tmp_path: Path) -> None:
    (pair / "mine.txt").write_text(LIST)
    address = f"{server[1]}/mine.txt"
    digest = hashlib.sha256(LIST.encode()).hexdigest()
    good = DataRequest(benchmark="sudoku-9x9", source=f"{address}#sha256={digest}")
    assert build(good, tmp_path / "good").benchmark == "sudoku-9x9-mine"
    wrong = DataRequest(benchmark="sudoku-9x9", source=f"{address}#sha256={digest[::-1]}")
    _refused(wrong, tmp_path / "data", "mine.txt is corrupt: its sha256 is not the one")
    _refused(DataRequest(benchmark="sudoku-9x9", source=f"{server[1]}/none.txt"), tmp_path / "data", "does not exist")
    server[0].cut = frozenset({"mine.txt"})
    _refused(DataRequest(benchmark="sudoku-9x9", source=address), tmp_path / "data", "broke off after")


def test_unreachable_web_address_is_one_line(tmp_path: Path) -> None:
    request = DataRequest(benchmark="sudoku-9x9", source="http://127.0.0.1:9/mine.txt")
    _refused(request, tmp_path / "data", "cannot read http://127.0.0.1:9/mine.txt")


def test_hub_files_are_downloaded_checked_and_found_again_offline(
    server: tuple[HubServer, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    source = f"hf://owner/sudoku?endpoint={server[1]}"
    settings = {"benchmark": "sudoku-extreme", "num_train": 20, "num_validation": 5}
    request = DataRequest(source=source, **settings)
    dataset = build(request, tmp_path / "data")
    assert dataset.counts == {"train": 20, "validation": 5, "test": 10} and dataset.benchmark == "sudoku-extreme"
    assert "127.0.0.1" not in (dataset.path / "manifest.json").read_text()
    server[0].shutdown()
    assert find(request, tmp_path / "data") == dataset.path
    offline = DataRequest(source="hf://owner/other?endpoint=http://name.invalid", **settings)
    _refused(offline, tmp_path / "other", "cannot reach the hub .* give --source a folder")


def test_corrupt_hub_file_is_removed(
    server: tuple[HubServer, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    server[0].etags = {"train.csv": "0" * 64}
    request = DataRequest(benchmark="sudoku-extreme", source=f"hf://owner/sudoku?endpoint={server[1]}")
    _refused(request, tmp_path / "data", "train.csv is corrupt; it was removed")


def _task(question: Any = ((1, 2),), answer: Any = ((3,),)) -> dict[str, Any]:
    return {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": question, "output": answer}]}


def _arc_folder(folder: Path, tasks: dict[str, Any]) -> Path:
    for subset in ("training", "evaluation"):
        (folder / subset).mkdir(parents=True)
        for name, content in tasks.items():
            (folder / subset / f"{subset[0]}{name}.json").write_text(json.dumps(content))
    return folder


def test_folders_of_tasks_become_an_arc_dataset(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "in", {"training/t1": task(1), "training/t2": task(2), "evaluation/e1": task(3)})
    write_tasks(folder, {"evaluation/e2": task(4)})
    dataset = build(DataRequest(benchmark="arc-agi-1", source=str(folder), num_validation=1), tmp_path / "data")
    assert dataset.names == ["t1", "t2", "e1", "e2"]
    assert dataset.counts == {"train": 4, "validation": 1, "test": 2}
    assert dataset.num_unanswered == {"train": 0, "validation": 0, "test": 0}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (_task([[1, 2], [3]]), "e1.json, test 1: the grid is ragged"),
        (_task([[0] * 31]), "e1.json, test 1: the grid is 1x31, the largest is 30x30"),
        (_task([[10]]), "e1.json, test 1: colour 10 is outside 0-9"),
        (_task([[-1]]), "e1.json, test 1: colour -1 is outside 0-9"),
        (_task([["a"]]), "e1.json, test 1: the grid is ragged, empty or holds"),
        (_task([]), "e1.json, test 1: the grid is ragged, empty"),
        ({"train": []}, "e1.json: not an ARC task"),
        ([1], "e1.json is a list of examples"),
        (1, "e1.json holds no tasks"),
    ],
)
def test_bad_arc_task_is_refused(task: Any, message: str, tmp_path: Path) -> None:
    folder = _arc_folder(tmp_path / "in", {"0": _task()})
    (folder / "evaluation/e1.json").write_text(json.dumps(task))
    request = DataRequest(benchmark="arc-agi-1", source=str(folder), num_validation=0)
    _refused(request, tmp_path / "data", message)


@pytest.mark.parametrize(
    ("tests", "solutions", "message"),
    [
        ([{"input": [[1]]}], 5, "solutions.json, task t: its solutions are not a list"),
        ([{"input": [[1]]}], None, "solutions.json, task t: its solutions are not a list"),
        ([{"input": [[1]]}], {"0": [[1]]}, "solutions.json, task t: its solutions are not a list"),
        ([{"input": [[1]]}], [], "solutions.json, task t: 0 solutions for its tests"),
        (None, [[[1]]], "challenges.json, task t: not an ARC task"),
        (5, [[[1]]], "challenges.json, task t: not an ARC task"),
    ],
)
def test_kaggle_files_that_do_not_fit_are_refused(tests: Any, solutions: Any, message: str, tmp_path: Path) -> None:
    for subset in ("training", "evaluation"):
        task = {"train": _task()["train"], "test": tests}
        (tmp_path / f"arc-agi_{subset}_challenges.json").write_text(json.dumps({"t": task}))
        (tmp_path / f"arc-agi_{subset}_solutions.json").write_text(json.dumps({"t": solutions}))
    request = DataRequest(benchmark="arc-agi-1", source=str(tmp_path), num_validation=0)
    _refused(request, tmp_path / "data", message)


def test_truncated_arc_json_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    folder = _arc_folder(tmp_path / "in", {"0": _task()})
    (folder / "training/t0.json").write_text(json.dumps(_task())[:-5])
    request = DataRequest(benchmark="arc-agi-1", source=str(folder), num_validation=0)
    _refused(request, tmp_path / "data", "t0.json is not JSON or is truncated")
    (tmp_path / "empty").mkdir()
    request = DataRequest(benchmark="arc-agi-1", source=str(tmp_path / "empty"), num_validation=0)
    _refused(request, tmp_path / "data", "empty holds no files. Name a folder with the files of a source")
    (tmp_path / "empty/.DS_Store").write_bytes(b"\0")
    _refused(request, tmp_path / "data", "empty holds no files")


def test_extra_tasks_that_hold_test_pairs_are_refused_unless_named(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "in", {"training/t1": task(1), "evaluation/e1": _task()})
    (tmp_path / "extra").mkdir()
    turned = {"train": [{"input": [[4], [3]], "output": [[1]]}], "test": []}  # test 1 of e1, turned and recoloured
    (tmp_path / "extra/leak.json").write_text(json.dumps(turned))
    (tmp_path / "extra/fine.json").write_text(json.dumps({"train": [{"input": [[0]], "output": [[0, 1]]}], "test": []}))
    settings = {"benchmark": "arc-agi-1", "source": str(folder), "extra_training": str(tmp_path / "extra")}
    request = DataRequest(num_validation=0, **settings)
    _refused(
        request,
        tmp_path / "data",
        r"1 tasks to train on, of .*extra, hold test pairs of evaluation tasks: leak \(e1\). Remove",
    )
    allowed = build(request.model_copy(update={"allow_overlaps": ("leak",)}), tmp_path / "data")
    assert allowed.manifest.facts["allowed_overlaps"] == ["leak"] and "leak" in allowed.names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"benchmark": "sudoku-6x7"}, "unknown benchmark 'sudoku-6x7'. Did you mean 'sudoku-6x6'"),
        ({"benchmark": "arc-agi-1", "blanks": 3}, "blanks=3 has no meaning for arc-agi-1"),
        ({"benchmark": "arc-agi-1", "num_test": 3}, "num_train and num_test have no meaning for arc-agi-1"),
        ({"benchmark": "arc-agi-1", "num_validation": 401}, "there are only 400 training tasks"),
        ({"benchmark": "sudoku-6x6", "ids": "upstream"}, "ids=upstream has no meaning for sudoku-6x6"),
        ({"benchmark": "sudoku-6x6", "shortest_path": 5}, "shortest_path=5 has no meaning for sudoku-6x6"),
        ({"benchmark": "sudoku-6x6", "blanks": 40}, "blanks=40 cannot be made for Sudoku 6x6"),
        (
            {"benchmark": "sudoku-4x4", "blanks": 2},
            "440 inequivalent Sudoku 4x4 with 2 blanks do not exist: at most 240",
        ),
        ({"benchmark": "maze-8x8", "shortest_path": 64}, "shortest_path=64 does not exist in a maze of 8x8 cells"),
        ({"benchmark": "sudoku-6x6", "blanks": 27}, "blanks=27 cannot be made for Sudoku 6x6. Take 1 to 26 blanks"),
        ({"benchmark": "maze-4x4"}, "maze-4x4: mazes are square, of 5 to 60 cells"),
        ({"benchmark": "maze-61x61"}, "maze-61x61: mazes are square, of 5 to 60 cells"),
        ({"benchmark": "official"}, "benchmark 'official' needs a source"),
    ],
)
def test_setting_that_does_nothing_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        build(DataRequest(**settings), tmp_path / "data")


def test_settings_at_their_limits_are_taken() -> None:
    for name, side in (("maze-5x5", 5), ("maze-60x60", 60)):
        found = resolve_benchmark(name)
        assert (found.side, found.shortest_path) == (side, side**2 // 8)
    for settings in (
        {"benchmark": "sudoku-6x6", "blanks": 26},
        {"benchmark": "maze-8x8", "shortest_path": 63},
        {"benchmark": "sudoku-4x4", "blanks": 2, "num_train": 240, "num_validation": 0, "num_test": 0},
    ):
        assert settings.items() <= complete(DataRequest(**settings)).plain().items()
