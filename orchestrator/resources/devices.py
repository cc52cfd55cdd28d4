"""List the devices on which the trials of a sweep may run: their speed, and how many trials each holds."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence

import psutil

from orchestrator.errors import SweepError
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import TrialRecord
from orchestrator.resources.gpu_choice import GpuChoice, all_resources
from orchestrator.resources.memory import measured_overhead_bytes
from orchestrator.resources.nodes import Node
from orchestrator.resources.placement import KNOWN_TYPES, gpu_types, gpus_of, memory_bytes, misspelled_gpus
from orchestrator.resources.pricing import Pricing
from orchestrator.resources.runtime import CPU, RuntimeFit, RuntimeModel
from orchestrator.storage import LocalStorage, Storage
from orchestrator.sweep.definition import Resources, Sweep
from orchestrator.sweep.settings import label
from orchestrator.sweep.text import MOST_ROWS, plural
from trm_data.settings import Settings
from trm_model.config import TrialConfig

THIS_MACHINE = "this machine"
CLUSTER = "the cluster"
"""Names of the device of trials without a GPU."""
DEVICE = "runtime.device"


class Device(Settings):
    """Describe the CPUs of this machine or of a cluster, or a GPU type."""

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
        return "cuda" if self.gpus else "cpu"


def require_local_cpus(sweep: Sweep) -> None:
    """Raise an error if CPU trials of a sweep need more cores than this machine has, before anything is written or
    started.

    Raises:
        SweepError: names the requested and the available cores, and the remedy.
    """
    cores = os.cpu_count() or 1
    for resources, trial, remedy in _demands(sweep, "Ask for less with --cpus", "--cpus"):
        if not resources.gpus and resources.cpus > cores:
            raise SweepError(f"{trial} needs {resources.cpus:g} CPUs, and this machine has {cores}", remedy)


def _demands(sweep: Sweep, remedy: str, option: str) -> Iterator[tuple[Resources, str, str]]:
    """Yield the resources that trials may have, each with the words for such a trial, and what to do if they lack.

    Args:
        remedy: for the sweep's own resources, which `option` sets. It changes no rule: those are of single trials.
    """
    yield sweep.resources, "a trial", f"{remedy}, or name a cluster with --address"
    for rule in sweep.resource_rules:
        change = f"Change that rule in resource_rules, which {option} leaves as it is, or name a cluster with --address"
        yield rule.resources, f"a trial with {label(rule.when)}", change


def require_local_gpus(sweep: Sweep, gpu_type: str | None) -> None:
    """Refuse a sweep that asks for a misspelled GPU type, before anything is written or started.

    Args:
        gpu_type: of this machine's GPUs; None without any.

    Raises:
        SweepError: names the type that is probably meant.
    """
    if problem := misspelled_gpus(sweep, [gpu_type]):
        raise SweepError(problem)


def missing_gpus(sweep: Sweep, gpu_type: str | None, count: int) -> list[tuple[Resources, SweepError]]:
    """Return the resources that trials may have and whose GPUs this machine lacks, each with the error that says so.

    Args:
        gpu_type: of this machine's GPUs; None without any.
        count: their number.
    """
    found = []
    for resources, trial, remedy in _demands(sweep, "Take what there is with --gpu auto", "--gpu"):
        types = gpu_types(resources.gpu_type)
        if resources.gpus and (resources.gpus > count or (types and gpu_type not in types)):
            needed = f"{resources.gpus:g} {' or '.join(types) or 'GPU'}"
            has = f"{count} {gpu_type}" if count else "no GPU"
            found.append((resources, SweepError(f"{trial} needs {needed}, and this machine has {has}", remedy)))
    return found


def require_local_gpu_count(sweep: Sweep, gpu_type: str | None, count: int) -> None:
    """Raise the first error of `missing_gpus`, before anything is written or started."""
    for _, error in missing_gpus(sweep, gpu_type, count):
        raise error


def lacking_gpus(choice: GpuChoice, cells: Sequence[tuple[str, TrialConfig]]) -> Iterator[str]:
    """Yield the cells that ask for GPUs that this machine lacks, and the error with which their run ends.

    Args:
        cells: names and configurations.
    """
    for resources, error in missing_gpus(choice.sweep, choice.label, len(choice.gpus or ())):
        names = [name for name, config in cells if choice.sweep.resources_of(config) is resources]
        more = f" and {plural(len(names) - MOST_ROWS, 'more cell')}" if len(names) > MOST_ROWS else ""
        # A run refuses a rule that none of these cells matches, too: those of a search are examples.
        listed = f"{', '.join(names[:MOST_ROWS])}{more}" if names else "this sweep"
        yield f"{'any of these cells' if 1 < len(names) == len(cells) else listed}: {error}"


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
    *,
    is_cluster: bool = False,
) -> list[Device]:
    """Return the CPUs, then the GPU types that the sweep may use: those that it names, else those of the nodes.

    Args:
        is_cluster: the nodes are a cluster's; its CPUs are taken to be as fast as this machine's.
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
    return [_cpus(sweep, records, model, is_cluster=is_cluster), *found]


def _recorded(storage: Storage) -> Iterator[TrialRecord]:
    """Yield the records of a local storage; reading all of a remote one would take longer than a plan should."""
    if isinstance(storage, LocalStorage):
        for name in storage.folders("sweeps"):
            yield from read_trials(storage, name)


def _cpus(sweep: Sweep, records: Sequence[TrialRecord], model: RuntimeModel, *, is_cluster: bool) -> Device:
    speed = model.fit_for(sweep.base, CPU, gpus=0, cpus=sweep.resources.cpus)
    if is_cluster:
        return Device(name=CLUSTER, speed=speed, memory_bytes=None)
    return Device(
        name=THIS_MACHINE,
        speed=speed,
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
        slots = _cluster_slots(sweep.resources, nodes, devices)
    elif not sweep.resources.gpus:
        slots = {devices[0].name: _local_slots(sweep.resources)}
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


def _cluster_slots(resources: Resources, nodes: Sequence[Node], devices: Sequence[Device]) -> dict[str, int]:
    """Return how many trials the empty nodes hold."""
    gpus = {device.name: device.gpus for device in devices}
    wanted = gpu_types(resources.gpu_type)
    slots: dict[str, int] = {}
    for node in nodes:
        if wanted and node.gpu_type not in wanted:
            continue
        room = int(node.num_cpus // resources.cpus)
        name = (node.gpu_type or "GPU") if resources.gpus else devices[0].name
        if resources.gpus:
            room = min(room, _trials_on(node.num_gpus, gpus.get(name) or resources.gpus))
        if room:
            slots[name] = slots.get(name, 0) + room
    return slots
