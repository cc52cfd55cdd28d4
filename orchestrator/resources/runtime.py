"""How long a trial takes on a device: work follows from the configuration, speed from trials that have run there.

    seconds = start + network calls * time per call + FLOPs / rate

Small networks are bound by the calls (each launches a dozen kernels), large ones by the FLOPs, short runs by the start;
the three constants are fitted to finished trials. Until there is one, they are assumptions, and say so.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from orchestrator.records.schema import AttemptStart, Status, TrialRecord
from orchestrator.resources.catalogue import CatalogueError, gpu
from orchestrator.resources.placement import SpeedOf, peak_speed
from orchestrator.resources.usage import market_price
from orchestrator.sweep.matching import shape_of, training_flops
from trm_data.benchmarks import resolve_benchmark
from trm_data.settings import Settings
from trm_model import cost
from trm_model.config import TrialConfig

ASSUMED_SHARE_OF_PEAK = {False: 0.08, True: 0.18}
"""Of a GPU's dense bf16 peak, without and with `runtime.compile`: an H100 gave published shapes 7 to 10 and 17 to 20 %.
The TRM paper's stated run times are about 15 % (ARC-1 on four H100)."""
ASSUMED_CORE_FLOPS = 40e9
"""Per CPU core, for models as small as the quick start's."""
ASSUMED_SPREAD = 2.0
"""An assumption may be wrong by this factor and more, both ways."""
ENOUGH = 4
"""Trials from which all constants are fitted; fewer give a rate alone."""


class Work(NamedTuple):
    """What a trial does, training and evaluation together."""

    calls: float
    """Network layers run forward; one backward counts as two."""
    train_flops: float
    evaluation_flops: float

    @property
    def flops(self) -> float:
        """All of them."""
        return self.train_flops + self.evaluation_flops


class Observation(NamedTuple):
    """A finished trial."""

    work: Work
    seconds: float


class RuntimeModel(Settings):
    """What a device takes for a start, a call and a FLOP, and where the figures come from."""

    start_s: float = 0.0
    call_s: float = 0.0
    flop_s: float
    basis: str
    spread: float
    """How far a prediction may be off: 0.2 is a fifth up or down."""
    is_measured: bool = False

    def seconds(self, work: Work) -> float:
        """Of one trial."""
        return self.start_s + self.call_s * work.calls + self.flop_s * work.flops


def work_of(config: TrialConfig) -> Work:
    """From the configuration alone."""
    shape = shape_of(config)
    network = cost.network_flops(config.model, seq_len=shape["seq_len"])
    forward = cost.forward_flops(config.model, **shape)
    trained = training_flops(config)
    batches, rows = _evaluations(config)
    steps = config.evaluation.supervision_steps or config.model.supervision_steps
    layers = config.model.num_layers
    calls = layers * (trained / config.train.batch_size + batches * steps * forward) / network
    return Work(calls, trained, float(forward) * steps * rows)


def _evaluations(config: TrialConfig) -> tuple[float, float]:
    """Batches and puzzles of the curve (raw and averaged weights) and of the final score."""
    benchmark = resolve_benchmark(config.data.benchmark)
    every = config.runtime.evaluate_every or max(1, config.train.max_steps // 10)
    times = (2 if config.optimizer.ema_rate else 1) * (config.train.max_steps // every)
    on_curve = config.runtime.evaluate_puzzles or _count(config.data.num_validation, benchmark.num_validation)
    scored = config.evaluation.max_puzzles or _count(config.data.num_test, benchmark.num_test)
    scored *= config.evaluation.votes * config.evaluation.rollouts * (1 + len(config.optimizer.further_ema_rates))
    size = config.evaluation.batch_size
    return times * math.ceil(on_curve / size) + math.ceil(scored / size), times * on_curve + scored


def _count(asked: int | None, usual: int | None) -> int:
    return asked if asked is not None else (usual if usual is not None else 1000)


def fit(observations: Sequence[Observation]) -> RuntimeModel:
    """The constants that predict finished trials best, relative errors counting alike. Needs at least one."""
    constants = _constants(observations)
    return _speed(constants, observations).model_copy(update={"spread": _spread(observations)})


def _speed(constants: tuple[float, float, float], observations: Sequence[Observation]) -> RuntimeModel:
    start_s, call_s, flop_s = constants
    basis = f"measured on {len(observations)} trials"
    return RuntimeModel(start_s=start_s, call_s=call_s, flop_s=flop_s, basis=basis, spread=0.0, is_measured=True)


def _constants(observations: Sequence[Observation]) -> tuple[float, float, float]:
    if len({each.work for each in observations}) < ENOUGH:
        return 0.0, 0.0, statistics.median(each.seconds / each.work.flops for each in observations)
    import numpy as np
    from scipy.optimize import nnls

    features = np.array([[1.0, each.work.calls, each.work.flops] for each in observations])
    relative = features / np.array([[each.seconds] for each in observations])
    scale = relative.mean(axis=0)
    found, _ = nnls(relative / scale, np.ones(len(observations)))
    start_s, call_s, flop_s = (found / scale).tolist()
    return start_s, call_s, flop_s


def _spread(observations: Sequence[Observation]) -> float:
    """Root mean square of the relative errors, each trial predicted from the others."""
    if len(observations) < 2:
        return ASSUMED_SPREAD / 2
    errors = []
    for index, left_out in enumerate(observations):
        others = [*observations[:index], *observations[index + 1 :]]
        predicted = _speed(_constants(others), others).seconds(left_out.work)
        errors.append(predicted / left_out.seconds - 1)
    return math.sqrt(statistics.fmean(error**2 for error in errors))


def observations(
    records: Iterable[TrialRecord], like: TrialConfig, *, gpu_type: str | None, share: float, host: str, threads: int
) -> list[Observation]:
    """Finished trials on a GPU type, or on this host's CPU: of the same width and mixer, compiled alike, where there
    are enough."""
    found = []
    for record in records:
        if record.result is None or len(record.attempts) != 1 or record.attempts[0].start.from_step != 0:
            continue
        where = record.attempts[0].start
        seconds = record.result.ended_s - where.started_s
        if seconds <= 0 or not _ran_there(where, gpu_type, share, host, threads):
            continue
        alike = _shape(record.config) == _shape(like)
        found.append((alike, Observation(work_of(record.config), seconds)))
    close = [observation for alike, observation in found if alike]
    return close if len(close) >= ENOUGH or len(close) == len(found) else [observation for _, observation in found]


def _shape(config: TrialConfig) -> tuple[int, str, bool]:
    """What the speed of a FLOP hangs on most."""
    return config.model.hidden_size, config.model.mixer, config.runtime.compile


def _ran_there(where: AttemptStart, gpu_type: str | None, share: float, host: str, threads: int) -> bool:
    if gpu_type is None:
        is_same = where.num_threads in (None, threads)
        return where.device == "cpu" and where.host == host and is_same
    name = where.gpu_type or where.gpu_name or ""
    is_share = (where.gpu_count or 1) == (share or 1)
    return where.device == "cuda" and is_share and _catalogued(name) == _catalogued(gpu_type)


def _catalogued(name: str) -> str:
    try:
        return gpu(name).name
    except CatalogueError:
        return name


def assumed_cpu(cpus: float) -> RuntimeModel:
    """Of a machine where nothing has run."""
    basis = "assumed, no trial has run here yet"
    return RuntimeModel(flop_s=1 / (ASSUMED_CORE_FLOPS * max(1.0, cpus)), basis=basis, spread=ASSUMED_SPREAD)


def assumed_gpu(name: str, share: float, compiled: bool) -> RuntimeModel | None:
    """Of a type on which nothing has run; None where the catalogue does not know it: its first trial tells.

    Trials that share a GPU take turns: k of them are k times slower at worst, and together as fast as one.
    """
    try:
        peak = gpu(name).bf16_tflops * 1e12
    except CatalogueError:
        return None
    share_of_peak = ASSUMED_SHARE_OF_PEAK[compiled]
    basis = f"assumed {100 * share_of_peak:.0f} % of peak"
    slower = 1.0
    if 0 < share < 1:
        slower = 1 / share
        basis += f", {slower:.3g} times slower where {slower:.3g} share a GPU"
    rate = share_of_peak * peak * max(1.0, share)
    return RuntimeModel(flop_s=slower / rate, basis=basis, spread=ASSUMED_SPREAD)


CPU = "cpu"


RECENT = 50
"""Trials of a kind of device that an estimate follows."""


class TrialCost(NamedTuple):
    """What a trial will take."""

    hours: float
    gpu_hours: float
    usd: float
    """0 where the catalogue has no price."""


class TrialCostModel:
    """Durations of trials, learned while a sweep runs."""

    def __init__(self, records: Iterable[TrialRecord] = ()) -> None:
        self._seen: dict[str, list[Observation]] = defaultdict(list)
        self._fitted: dict[str, RuntimeModel] = {}
        for record in records:
            self.learn(record)

    def learn(self, record: TrialRecord) -> None:
        """Take in a trial that has ended; only one that was run whole, in one attempt, says how long a trial takes."""
        if record.status is not Status.FINISHED or len(record.attempts) != 1:
            return
        start, end = record.attempts[0].start, record.attempts[0].end
        seconds = end.ended_s - start.started_s if end else 0.0
        if seconds > 0 and start.from_step == 0:
            device = start.gpu_type or CPU
            self._seen[device].append(Observation(work_of(record.config), seconds))
            self._fitted.pop(device, None)

    def speed_of(self, config: TrialConfig) -> SpeedOf:
        """FLOP/s of a trial by GPU type."""
        work = work_of(config)
        return lambda gpu_type: work.flops / self._speed(gpu_type, config, 1.0, 1.0).seconds(work)

    def need(self, config: TrialConfig, device: str, *, gpus: float, cpus: float, step: int = 0) -> TrialCost:
        """What a trial will still take from a step on."""
        seconds = self._speed(device, config, gpus, cpus).seconds(work_of(config))
        hours = seconds * max(0.0, 1 - step / config.train.max_steps) / 3600
        price = market_price(device, None) if gpus else 0.0
        return TrialCost(hours, hours * gpus, hours * gpus * (price or 0.0))

    def _speed(self, device: str, config: TrialConfig, gpus: float, cpus: float) -> RuntimeModel:
        if self._seen[device]:
            if device not in self._fitted:
                self._fitted[device] = fit(self._seen[device][-RECENT:])
            return self._fitted[device]
        if device == CPU:
            return assumed_cpu(cpus)
        known = assumed_gpu(device, gpus, config.runtime.compile)
        return known or RuntimeModel(flop_s=1 / peak_speed(device), basis="assumed", spread=1.0)
