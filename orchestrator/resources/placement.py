"""Where a trial may run, in Ray's terms. Pure: from what a trial wants and a GPU holds to bundles, the best first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from orchestrator.errors import SweepError
from orchestrator.resources import catalogue
from orchestrator.resources.catalogue import CatalogueError
from orchestrator.resources.nodes import GPU_LABEL
from orchestrator.sweep.definition import Resources
from trm_data.errors import nearest

KNOWN_TYPES = ("L40S", "H100")
Preference = Literal["cost", "time"]
SpeedOf = Callable[[str], float]
"""FLOP/s of one trial on a GPU type."""
SHARE_STEP = 0.05
SHARE_MARGIN = 1.15
"""The prediction of memory is good to 15 %."""
CONTEXT_BYTES = 600_000_000
"""What CUDA takes for every process that uses a GPU, beside its tensors."""


class Bundle(NamedTuple):
    """One placement-group bundle: what it takes, and the labels that its node must have."""

    resources: dict[str, float]
    labels: dict[str, str]

    @property
    def gpus(self) -> float:
        """How many GPUs, or what share of one."""
        return self.resources.get("GPU", 0.0)


class Candidate(NamedTuple):
    """A bundle, and the GPU types that it may land on: none for CPU trials, and where any type will do."""

    gpu_types: tuple[str, ...]
    bundle: Bundle


def bundle(resources: Resources) -> Bundle:
    """The bundle of one trial. `L40S|H100` becomes "any of"; `any` asks for a GPU of whatever type."""
    return _bundle(resources.cpus, resources.gpus, gpu_types(resources.gpu_type))


def _bundle(cpus: float, gpus: float, types: Iterable[str]) -> Bundle:
    wanted = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    names = list(types)
    if not names:
        return Bundle(wanted, {})
    return Bundle(wanted, {GPU_LABEL: names[0] if len(names) == 1 else f"in({','.join(names)})"})


def gpu_types(text: str | None) -> list[str]:
    """`L40S|H100` -> ["L40S", "H100"]; none for None and `any`."""
    if text is None or text == "any":
        return []
    return text.split("|")


def parse_gpu(text: str | None) -> Resources:
    """`--gpu H100`, `--gpu L40S|H100`, `--gpu any` or nothing at all (CPU only).

    Raises:
        SweepError: an unknown GPU type.
    """
    if text is None:
        return Resources()
    known = {"any", *KNOWN_TYPES}
    for name in gpu_types(text):
        if name not in known:
            raise SweepError(f"--gpu {text!r}: unknown GPU type {name!r}", nearest(name, known))
    return Resources(gpus=1, gpu_type=text)


def candidates(
    resources: Resources,
    present: Iterable[str],
    *,
    need_bytes: int | None = None,
    is_shared: bool = False,
    prefer: Preference = "cost",
    speed: SpeedOf | None = None,
) -> list[Candidate]:
    """The bundles with which a trial may run, one per GPU type on which it fits, the preferred type first.

    Args:
        present: GPU types of the cluster, for a trial that takes any.
        need_bytes: predicted memory on the GPU; None if nobody predicted it.
        is_shared: a trial that asks for one GPU gets the share of it that it needs.
    """
    if not resources.gpus:
        return [Candidate((), bundle(resources))]
    asked = gpu_types(resources.gpu_type)
    types = asked or sorted(set(present))
    if not types:
        return [Candidate((), bundle(resources))]
    fitting = [name for name in types if need_bytes is None or _fits_in(need_bytes, name, resources.gpus)]
    ordered = sorted(fitting, key=lambda name: (_price(name, prefer, speed or peak_speed), types.index(name)))
    return [
        Candidate((name,), _bundle(resources.cpus, gpus_of(resources, name, need_bytes, is_shared), [name]))
        for name in ordered
    ]


def any_of(found: list[Candidate]) -> Candidate:
    """One bundle for whichever of the candidates' types is free first: the largest share among them."""
    largest = max((one.bundle for one in found), key=lambda one: one.gpus)
    types = tuple(name for one in found for name in one.gpu_types)
    return Candidate(types, _bundle(largest.resources["CPU"], largest.gpus, types))


def gpus_of(resources: Resources, gpu_type: str, need_bytes: int | None, is_shared: bool) -> float:
    """What a trial takes of a GPU type: what it asks for, or the share of one GPU that holds its memory."""
    total = memory_bytes(gpu_type)
    if not is_shared or resources.gpus != 1 or need_bytes is None or total is None:
        return resources.gpus
    share = SHARE_STEP * math.ceil((SHARE_MARGIN * need_bytes + CONTEXT_BYTES) / total / SHARE_STEP - 1e-9)
    return round(min(1.0, share), 2)


def memory_bytes(gpu_type: str) -> int | None:
    """Memory of one GPU of a type; None if the catalogue does not know it."""
    try:
        return catalogue.gpu(gpu_type).memory_bytes
    except CatalogueError:
        return None


def peak_speed(gpu_type: str) -> float:
    """Dense bf16 peak, for want of a measurement; an unknown type counts as the slowest known one."""
    try:
        return catalogue.gpu(gpu_type).bf16_tflops * 1e12
    except CatalogueError:
        return min(gpu.bf16_tflops for gpu in catalogue.gpus()) * 1e12


def _fits_in(need_bytes: int, gpu_type: str, gpus: float) -> bool:
    total = memory_bytes(gpu_type)
    return total is None or need_bytes <= total * min(1.0, gpus) or gpus > 1


def _price(gpu_type: str, prefer: Preference, speed: SpeedOf) -> float:
    """Seconds, or dollars, per FLOP."""
    seconds = 1 / speed(gpu_type)
    if prefer == "time":
        return seconds
    try:
        return seconds * catalogue.usd_per_gpu_hour(gpu_type)
    except CatalogueError:
        return math.inf  # without a price it is taken last


def fits(bundle: Bundle, nodes: list[dict[str, Any]]) -> bool:
    """Whether any of `ray.nodes()` could hold the bundle when empty."""
    return any(
        holds(node["Resources"], node.get("Labels", {}).get(GPU_LABEL), bundle) for node in nodes if node["Alive"]
    )


def holds(resources: Mapping[str, float], gpu_type: str | None, bundle: Bundle) -> bool:
    """Whether a node with so much left, and GPUs of this type, has room for the bundle."""
    rule = bundle.labels.get(GPU_LABEL)
    if rule is not None and gpu_type not in (rule[3:-1].split(",") if rule.startswith("in(") else [rule]):
        return False
    return all(resources.get(name, 0.0) + 1e-6 >= amount for name, amount in bundle.resources.items())


def words(bundle: Bundle) -> str:
    """`1 CPU, 0.5 GPU, L40S`."""
    parts = [f"{amount:g} {name}" for name, amount in bundle.resources.items()]
    return ", ".join([*parts, *(f"{key}={value}" for key, value in bundle.labels.items())])
