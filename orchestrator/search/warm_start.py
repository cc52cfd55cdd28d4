"""Start a search from earlier sweeps and published results.

A trial of an earlier sweep with the same id as a trial of this search counts as a result. Any other trial (other seeds,
puzzles or number of steps) has a score on another scale: only the best cells of those are used, and tried first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.errors import SweepError
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.records.unfinished import require_finished
from orchestrator.search.objectives import best
from orchestrator.storage import Storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.space import Cell
from orchestrator.sweep.trials import Fingerprint, search_trial
from trm_model.recipes import CATALOGUE

PUBLISHED = "published"
"""Name used instead of a sweep's: the T x n grid of the TRM paper (Table 3, one run per cell, Sudoku-Extreme)."""
SHARE = 4
"""At most one in this many trials of a search goes to cells that were best elsewhere."""
CYCLES, LATENT_STEPS = "model.cycles", "model.latent_steps"


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Hold the results and cells that a search starts from."""

    known: tuple[TrialRecord, ...] = ()
    """Ended trials that this search could run itself."""
    first: tuple[Cell, ...] = ()
    """Cells to try before the sampler suggests any."""


def warm_start(sweep: Sweep, storage: Storage, fingerprint: Fingerprint) -> WarmStart:
    """Read everything that `sweep.warm_start` names.

    Raises:
        SweepError: a sweep that has not begun names one that is not in the storage, or one that is deleted or renamed
            in part.
    """
    known: dict[str, TrialRecord] = {}
    first: list[Cell] = []
    for name in sweep.warm_start:
        if name == PUBLISHED:
            first += published_cells(sweep)
            continue
        records = _ended(sweep, storage, name)
        same = {record.trial_id for record in records if _is_own(record, sweep, fingerprint)}
        known |= {record.trial_id: record for record in records if record.trial_id in same}
        first += _best_cells([record for record in records if record.trial_id not in same], sweep)
    most = max(1, (sweep.trials or 0) // SHARE)
    return WarmStart(tuple(known.values()), tuple(first[:most]))


def require_earlier(sweep: Sweep, storage: Storage) -> None:
    """Check, before anything is written, that the storage has what `sweep.warm_start` names.

    Raises:
        SweepError: no such sweep, or none of its trials has ended.
    """
    for name in sweep.warm_start:
        if name != PUBLISHED:
            _ended(sweep, storage, name)


def _ended(sweep: Sweep, storage: Storage, name: str) -> list[TrialRecord]:
    """Return the ended trials of an earlier sweep. Raises SweepError if not all are there, or there are none.

    A search that has begun goes on without them: the earlier sweep was deleted since.
    """
    require_finished(storage, name)
    records = [record for record in read_trials(storage, name) if record.status.is_final]
    if not records and not storage.folders(f"sweeps/{sweep.name}/trials"):
        raise SweepError(
            f"warm_start: no ended trials of a sweep {name!r} in {storage.url}", "`trm sweep status` lists the sweeps"
        )
    return records


def published_cells(sweep: Sweep) -> list[Cell]:
    """Return the cells of the published grid that lie in the space, the best first."""
    table = [
        (recipe.expected, recipe.config.model)
        for name, recipe in CATALOGUE.items()
        if name.startswith("table3.") and recipe.expected is not None
    ]
    rows = [(score, model) for score, model in table if model.variant == sweep.base.model.variant]
    found = []
    for _, model in sorted(rows, key=lambda row: -row[0]):
        wanted: Cell = {CYCLES: model.cycles, LATENT_STEPS: model.latent_steps}
        if set(wanted) <= set(sweep.space):
            found += list(_fitted(sweep, wanted))
    return found


def _is_own(record: TrialRecord, sweep: Sweep, fingerprint: Fingerprint) -> bool:
    cell = sweep.search_space.cell_of(record.config)
    if not sweep.search_space.holds(cell):
        return False
    return record.trial_id == search_trial(sweep, fingerprint, record.family, cell).trial_id


def _best_cells(records: Sequence[TrialRecord], sweep: Sweep) -> list[Cell]:
    finished = [record for record in records if record.status is Status.FINISHED]
    cells = [
        cell
        for record in best(finished, sweep, len(finished))
        for cell in _fitted(sweep, sweep.search_space.cell_of(record.config))
    ]
    return list({repr(cell): cell for cell in cells}.values())


def _fitted(sweep: Sweep, wanted: Cell) -> Iterator[Cell]:
    """Yield the cell with these values; other axes take the base's value or the middle. Yield none if a value lies
    outside."""
    space, full = sweep.search_space, Cell()
    of_bases = space.cell_of(sweep.base)
    for path, domain in sweep.space.items():
        of_base = of_bases.get(path)
        spread = domain.spread()
        full[path] = wanted.get(path, of_base if domain.holds(of_base) else spread[len(spread) // 2])
    cell = space.active(full)
    if all(domain.holds(full[path]) for path, domain in sweep.space.items()) and not space.is_forbidden(cell):
        yield cell
