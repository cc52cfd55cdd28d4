"""Predict how long a trial takes on a device: its configuration determines the work, finished trials the speed.

    seconds = start + network calls * time per call + FLOPs / rate

Small networks are bound by the calls (each launches a dozen kernels), large ones by the FLOPs, short runs by the start.
The three constants are fitted to finished trials; until there is one, they are assumptions and marked as such. Plans,
budgets and placement use the same `RuntimeModel`.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.records.schema import TrialRecord
from orchestrator.resources.catalogue import CatalogueError, gpu
from orchestrator.resources.placement import SpeedOf, peak_speed
from orchestrator.resources.usage import attempt_usage, price_per_gpu_hour, whole_run
from orchestrator.sweep.matching import shape_of, training_flops
from orchestrator.sweep.text import plural
from trm_data.benchmarks import resolve_benchmark
from trm_data.settings import Settings
from trm_model import cost
from trm_model.config import TrialConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CPU = "cpu"
"""Name of the device of trials without a GPU."""
ASSUMED_SHARE_OF_PEAK = {False: 0.08, True: 0.18}
"""Of a GPU's dense bf16 peak, without and with `runtime.compile`: an H100 gave published shapes 7 to 10 and 17 to 20 %.
The TRM paper's stated run times are about 15 % (ARC-1 on four H100)."""
ASSUMED_GPU_CALL_S = 120e-6
"""Per network layer run forward: a dozen kernels of 10 microseconds each, which small models never fill."""
ASSUMED_GPU_START_S = {False: 10.0, True: 45.0}
"""To import torch, to initialise CUDA and, with `runtime.compile`, to compile."""
ASSUMED_CORE_FLOPS = 40e9
"""Per CPU core, for models as small as the quick start's."""
ASSUMED_SPREAD = 2.0
"""Error factor of an assumption in both directions; it may be exceeded."""
ENOUGH = 4
"""Trials from which all constants are fitted; fewer give a rate alone."""
RECENT = 50
"""Newest trials of a kind of device that a fit follows."""


class Work(NamedTuple):
    """Count what a trial does, training and evaluation together."""

    calls: float
    """Forward passes of a network layer; one backward pass counts as two."""
    train_flops: float
    evaluation_flops: float
    recompute_flops: float = 0.0
    """What the backward pass computes again; not part of `train_flops`."""

    @property
    def flops(self) -> float:
        """Return all FLOPs that the device computes."""
        return self.train_flops + self.recompute_flops + self.evaluation_flops


class Observation(NamedTuple):
    """Record how long a finished trial took."""

    work: Work
    seconds: float


class TrialCost(NamedTuple):
    """Hold the predicted cost of the remaining part of a trial."""

    hours: float
    gpu_hours: float
    usd: float
    """0 where the catalogue has no price."""


class RuntimeFit(Settings):
    """Hold the seconds for a start, a call and a FLOP on one device, and the basis of these constants."""

    start_s: float = 0.0
    call_s: float = 0.0
    flop_s: float
    basis: str
    spread: float
    """Relative error to expect of a prediction: 0.2 is a fifth up or down."""
    is_measured: bool = False
    rate_of: tuple[Work, ...] = ()
    """The work of the measured trials, where they were too few to fit more than a rate."""

    def seconds(self, work: Work) -> float:
        """Predict the duration of one trial."""
        return self.start_s + self.call_s * work.calls + self.flop_s * work.flops

    def error_factors(self, work: Work) -> tuple[float, float]:
        """Return by which factors the true duration of a trial may be less, and more, than the predicted one.

        Where only a rate was measured, the time of the measured trials may have been all start, all calls or all FLOPs.
        The duration of a trial with other work lies between these cases.
        """
        low, high = 0.0, math.inf
        for measured in self.rate_of:
            flops = work.flops / measured.flops
            ratios = (1.0, work.calls / measured.calls, flops)
            low, high = max(low, min(ratios) / flops), min(high, max(ratios) / flops)
        if not self.rate_of:
            low = high = 1.0
        return low / (1 + self.spread), high * (1 + self.spread)


class _FinishedRun(NamedTuple):
    """Describe a trial that a single attempt ran from its first step to its end."""

    started_s: float
    seconds: float
    config: TrialConfig
    device: str
    share: float
    host: str
    num_threads: int | None


class RuntimeModel:
    """Predict how long trials take, from the finished trials seen so far.

    Args:
        host: the machine for whose CPU is predicted; None takes CPU trials of every host.
    """

    def __init__(self, records: Iterable[TrialRecord] = (), host: str | None = None) -> None:
        self._host = host
        self._runs: dict[str, list[_FinishedRun]] = {}
        self._fits: dict[tuple[object, ...], RuntimeFit | None] = {}
        for record in records:
            self.learn(record)

    def learn(self, record: TrialRecord) -> None:
        """Add a trial to the model. Only one that a single attempt ran from start to end is used."""
        run = _finished_run(record)
        if run is None or (run.device == CPU and self._host not in (None, run.host)):
            return
        self._runs.setdefault(run.device, []).append(run)
        self._fits.clear()

    def fit_for(self, config: TrialConfig, device: str, *, gpus: float, cpus: float) -> RuntimeFit | None:
        """Return the constants for similar trials on `CPU` or a GPU type: measured, else assumed.

        None for a GPU that the catalogue does not know and on which nothing has run.
        """
        name, share = _device_name(device), gpus or 1.0
        threads = config.runtime.num_threads or max(1, int(cpus))
        key = (name, share, threads, _shape(config))
        if key not in self._fits:
            seen = self._observations(config, name, share, threads)
            self._fits[key] = fit(seen) if seen else _assumed(name, share, cpus, config.runtime.compile)
        return self._fits[key]

    def need(self, config: TrialConfig, device: str, *, gpus: float, cpus: float, step: int = 0) -> TrialCost:
        """Predict the remaining cost of a trial from a step on."""
        seconds = self._fit(config, device, gpus, cpus).seconds(work_of(config))
        hours = seconds * max(0.0, 1 - step / config.train.max_steps) / 3600
        price = price_per_gpu_hour(device) if gpus else 0.0
        return TrialCost(hours, hours * gpus, hours * gpus * (price or 0.0))

    def speed_of(self, config: TrialConfig) -> SpeedOf:
        """Return the FLOP/s of a trial on a whole GPU, by GPU type."""
        work = work_of(config)
        return lambda gpu_type: work.flops / self._fit(config, gpu_type, 1.0, 1.0).seconds(work)

    def _fit(self, config: TrialConfig, device: str, gpus: float, cpus: float) -> RuntimeFit:
        found = self.fit_for(config, device, gpus=gpus, cpus=cpus)
        return found or RuntimeFit(flop_s=1 / peak_speed(device), basis="assumed", spread=1.0)

    def _observations(self, config: TrialConfig, device: str, share: float, threads: int) -> list[Observation]:
        """Select finished trials that are comparable: on an equal share of the device, else on another share.

        Of these only trials of the same width and mixer that were compiled alike count, where there are enough.
        """
        runs = self._runs.get(device, [])
        if device == CPU:
            runs = [run for run in runs if run.num_threads in (None, threads)]
        runs = [run for run in runs if run.share == share] or runs
        close = [run for run in runs if _shape(run.config) == _shape(config)]
        chosen = sorted(close if len(close) >= ENOUGH else runs, key=lambda run: run.started_s)[-RECENT:]
        # Trials that share a GPU are assumed to wait for each other: on a smaller share one is slower in proportion.
        return [
            Observation(work_of(run.config), run.seconds * max(1.0, min(1.0, run.share) / min(1.0, share)))
            for run in chosen
        ]


def _finished_run(record: TrialRecord) -> _FinishedRun | None:
    """Return how and where a trial ran, if a single attempt ran all of it."""
    attempt = whole_run(record)
    if attempt is None:
        return None
    seconds = attempt_usage(record)[0].duration_s
    if attempt.end is None or attempt.start.from_step != 0 or seconds <= 0:
        return None
    start = attempt.start
    gpu_name = start.gpu_type or start.gpu_name
    is_cpu = start.device == CPU or gpu_name is None
    return _FinishedRun(
        started_s=start.started_s,
        seconds=seconds,
        config=record.config,
        device=CPU if is_cpu or gpu_name is None else _device_name(gpu_name),
        share=1.0 if is_cpu else start.gpu_count or 1.0,
        host=start.host or "",
        num_threads=start.num_threads,
    )


def _shape(config: TrialConfig) -> tuple[int, str, bool]:
    """Return the settings that the time per FLOP depends on most."""
    return config.model.hidden_size, config.model.mixer, config.runtime.compile


def _device_name(name: str) -> str:
    """Return the catalogue's name of a GPU, so that Ray's label and the driver's name are one device."""
    try:
        return name if name == CPU else gpu(name).name
    except CatalogueError:
        return name


def _assumed(device: str, share: float, cpus: float, compiled: bool) -> RuntimeFit | None:
    return assumed_cpu(cpus) if device == CPU else assumed_gpu(device, share, compiled)


def work_of(config: TrialConfig) -> Work:
    """Compute what a trial does from its configuration alone."""
    shape = shape_of(config)
    network = cost.network_flops(config.model, seq_len=shape["seq_len"])
    forward = cost.forward_flops(config.model, **shape)
    trained = training_flops(config)
    step = cost.train_flops(config.model, **shape, frozen=config.train.freezes_network)
    again = trained * cost.recompute_flops(config, seq_len=shape["seq_len"]) / step
    batches, rows = _evaluations(config)
    steps = config.evaluation.supervision_steps or config.model.supervision_steps
    layers = config.model.num_layers
    parts = math.ceil(config.train.batch_size / (config.runtime.micro_batch_size or config.train.batch_size))
    calls = layers * (parts * (trained + again) / config.train.batch_size + batches * steps * forward) / network
    return Work(calls, trained, float(forward) * steps * rows, again)


def _evaluations(config: TrialConfig) -> tuple[float, float]:
    """Count batches and puzzles of the curve (raw and averaged weights) and of the final score."""
    benchmark = resolve_benchmark(config.data.benchmark)
    every = config.runtime.evaluate_every or max(1, config.train.max_steps // 10)
    times = (2 if config.optimizer.ema_rate and not config.train.freezes_network else 1) * (
        config.train.max_steps // every
    )
    on_curve = config.runtime.evaluate_puzzles or _count(config.data.num_validation, benchmark.num_validation)
    scored = config.evaluation.max_puzzles or _count(config.data.num_test, benchmark.num_test)
    scored *= config.evaluation.votes * config.evaluation.rollouts * (1 + len(config.optimizer.further_ema_rates))
    size = config.evaluation.batch_size
    return times * math.ceil(on_curve / size) + math.ceil(scored / size), times * on_curve + scored


def _count(set_by_user: int | None, default: int | None) -> int:
    return set_by_user if set_by_user is not None else (default if default is not None else 1000)


def fit(observations: Sequence[Observation]) -> RuntimeFit:
    """Fit the constants that predict finished trials best, by least squares of the relative errors.

    Needs at least one observation.
    """
    works = {each.work for each in observations}
    update = {"spread": _spread(observations), "rate_of": tuple(sorted(works)) if len(works) < ENOUGH else ()}
    return _measured(_constants(observations), observations).model_copy(update=update)


def _measured(constants: tuple[float, float, float], observations: Sequence[Observation]) -> RuntimeFit:
    start_s, call_s, flop_s = constants
    basis = f"measured on {plural(len(observations), 'trial')}"
    return RuntimeFit(start_s=start_s, call_s=call_s, flop_s=flop_s, basis=basis, spread=0.0, is_measured=True)


def _constants(observations: Sequence[Observation]) -> tuple[float, float, float]:
    if len({each.work for each in observations}) < ENOUGH:
        return 0.0, 0.0, statistics.median(each.seconds / each.work.flops for each in observations)
    import numpy as np

    features = np.array([[1.0, each.work.calls, each.work.flops] for each in observations])
    relative = features / np.array([[each.seconds] for each in observations])
    scale = relative.mean(axis=0)
    start_s, call_s, flop_s = (_nonnegative_least_squares(relative / scale) / scale).tolist()
    return start_s, call_s, flop_s


def _nonnegative_least_squares(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the constants, none of them negative, whose products with each row of features are closest to 1.

    With the negative ones at 0, the others are the solution without the constraint: all sets of columns are tried.
    The result is that of `scipy.optimize.nnls`, whose import takes longer than the rest of `trm sweep plan`.
    """
    import numpy as np

    best, least = np.zeros(features.shape[1]), float(len(features))
    for size in range(1, features.shape[1] + 1):
        for columns in map(list, itertools.combinations(range(features.shape[1]), size)):
            found = np.linalg.lstsq(features[:, columns], np.ones(len(features)), rcond=None)[0]
            error = float(((features[:, columns] @ found - 1) ** 2).sum())
            if found.min() >= 0 and error < least:
                best, least = np.zeros(features.shape[1]), error
                best[columns] = found
    return best


def _spread(observations: Sequence[Observation]) -> float:
    """Return the root mean square of the relative errors, each trial predicted from the others."""
    if len(observations) < 2:
        return ASSUMED_SPREAD / 2
    errors = []
    for index, left_out in enumerate(observations):
        others = [*observations[:index], *observations[index + 1 :]]
        predicted = _measured(_constants(others), others).seconds(left_out.work)
        errors.append(predicted / left_out.seconds - 1)
    return math.sqrt(statistics.fmean(error**2 for error in errors))


def assumed_cpu(cpus: float) -> RuntimeFit:
    """Assume the speed of a machine on which no trial has finished."""
    basis = "assumed, no trial has run on this machine yet"
    return RuntimeFit(flop_s=1 / (ASSUMED_CORE_FLOPS * max(1.0, cpus)), basis=basis, spread=ASSUMED_SPREAD)


def assumed_gpu(name: str, share: float, compiled: bool) -> RuntimeFit | None:
    """Assume the speed of a GPU type on which no trial has finished; None if the catalogue does not know it.

    Trials that share a GPU take turns: k of them are k times slower at worst, and together as fast as one.
    """
    try:
        peak = gpu(name).peak_flops
    except CatalogueError:
        return None
    if peak is None:
        return None
    share_of_peak = ASSUMED_SHARE_OF_PEAK[compiled]
    basis = f"assumed {100 * share_of_peak:.0f} % of peak"
    slower = 1.0
    if 0 < share < 1:
        slower = 1 / share
        basis += f", {slower:.3g} times slower where {slower:.3g} share a GPU"
    rate = share_of_peak * peak * max(1.0, share)
    return RuntimeFit(
        start_s=slower * ASSUMED_GPU_START_S[compiled],
        call_s=slower * ASSUMED_GPU_CALL_S,
        flop_s=slower / rate,
        basis=basis,
        spread=ASSUMED_SPREAD,
    )
