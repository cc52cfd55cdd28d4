"""Estimate what a sweep would do and cost."""

from __future__ import annotations

from pathlib import Path

from orchestrator.api.inputs import as_run_options, as_sweep
from orchestrator.api.status import status
from orchestrator.records.index import find_definition
from orchestrator.resources.estimate import MAX_SEARCH_CELLS, Estimate, estimate
from orchestrator.resources.pricing import Pricing
from orchestrator.storage import Storage, as_storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import starts_of


def plan(
    sweep: Sweep | str | Path,
    storage: Storage | str | Path = "runs",
    *,
    address: str | None = None,
    max_concurrent: int | None = None,
    share_gpus: bool | None = None,
    provider: str = "aws",
    usd_per_gpu_hour: float | None = None,
) -> Estimate:
    """Estimate trials, steps, FLOPs, time, cost and memory of a sweep. Nothing is started or written.

    Args:
        sweep: a definition, the path of a sweep file, the name of a sweep that the storage holds, or that of a
            packaged one (`demo`).
        storage: where datasets may be built already.
        address: HOST:PORT of a Ray cluster whose nodes are counted; this machine if left out.
        max_concurrent: trials at once; as many as fit if left out.
        share_gpus: whether trials that need less than a GPU's memory share one; None: where the sweep leaves the choice
            of GPUs open.
        provider: whose prices count, of those in the catalogue.
        usd_per_gpu_hour: what a GPU costs, whatever the catalogue says.

    Raises:
        SweepError: no such sweep, one that cannot be expanded, or an option that is not allowed.
        ClusterError: no cluster answers at the address.
    """
    pricing = Pricing(provider=provider, usd_per_gpu_hour=usd_per_gpu_hour)
    options = as_run_options({"address": address, "max_concurrent": max_concurrent, "share_gpus": share_gpus})
    store = as_storage(storage)
    nodes = None
    if options.address is not None:
        from orchestrator.execution.ray_cluster import check_cluster

        nodes = check_cluster(options.address).nodes
    definition = as_sweep(sweep, store)
    if definition.warm_start:
        from orchestrator.search.warm_start import require_earlier

        require_earlier(definition, store)
    if starts_of(definition.plain()):
        from orchestrator.records.start_weights import check_starts  # imports torch

        check_starts(definition, store)
    explored = None
    if definition.kind == "search" and definition.sampler == "random":
        from orchestrator.search.sampler import drawn_cells  # imports Optuna

        explored = drawn_cells(definition, MAX_SEARCH_CELLS)
    found = estimate(definition, store, options.max_concurrent, nodes, options.share_gpus, explored, pricing)
    recorded = find_definition(store, definition.name)
    if recorded is None or recorded.definition() != definition.definition():
        return found
    progress = status(recorded, store).progress
    return found.model_copy(update={"num_done": progress.done, "num_left": progress.left})
