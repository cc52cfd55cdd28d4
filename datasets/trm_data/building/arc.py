"""Convert ARC tasks to the puzzles of a dataset: training sets, augmentations, order, and protection against leaks."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trm_data.benchmarks import published_with
from trm_data.building import official_random
from trm_data.config import DataRequest
from trm_data.dataset.schema import Puzzles
from trm_data.errors import ConfigError, DataError
from trm_data.jit import Words
from trm_data.puzzles.arc import distinct_codes, frame, pair_keys
from trm_data.sources.arc import Task
from trm_data.sources.files import parse_address

Progress = Callable[[str, int, int], None]
_log = logging.getLogger(__name__)


def as_puzzles(tasks: Sequence[Task], request: DataRequest, facts: dict[str, object], progress: Progress) -> Puzzles:
    """Convert tasks to puzzles with their splits and augmentations.

    Every demonstration trains, and so do the test pairs of training tasks but those lent to validation; the test pairs
    of evaluation tasks are the test split. A task without training pairs would have no trained embedding. Test inputs
    without an answer are kept in the test split, for a submission, and left out of the other splits: they would teach
    the model that any answer is right.

    Raises:
        DataError: a task to train on holds a test pair of the benchmark and is not named in `allow_overlaps`.
    """
    tasks = _without_unanswered(_distinct_names(tasks), facts)
    if request.ids == "upstream":
        return _upstream(tasks, request, facts, progress)
    puzzles = _with_pairs(_without_repeats(tasks, facts), _lenders(tasks, request), facts)
    _check_leaks(puzzles, request)
    bounds = puzzles.bounds()
    codes = []
    for p, key in enumerate(puzzles.keys().tolist()):
        rows = slice(bounds[p], bounds[p + 1])
        codes.append(distinct_codes(puzzles.inputs[rows], puzzles.labels[rows], puzzles.shapes[rows], key))
        progress("listing augmentations", p + 1, len(puzzles.names))
    return _with_codes(puzzles, codes)


def _distinct_names(tasks: Sequence[Task]) -> list[Task]:
    """Rename training tasks that have the name of an evaluation task: a name identifies one task in every score."""
    return _renamed(tasks, "training", {task.name for task in tasks if task.subset == "evaluation"})


def _renamed(tasks: Sequence[Task], subset: str, taken: set[str]) -> list[Task]:
    """Append `#SUBSET` to the names of tasks of a subset that are taken.

    Raises:
        DataError: another task has the new name.
    """
    clashing = {task.name for task in tasks if task.subset == subset} & taken
    for name in sorted(clashing):
        if any(task.name == f"{name}#{subset}" for task in tasks):
            raise DataError(
                f"{subset} task {name!r} has the name of another task, and its new name {name}#{subset} is taken, too",
                "Rename one of the two",
            )
    return [
        task._replace(name=f"{task.name}#{subset}") if task.subset == subset and task.name in clashing else task
        for task in tasks
    ]


def _without_unanswered(tasks: Sequence[Task], facts: dict[str, object]) -> list[Task]:
    """Remove test inputs without an answer from tasks used for training; `facts` records how many there were."""
    dropped = sum(task.unanswered for task in tasks if task.subset != "evaluation")
    if not dropped:
        return list(tasks)
    facts["unanswered_pairs_dropped"] = dropped
    _log.warning("%d test inputs of training tasks have no answer: they are not trained on", dropped)
    kept = [task if task.subset == "evaluation" else task.answered() for task in tasks]
    return [task for task in kept if task.pairs]


def _lenders(tasks: Sequence[Task], request: DataRequest) -> set[str]:
    """Return seeded training tasks whose test pairs are withheld for validation."""
    training = sorted(task.name for task in tasks if task.subset == "training" and task.tests)
    wanted = request.num_validation or 0
    if wanted > len(training):
        raise ConfigError(
            f"num_validation={wanted}, but there are only {len(training)} training tasks with answered test pairs",
            f"Lower num_validation to at most {len(training)}",
        )
    rng = np.random.Generator(np.random.Philox(request.build_seed))
    return set(rng.permutation(training)[:wanted].tolist())


def _with_pairs(tasks: Sequence[Task], lenders: set[str], facts: dict[str, object]) -> Puzzles:
    pairs = [pair for task in tasks for pair in task.pairs]
    split: list[int] = []
    for task in tasks:
        test_split = 2 if task.subset == "evaluation" else 1 if task.name in lenders else 0
        demonstrations, tests = [0] * len(task.demonstrations), [test_split] * len(task.tests)
        split += tests + demonstrations if task.tests_first else demonstrations + tests
    return Puzzles(
        family="arc",
        ids="native",
        names=[task.name for task in tasks],
        sources=[task.subset for task in tasks],
        ratings=np.full(len(tasks), np.nan, np.float32),
        puzzle=np.repeat(np.arange(len(tasks), dtype=np.int32), [len(task.pairs) for task in tasks]),
        split=np.array(split, np.uint8),
        inputs=np.stack([frame(pair.question) for pair in pairs]),
        labels=np.stack([frame(pair.answer) for pair in pairs]),
        shapes=np.array([pair.question.shape + pair.answer.shape for pair in pairs], np.uint8),
        facts=facts,
    )


def _with_codes(puzzles: Puzzles, codes: list[Words]) -> Puzzles:
    counts = np.array([len(listed) for listed in codes], np.int32)
    return dataclasses.replace(puzzles, codes=np.concatenate(codes), num_codes=counts)


def _without_repeats(tasks: Sequence[Task], facts: dict[str, object]) -> list[Task]:
    """Drop extra tasks that a training task repeats pair for pair; rename those that only share a name."""
    seen = {_content(task) for task in tasks if task.subset == "training"}
    taken = {task.name for task in tasks if task.subset != "extra"}
    kept = [task for task in tasks if task.subset != "extra" or _content(task) not in seen]
    facts["repeated_tasks_dropped"] = len(tasks) - len(kept)
    return _renamed(kept, "extra", taken)


def _content(task: Task) -> frozenset[bytes]:
    return frozenset(b"".join(bytes(grid.shape) + grid.tobytes() for grid in pair) for pair in task.pairs)


def overlaps(puzzles: Puzzles) -> dict[str, str]:
    """Return the training tasks that contain a test pair, up to dihedral transforms and colours, each with one such
    tested task."""
    keys = pair_keys(puzzles.inputs, puzzles.labels, puzzles.shapes)
    tested = {key: puzzles.puzzle[row] for row, key in enumerate(keys.tolist()) if puzzles.split[row] == 2}
    return {
        puzzles.names[puzzles.puzzle[row]]: puzzles.names[tested[key]]
        for row, key in enumerate(keys.tolist())
        if puzzles.split[row] != 2 and key in tested
    }


def _check_leaks(puzzles: Puzzles, request: DataRequest) -> None:
    """Raise an error for tasks that train on test pairs, except those of which a published benchmark is known to
    have them."""
    shared = overlaps(puzzles)
    own = {name for name, source in zip(puzzles.names, puzzles.sources, strict=True) if source != "extra"}
    published = published_overlaps(puzzles, shared)
    puzzles.facts["published_overlaps"] = {name: other for name, other in published.items() if name in own}
    leaks = sorted(name for name in shared if name not in published or name not in own)
    named = set(request.allow_overlaps)
    refused = [] if "all" in named else [name for name in leaks if name not in named]
    puzzles.facts["allowed_overlaps"] = [name for name in leaks if name not in refused]
    if refused:
        addresses = [str(parse_address(text)) for text in (request.source, request.extra_training) if text is not None]
        shown = [f"{name} ({shared[name]})" if name != shared[name] else name for name in refused[:6]]
        raise DataError(
            f"{len(refused)} tasks to train on, of {' and '.join(addresses)}, hold test pairs of evaluation tasks: "
            f"{', '.join(shown)}{' ...' if len(refused) > 6 else ''}",
            "Remove them, or name them (or 'all') in allow_overlaps",
        )


def published_overlaps(puzzles: Puzzles, shared: Mapping[str, str]) -> dict[str, str]:
    """Return the part of `overlaps` that a published benchmark has, if the test split is a published one."""
    benchmark = published_with(puzzles.digest_of("test"))
    known = benchmark.published_overlaps if benchmark is not None else frozenset()
    return {name: other for name, other in shared.items() if name in known}


def _upstream(tasks: Sequence[Task], request: DataRequest, facts: dict[str, object], progress: Progress) -> Puzzles:
    """Return the official builder's order, augmentations and translations. No puzzles are held out for validation."""
    if request.num_validation:
        raise ConfigError("ids=upstream holds nothing out", "Set num_validation to 0")
    assert request.upstream_augmentations is not None
    state = official_random.seeded()
    ordered: list[Task] = []
    codes: list[Words] = []
    for subset in ("training", "evaluation", "extra"):
        members = [task for task in tasks if task.subset == subset]
        order = np.arange(len(members))
        official_random.shuffle(state, order)
        members = [members[i] for i in order]
        ordered += members
        part = _with_pairs(members, set(), {}) if members else None
        bounds = part.bounds() if part is not None else np.zeros(1, np.int64)
        for p in range(len(members)):
            assert part is not None
            rows = slice(bounds[p], bounds[p + 1])
            pairs = part.inputs[rows], part.labels[rows], part.shapes[rows]
            codes.append(official_random.draw_codes(state, *pairs, request.upstream_augmentations))
            progress("drawing augmentations", len(codes), len(tasks))
    puzzles = _with_codes(_with_pairs(ordered, set(), facts), codes)
    _check_leaks(puzzles, request)
    return dataclasses.replace(puzzles, ids="upstream", places=_upstream_places(state, puzzles))


def _upstream_places(state: official_random.State, puzzles: Puzzles) -> NDArray[np.uint16]:
    trained = puzzles.split == 0
    sizes = np.bincount(puzzles.puzzle[trained], minlength=len(puzzles.names))
    assert puzzles.codes is not None and puzzles.num_codes is not None
    return official_random.draw_places(
        state, puzzles.shapes[trained], sizes, puzzles.num_codes.astype(np.int64), puzzles.codes
    )
