"""Show how published recipes fit a GPU."""

from __future__ import annotations

from typing import Any

from orchestrator.cli.views.console import out, table
from orchestrator.cli.views.plan import as_options
from orchestrator.errors import SweepError
from orchestrator.resources.fitting import Fitting, fit_memory
from orchestrator.resources.local_gpus import label_of, local_gpus, smallest_bytes
from orchestrator.resources.placement import gpu_types, memory_bytes, parse_gpu
from orchestrator.sweep.text import about, num_bytes
from trm_data.settings import strict_json
from trm_model.recipes import CATALOGUE, get_recipe

PUBLISHED = {name: recipe for name, recipe in CATALOGUE.items() if recipe.source.startswith("arXiv")}


def show_fitting(gpu: str, as_json: bool) -> None:
    """Print the micro-batch and recomputation with which each published recipe fits a GPU, and what they cost in time.

    Raises:
        SweepError: not one GPU type, or its memory is not known.
    """
    gpu_type, room = _memory_of(gpu)
    found = {name: fit_memory(get_recipe(name), gpu_type, room) for name in PUBLISHED}
    if as_json:
        print(strict_json({"gpu_type": gpu_type, "memory_bytes": room, "recipes": _plain(found)}, indent=1))
        return
    out.print(f"published recipes on one {gpu_type} ({num_bytes(room)}); no setting changes a result\n")
    numbers = ("memory", "slower", "time")
    rows = table("recipe", "settings", *numbers, right=numbers)
    shown = [name for name in found if "." in name and not name.startswith("table")]  # without short names
    for name in shown:
        rows.add_row(name, *_row(found[name]))
    out.print(rows)
    out.print(f"\nThe recipes of tables 1 to 3: --json. {_basis(list(found.values()))}", soft_wrap=True)


def _memory_of(gpu: str) -> tuple[str, int]:
    """Return the type of GPU that is meant, and the memory of one in bytes."""
    here = local_gpus()
    label = label_of(here)
    types = [label] if gpu == "auto" and label else gpu_types(parse_gpu(gpu).gpu_type)
    if len(types) != 1:
        raise SweepError(f"--gpu {gpu} is not one GPU type", "Name a sweep or --recipe, or one type: --gpu RTX4090")
    measured = smallest_bytes(here)
    size = measured if types[0] == label and measured is not None else memory_bytes(types[0])
    if size is None:
        raise SweepError(
            f"the memory of {types[0]} is not known: the catalogue does not have it, nor this machine",
            "Run this where the GPU is",
        )
    return types[0], size


def _row(found: Fitting | None) -> tuple[str, str, str, str]:
    if found is None:
        return "does not fit", "-", "-", "-"
    time = "not known" if found.seconds is None else about(found.seconds)
    return as_options(found.settings) or "as it is", num_bytes(found.memory_bytes), f"{found.slowdown:.2f} x", time


def _basis(found: list[Fitting | None]) -> str:
    if any(one is not None and one.seconds is not None for one in found):
        return "Times are of one trial, assumed without a measurement: within a factor of 3."
    return "Times are not known before the first trial."


def _plain(found: dict[str, Fitting | None]) -> dict[str, Any]:
    return {
        name: one
        and {
            "settings": one.settings,
            "memory_bytes": one.memory_bytes,
            "slowdown": one.slowdown,
            "seconds": one.seconds,
        }
        for name, one in found.items()
    }
