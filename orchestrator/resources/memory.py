"""Predict the memory of a trial from its configuration, corrected by finished trials.

The configuration determines what training holds. The overhead of a process (Python, torch and its pools; on a GPU what
the allocator keeps) differs between machines: it is assumed until finished trials have shown it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from orchestrator.records.schema import Attempt, TrialRecord
from orchestrator.resources.usage import whole_run
from orchestrator.sweep.matching import shape_of
from trm_data.benchmarks import has_tasks
from trm_model import cost
from trm_model.config import TrialConfig

ARC_TASKS = 960
"""Tasks with ConceptARC; the table of puzzle embeddings has a row for each of their augmented copies."""


def memory_bytes(config: TrialConfig, device: str, overhead_bytes: int | None = None) -> int:
    """Predict the peak memory of one trial in bytes: of the GPU (`cuda`), or of its process (`cpu`).

    Args:
        overhead_bytes: measured overhead (see `measured_overhead_bytes`); None assumes one.
    """
    taken = cost.process_bytes(device) if overhead_bytes is None else overhead_bytes
    shape = shape_of(config)
    return taken + cost.training_bytes(config, num_identifiers=num_identifiers(config), device=device, **shape)


def measured_overhead_bytes(records: Iterable[TrialRecord], device: str, where: str) -> int | None:
    """Return the memory that finished trials used beyond the prediction for their training; None without any.

    `where` is a host (`cpu`) or a GPU type (`cuda`): the median over the trials that ran there from start to end.
    """
    found = []
    for record in records:
        if (attempt := whole_run(record)) is None:
            continue
        start, peak = attempt.start, _peak(attempt, device)
        ran_there = start.host if device == "cpu" else start.gpu_type
        if peak and start.device == device and ran_there == where:
            found.append(peak - memory_bytes(record.config, device, overhead_bytes=0))
    return int(statistics.median(found)) if found else None


def _peak(attempt: Attempt, device: str) -> int | None:
    end = attempt.end
    if end is None:
        return None
    return end.peak_bytes if device == "cpu" else end.gpu_peak_bytes


def num_identifiers(config: TrialConfig) -> int:
    """Return the number of rows of the table of puzzle embeddings."""
    return ARC_TASKS * (1 + config.data.num_augmentations) if has_tasks(config.data.benchmark) else 1
