"""Where the trials of a sweep may run: this machine and GPU types, how fast each is, how many trials it holds."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence

import psutil

from orchestrator.records.reader import read_trials
from orchestrator.records.schema import TrialRecord
from orchestrator.resources import catalogue
from orchestrator.resources.catalogue import CatalogueError
from orchestrator.resources.memory import measured_overhead_bytes
from orchestrator.resources.nodes import Node
from orchestrator.resources.placement import KNOWN_TYPES, gpu_types, gpus_of
from orchestrator.resources.runtime import RuntimeModel, assumed_cpu, assumed_gpu, fit, observations
from orchestrator.storage import LocalStorage, Storage
from orchestrator.sweep.definition import Resources, Sweep
from trm_data.settings import Settings

HERE = "this machine"


class Device(Settings):
    """Where trials may run."""

    name: str
    speed: RuntimeModel | None
    """None: a GPU that the catalogue does not know and on which nothing has run."""
    memory_bytes: int | None
    usd_per_hour: float | None = None
    """Of what one trial occupies."""
    gpus: float = 0
    """That one trial occupies: a share of one below 1."""
    besides_bytes: int | None = None
    """Measured there: what a trial takes besides its training."""

    @property
    def kind(self) -> str:
        """As torch calls it."""
        return "cpu" if self.name == HERE else "cuda"


def devices_of(sweep: Sweep, storage: Storage, shared_bytes: int | None = None) -> list[Device]:
    """This machine first, then the GPUs that the sweep may use; of each, what holds `shared_bytes` if that is given."""
    records = list(_recorded(storage))
    here = _here(sweep, records)
    types = gpu_types(sweep.resources.gpu_type) or KNOWN_TYPES
    return [here, *(_gpu(name, sweep, records, shared_bytes) for name in types)]


def _recorded(storage: Storage) -> Iterator[TrialRecord]:
    """Records of a local storage; a remote one is not read through for an estimate."""
    if isinstance(storage, LocalStorage):
        for name in sorted({key.split("/")[1] for key in storage.list("sweeps") if key.endswith("/trial.json")}):
            yield from read_trials(storage, name)


def _here(sweep: Sweep, records: Sequence[TrialRecord]) -> Device:
    threads = sweep.base.runtime.num_threads or max(1, int(sweep.resources.cpus))
    host = socket.gethostname()
    found = observations(records, sweep.base, gpu_type=None, share=0, host=host, threads=threads)
    return Device(
        name=HERE,
        speed=fit(found) if found else assumed_cpu(sweep.resources.cpus),
        memory_bytes=psutil.virtual_memory().total // _local_slots(sweep.resources),
        besides_bytes=measured_overhead_bytes(records, "cpu", host),
    )


def _gpu(name: str, sweep: Sweep, records: Sequence[TrialRecord], shared_bytes: int | None) -> Device:
    share = gpus_of(sweep.resources, name, shared_bytes, is_shared=True) or 1
    found = observations(records, sweep.base, gpu_type=name, share=share, host="", threads=0)
    try:
        memory = int(catalogue.gpu(name).memory_bytes * min(1.0, share))
        usd = catalogue.usd_per_gpu_hour(name) * share
    except CatalogueError:
        memory, usd = None, None
    return Device(
        name=name,
        speed=fit(found) if found else assumed_gpu(name, share, sweep.base.runtime.compile),
        memory_bytes=memory,
        usd_per_hour=usd,
        gpus=share,
        besides_bytes=measured_overhead_bytes(records, "cuda", name),
    )


def _local_slots(resources: Resources) -> int:
    return max(1, int((os.cpu_count() or 1) // resources.cpus))


def slots_of(
    sweep: Sweep,
    devices: Sequence[Device],
    too_small: Collection[str],
    most: int | None,
    nodes: Sequence[Node] | None,
) -> dict[str, int]:
    """Trials at once by device: on a cluster's nodes, else on this machine, else on GPUs of one type.

    That is the cheapest one that holds every cell; `too_small` names those that do not.
    """
    if nodes is not None:
        found = _cluster_slots(sweep.resources, nodes, {device.name: device.gpus for device in devices})
    elif not sweep.resources.gpus:
        found = {HERE: _local_slots(sweep.resources)}
    else:
        best = min(devices[1:], key=lambda device: (device.name in too_small, device.usd_per_hour or float("inf")))
        found = {best.name: most or max(1, _held(1, best.gpus))}
    left = most or sum(found.values())
    limited = {}
    for name, count in found.items():
        limited[name] = min(count, left)
        left -= limited[name]
    return {name: count for name, count in limited.items() if count}


def _held(gpus: float, each: float) -> int:
    """How many trials so many GPUs hold; twenty, if each takes 0.05 of one."""
    return int(gpus / each + 1e-9)


def _cluster_slots(resources: Resources, nodes: Sequence[Node], gpus: Mapping[str, float]) -> dict[str, int]:
    """How many trials the empty nodes hold. A node of CPUs counts as a machine like this one."""
    wanted = gpu_types(resources.gpu_type)
    found: dict[str, int] = {}
    for node in nodes:
        if wanted and node.gpu_type not in wanted:
            continue
        room = int(node.num_cpus // resources.cpus)
        name = (node.gpu_type or "GPU") if resources.gpus else HERE
        if resources.gpus:
            room = min(room, _held(node.num_gpus, gpus.get(name, resources.gpus)))
        if room:
            found[name] = found.get(name, 0) + room
    return found
