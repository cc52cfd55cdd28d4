"""What a sweep will do and cost, before anything starts.

Work and memory follow from the configurations alone. Time is work divided by a rate, and every rate says where it comes
from: finished trials of this storage on this machine, or a share of a GPU's peak that nobody has measured here.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
import statistics
from collections.abc import Iterable, Mapping

import psutil

from orchestrator import catalogue
from orchestrator.cells import cells
from orchestrator.domains import Choice, Uniform, Value
from orchestrator.equal import equalise, shape_of, training_flops
from orchestrator.naming import configure, label
from orchestrator.placement import KNOWN_TYPES, gpu_types
from orchestrator.record import Status, TrialRecord, read_trials
from orchestrator.storage import LocalStorage, Storage
from orchestrator.sweep import Resources, Sweep
from trm_data import find
from trm_data.benchmarks import resolve_benchmark
from trm_data.settings import Settings
from trm_model import cost
from trm_model.config import TrialConfig

ASSUMED_SHARE_OF_PEAK = 0.15
"""Of a GPU's dense bf16 peak. The TRM paper's stated run times are about this share (ARC-1 on four H100)."""
ASSUMED_CORE_FLOPS = 40e9
"""Per CPU core, for models as small as the quick start's; replaced by the first finished trial."""
MOST_CELLS = 256
"""A search's cells are averaged over at most so many, drawn at random."""


class Rate(Settings):
    """FLOP/s of one trial on one kind of device, and where the figure comes from."""

    device: str
    flops_per_s: float
    basis: str
    usd_per_hour: float | None = None
    memory_bytes: int


class CellEstimate(Settings):
    """One configuration, for one seed."""

    family: str
    steps: int
    train_flops: float
    evaluation_flops: float
    memory_bytes: int
    checkpoint_bytes: int
    does_not_fit: tuple[str, ...]
    """Devices that its memory exceeds."""


class Cost(Settings):
    """The whole sweep on one kind of device."""

    device: str
    basis: str
    device_hours: float
    usd: float | None


class Estimate(Settings):
    """The plan as figures; `trm sweep plan --json` prints it."""

    name: str
    kind: str
    equal: str
    dataset: str
    dataset_is_built: bool
    cells: tuple[CellEstimate, ...]
    num_trials: int
    trials_by_stage: dict[str, int]
    total_steps: int
    total_flops: float
    checkpoint_bytes: int
    slots: int
    wall_s: float
    """On this machine, or on GPUs of the cheapest type asked for."""
    wall_device: str
    costs: tuple[Cost, ...]
    is_upper_bound: bool
    """Early stopping makes it less."""


def estimate(sweep: Sweep, storage: Storage, max_concurrent: int | None = None) -> Estimate:
    """Expand and predict. Builds nothing, starts nothing, joins no cluster."""
    explored, confirmed = _cells(sweep)
    rates = _rates(sweep, storage)
    costed = [_cell(family, config, rates) for family, config in (*explored, *confirmed)]
    stages, weights = _stages(sweep, len(explored), len(confirmed))
    flops = sum(weight * (c.train_flops + c.evaluation_flops) for weight, c in zip(weights, costed, strict=True))
    slots = max_concurrent or sweep.max_concurrent or _slots(sweep.resources)
    wanted = gpu_types(sweep.resources.gpu_type) or (list(KNOWN_TYPES) if sweep.resources.gpus else [])
    rate = next((r for r in rates if r.device in wanted), rates[0])
    request = sweep.base.data.request()
    folder = find(request, storage.root / "datasets") if isinstance(storage, LocalStorage) else None
    return Estimate(
        name=sweep.name,
        kind=sweep.kind,
        equal=sweep.equal,
        dataset=request.benchmark,
        dataset_is_built=folder is not None,
        cells=tuple(costed),
        num_trials=sum(stages.values()),
        trials_by_stage=stages,
        total_steps=round(sum(weight * c.steps for weight, c in zip(weights, costed, strict=True))),
        total_flops=flops,
        checkpoint_bytes=round(sum(2 * weight * c.checkpoint_bytes for weight, c in zip(weights, costed, strict=True))),
        slots=slots,
        wall_s=flops / rate.flops_per_s / slots,
        wall_device=f"{rate.device} ({rate.basis})",
        costs=tuple(_cost(r, flops) for r in rates),
        is_upper_bound=sweep.kind == "search" and sweep.stopping.rule != "none",
    )


def _cost(rate: Rate, flops: float) -> Cost:
    hours = flops / rate.flops_per_s / 3600
    usd = None if rate.usd_per_hour is None else hours * rate.usd_per_hour
    return Cost(device=rate.device, basis=rate.basis, device_hours=hours, usd=usd)


Cells = list[tuple[str, TrialConfig]]


def _cells(sweep: Sweep) -> tuple[Cells, Cells]:
    """(what a study runs or a search may draw from, a search's controls)."""

    def configured(settings: Mapping[str, Value]) -> TrialConfig:
        return equalise(configure(sweep.base, settings), sweep.base, sweep.equal)

    if sweep.kind == "study":
        return [(family, configured(settings)) for family, settings in cells(sweep)], []
    drawn = [(label(settings), configured(settings)) for settings in _sample(sweep)]
    return drawn, [(v.name, configured(v.settings)) for v in sweep.confirm.controls]


def _sample(sweep: Sweep) -> list[dict[str, Value]]:
    axes = []
    for path, domain in sweep.space.items():
        values: Iterable[Value]
        if isinstance(domain, Choice):
            values = domain.values
        else:
            values = _spread(domain)
        axes.append([(path, value) for value in values])
    every = [dict(combination) for combination in itertools.product(*axes)]
    return every if len(every) <= MOST_CELLS else random.Random(0).sample(every, MOST_CELLS)


def _spread(domain: Uniform) -> list[Value]:
    """Low, middle and high of a range."""
    middle = (domain.low * domain.high) ** 0.5 if domain.log else (domain.low + domain.high) / 2
    return [int(v) if domain.integer else v for v in (domain.low, middle, domain.high)]


def _stages(sweep: Sweep, num_explored: int, num_controls: int) -> tuple[dict[str, int], list[float]]:
    """Trials by stage, and how often each estimated cell counts."""
    if sweep.kind == "study":
        return {"study": num_explored * sweep.seeds}, [float(sweep.seeds)] * num_explored
    confirm = sweep.confirm
    explore = sweep.trials or 0
    if all(isinstance(domain, Choice) for domain in sweep.space.values()):
        explore = min(explore, num_explored)
    stages = {"explore": explore, "confirm": confirm.seeds * (confirm.top + num_controls)}
    # The best is not known yet: it is taken to cost as much as the average cell.
    share = (explore + confirm.seeds * confirm.top) / num_explored
    return stages, [share] * num_explored + [float(confirm.seeds)] * num_controls


def _cell(family: str, config: TrialConfig, rates: list[Rate]) -> CellEstimate:
    shape = shape_of(config)
    identifiers = _identifiers(config, resolve_benchmark(config.data.benchmark).family)
    memory = cost.peak_bytes(config, num_identifiers=identifiers, **shape)
    return CellEstimate(
        family=family,
        steps=config.train.max_steps,
        train_flops=training_flops(config),
        evaluation_flops=_evaluation_flops(config, cost.forward_flops(config.model, **shape)),
        memory_bytes=memory,
        checkpoint_bytes=cost.checkpoint_bytes(config, num_identifiers=identifiers, **shape),
        does_not_fit=tuple(rate.device for rate in rates if memory > rate.memory_bytes),
    )


def _identifiers(config: TrialConfig, family: str) -> int:
    """Rows of the puzzle-embedding table; ARC has one per augmented task, about 960 tasks."""
    return 960 * (1 + config.data.num_augmentations) if family == "arc" else 1


def _evaluation_flops(config: TrialConfig, forward: int) -> float:
    """The curve (raw and averaged weights) and the final score."""
    benchmark = resolve_benchmark(config.data.benchmark)
    steps = config.evaluation.supervision_steps or config.model.supervision_steps
    every = config.runtime.evaluate_every or max(1, config.train.max_steps // 10)
    on_curve = config.runtime.evaluate_puzzles or config.data.num_validation or benchmark.num_validation
    scored = config.evaluation.max_puzzles or config.data.num_test or benchmark.num_test or 1000
    return float(forward) * steps * (2 * on_curve * (config.train.max_steps // every) + scored)


def _slots(resources: Resources) -> int:
    return 1 if resources.gpus else max(1, int((os.cpu_count() or 1) // resources.cpus))


def _rates(sweep: Sweep, storage: Storage) -> list[Rate]:
    """This machine first, then the catalogue's GPUs that the sweep may use."""
    here = _here(sweep, storage)
    return [here, *(_gpu_rate(name) for name in gpu_types(sweep.resources.gpu_type) or KNOWN_TYPES)]


def _gpu_rate(name: str) -> Rate:
    gpu = catalogue.gpu(name)
    share = f"assumed {100 * ASSUMED_SHARE_OF_PEAK:.0f} % of peak"
    return Rate(
        device=name,
        flops_per_s=ASSUMED_SHARE_OF_PEAK * gpu.bf16_tflops * 1e12,
        basis=share,
        usd_per_hour=catalogue.usd_per_gpu_hour(name),
        memory_bytes=gpu.memory_bytes,
    )


def _here(sweep: Sweep, storage: Storage) -> Rate:
    memory = psutil.virtual_memory().total // _slots(sweep.resources)
    measured = [rate for record in _recorded(storage) if (rate := _measured(record, sweep.base)) is not None]
    if measured:
        flops, basis = statistics.median(measured), f"measured on {len(measured)} trials here"
    else:
        flops, basis = ASSUMED_CORE_FLOPS * max(1.0, sweep.resources.cpus), "assumed, no trial has run here yet"
    return Rate(device="this machine", flops_per_s=flops, basis=basis, memory_bytes=memory)


def _recorded(storage: Storage) -> list[TrialRecord]:
    """Records of a local storage; a remote one is not read through for an estimate."""
    if not isinstance(storage, LocalStorage):
        return []
    names = sorted({key.split("/")[1] for key in storage.list("sweeps") if key.endswith("/trial.json")})
    return [record for name in names for record in read_trials(storage, name)]


def _measured(record: TrialRecord, like: TrialConfig) -> float | None:
    """FLOP/s of a finished CPU trial of this machine with a model of the same width and mixer."""
    if record.status is not Status.FINISHED or record.result is None or not record.attempts:
        return None
    start, model = record.attempts[-1].start, record.config.model
    alike = (model.hidden_size, model.mixer) == (like.model.hidden_size, like.model.mixer)
    if start.get("host") != socket.gethostname() or start.get("device") != "cpu" or not alike:
        return None
    seconds = record.result["train_s"]
    return record.result["train_flops"] / seconds if seconds > 0 else None
