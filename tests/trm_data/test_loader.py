"""Training batches and evaluation batches, through the public names."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from trm_data import DataRequest, Dataset, TrainLoader, build, eval_batches
from trm_data.errors import ConfigError
from trm_data.puzzles.arc import crop, restore


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    request = DataRequest(benchmark="sudoku-6x6", num_train=30, num_validation=10, num_test=11)
    return build(request, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def arc(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(DataRequest(benchmark="arc-agi-1"), tmp_path_factory.mktemp("data"))


@pytest.fixture(params=["mini", "arc"])
def dataset(request: pytest.FixtureRequest) -> Dataset:
    return request.getfixturevalue(request.param)


def _loader(dataset: Dataset, **settings: object) -> TrainLoader:
    return TrainLoader(dataset, **({"batch_size": 16, "num_augmentations": 5, "seed": 3} | settings))  # type: ignore[arg-type]


def test_batch_is_a_pure_function_of_seed_step_and_slot(dataset: Dataset) -> None:
    whole = _loader(dataset).fetch(7, np.arange(16))
    fresh = _loader(dataset)
    fresh.fetch(100, np.arange(3))
    slots = np.array([2, 5, 15])
    for part, full in zip(fresh.fetch(7, slots), whole, strict=True):
        assert (part == full[slots]).all()
    assert any((a != b).any() for a, b in zip(_loader(dataset, seed=4).fetch(7, np.arange(16)), whole, strict=True))


def test_ranks_together_serve_the_batch_of_one(dataset: Dataset) -> None:
    whole = _loader(dataset).fetch(3, np.arange(16))
    parts = [_loader(dataset, rank=rank, world_size=4).fetch(3, np.arange(4)) for rank in range(4)]
    for field in range(3):
        assert (np.concatenate([part[field] for part in parts]) == whole[field]).all()


def test_no_slots_give_an_empty_batch(dataset: Dataset) -> None:
    assert _loader(dataset).fetch(0, np.arange(0)).inputs.shape == (0, dataset.seq_len)


def test_epoch_visits_every_row_once_without_augmentation(dataset: Dataset) -> None:
    loader = _loader(dataset, batch_size=1, num_augmentations=0, translation="none")
    slots = np.zeros(1, np.int64)
    for epoch in range(2):
        steps = range(epoch * loader.rows_per_epoch, (epoch + 1) * loader.rows_per_epoch)
        seen = Counter(loader.fetch(step, slots).inputs.tobytes() for step in steps)
        assert seen == Counter(row.tobytes() for row in dataset.inputs[dataset.rows("train")])


def test_copies_are_drawn_uniformly_and_only_from_the_prefix(mini: Dataset) -> None:
    copies, epochs = 4, 400
    loader = _loader(mini, num_augmentations=copies, batch_size=30)
    views = Counter((row.tobytes()) for epoch in range(epochs) for row in loader.fetch(epoch, np.arange(30)).inputs)
    assert len(views) == 30 * (1 + copies)
    assert chisquare(list(views.values())).pvalue > 1e-4
    longer = _loader(mini, num_augmentations=40, batch_size=3000)
    assert set(views) <= {row.tobytes() for step in range(4) for row in longer.fetch(step, np.arange(3000)).inputs}


def test_all_views_of_a_maze_are_drawn_uniformly(tmp_path: Path) -> None:
    maze = build(DataRequest(benchmark="maze-8x8", num_train=20, num_validation=5, num_test=5), tmp_path)
    loader = _loader(maze, num_augmentations=7, batch_size=20)
    views = Counter(row.tobytes() for epoch in range(800) for row in loader.fetch(epoch, np.arange(20)).inputs)
    assert len(views) == 20 * 8
    assert chisquare(list(views.values())).pvalue > 1e-4


def test_copies_of_an_arc_task_are_drawn_uniformly_and_with_all_its_examples(arc: Dataset) -> None:
    copies, epochs = 4, 300
    rows = np.arange(_loader(arc).rows_per_epoch)
    drawn = np.zeros(arc.num_identifiers(copies), np.int64)
    whole = _loader(arc, num_augmentations=copies, batch_size=len(rows))
    for epoch in range(epochs):
        ids = np.unique(whole.fetch(epoch, rows).puzzle_ids)
        assert len(ids) == 800
        drawn[ids] += 1
    assert arc.num_copies(copies).min() == copies and drawn[0] == 0
    assert chisquare(drawn[1:]).pvalue > 1e-4


def test_examples_of_an_arc_task_come_in_every_order(arc: Dataset) -> None:
    """Each example of a task of three comes first, second and last equally often."""
    rows = np.arange(_loader(arc).rows_per_epoch)
    whole = _loader(arc, num_augmentations=0, batch_size=len(rows), translation="none")
    orders = np.zeros((3, 3), np.int64)
    for epoch in range(3):
        batch = whole.fetch(epoch, rows)
        seen: dict[int, list[bytes]] = {}
        for identifier, row in zip(batch.puzzle_ids.tolist(), batch.inputs, strict=True):
            seen.setdefault(identifier, []).append(row.tobytes())
        for examples in seen.values():
            if len(set(examples)) == 3:
                for place, example in enumerate(examples):
                    orders[place, sorted(examples).index(example)] += 1
    assert orders.sum() > 2000 and chisquare(orders.ravel()).pvalue > 1e-4


def test_augmented_sudoku_label_still_solves_its_input(mini: Dataset) -> None:
    batch = _loader(mini, num_augmentations=1000, batch_size=200).fetch(0, np.arange(200))
    assert ((batch.inputs == 1) | (batch.inputs == batch.labels)).all()
    assert ((batch.inputs == 1).sum(1) == 18).all()
    assert (np.sort(batch.labels.reshape(-1, 6, 6), axis=2) == np.arange(2, 8)).all()


def test_arc_identifiers_for_few_augmentations_are_the_first_of_many(arc: Dataset) -> None:
    few, many = arc.num_identifiers(10), arc.num_identifiers(1000)
    assert few == 1 + 800 * 11 - sum(10 - arc.num_copies(10)) < many
    (layers, ranks), (more_layers, same_ranks) = arc.identifier_maps(10), arc.identifier_maps(1000)
    assert (layers == more_layers[: len(layers)]).all() and (ranks == same_ranks).all()
    assert arc.id_map_hash(10) != arc.id_map_hash(11)
    ids = _loader(arc, num_augmentations=10, batch_size=2000).fetch(0, np.arange(2000)).puzzle_ids
    assert ids.min() >= 1 and ids.max() < few


def test_arc_identifier_means_one_puzzle_seen_one_way(arc: Dataset) -> None:
    batch = _loader(arc, num_augmentations=3, batch_size=6000, translation="none").fetch(0, np.arange(6000))
    views: dict[int, set[bytes]] = {}
    for row, identifier in zip(batch.inputs, batch.puzzle_ids.tolist(), strict=True):
        views.setdefault(identifier, set()).add(row.tobytes())
    most = np.bincount(arc.puzzle[arc.rows("train")]).max()
    assert max(len(seen) for seen in views.values()) <= most


def test_arc_fixed_translation_is_the_same_at_every_visit_and_fresh_is_not(arc: Dataset) -> None:
    def places(translation: str) -> dict[int, set[bytes]]:
        loader = _loader(arc, num_augmentations=0, batch_size=2980, translation=translation, splits=("train",))
        seen: dict[int, set[bytes]] = {}
        for epoch in range(6):
            batch = loader.fetch(epoch, np.arange(2980))
            for row, identifier in zip(batch.inputs, batch.puzzle_ids.tolist(), strict=True):
                seen.setdefault(identifier, set()).add(row.tobytes())
        return seen

    fixed, fresh = places("fixed"), places("fresh")
    sizes = np.bincount(arc.puzzle[arc.rows("train")])
    assert max(map(len, fixed.values())) <= sizes.max() < max(map(len, fresh.values()))


def test_arc_translation_leaves_one_example_of_a_puzzle_in_the_corner(arc: Dataset) -> None:
    loader = _loader(arc, num_augmentations=0, batch_size=2980)
    batch = loader.fetch(0, np.arange(2980))
    originals = {row.tobytes() for row in arc.inputs}
    unmoved = Counter()
    for row, identifier in zip(batch.inputs, batch.puzzle_ids.tolist(), strict=True):
        unmoved[identifier] += row.tobytes() in originals
    assert len(unmoved) == 800 and min(unmoved.values()) >= 1
    assert np.mean(list(unmoved.values())) < 1.5


@pytest.mark.parametrize("split", ["validation", "test"])
def test_eval_batches_give_every_row_in_order_with_its_trained_identifier(dataset: Dataset, split: str) -> None:
    batches = list(eval_batches(dataset, split, 7))
    rows = dataset.rows(split)
    assert (np.concatenate([b.items for b in batches]) == np.arange(len(rows))).all()
    assert (np.concatenate([b.inputs for b in batches]) == dataset.inputs[rows]).all()
    assert (np.concatenate([b.labels for b in batches]) == dataset.labels[rows]).all()
    ids = np.concatenate([b.puzzle_ids for b in batches])
    trained = set(_loader(dataset, num_augmentations=0, batch_size=6000).fetch(0, np.arange(6000)).puzzle_ids.tolist())
    assert set(ids.tolist()) <= trained


def test_views_for_a_vote_are_those_that_an_arc_task_has(arc: Dataset, mini: Dataset) -> None:
    assert arc.num_listed.min() < 40 and mini.num_views(40).tolist() == [40] * len(mini.names)
    assert arc.num_views(40).tolist() == [min(int(listed), 40) for listed in arc.num_listed]


def test_eval_batches_of_few_puzzles_are_the_first_ones(arc: Dataset) -> None:
    few = next(iter(eval_batches(arc, "test", 1000, max_puzzles=5)))
    assert len(np.unique(few.puzzles)) == 5
    assert (few.inputs == arc.inputs[arc.rows("test")][: len(few.inputs)]).all()


def test_dataset_crosses_processes_as_its_path(mini: Dataset) -> None:
    again = pickle.loads(pickle.dumps(mini))
    assert again.path == mini.path and (again.inputs == mini.inputs).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"splits": ("trian",)}, "unknown split 'trian'. Did you mean 'train'"),
        ({"world_size": 3}, "cannot be shared evenly by 3 ranks"),
        ({"num_augmentations": 1001}, "num_augmentations=1001 is not possible for arc-agi-1. Take 0 to 1000"),
    ],
)
def test_loader_refuses_what_it_cannot_do(arc: Dataset, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _loader(arc, **settings)


def test_augmented_evaluation_rows_can_be_restored(arc: Dataset) -> None:
    batch = next(eval_batches(arc, "test", 300, max_puzzles=20, num_augmentations=9))
    assert np.bincount(batch.items).tolist() == [10] * len(np.unique(batch.items))
    rows = arc.rows("test")[batch.items]
    for cells, code, row in zip(batch.labels, batch.codes.tolist(), rows.tolist(), strict=True):
        assert (restore(cells, code) == crop(arc.labels[row])).all()
    assert len(np.unique(batch.puzzle_ids)) == 200


def test_sudoku_evaluation_copies_are_drawn_from_the_same_symmetries(mini: Dataset) -> None:
    plain, voted = (next(eval_batches(mini, "test", 100, num_augmentations=n)) for n in (0, 3))
    assert (voted.codes.reshape(-1, 4)[:, 0] == 0).all() and (voted.inputs[::4] == plain.inputs).all()
    assert (np.sort(voted.inputs, axis=1)[1::4] != np.sort(plain.inputs, axis=1)).any()
    assert ((voted.inputs == 1).sum(1) == 18).all()
