"""What a trial takes of its machine: samples in its record, and the energy of its GPUs."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.records.schema import GPU_ENERGY, Attempt, Row
from orchestrator.resources.usage import measured_kwh
from orchestrator.tracking import mlflow_view
from orchestrator.worker.telemetry import EVERY_S, NvmlGpus, SystemMetrics
from tests.support.tracking import START_S, finished


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Meter:
    """A GPU of 200 W."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def sample(self) -> dict[str, float]:
        return {"gpu_0_power_usage_watts": 200.0}

    def energy_j(self) -> float:
        return 5000.0 + 200.0 * self.clock.now


def test_samples_come_at_their_interval_and_name_process_and_machine() -> None:
    clock = Clock()
    monitor = SystemMetrics(None, 1.0, clock)
    assert monitor.due() == {}
    clock.now += EVERY_S
    sample = monitor.due()
    assert sample["process_memory_usage_megabytes"] > 10 and 0 <= sample["cpu_utilization_percentage"] <= 100
    assert monitor.due() == {} and monitor.last() == {}, "nothing more is known of a CPU at the end"


@pytest.mark.parametrize(("share", "charged"), [(1.0, 1.0), (0.25, 0.25), (2.0, 1.0)])
def test_energy_counts_from_the_start_and_by_the_share_of_the_gpu(share: float, charged: float) -> None:
    clock = Clock()
    monitor = SystemMetrics(Meter(clock), share, clock)
    clock.now += 60
    assert monitor.last()[GPU_ENERGY] == pytest.approx(60 * 200 * charged)
    assert monitor.last() == {}, "the end comes once"


class Nvml:
    """NVIDIA's library as far as it is asked: two devices, the second of which does not count energy."""

    class NVMLError(Exception): ...

    def __init__(self, counts: bool) -> None:
        self.counts = counts

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> object:
        return dataclasses.make_dataclass("Memory", ["used", "total"])(2**30, 2**32)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> object:
        return dataclasses.make_dataclass("Rates", ["gpu"])(75)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 250_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if not self.counts and handle == "b":
            raise self.NVMLError
        return 3_000_000


def test_gpus_answer_in_the_units_of_mlflow() -> None:
    gpus = NvmlGpus(Nvml(counts=True), ["a", "b"])
    assert gpus.sample()["gpu_1_memory_usage_megabytes"] == 1024
    assert gpus.sample()["gpu_0_power_usage_watts"] == 250 and gpus.energy_j() == 6000
    assert NvmlGpus(Nvml(counts=False), ["a", "b"]).energy_j() is None


def test_energy_of_a_trial_is_that_of_all_its_attempts() -> None:
    trial = finished()
    starts = [trial.attempts[0].start.model_copy(update={"started_s": START_S + offset}) for offset in (0, 100)]
    rows = [
        Row(10, START_S + 10, "system", {GPU_ENERGY: 1.0e6}),
        Row(20, START_S + 20, "system", {GPU_ENERGY: 1.8e6}),
        Row(30, START_S + 130, "system", {GPU_ENERGY: 1.8e6}),
    ]
    twice = dataclasses.replace(trial, rows=rows, attempts=[Attempt(1, starts[0], None), Attempt(2, starts[1], None)])
    assert measured_kwh(twice) == pytest.approx(1.0)
    assert measured_kwh(dataclasses.replace(twice, rows=rows[:2])) is None, "one attempt did not measure"
    names = [point.name for point in mlflow_view.points(mlflow_view.rows(twice))]
    assert "system/gpu_energy_joules" in names and "cost/kwh_measured" in names
