"""What a sweep will do and cost, before anything starts.

Work and memory follow from the configurations alone; `orchestrator.resources.runtime` predicts
how long the work takes and says where its figures come from and how far they may be off.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.resources import catalogue
from orchestrator.resources.aws import Need
from orchestrator.resources.devices import HERE, Device, devices_of, slots_of
from orchestrator.resources.memory import memory_bytes, num_identifiers
from orchestrator.resources.nodes import Node
from orchestrator.resources.runtime import work_of
from orchestrator.storage import LocalStorage, Storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.domains import Value
from orchestrator.sweep.matching import match_axis, shape_of
from orchestrator.sweep.settings import configure, label
from orchestrator.sweep.space import cells, grid, is_countable
from trm_data import find
from trm_data.settings import Settings
from trm_model import cost
from trm_model.config import TrialConfig

MOST_CELLS = 256
"""A search's cells are averaged over at most so many, drawn at random."""


class CellEstimate(Settings):
    """One configuration, for one seed."""

    family: str
    steps: int
    train_flops: float
    evaluation_flops: float
    memory_bytes: int
    """Of the GPU, or of the process where trials run on CPUs."""
    checkpoint_bytes: int
    does_not_fit: tuple[str, ...]
    """Devices that its memory exceeds."""
    seconds: dict[str, float]
    """Of one trial on each device whose speed is known."""


class Cost(Settings):
    """The whole sweep on one kind of device."""

    device: str
    basis: str
    spread: float
    device_hours: float | None
    usd: float | None


class DatasetNeed(Settings):
    """A dataset that trials read."""

    benchmark: str
    is_built: bool


class Estimate(Settings):
    """The plan as figures; `trm sweep plan --json` prints it."""

    name: str
    kind: str
    equal: str
    datasets: tuple[DatasetNeed, ...]
    cells: tuple[CellEstimate, ...]
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
    devices: tuple[Device, ...]
    costs: tuple[Cost, ...]
    is_upper_bound: bool
    """Early stopping makes it less."""


def estimate(
    sweep: Sweep,
    storage: Storage,
    max_concurrent: int | None = None,
    nodes: Sequence[Node] | None = None,
    share_gpus: bool = False,
) -> Estimate:
    """Expand and predict. Builds nothing, starts nothing.

    Args:
        nodes: those of the cluster to run on.
        share_gpus: trials get parts of a GPU; all are taken to need as large a part as the largest.
    """
    explored, controls = _configured(sweep)
    largest = max(memory_bytes(config, "cuda") for _, config in (*explored, *controls)) if share_gpus else None
    devices = devices_of(sweep, storage, largest)
    costed = [_cell(family, config, devices, sweep) for family, config in (*explored, *controls)]
    stages, weights = _stages(sweep, len(explored), len(controls))
    too_small = {name for cell in costed for name in cell.does_not_fit}
    slots = slots_of(sweep, devices, too_small, max_concurrent or sweep.max_concurrent, nodes)
    wall_s = _wall_s(costed, weights, slots)
    used = [device.speed.spread for device in devices if device.name in slots and device.speed]
    return Estimate(
        name=sweep.name,
        kind=sweep.kind,
        equal=sweep.equal,
        datasets=_datasets([config for _, config in (*explored, *controls)], storage),
        cells=tuple(costed),
        num_trials=sum(stages.values()),
        trials_by_stage=stages,
        total_steps=round(_sum(weights, [cell.steps for cell in costed])),
        total_flops=_sum(weights, [cell.train_flops + cell.evaluation_flops for cell in costed]),
        checkpoint_bytes=round(_sum(weights, [2 * cell.checkpoint_bytes for cell in costed])),
        slots=slots,
        wall_s=wall_s,
        wall_spread=max(used, default=0.0),
        devices=tuple(devices),
        costs=tuple(_cost(device, costed, weights) for device in devices),
        is_upper_bound=sweep.kind == "search" and sweep.stopping.rule != "none",
    )


def _sum(weights: Sequence[float], amounts: Sequence[float]) -> float:
    return sum(weight * amount for weight, amount in zip(weights, amounts, strict=True))


def _cost(device: Device, costed: Sequence[CellEstimate], weights: Sequence[float]) -> Cost:
    if device.speed is None:
        return Cost(device=device.name, basis="known after its first trial", spread=0.0, device_hours=None, usd=None)
    hours = _sum(weights, [cell.seconds[device.name] for cell in costed]) / 3600
    usd = None if device.usd_per_hour is None else hours * device.usd_per_hour
    speed = device.speed
    return Cost(device=device.name, basis=speed.basis, spread=speed.spread, device_hours=hours, usd=usd)


Configured = list[tuple[str, TrialConfig]]


def _configured(sweep: Sweep) -> tuple[Configured, Configured]:
    """(what a study runs or a search may draw from, a search's controls)."""

    def configured(settings: Mapping[str, Value]) -> TrialConfig:
        return match_axis(configure(sweep.base, settings), sweep.base, sweep.equal)

    if sweep.kind == "study":
        return [(family, configured(settings)) for family, settings in cells(sweep)], []
    every = grid(sweep)
    drawn = every if len(every) <= MOST_CELLS else random.Random(0).sample(every, MOST_CELLS)
    controls = [(variant.name, configured(variant.settings)) for variant in sweep.confirm.controls]
    return [(label(settings), configured(settings)) for settings in drawn], controls


def _stages(sweep: Sweep, num_explored: int, num_controls: int) -> tuple[dict[str, int], list[float]]:
    """Trials by stage, and how often each estimated cell counts."""
    if sweep.kind == "study":
        listed = num_explored * sweep.seeds if sweep.only is None else len(sweep.only)
        return {"study": listed}, [listed / num_explored] * num_explored
    confirm = sweep.confirm
    explore = min(sweep.trials or 0, num_explored) if is_countable(sweep) else sweep.trials or 0
    stages = {"explore": explore, "confirm": confirm.seeds * (confirm.top + num_controls)}
    # The best is not known yet: it is taken to cost as much as the average cell.
    share = (explore + confirm.seeds * confirm.top) / num_explored
    return stages, [share] * num_explored + [float(confirm.seeds)] * num_controls


def _cell(family: str, config: TrialConfig, devices: Sequence[Device], sweep: Sweep) -> CellEstimate:
    work = work_of(config)
    memory = {device.name: memory_bytes(config, device.kind, device.besides_bytes) for device in devices}
    asked = devices[0].name if not sweep.resources.gpus else devices[-1].name
    return CellEstimate(
        family=family,
        steps=config.train.max_steps,
        train_flops=work.train_flops,
        evaluation_flops=work.evaluation_flops,
        memory_bytes=memory[asked],
        checkpoint_bytes=cost.checkpoint_bytes(config, num_identifiers=num_identifiers(config), **shape_of(config)),
        does_not_fit=tuple(d.name for d in devices if d.memory_bytes and memory[d.name] > d.memory_bytes),
        seconds={device.name: device.speed.seconds(work) for device in devices if device.speed},
    )


def _datasets(configs: Sequence[TrialConfig], storage: Storage) -> tuple[DatasetNeed, ...]:
    requests = dict.fromkeys(config.data.request() for config in configs)
    root = storage.root / "datasets" if isinstance(storage, LocalStorage) else None
    return tuple(
        DatasetNeed(benchmark=request.benchmark, is_built=root is not None and find(request, root) is not None)
        for request in requests
    )


def _wall_s(costed: Sequence[CellEstimate], weights: Sequence[float], slots: Mapping[str, int]) -> float | None:
    """Give each trial in turn to the slot that is free first and where it fits."""
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
    """Every cell as often as it counts, seed by seed; a share of a trial is carried over to the next cell."""
    due = 0.0
    for turn in range(math.ceil(max(weights, default=0))):
        for cell, weight in zip(costed, weights, strict=True):
            due += max(0.0, min(1.0, weight - turn))
            if due >= 1 - 1e-9:
                due -= 1
                yield cell


def machines_needed(plan: Estimate, sweep: Sweep) -> list[Need]:
    """The AWS machines, on demand, that hold all slots at once: what quotas must allow.

    Raises:
        CatalogueError: a GPU that no AWS machine of the catalogue has.
    """
    needs, gpus = [], {device.name: device.gpus for device in plan.devices}
    for name, count in plan.slots.items():
        if sweep.resources.gpus and name != HERE:
            machine = catalogue.instances_for(name)[0]
            needs.append(Need(machine.instance, "on-demand", math.ceil(count * gpus[name] / machine.num_gpus)))
    return needs
