"""Build sweeps over published settings: helpers for sweep files."""

from __future__ import annotations

from orchestrator.resources import catalogue
from orchestrator.resources.fitting import ROOM
from orchestrator.resources.memory import memory_bytes
from orchestrator.sweep.definition import Resources, Sweep, Variant
from orchestrator.sweep.domains import Setting
from orchestrator.sweep.settings import configure, differences
from trm_model.config import TrialConfig
from trm_model.recipes import CATALOGUE, get_recipe

ONE_GPU = Resources(cpus=4, gpus=1, gpu_type="L40S|H100")


def recipe_for_gpu(recipe: str, gpu_type: str = "L40S") -> TrialConfig:
    """Return a recipe for one GPU: compiled, with the largest micro-batch that fits its memory.

    The result stays the same. Compiling takes half a minute and more than halves the time of a step (docs/model.md).
    Published runs of mazes and ARC had four or eight GPUs for a batch that one cannot hold.
    """
    config = configure(get_recipe(recipe), {"runtime.compile": True})
    room = ROOM * catalogue.gpu(gpu_type).memory_bytes
    size = config.train.batch_size
    while memory_bytes(config, "cuda") > room and size > 1:
        size //= 2
        config = configure(config, {"runtime.micro_batch_size": size})
    return config


def reproduction_sweep(recipe: str, seeds: int = 3) -> Sweep:
    """Return a sweep that reproduces a published number: its recipe, each seed scored once on the test split."""
    return Sweep(name=f"reproduce-{recipe}", base=recipe_for_gpu(recipe), seeds=seeds, equal="steps", resources=ONE_GPU)


def table_variants(prefix: str, base: TrialConfig) -> tuple[Variant, ...]:
    """Return the rows of a published table, `table1` for instance, as variants of a base, whose runtime they keep."""
    rows = {name: get_recipe(name) for name in CATALOGUE if name.startswith(f"{prefix}.")}
    kept = {"runtime": base.runtime}
    return tuple(Variant(name=name, settings=_changes(base, row.model_copy(update=kept))) for name, row in rows.items())


def _changes(base: TrialConfig, other: TrialConfig) -> dict[str, Setting]:
    """Return the settings by which one configuration differs from another."""
    found = differences(base.model_dump(), other.model_dump())
    return {path: new for path, (_, new) in found.items()}
