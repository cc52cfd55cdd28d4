"""Parity with the official builder: encodings, transforms, hashes, identifiers, whole files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.golden import OFFICIAL, arrays, numbers
from trm_data import DataRequest, Dataset, TrainLoader, build, export_official, import_official, verify
from trm_data.errors import DataError
from trm_data.puzzles.arc import crop, frame, grid_hash
from trm_data.puzzles.augment import arc_rows
from trm_data.puzzles.symmetry import DIHEDRAL_INVERSE, arc_colours, augmentation_name, dihedral, parse_augmentation


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return numbers()


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    raw = OFFICIAL / "tasks"
    request = DataRequest(
        benchmark="arc-agi-1",
        source=str(raw / "mini"),
        extra_training=str(raw / "mini_concept"),
        ids="upstream",
        upstream_augmentations=8,
    )
    return build(request, tmp_path_factory.mktemp("data"))


def _write_official(folder: Path, stored: Any, metadata: dict[str, Any]) -> None:
    for key in stored.files:
        split, name = key.split("/")
        (folder / split).mkdir(parents=True, exist_ok=True)
        np.save(folder / split / f"{name}.npy", stored[key])
    for split, content in metadata.items():
        (folder / split / "dataset.json").write_text(json.dumps(content))


def _rows(path: Path) -> list[bytes]:
    inputs, labels = (np.load(path / f"all__{part}.npy") for part in ("inputs", "labels"))
    return sorted(a.tobytes() + b.tobytes() for a, b in zip(inputs, labels, strict=True))


def test_dihedral_transforms_and_inverses_are_the_official_ones(golden: dict[str, Any]) -> None:
    grid = np.array(golden["dihedral"]["input"], np.uint8)
    for number in range(8):
        assert dihedral(grid, number).tolist() == golden["dihedral"]["out"][number]
        assert dihedral(grid, DIHEDRAL_INVERSE[number]).tolist() == golden["dihedral"]["inverse_out"][number]


def test_grid_hashes_are_the_official_ones(golden: dict[str, Any]) -> None:
    for case in golden["grid_hash"]:
        assert grid_hash(np.array(case["grid"], np.uint8)) == case["hash"]


def test_augmented_grids_and_their_inverses_are_the_official_ones(golden: dict[str, Any]) -> None:
    grid = np.array(golden["aug"]["grid"], np.uint8)
    for case in golden["aug"]["calls"]:
        name, code = parse_augmentation(case["name"])
        assert (name, augmentation_name(name, code)) == (golden["aug"]["name"], case["name"])
        colours = arc_colours(code)
        augmented = dihedral(colours[grid], code % 8)
        assert augmented.tolist() == case["augmented"]
        restored = np.argsort(colours).astype(np.uint8)[dihedral(augmented, DIHEDRAL_INVERSE[code % 8])]
        assert restored.tolist() == case["inverse"]


def test_translated_frames_are_the_official_ones(golden: dict[str, Any]) -> None:
    wanted = arrays("translate")["seqs"]
    for case, (question, answer) in zip(golden["translate"]["cases"], wanted, strict=True):
        shapes = np.array([case["in_shape"] + case["out_shape"]], np.uint8)
        grids = [np.arange(r * c) * step % 10 for (r, c), step in ((case["in_shape"], 1), (case["out_shape"], 3))]
        framed = [
            frame(g.astype(np.uint8).reshape(case[part]))
            for g, part in zip(grids, ("in_shape", "out_shape"), strict=True)
        ]
        corner = int((question > 0).argmax())
        place = np.array([(corner // 30) << 32 | corner % 30], np.uint64)
        made = np.empty((2, 1, 900), np.uint8)
        zero, rows = np.zeros(1, np.uint64), np.zeros(1, np.int64)
        arc_rows(framed[0][None], framed[1][None], shapes, rows, zero, place, made[0], made[1])
        assert (made[0, 0] == question).all() and (made[1, 0] == answer).all()


def test_cropped_predictions_are_the_official_ones(golden: dict[str, Any]) -> None:
    for cells, wanted in zip(arrays("crop")["grids"], golden["crop"]["out"], strict=True):
        grid = crop(cells.reshape(-1))
        assert list(grid.shape) == wanted["shape"]
        assert grid.size == 0 or grid.tolist() == wanted["values"]


def test_upstream_build_of_mini_tasks_equals_every_official_array(
    mini: Dataset, golden: dict[str, Any], tmp_path: Path
) -> None:
    export_official(mini, str(tmp_path / "out"), 8)
    official = golden["arc_builder"][0]
    assert mini.identifiers(8) == official["identifiers"]
    wanted = arrays("arc_mini_aug8")
    for key in wanted.files:
        split, name = key.split("/")
        made = np.load(tmp_path / "out" / split / f"{name}.npy")
        assert made.dtype == wanted[key].dtype and (made == wanted[key]).all(), key
    for split in ("train", "test"):
        assert json.loads((tmp_path / "out" / split / "dataset.json").read_text()) == official["metadata"][split]
    assert list(json.loads((tmp_path / "out/test_puzzles.json").read_text())) == official["test_puzzles_order"]


def test_imported_official_arc_dataset_equals_the_one_built_from_source(
    mini: Dataset, golden: dict[str, Any], tmp_path: Path
) -> None:
    official = golden["arc_builder"][0]
    _write_official(tmp_path / "in", arrays("arc_mini_aug8"), official["metadata"])
    (tmp_path / "in/identifiers.json").write_text(json.dumps(official["identifiers"]))
    (tmp_path / "in/test_puzzles.json").write_text(json.dumps({key: {} for key in official["test_puzzles_order"]}))
    imported = import_official(tmp_path / "in", tmp_path / "data")
    assert imported.id_map_hash(8) == mini.id_map_hash(8)
    for field in ("inputs", "labels", "shapes", "split", "puzzle", "places"):
        assert (getattr(imported, field) == getattr(mini, field)).all(), field
    export_official(imported, tmp_path / "again", 8)
    for split in ("train", "test"):
        assert _rows(tmp_path / "again" / split) == _rows(tmp_path / "in" / split)


@pytest.mark.parametrize("is_hashed", [True, False])
def test_arc_dataset_with_the_identifiers_of_hrm_is_imported_as_the_same(
    is_hashed: bool, mini: Dataset, golden: dict[str, Any], tmp_path: Path
) -> None:
    """HRM's builder writes the colours as Python's hash of their tuple, at first as digits, and no list of tests."""

    def of_hrm(name: str) -> str:
        task, *augmentation = name.split("|||")
        if not augmentation:
            return task
        turn, colours = augmentation
        return f"{task}_{turn}_{hash(tuple(map(int, colours))) if is_hashed else colours}"

    official = golden["arc_builder"][0]
    _write_official(tmp_path / "in", arrays("arc_mini_aug8"), official["metadata"])
    names = [of_hrm(name) for name in official["identifiers"]]
    (tmp_path / "in/identifiers.json").write_text(json.dumps(names))
    imported = import_official(tmp_path / "in", tmp_path / "data")
    assert imported.id_map_hash(8) == mini.id_map_hash(8) and verify(imported) == verify(mini)
    export_official(imported, tmp_path / "again", 8)
    assert json.loads((tmp_path / "again/identifiers.json").read_text()) == official["identifiers"]
    for split in ("train", "test"):
        assert _rows(tmp_path / "again" / split) == _rows(tmp_path / "in" / split)
    for wrong in ("_t3_12345", "_t3_0123456788", f"_t3_{'9' * 5000}"):
        (tmp_path / "in/identifiers.json").write_text(json.dumps([*names[:2], names[1] + wrong, *names[3:]]))
        with pytest.raises(DataError, match=r"identifiers\.json: .* is not an identifier of an ARC task"):
            import_official(tmp_path / "in", tmp_path / "data")


@pytest.mark.parametrize("kind", ["sudoku", "maze"])
def test_imported_official_copies_are_made_again(kind: str, golden: dict[str, Any], tmp_path: Path) -> None:
    _write_official(tmp_path / "in", arrays(kind), golden[kind]["metadata"])
    imported = import_official(tmp_path / "in", tmp_path / "data")
    copies = int(imported.num_listed.max())
    assert copies == {"sudoku": 4, "maze": 7}[kind]
    export_official(imported, tmp_path / "out", copies)
    for split in ("train", "test"):
        assert _rows(tmp_path / "out" / split) == sorted(
            a.astype(np.uint8).tobytes() + b.astype(np.uint8).tobytes()
            for a, b in zip(
                np.load(tmp_path / f"in/{split}/all__inputs.npy"),
                np.load(tmp_path / f"in/{split}/all__labels.npy"),
                strict=True,
            )
        )


def test_official_rows_that_no_augmentation_makes_are_refused(golden: dict[str, Any], tmp_path: Path) -> None:
    _write_official(tmp_path / "in", arrays("sudoku"), golden["sudoku"]["metadata"])
    inputs = np.load(tmp_path / "in/train/all__inputs.npy")
    inputs[3, 0] = 1 if inputs[3, 0] > 1 else 2
    np.save(tmp_path / "in/train/all__inputs.npy", inputs)
    with pytest.raises(DataError, match="train, row 3: no symmetry makes it"):
        import_official(tmp_path / "in", tmp_path / "data")
    assert not any((tmp_path / "data").glob("*"))


def test_official_test_split_for_10_augmentations_is_made_again(tmp_path: Path) -> None:
    _check_official_files(tmp_path, "arc-agi-1", 10, "arc1-aug-10")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "count", "key"), [("arc-agi-2", 100, "arc2-aug-100"), ("arc-agi-1", 1000, "arc1-aug-1000")]
)
def test_official_test_split_for_many_augmentations_is_made_again(
    tmp_path: Path, benchmark: str, count: int, key: str
) -> None:
    _check_official_files(tmp_path, benchmark, count, key)


def _check_official_files(folder: Path, benchmark: str, count: int, key: str) -> None:
    """The test split holds every evaluation task, its augmentations and its identifiers, drawn after all training
    tasks; only ConceptARC, which the official builds add to training, comes later."""
    request = DataRequest(benchmark=benchmark, ids="upstream", upstream_augmentations=count)
    export_official(build(request, folder / "data"), folder / "out", count)
    wanted = json.loads((OFFICIAL / "digests.json").read_text())[key]
    made = {}
    for name in wanted:
        with (folder / "out" / name).open("rb") as file:
            made[name] = hashlib.file_digest(file, "sha256").hexdigest()
    assert wanted and made == wanted


def test_loader_gives_the_rows_of_an_imported_official_dataset(golden: dict[str, Any], tmp_path: Path) -> None:
    """Every row, with the translation of the official build, under the embedding that the official build gave it."""
    official = golden["arc_builder"][0]
    stored = arrays("arc_mini_aug8")
    _write_official(tmp_path / "in", stored, official["metadata"])
    (tmp_path / "in/identifiers.json").write_text(json.dumps(official["identifiers"]))
    (tmp_path / "in/test_puzzles.json").write_text(json.dumps({key: {} for key in official["test_puzzles_order"]}))
    dataset = import_official(tmp_path / "in", tmp_path / "data")
    sizes = np.diff(stored["train/all__puzzle_indices"])
    owners = np.repeat(stored["train/all__puzzle_identifiers"], sizes)
    rows = zip(owners.tolist(), stored["train/all__inputs"], stored["train/all__labels"], strict=True)
    wanted = {(owner, question.tobytes(), answer.tobytes()) for owner, question, answer in rows}
    loader = TrainLoader(dataset, batch_size=256, num_augmentations=8, seed=0)
    seen = set()
    for step in range(40):
        batch = loader.fetch(step, np.arange(256))
        for question, answer, owner in zip(*batch, strict=True):
            seen.add((int(owner), question.tobytes(), answer.tobytes()))
    assert seen <= wanted
    assert len(seen) > 0.95 * len(wanted), "nearly every row is drawn in so many batches"
