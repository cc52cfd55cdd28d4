"""Answer ARC tasks that a model was not trained on: train embeddings on their demonstrations, then submit answers."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.api.train import TrainOutcome, train
from orchestrator.evaluation.checkpoints import Cell, score
from orchestrator.execution.options import Callback
from orchestrator.records.checkpoints import find_checkpoint
from orchestrator.records.datasets import ensure_local
from orchestrator.records.index import SINGLE_RUNS
from orchestrator.records.schema import Status
from orchestrator.storage import Storage, as_storage
from orchestrator.sweep.domains import Setting
from orchestrator.sweep.settings import configure, full_path, replace_settings
from orchestrator.sweep.text import plural
from trm_data.benchmarks import has_tasks
from trm_data.errors import MAX_NAMED, ConfigError, DataError
from trm_data.files import load_json
from trm_data.puzzles.arc import as_grid
from trm_data.puzzles.kinds import kind_that_reads
from trm_data.sources.arc import read_tasks
from trm_data.sources.files import parse_address
from trm_model.checkpoints.start import read_start_head
from trm_model.config import EvaluationConfig, TrialConfig
from trm_model.start_file import SETTING, pin_start

logger = logging.getLogger(__name__)

ENDING = "_challenges.json"
_SOLUTIONS_FORM = 'It needs {"TASK": [GRID, ...], ...}'
_FOLLOWING = ("data.benchmark", "data.source", SETTING, "evaluation.split", "evaluation.max_puzzles")
"""Settings that `submission_config` decides."""
Answers = dict[str, list[dict[str, list[list[int]]]]]
"""By task, for every test input: `attempt_1` and `attempt_2`, as Kaggle takes them."""


class Submission(NamedTuple):
    """Hold the answers to all test inputs of a file, and the run that gave them; none where it did not finish."""

    answers: Answers
    outcome: TrainOutcome


class SubmissionScore(NamedTuple):
    """Hold how many test inputs of a submission are right."""

    items: int
    right: int
    """By one of the two attempts: what Kaggle counts."""
    first_right: int
    """By the first attempt."""
    tasks: int
    whole_tasks: int
    """Tasks of which every test input is right."""


def submission_config(
    challenges: Path, start: str | Path, settings: Mapping[str, Setting] | None = None, max_steps: int | None = None
) -> TrialConfig:
    """Return the training on the demonstrations of a challenges file, from a checkpoint.

    The model, the optimizer and the depth are the checkpoint's; the network is frozen.

    Args:
        challenges: `*_challenges.json` of Kaggle; its test inputs need no answers.
        start: address of the checkpoint, as `train.start_from`.
        settings: replace others, by path or letter: `{"train.freeze": "none", "aug": 100}`.
        max_steps: optimizer steps; those of the checkpoint's own run if left out.

    Raises:
        UserError: there is no such file, or the checkpoint is not of ARC.
    """
    given = {full_path(name) for name in settings or {}}
    for name in _FOLLOWING:
        if name in given:
            raise ConfigError(f"{name} follows from the challenges file and --from", f"Leave out --set {name}")
    if without := [task for task, count in count_inputs(challenges).items() if not count]:
        named = ", ".join(without[:MAX_NAMED])
        logger.warning("left out, without test inputs: %s", named)
    address = pin_start(str(start), Path.cwd())
    header = read_start_head(address).header
    base = TrialConfig.parse(header["config"], str(start))
    data: dict[str, Any] = {"source": str(challenges.resolve()), "num_validation": 0}
    data |= {"benchmark": _benchmark(base.data.benchmark, header, str(start))}
    data |= {"num_augmentations": base.data.num_augmentations, "translation": base.data.translation}
    plain = {**base.plain(), "data": data, "evaluation": {"split": "test", "max_puzzles": 1}}
    plain["runtime"] = {**plain["runtime"], "device": "auto", "num_threads": None}
    own: dict[str, Setting] = {SETTING: address, "train.freeze": "network", "train.max_puzzles": None}
    if max_steps is not None:
        own["train.max_steps"] = max_steps
    return configure(replace_settings(TrialConfig.parse(plain), own), settings or {})


def _benchmark(trained_on: str, header: Mapping[str, Any], where: str) -> str:
    """Return the benchmark that reads tasks for a model: its own, or ARC-AGI-1 where an official dataset was of ARC.

    Raises:
        ConfigError: it was trained on other puzzles.
    """
    if trained_on == "official":
        kind = kind_that_reads(header["vocab_size"], math.isqrt(header["seq_len"]))
        trained_on = (
            "arc-agi-1"
            if kind and kind.has_tasks
            else f"an official dataset of {kind.name if kind else 'other'} puzzles"
        )
    if not has_tasks(trained_on):
        raise ConfigError(f"{where} was trained on {trained_on}", "Name a checkpoint that was trained on ARC")
    return trained_on


def count_inputs(challenges: Path) -> dict[str, int]:
    """Return the number of test inputs of every task of a challenges file.

    Raises:
        UserError: there is no such file, or it has no task to train on or none to answer.
    """
    if not challenges.name.endswith(ENDING) or not challenges.is_file():
        raise ConfigError(f"no challenges file at {challenges}", f"Name Kaggle's file of tasks, NAME{ENDING}")
    tasks = read_tasks(parse_address(str(challenges.resolve())), {})
    counts = {task.name: len(task.tests) for task in tasks}
    if not any(counts.values()) or not any(task.demonstrations for task in tasks):
        what = "tasks with demonstrations" if any(counts.values()) else "tasks with test inputs"
        raise DataError(f"{challenges} holds no {what}", 'It needs {"TASK": {"train": [...], "test": [...]}, ...}')
    return counts


def is_submission(config: TrialConfig) -> bool:
    """Return whether a run answers a challenges file: `submission_config` made its configuration."""
    source = config.data.source or ""
    return config.train.start_from is not None and source.endswith(ENDING) and config.evaluation.max_puzzles == 1


def submit(
    config: TrialConfig,
    storage: Storage | str | Path = "runs",
    *,
    votes: int | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> Submission:
    """Train on the demonstrations, and answer every test input twice; a repeated call resumes.

    Args:
        config: see `submission_config`.
        votes: views of each test input that vote; all that were trained if left out.

    Raises:
        UserError: as `train`, or more votes than trained views.
    """
    views = 1 + config.data.num_augmentations
    if votes is not None and votes > views:
        raise ConfigError(f"votes={votes}, but {plural(views, 'view')} of each task are trained", "Raise --set aug")
    store = as_storage(storage)
    outcome = train(config, store, callbacks=callbacks)
    if outcome.status is not Status.FINISHED:
        return Submission({}, outcome)
    found = find_checkpoint(f"{SINGLE_RUNS}/{outcome.record.trial_id}", store)
    assert found.dataset is not None, "it is a trial's"
    steps = config.evaluation.supervision_steps
    cell = Cell(
        "", EvaluationConfig(split="test", votes=votes or views, supervision_steps=steps), config.evaluation.weights
    )
    dataset = ensure_local(store, found.dataset)
    (scored,) = score([cell], {found.where: found.load()}, dataset, "test", device=config.runtime.device)
    # Kaggle takes no empty grid, which the answer to an input is that shows no end of the grid.
    given: Answers = scored.result.submission()  # type: ignore[assignment]  # of an ARC dataset
    answers = {
        task: [{name: grid or [[0]] for name, grid in attempts.items()} for attempts in inputs]
        for task, inputs in given.items()
    }
    return Submission(answers, outcome)


def read_solutions(solutions: Path, counts: Mapping[str, int]) -> dict[str, list[list[list[int]]]]:
    """Return the grids of a held-back file of solutions.

    Args:
        counts: the number of test inputs of every task, see `count_inputs`; those without any need no solutions.

    Raises:
        DataError: the file is not one of solutions, or it is of other tasks.
    """
    try:
        known = load_json(solutions.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {solutions}: {error}", "Name Kaggle's file of solutions") from None
    if not isinstance(known, dict) or not all(isinstance(grids, list) for grids in known.values()):
        raise DataError(f"{solutions} holds no solutions", _SOLUTIONS_FORM)
    wanted = {task for task, count in counts.items() if count}
    if other := sorted(wanted - known.keys() | known.keys() - counts.keys()):
        side = "lacks" if other[0] in counts else "has"
        raise DataError(f"{solutions} {side} task {other[0]!r}, unlike the submission", "Name the file of these tasks")
    for task, grids in known.items():
        if len(grids) != counts[task]:
            raise DataError(f"{solutions} has {len(grids)} solutions of task {task!r}", "Name the file of these tasks")
        for number, grid in enumerate(grids, 1):
            if isinstance(grid, dict):
                what = f"an object with {', '.join(map(str, grid))}" if grid else "an empty object"
                raise DataError(f"{solutions}, task {task}: solution {number} is {what}, not a grid", _SOLUTIONS_FORM)
            as_grid(grid, f"{solutions}, task {task}: solution {number}")
    return {task: grids for task, grids in known.items() if grids}


def score_submission(answers: Answers, solutions: Path) -> SubmissionScore:
    """Compare a submission with a held-back file of solutions, as Kaggle does.

    Raises:
        DataError: see `read_solutions`.
    """
    known = read_solutions(solutions, {task: len(attempts) for task, attempts in answers.items()})
    right, first_right, items, whole = 0, 0, 0, 0
    for task, grids in known.items():
        hits = [
            [attempt[f"attempt_{n}"] == grid for n in (1, 2)]
            for attempt, grid in zip(answers[task], grids, strict=True)
        ]
        items += len(hits)
        right += sum(map(any, hits))
        first_right += sum(hit[0] for hit in hits)
        whole += all(map(any, hits))
    return SubmissionScore(items, right, first_right, len(known), whole)
