"""Where a trial may run, in Ray's terms."""

from __future__ import annotations

from typing import Any, NamedTuple

from orchestrator.cluster.nodes import GPU_LABEL
from orchestrator.errors import SweepError
from orchestrator.sweep import Resources
from trm_data.errors import nearest

KNOWN_TYPES = ("L40S", "H100")


class Bundle(NamedTuple):
    """One placement-group bundle: what it takes, and the labels that its node must have."""

    resources: dict[str, float]
    labels: dict[str, str]


def bundle(resources: Resources) -> Bundle:
    """The bundle of one trial. `L40S|H100` becomes "any of"; `any` asks for a GPU of whatever type."""
    wanted = {"CPU": resources.cpus}
    if resources.gpus:
        wanted["GPU"] = resources.gpus
    types = gpu_types(resources.gpu_type)
    if not types:
        return Bundle(wanted, {})
    return Bundle(wanted, {GPU_LABEL: types[0] if len(types) == 1 else f"in({','.join(types)})"})


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


def fits(bundle: Bundle, nodes: list[dict[str, Any]]) -> bool:
    """Whether any of `ray.nodes()` could hold the bundle when empty."""
    return any(
        all(node["Resources"].get(name, 0) >= amount for name, amount in bundle.resources.items())
        and all(_matches(node.get("Labels", {}).get(key, ""), rule) for key, rule in bundle.labels.items())
        for node in nodes
        if node["Alive"]
    )


def _matches(value: str, rule: str) -> bool:
    if rule.startswith("in("):
        return value in rule[3:-1].split(",")
    return value == rule
