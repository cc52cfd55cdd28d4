"""Stand-ins for the GPUs of a machine: NVIDIA's management library, its command, and a torch that can use them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.resources import local_gpus

MIB = 2**20
RTX_4090 = ("NVIDIA GeForce RTX 4090", 24564)
UNKNOWN = ("NVIDIA Imaginary X9000", 8192)


class NVMLError(Exception):
    """What the library raises."""


def nvml(*gpus: tuple[str, int], works: bool = True) -> SimpleNamespace:
    """A module `pynvml` on a machine with these GPUs: names and MiB."""

    def start() -> None:
        if not works:
            raise NVMLError("Driver Not Loaded")

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=start,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda index: f"GPU-{index}{index}{index}{index}-0000",
        nvmlDeviceGetName=lambda index: gpus[index][0],
        nvmlDeviceGetMemoryInfo=lambda index: SimpleNamespace(total=gpus[index][1] * MIB),
    )


def pretend(
    monkeypatch: pytest.MonkeyPatch, *gpus: tuple[str, int], visible: str | None = None, cuda: str | None = "12.8"
) -> None:
    """Let this process find these GPUs, and a torch for CUDA `cuda` (None: a CPU build)."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml(*gpus))
    monkeypatch.setattr(local_gpus, "torch_cuda_version", lambda: cuda)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def nvidia_smi(folder: Path, *gpus: tuple[str, int]) -> None:
    """Write a command `nvidia-smi` that lists these GPUs."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = "\n".join(f"GPU-{index}{index}, {name}, {memory}" for index, (name, memory) in enumerate(gpus))
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\ncat <<END\n{rows}\nEND\n")
    script.chmod(0o755)
