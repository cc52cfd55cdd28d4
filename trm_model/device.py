"""Choose the device and the number format of a run by their names in `RuntimeConfig` and `TrainConfig`."""

from __future__ import annotations

import torch

from trm_data.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float32-fast": torch.float32}
"""`TrainConfig.dtype` -> the type of weights and states in a forward pass."""


def resolve_device(name: str) -> torch.device:
    """Return the device of a name in `RuntimeConfig.device`; `auto` is the CUDA device if there is one, else the CPU.

    Raises:
        ConfigError: CUDA or MPS is requested, but there is no such usable device.
    """
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("runtime.device='mps', but this machine has none", "Set it to auto or cpu")
        return torch.device("mps")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device='cuda', but this machine has no usable CUDA device", "Set it to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
