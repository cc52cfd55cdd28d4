"""List the devices on which the trials of a sweep may run: their speed, and how many trials each holds."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence

import psutil

from orchestrator.errors import SweepError
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import TrialRecord
from orchestrator.resources.gpu_choice import all_resources
from orchestrator.resources.memory import measured_overhead_bytes
from orchestrator.resources.nodes import Node
from orchestrator.resources.placement import KNOWN_TYPES, gpu_types, gpus_of, memory_bytes, misspelled_gpus
from orchestrator.resources.pricing import Pricing
from orchestrator.resources.runtime import CPU, RuntimeFit, RuntimeModel
from orchestrator.storage import LocalStorage, Storage
from orchestrator.sweep.definition import Resources, Sweep
from trm_data.settings import Settings

THIS_MACHINE = "this machine"
DEVICE = "runtime.device"


class Device(Settings):
    """Describe this machine or a GPU type."""

    name: str
    speed: RuntimeFit | None
    """None for a GPU that the catalogue does not know and on which no trial has run."""
    memory_bytes: int | None
    """Memory that one trial may take; None if the catalogue does not know the GPU."""
    usd_per_hour: float | None = None
    """Price per hour of the resources of one trial, in USD."""
    gpus: float = 0
    """GPUs that one trial occupies: a share of one below 1."""
    overhead_bytes: int | None = None
    """Measured on this device: memory that a trial takes in addition to its training."""

    @property
    def kind(self) -> str:
        """Return the type of the device as torch names it."""
        return "cpu" if self.name == THIS_MACHINE else "cuda"


def require_local_cpus(sweep: Sweep) -> None:
    """Raise an error if CPU trials of a sweep need more cores than this machine has, before anything is written or
    started.

    Raises:
        SweepError: names the requested and the available cores, and the remedy.
    """
    cores = os.cpu_count() or 1
    for resources in all_resources(sweep):
        if not resources.gpus and resources.cpus > cores:
            raise SweepError(
                f"a trial needs {resources.cpus:g} CPUs, and this machine has {cores}",
                "Ask for less with --cpus, or name a cluster with --address",
            )


def require_local_gpus(sweep: Sweep, label: str | None) -> None:
    """Refuse a sweep that asks for a misspelled GPU type, before anything is written or started.

    Args:
        label: type of this machine's GPUs; None without any.

    Raises:
        SweepError: names the type that is probably meant.
    """
    if problem := misspelled_gpus(sweep, [label]):
        raise SweepError(problem)


def require_local_gpu_count(sweep: Sweep, label: str | None, count: int) -> None:
    """Raise an error if trials of a sweep need GPUs that this machine lacks, before anything is written or started.

    Args:
        label: type of this machine's GPUs; None without any.
        count: their number.

    Raises:
        SweepError: names what a trial needs, what there is, and the remedy.
    """
    for resources in all_resources(sweep):
        types = gpu_types(resources.gpu_type)
        if resources.gpus and (resources.gpus > count or (types and label not in types)):
            raise SweepError(
                f"a trial needs {resources.gpus:g} {' or '.join(types) or 'GPU'}, and this machine has "
                f"{f'{count} {label}' if count else 'no GPU'}",
                "Take what there is with --gpu auto, or name a cluster with --address",
            )


def require_local_device(sweep: Sweep) -> None:
    """Raise an error if trials ask for a device that this machine lacks, or that they are not given.

    Args:
        sweep: with `gpus` decided.

    Raises:
        ConfigError, SweepError: names the device and the remedy.
    """
    named = [variant.settings.get(DEVICE) for variant in (*sweep.variants, *sweep.confirm.controls)]
    axis = sweep.space.get(DEVICE)
    base = [sweep.base.runtime.device] if axis is None and (sweep.space or None in named or not named) else []
    devices = {*base, *named, *(axis.spread() if axis is not None else ())}
    for device in sorted(devices & {"cuda", "mps"}, key=str):
        from trm_model.device import resolve_device  # imports torch

        resolve_device(str(device))
        if device == "cuda" and not any(each.gpus for each in all_resources(sweep)):
            raise SweepError("runtime.device='cuda', but trials are given no GPU", "Set it to auto, or take --gpu any")


def devices_of(
    sweep: Sweep,
    storage: Storage,
    shared_bytes: int | None = None,
    nodes: Sequence[Node] | None = None,
    memory: Mapping[str, int] | None = None,
    pricing: Pricing | None = None,
) -> list[Device]:
    """Return this machine, then the GPU types that the sweep may use: those that it names, else those of the nodes.

    Args:
        shared_bytes: memory of the largest trial; where it is given, trials take the share of a GPU that holds it.
        nodes: nodes of the cluster, or this machine where it has GPUs for the trials; None if there are none.
        memory: bytes of the nodes' GPUs by type, where they are known better than from the catalogue.
        pricing: whose prices; AWS's if left out.
    """
    records = list(_recorded(storage))
    model = RuntimeModel(records, host=socket.gethostname())
    present = sorted({node.gpu_type for node in nodes or () if node.gpu_type and node.num_gpus})
    types = gpu_types(sweep.resources.gpu_type) or present or KNOWN_TYPES
    prices = pricing or Pricing()
    found = [
        _gpu(name, sweep, records, model, shared_bytes, memory_bytes(name, memory), prices.usd(name)) for name in types
    ]
    return [_this_machine(sweep, records, model), *found]


def _recorded(storage: Storage) -> Iterator[TrialRecord]:
    """Yield the records of a local storage; reading all of a remote one would take longer than a plan should."""
    if isinstance(storage, LocalStorage):
        for name in storage.folders("sweeps"):
            yield from read_trials(storage, name)


def _this_machine(sweep: Sweep, records: Sequence[TrialRecord], model: RuntimeModel) -> Device:
    cpus = sweep.resources.cpus
    return Device(
        name=THIS_MACHINE,
        speed=model.fit_for(sweep.base, CPU, gpus=0, cpus=cpus),
        memory_bytes=psutil.virtual_memory().total // max(1, _local_slots(sweep.resources)),
        overhead_bytes=measured_overhead_bytes(records, "cpu", socket.gethostname()),
    )


def _gpu(
    name: str,
    sweep: Sweep,
    records: Sequence[TrialRecord],
    model: RuntimeModel,
    shared_bytes: int | None,
    memory: int | None,
    price: float | None,
) -> Device:
    share = gpus_of(sweep.resources, memory, shared_bytes, is_shared=True) or 1
    return Device(
        name=name,
        speed=model.fit_for(sweep.base, name, gpus=share, cpus=sweep.resources.cpus),
        memory_bytes=None if memory is None else int(memory * min(1.0, share)),
        usd_per_hour=None if price is None else price * share,
        gpus=share,
        overhead_bytes=measured_overhead_bytes(records, "cuda", name),
    )


def _local_slots(resources: Resources) -> int:
    return int((os.cpu_count() or 1) // resources.cpus)


def slots_of(
    sweep: Sweep,
    devices: Sequence[Device],
    too_small: Collection[str],
    most: int | None,
    nodes: Sequence[Node] | None,
) -> dict[str, int]:
    """Return the number of concurrent trials by device: on a cluster's nodes, else this machine, else GPUs of one type.

    Without a cluster, GPU trials are planned on the cheapest type that holds every cell; `too_small` names those that
    do not.
    """
    if nodes is not None:
        slots = _cluster_slots(sweep.resources, nodes, {device.name: device.gpus for device in devices})
    elif not sweep.resources.gpus:
        slots = {THIS_MACHINE: _local_slots(sweep.resources)}
    else:
        best = min(devices[1:], key=lambda device: (device.name in too_small, device.usd_per_hour or float("inf")))
        slots = {best.name: most or max(1, _trials_on(1, best.gpus))}
    left = most or sum(slots.values())
    limited = {}
    for name, count in slots.items():
        limited[name] = min(count, left)
        left -= limited[name]
    return {name: count for name, count in limited.items() if count}


def _trials_on(gpus: float, each: float) -> int:
    """Return how many trials fit on a number of GPUs, without the rounding error of 1 / 0.05."""
    return int(gpus / each + 1e-9)


def _cluster_slots(resources: Resources, nodes: Sequence[Node], gpus: Mapping[str, float]) -> dict[str, int]:
    """Return how many trials the empty nodes hold. A CPU node counts as a machine like this one."""
    wanted = gpu_types(resources.gpu_type)
    slots: dict[str, int] = {}
    for node in nodes:
        if wanted and node.gpu_type not in wanted:
            continue
        room = int(node.num_cpus // resources.cpus)
        name = (node.gpu_type or "GPU") if resources.gpus else THIS_MACHINE
        if resources.gpus:
            room = min(room, _trials_on(node.num_gpus, gpus.get(name) or resources.gpus))
        if room:
            slots[name] = slots.get(name, 0) + room
    return slots
