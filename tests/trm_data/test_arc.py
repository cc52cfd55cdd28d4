"""ARC: augmentations, identifiers and published overlaps; sources on S3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trm_data import DataRequest, build
from trm_data.errors import DataError
from trm_data.puzzles.arc import distinct_codes, frame, pair_keys, restore
from trm_data.puzzles.augment import arc_rows
from trm_data.puzzles.symmetry import ARC_ORDER, arc_code, arc_colours, dihedral
from trm_data.sources.arc import Task, packaged_tasks

grids = st.tuples(st.integers(1, 30), st.integers(1, 30)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 9))
)
codes = st.integers(0, ARC_ORDER - 1)


def _seen(question: np.ndarray, answer: np.ndarray, code: int, place: int = 0) -> tuple[np.ndarray, np.ndarray]:
    out = np.empty((2, 1, 900), np.uint8)
    shapes = np.array([question.shape + answer.shape], np.uint8)
    framed = frame(question)[None], frame(answer)[None]
    row, word = np.zeros(1, np.int64), np.array([place], np.uint64)
    arc_rows(*framed, shapes, row, np.array([code], np.uint64), word, out[0], out[1])
    return out[0, 0], out[1, 0]


@given(grids, grids, codes)
@settings(max_examples=80, deadline=None)
def test_augmented_arc_example_is_restored_exactly(question: np.ndarray, answer: np.ndarray, code: int) -> None:
    for cells, grid in zip(_seen(question, answer, code), (question, answer), strict=True):
        assert (cells == frame(dihedral(arc_colours(code)[grid], code % 8))).all()
        assert (restore(cells, code) == grid).all()


@given(grids, grids, codes, st.integers(1, 2**64 - 1))
@settings(max_examples=80, deadline=None)
def test_translated_arc_pair_moves_jointly_and_whole(
    question: np.ndarray, answer: np.ndarray, code: int, place: int
) -> None:
    fixed, moved = _seen(question, answer, code), _seen(question, answer, code, place)
    corners = []
    for still, cells in zip(fixed, moved, strict=True):
        corner = int((cells > 1).argmax())
        corners.append(divmod(corner, 30))
        grid = cells.reshape(30, 30)[corners[-1][0] :, corners[-1][1] :]
        kept = np.zeros((30, 30), np.uint8)
        kept[: grid.shape[0], : grid.shape[1]] = grid
        colours = still.reshape(30, 30) > 1
        assert (kept[colours] == still.reshape(30, 30)[colours]).all()
        assert (cells > 1).sum() == colours.sum()
    assert corners[0] == corners[1]


@given(codes)
def test_arc_code_survives_decoding(code: int) -> None:
    colours = arc_colours(code)
    assert colours[0] == 0 and sorted(colours) == list(range(10))
    assert arc_code(code % 8, colours) == code


@given(grids, grids, codes)
@settings(max_examples=60, deadline=None)
def test_pair_key_does_not_change_under_augmentation(question: np.ndarray, answer: np.ndarray, code: int) -> None:
    moved = [dihedral(arc_colours(code)[grid], code % 8) for grid in (question, answer)]
    keys = [
        pair_keys(frame(a)[None], frame(b)[None], np.array([a.shape + b.shape], np.uint8))[0]
        for a, b in ((question, answer), moved)
    ]
    assert keys[0] == keys[1]
    changed = question.copy()
    changed[0, 0] = 0 if changed[0, 0] else 1
    shapes = np.array([question.shape + answer.shape], np.uint8)
    if question.size > 1 and len(np.unique(question)) > 1 and (changed == 0).sum() != (question == 0).sum():
        assert pair_keys(frame(changed)[None], frame(answer)[None], shapes)[0] != keys[0]


def _views(task: list[tuple[np.ndarray, np.ndarray]], wanted: list[int]) -> list[tuple[bytes, ...]]:
    return [
        tuple(sorted(a.tobytes() + b.tobytes() for a, b in (_seen(*pair, code) for pair in task))) for code in wanted
    ]


def _codes(task: list[tuple[np.ndarray, np.ndarray]], count: int) -> list[int]:
    framed = [np.stack([frame(pair[i]) for pair in task]) for i in (0, 1)]
    shapes = np.array([a.shape + b.shape for a, b in task], np.uint8)
    return distinct_codes(*framed, shapes, 7, count).tolist()


def test_no_two_augmentations_of_a_task_are_alike() -> None:
    symmetric = [(np.array([[1, 0], [0, 1]], np.uint8), np.array([[2]], np.uint8))]
    found = _codes(symmetric, 1000)
    views = _views(symmetric, [0, *found])
    assert len(set(views)) == len(views) == 2 * 9 * 8  # two positions of the diagonal, ordered pairs of colours
    assert _codes(symmetric, 20) == found[:20]


def test_order_of_examples_does_not_tell_augmentations_apart() -> None:
    left, right = np.array([[1, 0]], np.uint8), np.array([[0, 1]], np.uint8)
    task = [(left, left), (right, right)]
    views = _views(task, [0, *_codes(task, 1000)])
    assert len(set(views)) == len(views) == 2 * 9  # lying or standing, nine colours: mirroring swaps the examples


def test_overlaps_published_within_arc_agi_1_are_noted(tmp_path: Path) -> None:
    noted = build(DataRequest(benchmark="arc-agi-1"), tmp_path).manifest.facts["published_overlaps"]
    assert {"40853293": "070dd51e", "caa06a1f": "50a16a69"}.items() <= noted.items() and len(noted) == 9


def _plain(task: Task) -> dict[str, Any]:
    """As in the files of the benchmark."""
    parts = {"train": task.demonstrations, "test": task.tests}
    return {
        name: [{"input": pair.question.tolist(), "output": pair.answer.tolist()} for pair in pairs]
        for name, pairs in parts.items()
    }


def _as_kaggle(tasks: list[Task], folder: Path) -> None:
    folder.mkdir()
    challenges = {task.name: _plain(task) for task in tasks}
    (folder / "arc2_challenges.json").write_text(json.dumps(challenges))


def test_training_on_arc_agi_2_and_testing_on_arc_agi_1_is_refused(tmp_path: Path) -> None:
    _as_kaggle([task for task in packaged_tasks("arc-agi-2") if task.subset == "training"], tmp_path / "extra")
    request = DataRequest(benchmark="arc-agi-1", extra_training=str(tmp_path / "extra"))
    with pytest.raises(DataError, match=r"37\d tasks to train on, of .* hold test pairs of evaluation tasks"):
        build(request, tmp_path / "data")
    allowed = build(request.model_copy(update={"allow_overlaps": ("all",)}), tmp_path / "data")
    assert len(allowed.manifest.facts["allowed_overlaps"]) > 370


def test_only_the_published_test_tasks_go_by_their_name(tmp_path: Path) -> None:
    tasks = packaged_tasks("arc-agi-2")
    for name in ("copy", "mine"):
        for subset in ("training", "evaluation"):
            chosen = [task for task in tasks if task.subset == subset][: 5 if subset == "training" else None]
            _as_files(chosen, tmp_path / name / subset)
    changed = next((tmp_path / "mine" / "evaluation").iterdir())
    task = json.loads(changed.read_text())
    task["test"][0]["output"][0][0] = (task["test"][0]["output"][0][0] + 1) % 10
    changed.write_text(json.dumps(task))
    named = {
        name: build(
            DataRequest(benchmark="arc-agi-2", source=str(tmp_path / name), num_validation=0), tmp_path / "data"
        )
        for name in ("copy", "mine")
    }
    assert {dataset.counts["test"] for dataset in named.values()} == {120}
    assert named["copy"].benchmark == "arc-agi-2" and named["mine"].benchmark == "arc-agi-2-mine"


def _as_files(tasks: list[Task], folder: Path) -> None:
    folder.mkdir(parents=True)
    for task in tasks:
        (folder / f"{task.name}.json").write_text(json.dumps(_plain(task)))


@pytest.fixture(scope="module")
def s3() -> Any:
    """Address of a bucket on a real S3 server in this process, with its query."""
    server = pytest.importorskip("moto.server")
    import boto3

    running = server.ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
    client.create_bucket(Bucket="puzzles")
    query = f"endpoint_override=http%3A%2F%2F{host}%3A{port}&region=us-east-1&scheme=http"
    yield client, f"s3://key:secret@puzzles/{{}}?{query}"
    running.stop()


def test_sources_on_s3_give_the_same_dataset_as_local_ones(s3: Any, tmp_path: Path) -> None:
    client, address = s3
    for subset in ("training", "evaluation"):
        for name in ("a", "b"):
            task = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]], "output": [[4, 5]]}]}
            path = tmp_path / "arc" / subset / f"{subset}-{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(task))
            client.put_object(Bucket="puzzles", Key=f"arc/{subset}/{path.name}", Body=path.read_bytes())
    local, remote = (
        build(
            DataRequest(benchmark="arc-agi-1", source=source, num_validation=0, allow_overlaps=("all",)),
            tmp_path / "data",
        )
        for source in (str(tmp_path / "arc"), address.format("arc"))
    )
    assert local.path == remote.path and local.counts == {"train": 4, "validation": 0, "test": 2}
    request = DataRequest(
        benchmark="arc-agi-1", source=address.format("arc"), num_validation=1, allow_overlaps=("all",)
    )
    other = build(request, tmp_path / "data")
    assert "secret" not in (other.path / "manifest.json").read_text()
    with pytest.raises(DataError, match=r"none.txt does not exist"):
        build(DataRequest(benchmark="sudoku-9x9", source=address.format("none.txt")), tmp_path / "data")
