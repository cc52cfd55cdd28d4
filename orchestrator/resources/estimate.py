"""Estimate what a sweep will do and cost, before anything starts.

Work and memory follow from the configurations alone; `orchestrator.resources.runtime` predicts how long the work takes,
with the basis and the expected error of the prediction. Large sweeps are estimated from a sample of their cells.
"""

from __future__ import annotations

import heapq
import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from pydantic import Field

from orchestrator.resources import catalogue
from orchestrator.resources.aws.quotas import Need
from orchestrator.resources.devices import (
    THIS_MACHINE,
    Device,
    devices_of,
    lacking_gpus,
    require_local_cpus,
    require_local_device,
    slots_of,
)
from orchestrator.resources.fitting import fit_memory
from orchestrator.resources.gpu_choice import GpuChoice, choose_gpus
from orchestrator.resources.memory import memory_bytes, num_identifiers
from orchestrator.resources.nodes import Node
from orchestrator.resources.placement import gpu_types, misspelled_gpus
from orchestrator.resources.pricing import Pricing
from orchestrator.resources.runtime import ASSUMED_SPREAD, work_of
from orchestrator.storage import LocalStorage, Storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.domains import Setting
from orchestrator.sweep.matching import match_axis, shape_of
from orchestrator.sweep.settings import label, replace_settings
from orchestrator.sweep.text import about, aligned, num_bytes, plural, within
from orchestrator.sweep.trials import cells, count_cells
from trm_data import find
from trm_data.own_code import short
from trm_data.settings import Settings
from trm_model import cost
from trm_model.config import TrialConfig

MAX_SEARCH_CELLS = 256
"""A search draws its cells while it runs, so its plan averages over at most this many of them."""
MAX_STUDY_CELLS = 2048
"""A study with more cells is estimated from a random sample of this size."""
MAX_SIMULATED_TRIALS = 10_000
"""The wall time of more trials is extrapolated from this many."""


class CellEstimate(Settings):
    """Hold the estimate of one configuration, for one seed."""

    family: str
    steps: int
    train_flops: float
    evaluation_flops: float
    memory_bytes: int
    """Peak memory of the GPU, or of the process where trials run on CPUs."""
    memory_by_device: dict[str, int]
    checkpoint_bytes: int
    does_not_fit: tuple[str, ...]
    """Devices on which it needs more memory than one trial may take."""
    fits_with: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Settings with which it fits a GPU on which it does not, by device, with the `slowdown` that they cost."""
    seconds: dict[str, float]
    """Duration of one trial on each device whose speed is known."""
    error_factors: dict[str, tuple[float, float]]
    """By which factors the true duration may be less and more (`RuntimeFit.error_factors`)."""


class Cost(Settings):
    """Hold the estimate of the whole sweep on one kind of device."""

    device: str
    basis: str
    spread: float
    device_hours: float | None
    usd: float | None


class DatasetNeed(Settings):
    """Describe a dataset that trials read."""

    benchmark: str
    is_built: bool


class Estimate(Settings):
    """Hold the estimate of a plan; `trm sweep plan --json` prints it."""

    name: str
    kind: str
    equal: str
    datasets: tuple[DatasetNeed, ...]
    cells: tuple[CellEstimate, ...]
    num_cells: int
    """More than `cells` holds where they are a sample; then every total is extrapolated from them."""
    num_trials: int
    trials_by_stage: dict[str, int]
    total_steps: int
    total_flops: float
    checkpoint_bytes: int
    slots: dict[str, int]
    """Trials at once, by device."""
    wall_s: float | None
    """None where no speed is known yet."""
    wall_spread: float
    """Relative error to expect of `wall_s`; `wall_range_s` has its bounds."""
    wall_range_s: tuple[float, float] | None
    devices: tuple[Device, ...]
    """The first is the CPUs of this machine or of the cluster; the others are GPU types."""
    costs: tuple[Cost, ...]
    is_upper_bound: bool
    """Whether early stopping will make it less."""
    cells_are_examples: bool = False
    """Whether a sampler has yet to choose what a search explores: `cells` are then examples from its space."""
    gpu_choice: str = ""
    """One line on what was decided where the sweep leaves the choice of GPUs open; may be empty."""
    gpu_hint: str = ""
    """One line on GPU types that look like misspellings; may be empty."""
    lacking_gpus: tuple[str, ...] = ()
    """What this machine lacks: the cells that it cannot run, and the error with which a run of them here ends."""
    num_done: int = 0
    num_left: int | None = None
    """Trials of the recorded sweep that have ended, and those that have not; None where the storage has no record."""

    @property
    def time_text(self) -> tuple[str, str]:
        """Return the wall time as text, and its expected error; empty texts where no speed is known."""
        if self.wall_s is None or self.wall_range_s is None:
            return "", ""
        most = "at most " if self.is_upper_bound else ""
        if self.wall_spread <= ASSUMED_SPREAD:
            return most + about(self.wall_s), within(self.wall_spread)
        low, high = map(about, self.wall_range_s)
        return f"{most}{high}" if most else f"{low} to {high}", "as the trials measured so far tell little about these"

    def __str__(self) -> str:
        time = ", ".join(filter(None, self.time_text)) or "not known before the first trial"
        header = ("cell", "steps", "PFLOP", "memory", "does not fit")
        rows = [
            (cell.family, f"{cell.steps:,}", f"{cell.train_flops / 1e15:.3g}", num_bytes(cell.memory_bytes),
             ", ".join(cell.does_not_fit) or "-")
            for cell in self.cells
        ]  # fmt: skip
        slots = " + ".join(f"{count} on {name}" for name, count in self.slots.items()) or "none"
        costs = [f"{cost.device} ${cost.usd:,.2f}" for cost in self.costs if cost.usd is not None]
        return "\n".join([
            f"{self.name} ({self.kind}): {plural(self.num_trials, 'trial')}, equal {self.equal}",
            *aligned(header, rows, right=header[1:4]),
            f"{plural(self.total_steps, 'step')}, {self.total_flops / 1e15:.3g} PFLOP; concurrent trials: {slots}",
            f"estimated time: {time}",
            *([f"estimated cost: {', '.join(costs)}"] if costs else []),
            *([self.gpu_hint] if self.gpu_hint else []),
            *(f"this machine cannot run {text}" for text in self.lacking_gpus),
        ])  # fmt: skip


def estimate(
    sweep: Sweep,
    storage: Storage,
    max_concurrent: int | None = None,
    nodes: Sequence[Node] | None = None,
    share_gpus: bool | None = None,
    explored: Sequence[Mapping[str, Setting]] | None = None,
    pricing: Pricing | None = None,
) -> Estimate:
    """Expand a sweep and predict its cost. Builds nothing, starts nothing.

    Args:
        nodes: nodes of the cluster to run on; None plans for this machine, or for GPUs of one type that it lacks.
        share_gpus: trials get shares of a GPU; all are assumed to need as large a share as the largest. None: where
            the sweep leaves the choice of GPUs open.
        explored: the cells that a search will explore; None where the sampler decides that while it runs.
        pricing: whose prices; AWS's if left out.

    Raises:
        SweepError, ConfigError: a trial needs more CPUs than this machine has, or a device that it lacks.
    """
    choice = choose_gpus(sweep, nodes, share_gpus)
    sweep = choice.sweep
    labels = [choice.label] if nodes is None else [node.gpu_type for node in nodes]
    is_cluster, nodes = nodes is not None, _this_node(choice) if nodes is None else nodes
    plan = _planned_cells(sweep, explored)
    configs = [config for _, config in plan.configured]
    largest = max(memory_bytes(config, "cuda") for config in configs) if choice.is_shared else None
    devices = devices_of(sweep, storage, largest, nodes, choice.memory, pricing, is_cluster=is_cluster)
    costed = [_cell(family, config, devices, sweep) for family, config in plan.configured]
    too_small = {name for cell in costed for name in cell.does_not_fit}
    slots = slots_of(sweep, devices, too_small, max_concurrent or sweep.max_concurrent, nodes)
    weights = plan.weights
    wall_s = _wall_s(costed, weights, slots)
    low, high = _error_factors(costed, slots)
    return Estimate(
        name=sweep.name,
        kind=sweep.kind,
        equal=sweep.equal,
        datasets=_datasets(configs, storage),
        cells=tuple(costed),
        num_cells=plan.num_cells,
        num_trials=sum(plan.stages.values()),
        trials_by_stage=plan.stages,
        total_steps=round(_sum(weights, [cell.steps for cell in costed])),
        total_flops=_sum(weights, [cell.train_flops + cell.evaluation_flops for cell in costed]),
        checkpoint_bytes=round(_sum(weights, [2 * cell.checkpoint_bytes for cell in costed])),
        slots=slots,
        wall_s=wall_s,
        wall_spread=_spread(low, high),
        wall_range_s=None if wall_s is None else (low * wall_s, high * wall_s),
        devices=tuple(devices),
        costs=tuple(_cost(device, costed, weights) for device in devices),
        is_upper_bound=sweep.kind == "search" and sweep.stopping.rule != "none",
        gpu_choice=choice.message,
        gpu_hint=misspelled_gpus(sweep, labels),
        cells_are_examples=sweep.kind == "search" and not explored,
        lacking_gpus=() if is_cluster else tuple(lacking_gpus(choice, plan.configured)),
    )


def _this_node(choice: GpuChoice) -> list[Node] | None:
    """Return this machine as a node if it has GPUs for trials of the sweep. Check that it can run one."""
    require_local_cpus(choice.sweep)
    if not choice.sweep.resources.gpus:  # else it may be planned here for GPUs that this machine lacks
        require_local_device(choice.sweep)
    wanted = gpu_types(choice.sweep.resources.gpu_type)
    if not choice.gpus or not choice.sweep.resources.gpus or (wanted and choice.label not in wanted):
        return None
    cores = float(os.cpu_count() or 1)
    return [Node("", socket.gethostname(), True, cores, float(len(choice.gpus)), choice.label, None)]


def _sum(weights: Sequence[float], amounts: Sequence[float]) -> float:
    return sum(weight * amount for weight, amount in zip(weights, amounts, strict=True))


def _error_factors(costed: Sequence[CellEstimate], devices: Iterable[str]) -> tuple[float, float]:
    """Return by which factors the time on some devices may be less and more, for the least certain of the cells."""
    found = [cell.error_factors[name] for cell in costed for name in devices if name in cell.error_factors]
    return min((low for low, _ in found), default=1.0), max((high for _, high in found), default=1.0)


def _spread(low: float, high: float) -> float:
    """Return the relative error that bounds both factors."""
    return max(1 / low, high) - 1


def _cost(device: Device, costed: Sequence[CellEstimate], weights: Sequence[float]) -> Cost:
    if device.speed is None:
        return Cost(
            device=device.name,
            basis="not in the catalogue: time and price are unknown before its first trial",
            spread=0.0,
            device_hours=None,
            usd=None,
        )
    hours = _sum(weights, [cell.seconds[device.name] for cell in costed]) / 3600
    usd = None if device.usd_per_hour is None else hours * device.usd_per_hour
    spread = _spread(*_error_factors(costed, [device.name]))
    return Cost(device=device.name, basis=device.speed.basis, spread=spread, device_hours=hours, usd=usd)


class _PlannedCells(NamedTuple):
    """Hold the cells that an estimate considers, and how many trials each represents."""

    configured: list[tuple[str, TrialConfig]]
    weights: list[float]
    num_cells: int
    stages: dict[str, int]
    """Trials by stage."""


def _planned_cells(sweep: Sweep, known: Sequence[Mapping[str, Setting]] | None = None) -> _PlannedCells:
    def configured(settings: Mapping[str, Setting]) -> TrialConfig:
        return match_axis(replace_settings(sweep.base, settings), sweep.base, sweep.equal)

    if sweep.kind == "study":
        chosen, num_cells = sampled_cells(sweep)
        listed = num_cells * sweep.seeds if sweep.only is None else len(sweep.only)
        found = [(family, configured(settings)) for family, settings in chosen]
        return _PlannedCells(found, [listed / len(found)] * len(found), num_cells, {"study": listed})
    space, confirm = sweep.search_space, sweep.confirm
    sample = known or space.sample(MAX_SEARCH_CELLS)
    explored = [(label(settings), configured(settings)) for settings in sample]
    controls = [(variant.name, configured(variant.settings)) for variant in confirm.controls]
    counts = [count for count in (sweep.trials, space.max_cells()) if count is not None]
    explore = min(counts)
    # The best is not known yet: it is assumed to cost as much as the average cell.
    share = (explore + confirm.seeds * confirm.top) / len(explored)
    weights = [share] * len(explored) + [float(confirm.seeds)] * len(controls)
    stages = {"explore": explore, "confirm": confirm.seeds * (confirm.top + len(controls))}
    num_cells = len(explored) if known else space.size()
    return _PlannedCells(explored + controls, weights, num_cells + len(controls), stages)


def sampled_cells(sweep: Sweep) -> tuple[list[tuple[str, Mapping[str, Setting]]], int]:
    """Return the cells of a study, or a sample of them, and how many there are."""
    first = list(islice(cells(sweep), MAX_STUDY_CELLS + 1))
    if len(first) <= MAX_STUDY_CELLS:
        return [*first], len(first)
    space = sweep.search_space
    sample = [(label(settings), settings) for settings in space.sample(MAX_STUDY_CELLS)]
    variants = [(variant.name, variant.settings) for variant in sweep.variants[:MAX_STUDY_CELLS]]
    return [*sample, *variants], count_cells(sweep)


def _cell(family: str, config: TrialConfig, devices: Sequence[Device], sweep: Sweep) -> CellEstimate:
    work = work_of(config)
    memory = {device.name: memory_bytes(config, device.kind, device.overhead_bytes) for device in devices}
    main_device = devices[0].name if not sweep.resources.gpus else devices[-1].name
    too_large = tuple(d.name for d in devices if d.memory_bytes and memory[d.name] > d.memory_bytes)
    return CellEstimate(
        family=family,
        steps=config.train.max_steps,
        train_flops=work.train_flops,
        evaluation_flops=work.evaluation_flops,
        memory_bytes=memory[main_device],
        memory_by_device=memory,
        checkpoint_bytes=cost.checkpoint_bytes(config, num_identifiers=num_identifiers(config), **shape_of(config)),
        does_not_fit=too_large,
        fits_with=_proposals(config, [d for d in devices if d.name in too_large and d.kind == "cuda"]),
        seconds={device.name: device.speed.seconds(work) for device in devices if device.speed},
        error_factors={device.name: device.speed.error_factors(work) for device in devices if device.speed},
    )


def _proposals(config: TrialConfig, devices: Sequence[Device]) -> dict[str, dict[str, str]]:
    found = {device.name: fit_memory(config, device.name, device.memory_bytes or 0) for device in devices}
    return {name: one.settings | {"slowdown": f"{one.slowdown:.2g}"} for name, one in found.items() if one is not None}


def _datasets(configs: Sequence[TrialConfig], storage: Storage) -> tuple[DatasetNeed, ...]:
    requests = dict.fromkeys(config.data.request() for config in configs)
    root = storage.root / "datasets" if isinstance(storage, LocalStorage) else None
    return tuple(
        DatasetNeed(benchmark=short(request.benchmark), is_built=root is not None and find(request, root) is not None)
        for request in requests
    )


def _wall_s(costed: Sequence[CellEstimate], weights: Sequence[float], slots: Mapping[str, int]) -> float | None:
    """Simulate the sweep in seconds: assign each trial in turn to the slot that is free first and that it fits on."""
    count = sum(weights)
    if count > MAX_SIMULATED_TRIALS:
        scale = MAX_SIMULATED_TRIALS / count
        simulated_s = _wall_s(costed, [weight * scale for weight in weights], slots)
        return None if simulated_s is None else simulated_s / scale
    free = [(0.0, index, name) for index, name in enumerate(n for n, count in slots.items() for _ in range(count))]
    heapq.heapify(free)
    end_s = 0.0
    for cell in _in_turn(costed, weights):
        passed = []
        while free and (free[0][2] in cell.does_not_fit or free[0][2] not in cell.seconds):
            passed.append(heapq.heappop(free))
        if not free:
            return None
        free_s, index, name = heapq.heappop(free)
        end_s = max(end_s, free_s + cell.seconds[name])
        for slot in (*passed, (free_s + cell.seconds[name], index, name)):
            heapq.heappush(free, slot)
    return end_s


def _in_turn(costed: Sequence[CellEstimate], weights: Sequence[float]) -> Iterator[CellEstimate]:
    """Yield every cell as often as its weight, seed by seed; a fraction of a trial is carried over to the next cell."""
    due = 0.0
    for turn in range(math.ceil(max(weights, default=0))):
        for cell, weight in zip(costed, weights, strict=True):
            due += max(0.0, min(1.0, weight - turn))
            if due >= 1 - 1e-9:
                due -= 1
                yield cell


def machines_needed(plan: Estimate, sweep: Sweep) -> list[Need]:
    """Return the AWS machines, on demand, that hold all slots at once: the quotas must cover them.

    Raises:
        CatalogueError: a GPU that no AWS machine of the catalogue has.
    """
    needs, gpus = [], {device.name: device.gpus for device in plan.devices}
    for name, count in plan.slots.items():
        if sweep.resources.gpus and name != THIS_MACHINE:
            machine = catalogue.instances_for(name)[0]
            needs.append(Need(machine.instance, "on-demand", math.ceil(count * gpus[name] / machine.num_gpus)))
    return needs
