"""Sweeps over published settings: helpers for the files in `sweeps/`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.resources import catalogue
from orchestrator.resources.memory import memory_bytes
from orchestrator.sweep.definition import Resources, Sweep, Variant
from orchestrator.sweep.domains import Value
from orchestrator.sweep.settings import configure
from trm_model.config import TrialConfig
from trm_model.recipes import CATALOGUE, get_recipe

ROOM = 0.9
"""Of a GPU's memory: the rest is the allocator's and the driver's."""
ONE_GPU = Resources(cpus=4, gpus=1, gpu_type="L40S|H100")


def recipe_for_gpu(recipe: str, gpu_type: str = "L40S") -> TrialConfig:
    """A recipe on one GPU: compiled, with the largest micro-batch whose memory it holds. The result stays the same.

    Compiling takes half a minute and more than halves the time of a step (docs/model.md). Published runs of mazes and
    ARC had four or eight GPUs for a batch that one cannot hold.
    """
    config = configure(get_recipe(recipe), {"runtime.compile": True})
    room = ROOM * catalogue.gpu(gpu_type).memory_bytes
    size = config.train.batch_size
    while memory_bytes(config, "cuda") > room and size > 1:
        size //= 2
        config = configure(config, {"runtime.micro_batch_size": size})
    return config


def reproduction_sweep(recipe: str, seeds: int = 3) -> Sweep:
    """A published number again: its recipe, unchanged, with some seeds, each scored once on the test split."""
    return Sweep(name=f"reproduce-{recipe}", base=recipe_for_gpu(recipe), seeds=seeds, equal="steps", resources=ONE_GPU)


def table_variants(prefix: str, base: TrialConfig) -> tuple[Variant, ...]:
    """The rows of a published table, `table1` for instance, as variants of a base."""
    names = [name for name in CATALOGUE if name.startswith(f"{prefix}.")]
    return tuple(Variant(name=name, settings=changes(base, get_recipe(name))) for name in names)


def changes(base: TrialConfig, other: TrialConfig) -> dict[str, Value]:
    """The settings by which one configuration differs from another, by path."""
    return dict(_changes(base.model_dump(), other.model_dump(), ""))


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Value]]:
    for name, value in new.items():
        if isinstance(value, Mapping):
            yield from _changes(old[name], value, f"{prefix}{name}.")
        elif value != old[name]:
            yield f"{prefix}{name}", value
