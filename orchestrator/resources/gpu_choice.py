"""Decide whether the trials of a sweep use GPUs where its definition leaves that open: `--gpu auto`, the default.

On this machine they use the GPUs that it has, and share them by memory. On a cluster nothing of this machine is
assumed: they use CPUs, as they do where no GPU can be used. The definition stays open, so that the sweep can be resumed
on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator.resources import local_gpus
from orchestrator.resources.local_gpus import LocalGpu
from orchestrator.resources.memory import memory_bytes
from orchestrator.resources.nodes import Node
from orchestrator.resources.placement import gpus_of
from orchestrator.sweep.definition import Resources, Sweep
from orchestrator.sweep.text import num_bytes, percent, plural

INSTALL_CUDA = "pip install torch --index-url https://download.pytorch.org/whl/cu128"


class GpuChoice(NamedTuple):
    """Hold what was decided for one run or plan."""

    sweep: Sweep
    """The same sweep, with `gpus` decided for every trial."""
    gpus: Sequence[LocalGpu] | None
    """GPUs of this machine that Ray offers to trials; None on a cluster."""
    is_shared: bool
    """Whether a trial that takes one GPU gets only the share that holds its memory."""
    message: str = ""
    """One line that says what was decided; empty where the user has decided it."""

    @property
    def label(self) -> str | None:
        """Return the GPU type of this machine as Ray labels it; None without GPUs and on a cluster."""
        return local_gpus.label_of(self.gpus or ())

    @property
    def memory(self) -> Mapping[str, int]:
        """Return the bytes of memory of this machine's GPUs by type, as the driver reports them."""
        size = local_gpus.smallest_bytes(self.gpus or ())
        return {self.label: size} if self.label is not None and size is not None else {}


def choose_gpus(sweep: Sweep, nodes: Sequence[Node] | None = None, share: bool | None = None) -> GpuChoice:
    """Decide on which devices the trials of a sweep run.

    Args:
        nodes: nodes of the cluster on which they run; None for this machine.
        share: whether trials share GPUs; None: where GPUs were chosen automatically.
    """
    is_open = any(resources.gpus is None for resources in all_resources(sweep))
    if nodes is not None:
        has_gpus = any(node.num_gpus for node in nodes)
        message = "trials use CPUs of the cluster; --gpu any lets them use its GPUs" if is_open and has_gpus else ""
        return GpuChoice(decide_gpus(sweep, 0), None, bool(share), message)
    if not is_open and not any(resources.gpus for resources in all_resources(sweep)):
        return GpuChoice(sweep, (), bool(share))  # `--gpu none`: Ray is told of no GPU
    gpus = local_gpus.local_gpus()
    if not is_open:
        return GpuChoice(sweep, gpus, bool(share))
    if (reason := _unusable(sweep, gpus)) is not None:
        return GpuChoice(decide_gpus(sweep, 0), (), bool(share), reason)
    is_shared = share is not False
    return GpuChoice(decide_gpus(sweep, 1), gpus, is_shared, _describe(sweep, gpus, is_shared))


def all_resources(sweep: Sweep) -> list[Resources]:
    """Return the resources that trials of a sweep may have."""
    return [sweep.resources, *(rule.resources for rule in sweep.resource_rules)]


def decide_gpus(sweep: Sweep, gpus: float) -> Sweep:
    """Return the sweep with a number of GPUs for each trial whose definition leaves that open."""

    def decided(resources: Resources) -> Resources:
        return resources.model_copy(update={"gpus": gpus}) if resources.gpus is None else resources

    rules = tuple(rule.model_copy(update={"resources": decided(rule.resources)}) for rule in sweep.resource_rules)
    return sweep.model_copy(update={"resources": decided(sweep.resources), "resource_rules": rules})


def _unusable(sweep: Sweep, gpus: Sequence[LocalGpu]) -> str | None:
    """Return why trials do not use the GPUs of this machine, or None if they do. Empty where there are none."""
    if not gpus:
        return ""
    found = local_gpus.describe(gpus)
    if sweep.base.runtime.device == "cpu":
        return f"runtime.device=cpu: trials do not use this machine's {found}"
    if local_gpus.torch_cuda_version() is None:
        return f"trials use the CPU: this machine has {found}, but torch is a CPU build ({INSTALL_CUDA})"
    size, need = local_gpus.smallest_bytes(gpus), memory_bytes(sweep.base, "cuda")
    if size is not None and need > size:
        return (
            f"trials use the CPU: one needs {num_bytes(need)} of memory, and this machine's {found} has "
            f"{num_bytes(size)}; `trm sweep plan --gpu {gpus[0].label}` says how it fits"
        )
    return None


def _describe(sweep: Sweep, gpus: Sequence[LocalGpu], is_shared: bool) -> str:
    share = gpus_of(
        Resources(gpus=1), local_gpus.smallest_bytes(gpus), memory_bytes(sweep.base, "cuda"), is_shared=is_shared
    )
    how = ""
    if share < 1:
        count = int(1 / share + 1e-9)
        how = f", up to {plural(count, 'trial')} on each by their memory ({percent(share)} of it for the base's)"
    return f"trials use {local_gpus.describe(gpus)}{how}; --gpu none uses the CPU"
