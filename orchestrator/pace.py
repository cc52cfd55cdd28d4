"""What a trial will take on a kind of device: by the trials that have ended there, else by the catalogue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from orchestrator.cluster.spending import market_price
from orchestrator.placement import SpeedOf, peak_speed
from orchestrator.record import Status, TrialRecord
from orchestrator.speed import Observation, Speed, assumed_cpu, assumed_gpu, fit, work_of
from trm_model.config import TrialConfig

CPU = "cpu"
RECENT = 50
"""Trials of a kind of device that an estimate follows."""


class Need(NamedTuple):
    """What a trial will take."""

    hours: float
    gpu_hours: float
    usd: float
    """0 where the catalogue has no price."""


class Pace:
    """Durations of trials, learned while a sweep runs."""

    def __init__(self, records: Iterable[TrialRecord] = ()) -> None:
        self._seen: dict[str, list[Observation]] = defaultdict(list)
        self._fitted: dict[str, Speed] = {}
        for record in records:
            self.learn(record)

    def learn(self, record: TrialRecord) -> None:
        """Take in a trial that has ended; only one that was run whole, in one attempt, says how long a trial takes."""
        if record.status is not Status.FINISHED or len(record.attempts) != 1:
            return
        start, end = record.attempts[0].start, record.attempts[0].end or {}
        seconds = float(end.get("ended_s", 0.0)) - float(start.get("started_s", 0.0))
        if seconds > 0 and start["from_step"] == 0:
            device = str(start.get("gpu_type") or CPU)
            self._seen[device].append(Observation(work_of(record.config), seconds))
            self._fitted.pop(device, None)

    def speed_of(self, config: TrialConfig) -> SpeedOf:
        """FLOP/s of a trial by GPU type."""
        work = work_of(config)
        return lambda gpu_type: work.flops / self._speed(gpu_type, config, 1.0, 1.0).seconds(work)

    def need(self, config: TrialConfig, device: str, *, gpus: float, cpus: float, step: int = 0) -> Need:
        """What a trial will still take from a step on."""
        seconds = self._speed(device, config, gpus, cpus).seconds(work_of(config))
        hours = seconds * max(0.0, 1 - step / config.train.max_steps) / 3600
        price = market_price(device, None) if gpus else 0.0
        return Need(hours, hours * gpus, hours * gpus * (price or 0.0))

    def _speed(self, device: str, config: TrialConfig, gpus: float, cpus: float) -> Speed:
        if self._seen[device]:
            if device not in self._fitted:
                self._fitted[device] = fit(self._seen[device][-RECENT:])
            return self._fitted[device]
        if device == CPU:
            return assumed_cpu(cpus)
        known = assumed_gpu(device, gpus, config.runtime.compile)
        return known or Speed(flop_s=1 / peak_speed(device), basis="assumed", spread=1.0)
