"""Resolve a device and a precision by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from trm_data.errors import ConfigError

if TYPE_CHECKING:
    pass


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float32-fast": torch.float32}


def resolve_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one.

    Raises:
        ConfigError: CUDA is asked for and not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device='cuda', but this machine has no usable CUDA device", "Set it to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
