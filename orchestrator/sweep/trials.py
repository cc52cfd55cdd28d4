"""Plan the trials of a sweep that are known before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from orchestrator.sweep.definition import Resources, Sweep
from orchestrator.sweep.identity import expected_id, seeded_ids, trial_id
from orchestrator.sweep.matching import match_axis
from orchestrator.sweep.settings import label, replace_settings
from orchestrator.sweep.space import Cell
from trm_data.config import DataRequest
from trm_data.settings import Settings
from trm_model.config import TrialConfig

Fingerprint = Callable[[DataRequest], str]
"""The identity of the dataset that a request builds."""
Stage = Literal["explore", "confirm", "study"]


class PlannedTrial(Settings):
    """Describe one trial: its identity, stage, configuration and resources."""

    trial_id: str
    stage: Stage
    family: str
    config: TrialConfig
    resources: Resources


def planned(sweep: Sweep, fingerprint: Fingerprint, stage: Stage, family: str, config: TrialConfig) -> PlannedTrial:
    """Plan one trial: give it its id, its resources, and the steps that the sweep's axis of comparison requires."""
    config = match_axis(config, sweep.base, sweep.equal)
    return PlannedTrial(
        trial_id=trial_id(config, fingerprint(config.data.request())),
        stage=stage,
        family=family,
        config=config,
        resources=sweep.resources_of(config),
    )


def cells(sweep: Sweep) -> Iterator[tuple[str, Cell]]:
    """Yield (family name, settings) of every cell of a study once: the grid over `space`, then the named variants.

    Plans, budgets and runs all expand a study here.
    """
    if sweep.space or not sweep.variants:
        for settings in sweep.search_space.grid():
            yield label(settings), settings
    yield from _further_variants(sweep)


def count_cells(sweep: Sweep) -> int:
    """Return how many cells a study has, without expanding those of its grid; those of one result count once."""
    grid = sweep.search_space.num_results() if sweep.space or not sweep.variants else 0
    return grid + sum(1 for _ in _further_variants(sweep))


def count_trials(sweep: Sweep) -> int:
    """Return how many trials a study has, as far as its definition tells.

    Two files may turn out to hold the same puzzles: only a run finds out that their trials are the same.
    """
    return len(set(sweep.only)) if sweep.only is not None else sweep.seeds * count_cells(sweep)


def count_explored(sweep: Sweep) -> int:
    """Return how many configurations a search tries: its limit, or the size of a smaller space."""
    requested = sweep.trials or 0
    most = sweep.search_space.max_cells(requested)
    return requested if most is None else min(requested, most)


def _further_variants(sweep: Sweep) -> Iterator[tuple[str, Cell]]:
    known: set[str] = set()
    for variant in sweep.variants:
        key = expected_id(replace_settings(sweep.base, variant.settings))
        # A variant may repeat a cell of the grid, and in sweeps of older versions another variant: that is one trial.
        if key not in known and sweep.cell_like(variant) is None:
            known.add(key)
            yield variant.name, dict(variant.settings)


def study_trials(sweep: Sweep, fingerprint: Fingerprint) -> Iterator[PlannedTrial]:
    """Yield every cell with every seed, seed by seed, so that an interrupted study has compared every cell."""
    first: list[tuple[PlannedTrial, Callable[[int], str]]] = []
    listed = None if sweep.only is None else frozenset(sweep.only)
    for seed in range(sweep.seeds):
        for number, (family, settings) in enumerate(cells(sweep)):
            if number < len(first):
                template, id_of = first[number]
                config = template.config.model_copy(update={"seed": template.config.seed + seed})
                resources = sweep.resources_of(config)
                trial = template.model_copy(
                    update={"trial_id": id_of(config.seed), "config": config, "resources": resources}
                )
            else:
                config = replace_settings(sweep.base, settings)
                config = _scored_on_test(config, config.seed + seed)
                trial = planned(sweep, fingerprint, "study", family, config)
                if number < MAX_TEMPLATES and sweep.seeds > 1:
                    first.append((trial, seeded_ids(trial.config, fingerprint(trial.config.data.request()))))
            if listed is None or trial.trial_id in listed:
                yield trial


def search_trial(sweep: Sweep, fingerprint: Fingerprint, family: str, settings: Cell) -> PlannedTrial:
    """Plan a configuration that a search tries: one seed, scored on the validation split."""
    config = replace_settings(sweep.base, {**settings, "evaluation.split": "validation"})
    return planned(sweep, fingerprint, "explore", family, config)


def confirm_trials(sweep: Sweep, fingerprint: Fingerprint, family: str, config: TrialConfig) -> list[PlannedTrial]:
    """Plan a configuration with every seed of the confirm stage, scored once on the test split.

    The seeds differ from the search's own: a configuration chosen for its score with one seed would be overestimated
    by that seed.
    """
    data = config.data.model_copy(update={"train_splits": sweep.confirm.train_splits})
    config = config.model_copy(update={"data": data})
    return [
        planned(sweep, fingerprint, "confirm", family, _scored_on_test(config, sweep.base.seed + seed))
        for seed in range(1, sweep.confirm.seeds + 1)
    ]


def control_trials(sweep: Sweep, fingerprint: Fingerprint) -> list[PlannedTrial]:
    """Plan the named controls of a search."""
    return [
        trial
        for variant in sweep.confirm.controls
        for trial in confirm_trials(sweep, fingerprint, variant.name, replace_settings(sweep.base, variant.settings))
    ]


def _scored_on_test(config: TrialConfig, seed: int) -> TrialConfig:
    evaluation = config.evaluation.model_copy(update={"split": "test"})
    return config.model_copy(update={"evaluation": evaluation, "seed": seed})


MAX_TEMPLATES = 10_000
"""Cells that are kept with their first seed to plan the others quickly: a study may have millions."""
