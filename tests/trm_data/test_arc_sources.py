"""ARC tasks of one's own: unknown answers, names of tasks, and tasks in both subsets."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.arc_tasks import pair, task, write_tasks
from trm_data import DataRequest, Dataset, TrainLoader, build, export_official, find, import_official, verify
from trm_data.errors import ConfigError, DataError


def built(folder: Path, **settings: Any) -> Dataset:
    request = {"benchmark": "arc-agi-1", "source": str(folder / "in"), "num_validation": 0, **settings}
    return build(DataRequest.parse(request), folder / "data")


def test_test_inputs_without_an_answer_train_and_validate_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = {
        "training/half": task(1, tests=2, unanswered=1),
        "training/none": task(2, tests=2, unanswered=2),
        "training/whole": task(3),
        "evaluation/tested": task(4, tests=3, unanswered=2),
    }
    write_tasks(tmp_path / "in", tasks)
    with caplog.at_level(logging.WARNING):
        dataset = built(tmp_path, num_validation=2)
    assert "3 test inputs of training tasks have no answer" in caplog.text
    assert dataset.manifest.facts["unanswered_pairs_dropped"] == 3
    assert dataset.num_unanswered == {"train": 0, "validation": 0, "test": 2}
    # Only the two tasks that have an answered test pair can lend one; the third is trained on by its demonstrations.
    assert dataset.manifest.examples == {"train": 8, "validation": 2, "test": 3}
    loader = TrainLoader(dataset, batch_size=24, num_augmentations=0, seed=0)
    assert (loader.fetch(0, np.arange(24)).labels > 1).any(1).all()
    assert verify(dataset) == []


def test_rows_without_an_answer_are_not_drawn_from_datasets_that_have_them(tmp_path: Path) -> None:
    """Datasets of earlier versions have them in the training split; here the test split stands for it."""
    tasks = {"training/a": task(1), "evaluation/b": task(2, tests=4, unanswered=3), "evaluation/c": task(3)}
    write_tasks(tmp_path / "in", tasks)
    dataset = built(tmp_path)
    loader = TrainLoader(dataset, splits=("test",), batch_size=8, num_augmentations=0, seed=0)
    assert all((loader.fetch(step, np.arange(8)).labels > 1).any(1).all() for step in range(4))


def test_upstream_build_leaves_out_the_same_pairs(tmp_path: Path) -> None:
    tasks = {"training/a": task(1, tests=2, unanswered=1), "evaluation/b": task(2), "evaluation/c": task(3)}
    write_tasks(tmp_path / "in", tasks)
    dataset = built(tmp_path, ids="upstream", upstream_augmentations=3)
    assert dataset.manifest.facts["unanswered_pairs_dropped"] == 1
    assert dataset.manifest.examples == {"train": 7, "validation": 0, "test": 2}


def test_validation_needs_tasks_with_answered_test_pairs(tmp_path: Path) -> None:
    tasks = {"training/a": task(1, tests=1, unanswered=1), "training/b": task(2), "evaluation/c": task(3)}
    write_tasks(tmp_path / "in", tasks)
    with pytest.raises(ConfigError, match=r"only 1 training tasks with .*\. Lower num_validation to at most 1"):
        built(tmp_path, num_validation=2)


def test_equal_file_names_in_different_folders_are_different_tasks(tmp_path: Path) -> None:
    tasks = {
        "training/a": task(1),
        "evaluation/Copy/1": task(2),
        "evaluation/Mirror/1": task(3, tests=2),
        "evaluation/Mirror/2": task(4),
    }
    write_tasks(tmp_path / "in", tasks)
    dataset = built(tmp_path)
    assert dataset.names == ["a", "Copy/1", "Mirror/1", "2"]
    assert dataset.manifest.facts["files"].keys() >= {"Copy/1.json", "Mirror/1.json"}
    assert sorted(set(dataset.names)) == sorted(dataset.names)


def test_equal_names_in_training_and_evaluation_are_different_tasks(tmp_path: Path) -> None:
    write_tasks(tmp_path / "in", {"training/1": task(1), "evaluation/1": task(2)})
    assert built(tmp_path).names == ["1#training", "1"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"evaluation/c.JSON": task(3)}, r"evaluation: c.JSON and c.json are both task 'c'"),
        (
            {"training/c.json": task(3), "training/c#training.json": task(4)},
            "training task 'c' .* c#training is taken",
        ),
        ({"training/d.json": '{"train": [], "test": [], "test": []}'}, r"d.json has the key 'test' 2 times"),
    ],
)
def test_two_tasks_of_one_name_are_refused(files: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_tasks(tmp_path / "in", {"training/a": task(1), "evaluation/c": task(2)})
    for name, content in files.items():
        (tmp_path / "in" / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=message):
        built(tmp_path)


def test_task_that_a_challenges_file_has_twice_is_refused(tmp_path: Path) -> None:
    one, other = json.dumps(task(1)), json.dumps(task(2))
    source = tmp_path / "x_challenges.json"
    source.write_text(f'{{"a": {one}, "b": {one}, "a": {other}}}')
    with pytest.raises(DataError, match=r"x_challenges.json has the key 'a' 2 times"):
        build(DataRequest(benchmark="arc-agi-1", source=str(source), num_validation=0), tmp_path / "data")


def test_challenges_file_that_is_named_alone_is_read_alone(tmp_path: Path) -> None:
    source = tmp_path / "x_challenges.json"
    source.write_text(json.dumps({"a": task(1, unanswered=1)}))
    request = DataRequest(benchmark="arc-agi-1", source=str(source), num_validation=0)
    expected = build(request, tmp_path / "data")
    (tmp_path / "x_solutions.json").write_text(json.dumps({"a": [[[1]]]}))
    assert find(request, tmp_path / "data") == expected.path
    beside = build(request, tmp_path / "data2")
    assert beside.path.name == expected.path.name and beside.num_unanswered["test"] == 1
    assert list(beside.manifest.facts["files"]) == ["x_challenges.json"]


def test_hidden_files_do_not_change_the_identity_of_a_dataset(tmp_path: Path) -> None:
    write_tasks(tmp_path / "in", {"training/a": task(1), "evaluation/b": task(2)})
    expected = built(tmp_path)
    for name in (".git/a.json", "training/.DS_Store", "evaluation/._b.json"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"\0")
    assert built(tmp_path).path == expected.path
    write_tasks(tmp_path / "in", {"training/c": task(3)})
    assert built(tmp_path).path != expected.path


def test_task_in_training_and_in_evaluation_is_refused_unless_named(tmp_path: Path) -> None:
    write_tasks(tmp_path / "in", {"training/a": task(1), "training/b": task(2), "evaluation/c": task(1)})
    with pytest.raises(DataError, match=r"1 tasks to train on, of .*in, hold test pairs of evaluation tasks: a \(c\)"):
        built(tmp_path)
    allowed = built(tmp_path, allow_overlaps=("a",))
    assert allowed.manifest.facts["allowed_overlaps"] == ["a"]
    assert not allowed.manifest.facts["published_overlaps"]
    assert verify(allowed) == []


def test_test_pair_among_the_demonstrations_of_another_evaluation_task_is_refused(tmp_path: Path) -> None:
    """Demonstrations of evaluation tasks train, too. The pair is turned and has other colours."""
    first, second = task(1), task(2)
    swap = np.array([0, 2, 1, 3, 4, 5, 6, 7, 8, 9])
    second["train"].append({part: swap[np.rot90(np.array(first["test"][0][part]))].tolist() for part in pair(0)})
    write_tasks(tmp_path / "in", {"training/t": task(3), "evaluation/e1": first, "evaluation/e2": second})
    with pytest.raises(DataError, match=r"evaluation tasks: e2 \(e1\)"):
        built(tmp_path)


def test_overlaps_that_a_manifest_calls_published_are_reported(tmp_path: Path) -> None:
    write_tasks(tmp_path / "in", {"training/a": task(1), "training/b": task(2), "evaluation/c": task(1)})
    dataset = built(tmp_path, allow_overlaps=("a",))
    path = dataset.path / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["facts"] |= {"allowed_overlaps": [], "published_overlaps": {"a": "c"}}
    path.write_text(json.dumps(manifest))
    assert "leak: training task a holds a test pair" in verify(dataset.path)


def test_imported_official_dataset_reports_a_task_in_both_subsets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tasks(tmp_path / "in", {"training/a": task(1), "evaluation/c": task(1)})
    source = built(tmp_path, ids="upstream", upstream_augmentations=2, allow_overlaps=("all",))
    export_official(source, tmp_path / "official", 2)
    with caplog.at_level(logging.WARNING):
        imported = import_official(tmp_path / "official", tmp_path / "imported")
    assert "1 training tasks hold test pairs: a" in caplog.text
    assert imported.manifest.facts["overlaps"] == ["a"]
    assert "leak: training task a holds a test pair" in verify(imported)


def test_placeholder_answers_of_the_official_builder_are_unknown(tmp_path: Path) -> None:
    """Without a file of solutions it writes one black cell for every answer."""
    tested = [task(2, tests=2), task(3)]
    for content in tested:
        for example in content["test"]:
            example["output"] = [[0]]
    write_tasks(tmp_path / "in", {"training/a": task(1), "evaluation/b": tested[0], "evaluation/c": tested[1]})
    source = built(tmp_path, ids="upstream", upstream_augmentations=2)
    assert source.num_unanswered["test"] == 0, "in the user's own files it is an answer like any other"
    export_official(source, tmp_path / "official", 2)
    imported = import_official(tmp_path / "official", tmp_path / "imported")
    assert imported.num_unanswered == {"train": 0, "validation": 0, "test": 3}
    assert verify(imported) == []


@pytest.mark.parametrize("kind", ["file", "folder with a file"])
def test_export_onto_what_is_there_is_refused(kind: str, tmp_path: Path) -> None:
    write_tasks(tmp_path / "in", {"training/a": task(1), "evaluation/b": task(2)})
    place = tmp_path / "out"
    if kind == "file":
        place.write_text("mine")
    else:
        write_tasks(place, {"mine": {}})
    with pytest.raises(DataError, match="out is not an empty folder"):
        export_official(built(tmp_path), place, 0)


@pytest.mark.parametrize("is_there", [False, True])
def test_export_that_is_cut_short_leaves_nothing(is_there: bool, tmp_path: Path) -> None:
    write_tasks(tmp_path / "in", {"training/a": task(1), "evaluation/b": task(2)})
    dataset, place = built(tmp_path), tmp_path / "exports" / "out"
    place.parent.mkdir()
    if is_there:
        place.mkdir()

    def cut(stage: str, done: int, total: int) -> None:
        if stage == "writing test":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_official(dataset, place, 1, cut)
    assert [path.name for path in place.parent.rglob("*")] == (["out"] if is_there else [])
    export_official(dataset, place, 1)
    assert sorted(path.name for path in place.iterdir()) == ["identifiers.json", "test", "test_puzzles.json", "train"]


def test_official_folder_with_a_folder_for_a_file_is_one_line(tmp_path: Path) -> None:
    write_tasks(tmp_path / "in", {"training/a": task(1), "evaluation/b": task(2)})
    export_official(built(tmp_path, ids="upstream", upstream_augmentations=1), tmp_path / "official", 1)
    (tmp_path / "official/identifiers.json").unlink()
    (tmp_path / "official/identifiers.json").mkdir()
    with pytest.raises(DataError, match=r"identifiers\.json cannot be read: Is a directory"):
        import_official(tmp_path / "official", tmp_path / "imported")


def test_file_and_foreign_folder_are_no_datasets_and_nobody_is_told_to_delete_them(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web/manifest.json").write_text(json.dumps({"name": "my page", "format": 7}))
    (tmp_path / "file").write_text("mine")
    for name, message in (("web", "is not the manifest of a dataset"), ("file", "cannot be read")):
        with pytest.raises(DataError, match=message) as refusal:
            Dataset(tmp_path / name)
        assert "delete" not in str(refusal.value).lower()
