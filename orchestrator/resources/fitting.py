"""Propose how a configuration fits the memory of a GPU: smaller micro-batches, and recomputing in the backward pass.

Neither changes a result. Both take time: every micro-batch launches its kernels again, and what is recomputed is
computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, get_args

from orchestrator.resources.memory import memory_bytes
from orchestrator.resources.runtime import RuntimeFit, assumed_gpu, work_of
from trm_model.config import RuntimeConfig, TrialConfig

ROOM = 0.9
"""Share of a GPU's memory for a trial: the allocator and the driver need the rest."""
RECOMPUTE = get_args(RuntimeConfig.model_fields["recompute"].annotation)


class Fitting(NamedTuple):
    """Hold a proposal: the settings, what they need, and what they take in time."""

    config: TrialConfig
    memory_bytes: int
    slowdown: float
    """Predicted time divided by that of the same configuration on such a GPU with enough memory."""
    seconds: float | None
    """Predicted time of a trial; None for a GPU that the catalogue does not know."""

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings that differ from their defaults, as `--set` takes them."""
        runtime = self.config.runtime
        found = {"runtime.micro_batch_size": runtime.micro_batch_size, "runtime.recompute": runtime.recompute}
        return {path: str(value) for path, value in found.items() if value not in (None, "none")}


def fit_memory(config: TrialConfig, gpu_type: str, gpu_bytes: int) -> Fitting | None:
    """Return the quickest combination of micro-batch and recomputation that fits a GPU, or None if none does.

    Args:
        gpu_bytes: memory of the GPU, of which `ROOM` is used.
    """
    speed = assumed_gpu(gpu_type, 1.0, config.runtime.compile)
    # Of an unknown GPU only relations are predicted: as if it were bound by its arithmetic.
    timing = speed or RuntimeFit(flop_s=1e-12, basis="", spread=0)
    whole_s = timing.seconds(work_of(_with(config, None, "none")))
    fitting = []
    for candidate in _candidates(config):
        need = memory_bytes(candidate, "cuda")
        if need <= ROOM * gpu_bytes:
            seconds = timing.seconds(work_of(candidate))
            fitting.append(Fitting(candidate, need, seconds / whole_s, seconds if speed else None))
    return min(fitting, key=lambda one: (one.slowdown, one.memory_bytes), default=None)


def _candidates(config: TrialConfig) -> Iterator[TrialConfig]:
    size = config.train.batch_size
    while size:
        for recompute in RECOMPUTE:
            yield _with(config, size if size < config.train.batch_size else None, recompute)
        size //= 2


def _with(config: TrialConfig, micro_batch_size: int | None, recompute: str) -> TrialConfig:
    changed = config.runtime.model_copy(update={"micro_batch_size": micro_batch_size, "recompute": recompute})
    return config.model_copy(update={"runtime": changed})
