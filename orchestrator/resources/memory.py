"""How much memory a trial takes: predicted from its configuration, corrected by trials that have run.

A configuration tells what training holds. What a process takes besides (Python, torch, its pools; on a GPU what the
allocator keeps) it cannot tell, and that differs by machine: an assumption, until finished trials have shown it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from orchestrator.records.schema import Status, TrialRecord
from orchestrator.sweep.matching import shape_of
from trm_data.benchmarks import resolve_benchmark
from trm_model import cost
from trm_model.config import TrialConfig

ARC_TASKS = 960
"""With ConceptARC; the table of puzzle embeddings has a row for each of their augmented copies."""


def memory_bytes(config: TrialConfig, device: str, overhead_bytes: int | None = None) -> int:
    """Most memory of one trial: of the GPU (`cuda`), or of its process (`cpu`).

    `overhead_bytes` is what was measured to be taken whatever is trained (`measured_overhead_bytes`).
    """
    taken = cost.process_bytes(device) if overhead_bytes is None else overhead_bytes
    shape = shape_of(config)
    return taken + cost.training_bytes(config, num_identifiers=num_identifiers(config), device=device, **shape)


def measured_overhead_bytes(records: Iterable[TrialRecord], device: str, where: str) -> int | None:
    """What finished trials took besides the prediction for their training; None where none has told.

    `where` is a host (`cpu`) or a GPU type (`cuda`): the median over the trials that ran there from start to end.
    """
    found = []
    for record in records:
        if record.status is not Status.FINISHED or len(record.attempts) != 1:
            continue
        start, peak = record.attempts[0].start, _peak(record, device)
        ran_there = start.host if device == "cpu" else start.gpu_type
        if peak and start.device == device and ran_there == where:
            found.append(peak - memory_bytes(record.config, device, overhead_bytes=0))
    return int(statistics.median(found)) if found else None


def _peak(record: TrialRecord, device: str) -> int | None:
    end = record.attempts[0].end
    if end is None:
        return None
    return end.peak_bytes if device == "cpu" else end.gpu_peak_bytes


def num_identifiers(config: TrialConfig) -> int:
    """Rows of the table of puzzle embeddings."""
    is_arc = resolve_benchmark(config.data.benchmark).family == "arc"
    return ARC_TASKS * (1 + config.data.num_augmentations) if is_arc else 1
