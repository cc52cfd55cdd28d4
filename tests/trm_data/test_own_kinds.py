"""Kinds of puzzles that others define: a class in a file or of an installed package is built, verified, drawn."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.commands import call
from tests.support.own_kinds import NAME, install, latin
from trm_data import (
    DataConfig,
    DataRequest,
    Dataset,
    build,
    draw,
    export_official,
    fingerprint,
    open_dataset,
    resolve_benchmark,
    verify,
)
from trm_data.dataset.manifest import UnknownKindError
from trm_data.errors import ConfigError, DataError, UserError
from trm_data.own_code import distrust_all

NEEDED = """
import numpy as np
from trm_data import PuzzleKind

class Copy(PuzzleKind):
    name = "copy"
    side = 3
    symbols = "?ab"

    def generate(self, side, count, seed):
        grids = np.random.default_rng(seed).integers(1, 3, (count, side, side))
        return grids, grids
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    distrust_all()
    (tmp_path / "latin.py").write_text(latin())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(benchmark: str = NAME) -> DataRequest:
    return DataRequest(benchmark=benchmark, num_train=40, num_validation=8, num_test=16)


def solves(question: np.ndarray, answer: np.ndarray) -> bool:
    """An independent check: no digit twice in a line, and the given cells kept."""
    lines = [*answer.reshape(4, 4), *answer.reshape(4, 4).T]
    return all(set(line) == {2, 3, 4, 5} for line in lines) and all(
        q in (1, a) for q, a in zip(question, answer, strict=True)
    )


def test_kind_in_a_file_is_built_checked_and_drawn(folder: Path) -> None:
    dataset = build(small(), folder / "data")
    assert dataset.benchmark == "latin-4x4-generated" and dataset.counts == {"train": 40, "validation": 8, "test": 16}
    assert dataset.vocab_size == 6 and dataset.grid_shape == (4, 4) and dataset.generated
    assert all(map(solves, dataset.inputs, dataset.labels)) and verify(dataset) == []
    keys = dataset.kind.keys(dataset.inputs, 4)
    assert len(set(keys)) == 64, "no puzzle is in two splits, turned or not"
    assert draw(dataset, 3, predictions=dataset.inputs[3:4]).size[1] > 300
    assert dataset.kind.read("\n".join(dataset.kind.write(dataset.inputs[0], 4)), 4)[0].cells.tolist() == (
        dataset.inputs[0].tolist()
    )
    assert build(small(), folder / "data").path == dataset.path
    assert build(small(), folder / "again").inputs.tolist() == dataset.inputs.tolist()


def test_least_kind_needs_no_more_than_its_puzzles(folder: Path) -> None:
    (folder / "copy.py").write_text(NEEDED)
    dataset = build(DataRequest(benchmark="copy.py:Copy", num_train=30, num_validation=0, num_test=10), folder / "data")
    assert dataset.kind.valid(dataset.inputs, dataset.labels, dataset.labels, 3) is None
    assert verify(dataset) == [] and dataset.kind.order(3) == 1
    with pytest.raises(ConfigError, match="Take 0 to 0"):
        dataset.check_augmentations(1)
    assert dataset.kind.problem(dataset.inputs[0], dataset.inputs[1], 3) == "no solution of this copy puzzle"
    with pytest.raises(DataError, match="not a copy puzzle of 3x3"):
        dataset.kind.read("abc\nabb\naaa", 3)


def test_exported_puzzles_are_not_imported_as_another_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Latin square of 4x4 has as many symbols as a Sudoku of 4x4."""
    export_official(build(small(), folder / "data"), folder / "official", 0)
    code, _, err = call(capsys, "data", "import-official", "official")
    assert code == 2 and "official holds puzzles of 'latin-4x4', a kind of one's own. Build them" in err


def test_identity_is_the_content_of_the_file_and_not_its_place(folder: Path) -> None:
    before, request = fingerprint(small()), small()
    (folder / "moved").mkdir()
    (folder / "moved/other.py").write_text(latin())
    assert fingerprint(small("moved/other.py:Latin")) == before
    digest = hashlib.sha256(latin().encode()).hexdigest()
    assert request.benchmark == f"{folder / 'latin.py'}:Latin#sha256={digest}"
    (folder / "latin.py").write_text(latin().replace("< 0.4", "< 0.5"))
    assert fingerprint(small()) != before == fingerprint(request), "the recorded content is what runs"


def test_stored_dataset_runs_no_code_that_is_not_named(folder: Path) -> None:
    dataset = build(small(), folder / "data")
    distrust_all()
    with pytest.raises(UnknownKindError, match=f"Latin@.*Read {folder / 'latin.py'}, then add --trust"):
        open_dataset(dataset.path)
    (folder / "latin.py").unlink()
    with pytest.raises(UnknownKindError, match=f"Read {dataset.path / 'kind.py'}, then add --trust"):
        verify(dataset.path)
    assert (dataset.path / "kind.py").read_text() == latin()


def test_manifest_cannot_make_a_file_trusted(folder: Path) -> None:
    dataset = build(small(), folder / "data")
    (folder / "evil.py").write_text("from pathlib import Path\nPath('executed').touch()\n" + NEEDED)
    manifest = dataset.path / "manifest.json"
    values = json.loads(manifest.read_text())
    values["request"]["benchmark"] = values["family"] = f"{folder / 'evil.py'}:Copy"
    manifest.write_text(json.dumps(values))
    with pytest.raises(DataError, match="does not trust"):
        open_dataset(dataset.path)
    request = DataConfig.parse({"benchmark": f"{folder / 'evil.py'}:Copy"}).request()
    with pytest.raises(ConfigError, match="no hash of the file's content"):
        build(request, folder / "data")
    assert not (folder / "executed").exists()


def test_commands_take_the_file_and_trust_it_when_it_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "data", "build", NAME, "--num-train", "40", "--num-test", "16")
    assert code == 0 and out.startswith("latin-4x4-generated-")
    name = out.partition(":")[0]
    distrust_all()
    code, _, err = call(capsys, "data", "verify", name)
    assert code == 2 and "--trust" in err and len(err.splitlines()) == 1
    code, out, err = call(capsys, "data", "list")
    assert code == 0 and f"{name} has puzzles of the kind Latin@" in out and "damaged" not in err
    for words in (("verify", name), ("show", name), ("fingerprint", name), ("list",)):
        distrust_all()
        code, out, _ = call(capsys, "data", *words, "--trust", "latin.py")
        assert code == 0 and "not opened" not in out


def test_printed_commands_name_the_file_quoted_and_work_as_they_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = folder / "my puzzles"
    own.mkdir()
    (own / "latin.py").write_text(latin())
    _, out, _ = call(capsys, "data", "build", "my puzzles/latin.py:Latin", "--num-train", "40", "--num-test", "16")
    hint = shlex.split(out.splitlines()[-1].partition("draw one: trm ")[2])
    distrust_all()
    assert f"--trust '{own}/latin.py'" in out and call(capsys, *hint)[0] == 0
    name = out.partition(":")[0]
    distrust_all()
    _, _, err = call(capsys, "data", "export", name, "exported")
    option = shlex.split(err.strip().partition("then add ")[2])
    assert call(capsys, "data", "export", name, "exported", *option)[0] == 0 and (folder / "exported").is_dir()


def test_dataset_of_an_edited_file_names_its_own_copy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "data", "build", NAME, "--num-train", "40", "--num-test", "16")
    name = out.partition(":")[0]
    (folder / "latin.py").write_text(latin() + "# edited\n")
    distrust_all()
    code, _, err = call(capsys, "data", "verify", name, "--trust", "latin.py")
    assert code == 2 and f"{folder}/latin.py has changed or is gone. Read " in err
    distrust_all()
    option = shlex.split(err.strip().partition("then add ")[2])
    assert option[1].endswith(f"{name}/kind.py") and call(capsys, "data", "verify", name, *option)[0] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere.py:Latin", "no Python file"),
        ("latin.py:Latn", "Did you mean 'Latin'"),
        ("latin.py", "Write it as latin.py:ClassName"),
        ("other.py:Plain", "defines no PuzzleKind named 'Plain'"),
        ("other.py:Fails", "Fails.* fails: ZeroDivisionError"),
        ("other.py:Nameless", "name needs lower-case letters"),
        ("other.py:Maze", "its name is built in"),
        ("other.py:Generated", "its name is built in"),
        ("other.py:Negative", "num_train, ... must be whole numbers"),
        ("other.py:Wide", "side, the cells per row"),
        ("other.py:Twice", "symbols must differ"),
        ("other.py:Colourless", "colours needs 2 entries"),
        ("other.py:Turned", "augmentation must be"),
        ("other.py:Empty", "defines no generate"),
        ("other.py:Raises", "copy fails: KeyError: 'x'"),
        ("other.py:Shapeless", r"labels are of shape \(\d+, 2, 3\)"),
        ("other.py:Outside", "whole numbers from 1 to 2"),
        ("other.py:NoPair", "no pair of inputs and labels"),
        ("other.py:Few", "gives only 4 different puzzles, and 24 are asked for"),
        ("other.py:Wrong", "copy, example 0: the label does not solve the puzzle"),
        ("other.py:Quits", r"Quits@.* fails: SystemExit: 0 \(other.py:\d+\)"),
        ("other.py:Exits", r"generate of the puzzle kind copy fails: SystemExit: 0 \(other.py:\d+\)"),
        ("other.py:Judges", r"is_valid of the puzzle kind copy fails: IndexError: bad cell \(other.py:\d+\)"),
        ("other.py:Ends", r"is_valid of the puzzle kind copy fails: SystemExit: 5"),
        ("other.py:Writes", r"is_valid .* copy fails: .*read-only \(other.py:\d+\). .*write into a copy"),
        ("other.py:WritesAll", r"valid of the puzzle kind copy fails: .*read-only"),
        ("other.py:Silent", "is_valid of the puzzle kind copy returned None, not True or False"),
        ("other.py:Grids", r"is_valid .* returned an array of shape \(3, 3\) .*, not True or False"),
        ("other.py:Single", r"valid .* copy returned an array of shape \(1,\) and type bool, not an array of 24 truth"),
        ("other.py:Short", r"num_solutions .* returned an array of shape \(2,\) .*, not an array of 24 numbers"),
        ("other.py:Text", "num_solutions of the puzzle kind copy returned an array of .* not an array of 24 numbers"),
        ("other.py:Keyless", r"keys of the puzzle kind copy returned a list of 1, not a list of \d+ keys"),
        ("other.py:Rising", "copy, symmetry 1 of 8, example 0: its label does not solve the puzzle that view gives"),
        ("other.py:OneWay", "copy, symmetry 1 of 2, example 0: undo does not give back the label"),
        (
            "other.py:Views",
            r"view of the puzzle kind copy returned a tuple of 2, not two arrays of whole numbers of shape",
        ),
        ("other.py:Orderless", "order must return 1 to"),
        ("other.py:Tasks", "has_tasks and is_framed are for ARC only"),
        ("other.py:Sizes", "there is no .* of 3x3 cells"),
        ("other.py:Seven", "symbols, description, licence and rules must be texts"),
        ("other.py:Unique", "its name is built in"),
        ("other.py:Random", "generate of the puzzle kind copy gives other puzzles for the same seed"),
        ("other.py:Ragged", "generate of the puzzle kind copy returned no arrays"),
        ("broken.py:Copy", "is not Python"),
        ("stops.py:Copy", "stops.py fails: ValueError: no"),
    ],
)
def test_bad_kind_is_one_line(text: str, words: str, folder: Path) -> None:
    (folder / "broken.py").write_text("class Copy(:\n")
    (folder / "stops.py").write_text(NEEDED + "raise ValueError('no')\n")
    changes = {
        "Nameless": "name = 'A b'",
        "Maze": "name = 'maze'",
        "Generated": "name = 'maze-7x7'",
        "Negative": "num_test = -1",
        "Wide": "side = 1",
        "Twice": "symbols = '?aa'",
        "Colourless": "colours = ('#000000',)",
        "Turned": "augmentation = 'arc'",
        "Fails": "def __init__(self): 1 / 0",
        "Raises": "def generate(self, side, count, seed): {}['x']",
        "Shapeless": "def generate(self, side, count, seed): return np.ones((count, 9), int), np.ones((count, 2, 3))",
        "Outside": "def generate(self, side, count, seed): return (np.zeros((count, 9), int),) * 2",
        "NoPair": "def generate(self, side, count, seed): return None",
        "Few": "def generate(self, side, count, seed): return (np.ones((4, 9), int) + np.eye(4, 9, dtype=int),) * 2",
        "Wrong": "def is_valid(self, question, answer): return False",
        "Quits": "def __init__(self): raise SystemExit(0)",
        "Exits": "def generate(self, side, count, seed): raise SystemExit(0)",
        "Judges": "def is_valid(self, question, answer): raise IndexError('bad cell')",
        "Ends": "def is_valid(self, question, answer): raise SystemExit(5)",
        "Writes": "def is_valid(self, question, answer): question[:] = answer",
        "WritesAll": "def valid(self, inputs, answers, labels, side): inputs[:] = answers",
        "Silent": "def is_valid(self, question, answer): pass",
        "Grids": "def is_valid(self, question, answer): return answer > 0",
        "Single": "def valid(self, inputs, answers, labels, side): return np.ones(1, bool)",
        "Short": "def num_solutions(self, inputs, side): return np.ones(2)",
        "Text": "def num_solutions(self, inputs, side): return np.array(['x'] * len(inputs))",
        "Keyless": "def keys(self, inputs, side): return [b'a']",
        "Rising": "augmentation = 'dihedral'\n"
        "    def is_valid(self, question, answer): return bool((answer == RISING).all())\n"
        "    def generate(self, side, count, seed):\n"
        "        inputs = super().generate(side, count, seed)[0]\n"
        "        return inputs, np.array([RISING] * len(inputs))",
        "OneWay": "def order(self, side): return 2\n"
        "    def view(self, i, a, shapes, rows, codes, places, side): return 3 - i[rows], 3 - a[rows]\n"
        "    def _undo(self, cells, codes, side): return cells if codes[0] else 3 - cells",
        "Views": "def view(self, i, a, shapes, rows, codes, places, side): return i[rows], 0.5 * a[rows]",
        "Orderless": "def order(self, side): return 0",
        "Tasks": "has_tasks = True",
        "Sizes": "sides = (5,)",
        "Seven": "description = 7",
        "Unique": "name = 'maze-unique-11x11'",
        "Random": "def generate(self, side, count, seed): return super().generate(side, count, None)",
        "Ragged": "def generate(self, side, count, seed): return [[1], [2, 3]], [[1]]",
    }
    own = "".join(f"class {name}(Copy):\n    {line}\n" for name, line in changes.items())
    empty = "class Empty(PuzzleKind):\n    name, side, symbols = 'empty', 3, '?ab'\n"
    (folder / "other.py").write_text(f"{NEEDED}\nRISING = [[1, 1, 2]] * 3\n{own}\n{empty}\nclass Plain: ...\n")
    with pytest.raises(UserError, match=words) as raised:
        build(DataRequest(benchmark=text, num_train=10, num_validation=4, num_test=10), folder / "data")
    assert "\n" not in str(raised.value) and not list(folder.glob("data/*"))


def test_settings_of_other_benchmarks_are_refused() -> None:
    for setting in ({"blanks": 3}, {"source": "latin.py"}, {"ids": "upstream"}):
        with pytest.raises(ConfigError, match="has no meaning for"):
            fingerprint(DataRequest(benchmark=NAME, **setting))  # type: ignore[arg-type]


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, with a package that defines the kind of the page."""
    site = folder / "site"
    site.mkdir()
    (site / "quits.py").write_text("raise SystemExit(0)")
    (site / "my_puzzles.py").write_text(latin() + "\nclass Renamed(Latin):\n    name = 'other'\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "my_puzzles", raising=False)
    return site


def test_entry_point_is_a_benchmark(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(package, {"latin-4x4": "my_puzzles:Latin"})
    dataset = build(small("latin-4x4"), package / "data")
    assert dataset.manifest.family == "latin-4x4" and verify(dataset.path) == []
    assert "latin-4x4" in call(capsys, "data", "list")[1]
    assert resolve_benchmark("latin-4x4").generator == "my-puzzles 1.0"
    with pytest.raises(ConfigError, match="Did you mean 'latin-4x4'"):
        resolve_benchmark("latin-4x5")


def test_entry_points_that_cannot_be_used_are_a_warning_each(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {"broken": "nothing:Latin", "ends": "quits:Latin", "maze-unique-11x11": "my_puzzles:Latin"}
    install(package, {"latin-4x4": "my_puzzles:Latin", **bad})
    code, out, err = call(capsys, "data", "list")
    lines = [line for line in err.splitlines() if line.startswith("warning: the puzzle kind")]
    assert code == 0 and "latin-4x4" in out and "sudoku-4x4" in out
    assert [line.split()[4] for line in lines] == list(bad) and "name is that of a benchmark" in lines[-1]
    assert resolve_benchmark("maze-unique-11x11").family == "maze"


def test_dataset_says_which_package_it_lacks(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(package, {"latin-4x4": "my_puzzles:Latin"})
    dataset = build(small("latin-4x4"), package.parent / "runs/datasets")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(package)])
    with pytest.raises(DataError, match="no kind of puzzle 'latin-4x4' here"):
        Dataset(dataset.path)
    code, out, err = call(capsys, "data", "list")
    assert code == 0 and "not opened: " in out and "no kind of puzzle 'latin-4x4' here" in out and "damaged" not in err


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nothing:Latin", "cannot be imported: ModuleNotFoundError"),
        ("my_puzzles:BLANK", "is not a PuzzleKind"),
        ("my_puzzles:Renamed", "is named 'other'"),
        ("quits:Latin", "cannot be imported: SystemExit: 0"),
    ],
)
def test_bad_entry_point_is_one_line(value: str, words: str, package: Path) -> None:
    install(package, {"latin-4x4": value})
    with pytest.raises(ConfigError, match=words):
        build(small("latin-4x4"), package / "data")
