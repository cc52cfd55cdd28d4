"""Find the GPUs of this machine as NVIDIA's driver reports them, without loading torch or Ray."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.resources.catalogue import ray_label

VISIBLE = "CUDA_VISIBLE_DEVICES"
MIB = 2**20
QUERY_S = 20.0
"""Longest wait for `nvidia-smi`, which takes seconds where no process keeps the driver loaded."""


class LocalGpu(NamedTuple):
    """Describe one GPU of this machine."""

    name: str
    """As `nvidia-smi` names it."""
    memory_bytes: int | None = None
    """None if the driver does not say."""

    @property
    def label(self) -> str:
        """Return Ray's label for it."""
        return ray_label(self.name)


class _Found(NamedTuple):
    uuid: str
    gpu: LocalGpu


def local_gpus() -> list[LocalGpu]:
    """Return the GPUs of this machine that processes may use: all, or those that `CUDA_VISIBLE_DEVICES` names.

    Empty without NVIDIA's driver. The order is that of the variable, else the driver's.
    """
    text = os.environ.get(VISIBLE)
    wanted = None if text is None else [part.strip() for part in text.split(",")]
    if wanted is not None and wanted[0] in ("", "-1", "NoDevFiles"):
        return []
    found = _from_nvml()
    if found is None:
        found = _from_nvidia_smi()
    return [each.gpu for each in found] if wanted is None else _named(wanted, found)


def label_of(gpus: Sequence[LocalGpu]) -> str | None:
    """Return the label of a node with these GPUs: their type, `mixed` for several types, None without any.

    A Ray node has one label, and Ray itself would take the type of the first GPU for all.
    """
    labels = {gpu.label for gpu in gpus}
    return (labels.pop() if len(labels) == 1 else "mixed") if labels else None


def smallest_bytes(gpus: Sequence[LocalGpu]) -> int | None:
    """Return the memory of the smallest GPU: a trial may run on any of them. None if one is not known."""
    sizes = [gpu.memory_bytes for gpu in gpus]
    known = [size for size in sizes if size is not None]
    return min(known) if known and len(known) == len(sizes) else None


def describe(gpus: Sequence[LocalGpu]) -> str:
    """Format GPUs as `2 x NVIDIA L40S, 1 x NVIDIA H100`."""
    names = [gpu.name for gpu in gpus]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def torch_cuda_version() -> str | None:
    """Return the CUDA version of the installed torch, read from its files; None for a CPU build or without torch."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        with suppress(OSError):
            text = (Path(folder) / "version.py").read_text()
            if found := re.search(r"^cuda\b.*=\s*'([\d.]+)'", text, re.MULTILINE):
                return found[1]
    return None


def _named(wanted: Sequence[str], found: Sequence[_Found]) -> list[LocalGpu]:
    """Return the GPUs that a list of indices, UUIDs or their first letters names. As in CUDA, a wrong name ends it."""
    chosen: list[LocalGpu] = []
    for name in wanted:
        if name.startswith("MIG-"):
            chosen.append(LocalGpu("MIG device"))  # a slice of a GPU, which the list of whole ones does not contain
            continue
        matches = [each for each in found if not name.isdigit() and name and each.uuid.startswith(name)]
        if name.isdigit() and int(name) < len(found):
            matches = [found[int(name)]]
        if len(matches) != 1:
            break
        chosen.append(matches[0].gpu)
    return chosen


def _from_nvml() -> list[_Found] | None:
    """Return the GPUs by NVIDIA's management library; None where it cannot be used."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return [_read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return None
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _read(nvml: Any, index: int) -> _Found:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory: int | None = None
    with suppress(nvml.NVMLError):  # GPUs with unified memory do not report it
        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    return _Found(_text(nvml.nvmlDeviceGetUUID(handle)), LocalGpu(_text(nvml.nvmlDeviceGetName(handle)), memory))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _from_nvidia_smi() -> list[_Found]:
    """Return the GPUs that the command `nvidia-smi` lists; none where there is no such command, or it fails."""
    command = ["nvidia-smi", "--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for row in listed.splitlines():
        parts = [part.strip() for part in row.split(",")]
        if len(parts) == 3:
            memory = int(parts[2]) * MIB if parts[2].isdigit() else None
            found.append(_Found(parts[0], LocalGpu(parts[1], memory)))
    return found
