"""Sample the resource use of a trial while it trains: rows of the split `system` in its record.

Names are those of MLflow's own system metrics, so that its page shows them in their place. Energy is read from the
counter of the GPU itself (NVML, Volta and newer) since the attempt began; a trial on a share of a GPU is charged that
share. This is the only energy meter: where the device has no counter there is no value.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import psutil

from orchestrator.records.schema import GPU_ENERGY

EVERY_S = 10.0
"""MLflow's default. A sample takes a millisecond."""
LAST_S = 1.0
"""No sample is taken at the end if there was one so shortly before."""
MIB = 2**20


class Gpus(Protocol):
    """Access the GPUs that a process may use."""

    def sample(self) -> dict[str, float]:
        """Return utilization, memory and power of each GPU."""

    def energy_j(self) -> float | None:
        """Return the energy of all GPUs in joules since some past moment; None if they do not measure it."""


class SystemMetrics:
    """Take samples, at most every `EVERY_S` seconds. `gpu_share`: the assigned part of a GPU, or 1 and more."""

    def __init__(self, gpus: Gpus | None, gpu_share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._gpus = gpus
        self._share = min(1.0, gpu_share)
        self._clock = clock
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first value is 0: it counts from this call
        psutil.cpu_percent()
        self._sampled_s = clock()
        self._energy_before_j = gpus.energy_j() if gpus else None

    def due(self) -> dict[str, float]:
        """Return a sample, or an empty dictionary if the last one is recent."""
        return self.sample() if self._clock() - self._sampled_s >= EVERY_S else {}

    def last(self) -> dict[str, float]:
        """Return a sample at the end of a trial on GPUs, so that its energy is complete; else an empty dictionary."""
        is_new = self._clock() - self._sampled_s > LAST_S
        return self.sample() if is_new and self._energy_before_j is not None else {}

    def sample(self) -> dict[str, float]:
        """Return a sample of the process, its machine and its GPUs."""
        self._sampled_s = self._clock()
        found = {
            "process_cpu_percentage": self._process.cpu_percent(),
            "process_memory_usage_megabytes": self._process.memory_info().rss / MIB,
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": psutil.virtual_memory().percent,
        }
        if self._gpus is not None:
            found |= self._gpus.sample()
            energy_j = self._gpus.energy_j()
            if energy_j is not None and self._energy_before_j is not None:
                found[GPU_ENERGY] = (energy_j - self._energy_before_j) * self._share
        return found


class NvmlGpus:
    """Read NVIDIA's management library, for the devices that torch sees in this process."""

    def __init__(self, nvml: Any, uuids: Sequence[str]) -> None:
        """Raise `nvml.NVMLError` where the library or a device cannot be used."""
        self._nvml = nvml
        nvml.nvmlInit()
        self._handles = [nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]

    def sample(self) -> dict[str, float]:
        """Return utilization, memory and power of each GPU."""
        found: dict[str, float] = {}
        for index, handle in enumerate(self._handles):
            with suppress(self._nvml.NVMLError):  # older cards do not report all of these
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                found[f"gpu_{index}_memory_usage_megabytes"] = memory.used / MIB
                found[f"gpu_{index}_memory_usage_percentage"] = 100 * memory.used / memory.total
                used = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu
                found[f"gpu_{index}_utilization_percentage"] = float(used)
                found[f"gpu_{index}_power_usage_watts"] = self._nvml.nvmlDeviceGetPowerUsage(handle) / 1000
        return found

    def energy_j(self) -> float | None:
        """Return the energy of all GPUs in joules since some past moment; None if one does not measure it."""
        try:
            return float(sum(map(self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._handles))) / 1000
        except self._nvml.NVMLError:
            return None


def gpus_of(device: str) -> Gpus | None:
    """Return the GPUs of a process that trains on `device`; None on a CPU, or if NVML cannot be used."""
    if device != "cuda":
        return None
    import pynvml
    import torch

    devices = range(torch.cuda.device_count())
    try:
        return NvmlGpus(pynvml, [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in devices])
    except pynvml.NVMLError:
        return None
