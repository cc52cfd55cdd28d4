"""Energy by the GPU's own meter (NVML). A device that does not report it gives no number; none is estimated.

Needs `nvidia-ml-py`. The meter counts all that the GPU does: on a shared one, others too.
"""

from __future__ import annotations

from typing import Any

import torch


def gpu_uuid(device: torch.device) -> str | None:
    """The name by which NVML knows a CUDA device, whatever CUDA_VISIBLE_DEVICES says; None for any other device."""
    if device.type != "cuda":
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


class EnergyMeter:
    """Counts the energy used since it was created."""

    def __init__(self, uuid: str | None) -> None:
        self._nvml: Any = None
        if uuid is None:
            return
        try:
            import pynvml
        except ImportError:
            return
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            self._start_mj: int = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except pynvml.NVMLError:  # older than Volta, a slice of a GPU, or no right to ask
            return
        self._nvml = pynvml

    def joules(self) -> float | None:
        """Return the energy used since the start; None where the device does not report it."""
        if self._nvml is None:
            return None
        used_mj: int = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._start_mj
        return used_mj / 1000
