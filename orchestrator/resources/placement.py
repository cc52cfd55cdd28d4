"""Compute where a trial may run: convert its resources and the memory of GPUs to Ray bundles, the best first."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from orchestrator.errors import SweepError
from orchestrator.resources import catalogue
from orchestrator.resources.catalogue import CatalogueError
from orchestrator.resources.nodes import GPU_LABEL
from orchestrator.resources.usage import price_per_gpu_hour
from orchestrator.sweep.definition import Resources, Sweep
from trm_data.errors import ConfigError

KNOWN_TYPES = ("L40S", "H100")
GPU_WORDS = ("auto", "none", "any")
"""What `--gpu` takes in place of a type."""
Preference = Literal["cost", "time"]
SpeedOf = Callable[[str], float]
"""FLOP/s of one trial on a GPU type."""
SHARE_STEP = 0.05
SHARE_MARGIN = 1.15
"""Safety factor: predictions of memory are accurate to 15 %."""
CONTEXT_BYTES = 600_000_000
"""Memory that CUDA takes for every process that uses a GPU, in addition to its tensors."""


class Bundle(NamedTuple):
    """Hold one placement-group bundle: its resources, and the labels that its node must have."""

    resources: dict[str, float]
    labels: dict[str, str]

    @property
    def gpus(self) -> float:
        """Return the number of GPUs, or the share of one."""
        return self.resources.get("GPU", 0.0)


class Candidate(NamedTuple):
    """Pair a bundle with the GPU types that it may use: none for CPU trials, and if any type is allowed."""

    gpu_types: tuple[str, ...]
    bundle: Bundle


def bundle(resources: Resources) -> Bundle:
    """Return the bundle of one trial. `L40S|H100` becomes "any of"; `any` requests a GPU of any type."""
    return _bundle(resources.cpus, resources.gpus or 0, gpu_types(resources.gpu_type))


def _bundle(cpus: float, gpus: float, types: Iterable[str]) -> Bundle:
    wanted = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    names = list(types)
    if not names:
        return Bundle(wanted, {})
    return Bundle(wanted, {GPU_LABEL: names[0] if len(names) == 1 else f"in({','.join(names)})"})


def gpu_types(text: str | None) -> list[str]:
    """Split `L40S|H100` into ["L40S", "H100"]; empty for None and `any`."""
    if text is None or text == "any":
        return []
    return text.split("|")


def parse_gpu(text: str | None) -> Resources:
    """Parse `--gpu auto` (also None), `--gpu none`, `--gpu H100`, `--gpu 'L40S|H100'` or `--gpu any`.

    A name of the catalogue, or the name of a GPU in `nvidia-smi`, becomes Ray's label of that GPU. Any other name is
    taken as a label of the nodes. Of a GPU that the catalogue does not know, plans know no price, and no time before
    the first trial.

    Raises:
        SweepError: not of that form.
    """
    if text in (None, "auto"):
        return Resources()
    if text == "none":
        return Resources(gpus=0)
    names = [name.strip() for name in str(text).split("|")]
    try:
        return Resources.parse({"gpus": 1, "gpu_type": "|".join(map(_ray_label, names))})
    except ConfigError:
        raise SweepError(
            f"--gpu {text!r} is not a GPU type",
            "Examples: --gpu auto, --gpu none, --gpu any, --gpu RTX4090, --gpu 'L40S|H100'",
        ) from None


def misspelled_gpus(sweep: Sweep, labels: Iterable[str | None]) -> str:
    """Return a line on GPU types that look like misspellings; empty if there are none.

    Args:
        labels: GPU types of the nodes: a label that a node has is never a misspelling.
    """
    present, wanted = set(labels), [sweep.resources, *(rule.resources for rule in sweep.resource_rules)]
    asked = {name for resources in wanted for name in gpu_types(resources.gpu_type)} - present
    near = {name: catalogue.near_miss(name) or _near_word(name) for name in sorted(asked)}
    return " ".join(
        f"GPU type {name!r} is unknown, and no node has that label. Did you mean {known!r}?"
        for name, known in near.items()
        if known
    )


def _near_word(name: str) -> str:
    return next(iter(difflib.get_close_matches(name.lower(), GPU_WORDS, n=1, cutoff=0.8)), "")


def _ray_label(name: str) -> str:
    return name if name == "any" else catalogue.ray_label(name)


def candidates(
    resources: Resources,
    present: Iterable[str],
    *,
    need_bytes: int | None = None,
    is_shared: bool = False,
    prefer: Preference = "cost",
    speed: SpeedOf | None = None,
    memory: Mapping[str, int] | None = None,
) -> list[Candidate]:
    """Return the bundles with which a trial may run, one per GPU type on which it fits, the preferred type first.

    Args:
        present: GPU types of the cluster, for a trial that takes any.
        need_bytes: predicted memory on the GPU; None if there is no prediction.
        is_shared: a trial that requests one GPU gets only the share that it needs.
        memory: bytes of the machines' own GPUs by type, where they are known better than from the catalogue.
    """
    if not resources.gpus:
        return [Candidate((), bundle(resources))]
    requested = gpu_types(resources.gpu_type)
    types = requested or sorted(set(present))
    if not types:
        return [Candidate((), bundle(resources))]
    sizes = {name: memory_bytes(name, memory) for name in types}
    fitting = [name for name in types if need_bytes is None or _fits_in(need_bytes, sizes[name], resources.gpus)]
    ordered = sorted(fitting, key=lambda name: (_price(name, prefer, speed or peak_speed), types.index(name)))
    return [
        Candidate((name,), _bundle(resources.cpus, gpus_of(resources, sizes[name], need_bytes, is_shared), [name]))
        for name in ordered
    ]


def any_of(found: list[Candidate]) -> Candidate:
    """Return one bundle for whichever of the candidates' types is free first: the largest share among them."""
    largest = max((one.bundle for one in found), key=lambda one: one.gpus)
    types = tuple(name for one in found for name in one.gpu_types)
    return Candidate(types, _bundle(largest.resources["CPU"], largest.gpus, types))


def gpus_of(resources: Resources, gpu_bytes: int | None, need_bytes: int | None, is_shared: bool) -> float:
    """Return how many GPUs a trial uses: what it requests, or the share of one that holds its memory.

    Args:
        gpu_bytes: memory of one such GPU; None if it is not known.
    """
    if not is_shared or resources.gpus != 1 or need_bytes is None or gpu_bytes is None:
        return resources.gpus or 0
    share = SHARE_STEP * math.ceil((SHARE_MARGIN * need_bytes + CONTEXT_BYTES) / gpu_bytes / SHARE_STEP - 1e-9)
    return round(min(1.0, share), 2)


def memory_bytes(gpu_type: str, measured: Mapping[str, int] | None = None) -> int | None:
    """Return the memory of one GPU of a type in bytes: measured, else the catalogue's; None if neither knows it."""
    if measured and gpu_type in measured:
        return measured[gpu_type]
    try:
        return catalogue.gpu(gpu_type).memory_bytes
    except CatalogueError:
        return None


def peak_speed(gpu_type: str) -> float:
    """Return the dense peak of a GPU type in FLOP/s; an unknown type counts as the slowest known one."""
    try:
        known = catalogue.gpu(gpu_type).peak_flops
    except CatalogueError:
        known = None
    return known or min(gpu.peak_flops for gpu in catalogue.gpus() if gpu.peak_flops)


def _fits_in(need_bytes: int, total: int | None, gpus: float) -> bool:
    return total is None or need_bytes <= total * min(1.0, gpus) or gpus > 1


def _price(gpu_type: str, prefer: Preference, speed: SpeedOf) -> float:
    """Return seconds, or USD, per FLOP."""
    seconds = 1 / speed(gpu_type)
    if prefer == "time":
        return seconds
    price = price_per_gpu_hour(gpu_type)
    return math.inf if price is None else seconds * price  # a type without a price comes last


def fits(bundle: Bundle, nodes: list[dict[str, Any]]) -> bool:
    """Return whether any of `ray.nodes()` could hold the bundle when empty."""
    return any(
        holds(node["Resources"], node.get("Labels", {}).get(GPU_LABEL), bundle) for node in nodes if node["Alive"]
    )


def holds(resources: Mapping[str, float], gpu_type: str | None, bundle: Bundle) -> bool:
    """Return whether a node with these free resources and this GPU type has room for the bundle."""
    rule = bundle.labels.get(GPU_LABEL)
    if rule is not None and gpu_type not in (rule[3:-1].split(",") if rule.startswith("in(") else [rule]):
        return False
    return all(resources.get(name, 0.0) + 1e-6 >= amount for name, amount in bundle.resources.items())


def describe_bundle(bundle: Bundle) -> str:
    """Format a bundle as `1 CPU, 0.5 GPU, L40S`."""
    parts = [f"{amount:g} {name}" for name, amount in bundle.resources.items()]
    return ", ".join([*parts, *(f"{key}={value}" for key, value in bundle.labels.items())])
