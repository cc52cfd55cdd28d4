"""Verify a bundle: score its weights again on the same puzzles and compare with its outcomes, item by item.

Nothing of the bundle is executed. A custom recursion runs only if the current command trusts a file with the
content that the settings name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.evaluation.bundle_files import BundleError, BundleFolder
from orchestrator.evaluation.checkpoints import Cell, score
from orchestrator.records.datasets import ensure_local, provide_stored
from orchestrator.records.schema import DatasetInfo, TrialHead, TrialResult
from orchestrator.records.stored import parse_part
from orchestrator.storage import Storage, as_storage
from orchestrator.sweep.text import plural
from orchestrator.worker import provenance
from trm_data import Dataset, fingerprint
from trm_data.config import MANIFEST
from trm_data.errors import DataError
from trm_model.checkpoints.store import unpack
from trm_model.config import TrialConfig
from trm_model.evaluation.outcomes import EvalResult

Compared = Literal["answers", "solved"]
BuildProgress = Callable[[str, int, int], None]
ScoreProgress = Callable[[str, int, int], None]
_METRICS = ("exact_accuracy", "pass@1", "pass@2")
_COLUMNS = {"item": pa.int64(), "exact_accuracy": pa.bool_()}


class Outcomes(NamedTuple):
    """Hold what is compared, N items of C cells."""

    items: NDArray[np.int64]
    names: list[str]
    solved: NDArray[np.bool_]
    answers: NDArray[np.uint8]
    """(N, C)."""


class Difference(NamedTuple):
    """Describe an item whose outcome is another one now."""

    item: int
    """Number of the item within its split."""
    puzzle: str
    solved_then: bool | None
    """None for an item that the bundle does not have."""
    solved_now: bool | None
    cells: int
    """Cells of the answer that differ."""

    def __str__(self) -> str:
        words = {True: "solved", False: "not solved", None: "not there"}
        cells = f"its answer differs in {plural(self.cells, 'cell')}, " if self.cells else ""
        return f"item {self.item} ({self.puzzle}): {cells}{words[self.solved_then]} then, {words[self.solved_now]} now"


@dataclass(frozen=True, slots=True)
class TrialCheck:
    """Hold the comparison of one trial."""

    trial_id: str
    family: str
    dataset: str
    split: str
    items: int
    differences: tuple[Difference, ...]
    scores: dict[str, tuple[float | None, float | None]]
    """Metrics that differ: (as stated, now). They are shares of 1."""
    score: float | None
    """Exact accuracy now."""
    environment: tuple[str, ...]
    """What differs between the machine that trained and this one, and may explain differences."""

    @property
    def is_confirmed(self) -> bool:
        """Return whether every item and every stated score is the same."""
        return not self.differences and not self.scores


@dataclass(frozen=True, slots=True)
class Verification:
    """Hold the comparison of a bundle."""

    path: Path
    trials: tuple[TrialCheck, ...]

    @property
    def is_confirmed(self) -> bool:
        """Return whether every item and every stated score of every trial is the same."""
        return all(trial.is_confirmed for trial in self.trials)

    @property
    def items(self) -> int:
        """Return the number of compared items."""
        return sum(trial.items for trial in self.trials)

    @property
    def equal(self) -> int:
        """Return the number of items whose outcome is the same."""
        return self.items - sum(len(trial.differences) for trial in self.trials)

    def __str__(self) -> str:
        if self.is_confirmed:
            return f"confirmed: {self.equal:,} of {self.items:,} items equal"
        return f"not confirmed: {self.equal:,} of {self.items:,} items equal"


def verify_bundle(
    path: Path | str,
    storage: Storage | str | Path = "runs",
    *,
    dataset: Dataset | None = None,
    compare: Compared = "answers",
    device: str = "auto",
    build_progress: BuildProgress | None = None,
    progress: ScoreProgress = lambda *_: None,
) -> Verification:
    """Score the weights of a bundle again and compare every item.

    Args:
        storage: where the datasets are built, or have been.
        dataset: the dataset to score on; found by its name in the storage, or generated, if None.
        compare: `answers` compares every cell of every answer, `solved` only whether an item is solved: processors
            round differently, which changes a few cells of wrong answers.
        build_progress: called as by `trm_data.build`.
        progress: called with the trial's id, forward passes done, and forward passes in all.

    Raises:
        BundleError: a file is missing or is not the listed one, the dataset is another one.
        UserError: its weights are damaged, or need a recursion that this process does not trust.
    """
    folder = BundleFolder(Path(path))
    folder.check()
    store = as_storage(storage)
    checks = [
        _check_trial(folder, trial, store, dataset, compare, device, build_progress, progress)
        for trial in folder.manifest.trials
    ]
    return Verification(folder.path, tuple(checks))


def _check_trial(
    folder: BundleFolder,
    trial: str,
    storage: Storage,
    given: Dataset | None,
    compare: Compared,
    device: str,
    build_progress: BuildProgress | None,
    progress: ScoreProgress,
) -> TrialCheck:
    def where(part: str) -> str:
        return f"{folder.path}/trials/{trial}/{part}"

    def named(part: str) -> str:
        return f"trials/{trial}/{part}"

    head = parse_part(folder.read_json(named("trial.json")), TrialHead, where("trial.json"))
    result = parse_part(folder.read_json(named("result.json")), TrialResult, where("result.json"))
    config = TrialConfig.parse(head.config, where("trial.json"))
    then = _outcomes(folder.read(named("outcomes.arrow")), where("outcomes.arrow"))
    packed = np.packbits(then.solved).tobytes().hex()
    if result.items != len(then.items) or result.per_item not in (None, packed):
        what = f"{where('result.json')} and outcomes.arrow disagree about which items are solved"
        raise BundleError(what, "Do not use the bundle")
    checkpoint = unpack(folder.read(named("weights.safetensors")), where("weights.safetensors"))
    if TrialConfig.parse(checkpoint.header["config"], where("weights.safetensors")) != config:
        raise BundleError(f"{where('weights.safetensors')} has other settings than trial.json", "Do not use the bundle")
    dataset = _dataset(storage, head.dataset, config, build_progress) if given is None else given
    if dataset.fingerprint != head.dataset.fingerprint:
        raise _other_dataset(trial, head.dataset, dataset.fingerprint)
    cell = Cell(trial, config.evaluation, "ema")  # the file has one set of weights, which every name means
    scored = next(score([cell], {trial: checkpoint}, dataset, result.split, device=device, progress=progress))
    now = _outcomes_of(scored.result)
    differences = _differences(then, now, compare)
    scores = _other_scores(result, scored.result)
    has_changed = bool(differences or scores)
    return TrialCheck(
        trial_id=trial,
        family=head.family,
        dataset=dataset.path.name,
        split=result.split,
        items=len(set(then.items.tolist()) | set(now.items.tolist())),
        differences=differences,
        scores=scores,
        score=scored.result.metrics.get("exact_accuracy"),
        environment=_environment(folder.read_json(named("provenance.json"))) if has_changed else (),
    )


def _dataset(storage: Storage, recorded: DatasetInfo, config: TrialConfig, progress: BuildProgress | None) -> Dataset:
    """Return the storage's dataset of the recorded name, else build the one that the configuration describes.

    Raises:
        BundleError: the configuration describes another dataset in this version.
        DataError: it was built from a source, and the storage does not hold it.
    """
    name = recorded.name or "."  # from the bundle: it may lead anywhere
    if name == Path(name).name and not name.startswith(".") and storage.exists(f"datasets/{name}/{MANIFEST}"):
        found = ensure_local(storage, name)
        if found.fingerprint == recorded.fingerprint:
            return found
    request = config.data.request()
    if request.source is None and request.extra_training is None:
        wanted = fingerprint(request)
        if wanted != recorded.fingerprint:
            raise _other_dataset(config.data.benchmark, recorded, wanted)
    try:
        return provide_stored(storage, request, progress)
    except DataError as error:
        remedy = "Build it with `trm data build --source FILE`, and name it with --dataset"
        raise DataError(error.what, remedy) from None


def _other_dataset(what: str, recorded: DatasetInfo, found: str) -> BundleError:
    return BundleError(
        f"{what}: the bundle was scored on dataset {recorded.name} with fingerprint {recorded.fingerprint}, the one "
        f"here has {found}",
        "Name the same dataset with --dataset, or install the version that wrote the bundle",
    )


def _outcomes_of(result: EvalResult) -> Outcomes:
    return Outcomes(result.numbers, result.names, result.exact, result.answers)


def _outcomes(data: bytes, where: str) -> Outcomes:
    """Parse the outcomes of a bundle.

    Raises:
        BundleError: it is not such a file, or its values do not fit together.
    """
    try:
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all().combine_chunks()
        table.validate(full=True)
        items, solved = (table.column(name).cast(kind).to_numpy() for name, kind in _COLUMNS.items())
        answer = table.schema.field("answer").type
        if not (pa.types.is_fixed_size_list(answer) and answer.value_type == pa.uint8()):
            raise ValueError(f"its answers are {answer}")
        if any(table.column(name).null_count for name in ("item", "puzzle", "exact_accuracy", "answer")):
            raise ValueError("a value is missing")
        cells = np.concatenate(
            [np.empty(0, np.uint8), *(c.flatten().to_numpy() for c in table.column("answer").chunks)]
        )
        answers = cells.reshape(len(items), answer.list_size)
        names = [str(name) for name in table.column("puzzle").to_pylist()]
        if len(set(items.tolist())) != len(items):
            raise ValueError("an item is listed twice")
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{where} is damaged: {' '.join(str(error).split())}", "Get the bundle again") from None
    return Outcomes(items, names, solved.astype(np.bool_), answers)


def _differences(then: Outcomes, now: Outcomes, compare: Compared) -> tuple[Difference, ...]:
    """Return the items that differ, in order."""
    rows_then = {item: row for row, item in enumerate(then.items.tolist())}
    rows_now = {item: row for row, item in enumerate(now.items.tolist())}
    found = []
    for item in sorted(rows_then.keys() | rows_now.keys()):
        before, after = rows_then.get(item), rows_now.get(item)
        if before is None or after is None:
            source, row = (now, after) if before is None else (then, before)
            assert row is not None, "an item is in one of the two"
            solved = bool(source.solved[row])
            then_now = (None, solved) if before is None else (solved, None)
            found.append(Difference(item, source.names[row], then_now[0], then_now[1], 0))
            continue
        first, second = then.answers[before], now.answers[after]
        cells = int((first != second).sum()) if first.shape == second.shape else max(len(first), len(second))
        was, is_now = bool(then.solved[before]), bool(now.solved[after])
        if was != is_now or (cells and compare == "answers") or then.names[before] != now.names[after]:
            found.append(Difference(item, now.names[after], was, is_now, cells))
    return tuple(found)


def _other_scores(stated: TrialResult, now: EvalResult) -> dict[str, tuple[float | None, float | None]]:
    """Return the ranked metrics that the result states and that do not follow from the answers."""
    pairs = {name: (stated.metrics.get(name), now.metrics.get(name)) for name in _METRICS}
    return {name: pair for name, pair in pairs.items() if _apart(*pair)}


def _apart(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first != second
    return not abs(first - second) <= 1e-9  # a NaN differs


def _environment(recorded: dict[str, Any]) -> tuple[str, ...]:
    """Return what differs between the machine of the last attempt and this one."""
    attempts = recorded.get("attempts")
    last = attempts[-1] if isinstance(attempts, list) and attempts else {}
    return tuple(provenance.differences(last if isinstance(last, dict) else {}))
