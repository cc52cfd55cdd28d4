"""Turn the options of the command line into configurations and sweeps. Commands import it when they run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.api.inputs import as_sweep
from orchestrator.errors import SweepError
from orchestrator.resources.placement import parse_gpu
from orchestrator.storage import open_storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.domains import Choice, Setting, Uniform
from orchestrator.sweep.plan_file import SUFFIX
from orchestrator.sweep.ranges import list_values, parse_axis
from orchestrator.sweep.settings import absolute_path, check_value, configure, parse_assignments, split_assignments
from trm_data.errors import ConfigError
from trm_data.own_code import pin, replace_in
from trm_data.settings import digest
from trm_model.config import TrainConfig, TrialConfig
from trm_model.recipes import get_recipe

logger = logging.getLogger(__name__)


def assignments(texts: list[str] | None, option: str) -> dict[str, list[Setting]]:
    """Parse `["T=1,2", "n=2"]` to `{"T": [1, 2], "n": [2]}`. Raises ConfigError or SweepError for an invalid text."""
    for name in split_assignments(texts, option):
        if name in Sweep.model_fields and name != "name":  # which is short for optimizer.name
            raise ConfigError(
                f"{option} {name}: it belongs to the sweep as a whole, and not to a trial",
                "Change it in the sweep file, or see `trm sweep run --help` for an option",
            )
    found = {
        name: [absolute_path(name, value, Path.cwd()) for value in values]
        for name, values in parse_assignments(texts, option).items()
    }
    pinned: dict[str, list[Setting]] = replace_in(found, lambda address, role: pin(address, Path.cwd(), role))
    return pinned


def single_values(texts: list[str] | None) -> dict[str, Setting]:
    """Parse `["lr=1e-3"]` to `{"lr": 0.001}`. Raises SweepError if a setting has several values."""
    found = {}
    for name, values in assignments(texts, "--set").items():
        if len(values) != 1:
            raise SweepError(
                f"--set {name} takes one value, not {len(values)}", f"To compare values: --vary {name}=..."
            )
        check_typed("--set", name, values)
        found[name] = values[0]
    return found


def axes_of(texts: list[str] | None) -> dict[str, Choice | Uniform]:
    """Return the axes that `--vary` describes. Raises ConfigError that names the option for an invalid value."""
    axes = {}
    for name, found in assignments(texts, "--vary").items():
        try:
            axes[name] = parse_axis(name, found)
        except ConfigError as error:
            raise ConfigError(f"--vary {error.what.removeprefix('--vary ')}", error.remedy) from None
        check_typed("--vary", name, axes[name].spread())
        _warn_of_wide_range(name, axes[name])
    return axes


def _warn_of_wide_range(name: str, axis: Choice | Uniform) -> None:
    """Say what an even draw over several orders of magnitude leaves out: nearly all small values."""
    if isinstance(axis, Uniform) and not axis.log and axis.count is None and 0 < axis.low <= axis.high / 100:
        limit = axis.low + (axis.high - axis.low) / 10
        logger.warning(
            f"--vary {name}={axis.low:g}..{axis.high:g}: nine in ten draws are above {limit:g}."
            f" To draw each order of magnitude as often: --vary {name}=log:{axis.low:g}..{axis.high:g}"
        )


def check_typed(option: str, name: str, values: Iterable[Setting]) -> None:
    """Raise ConfigError with the option and the name as they were typed where a setting cannot have a value."""
    for value in values:
        try:
            check_value(name, value)
        except ConfigError as error:
            raise ConfigError(f"{option} {error.what}", error.remedy) from None


def base_config(
    recipe: str, texts: list[str] | None, max_steps: int | None, more: Mapping[str, Setting | None] | None = None
) -> TrialConfig:
    """Return a recipe with settings replaced: those of `--set`, and `more` that options of their own have."""
    settings = single_values(texts)
    for name, value in (more or {}).items():
        if value is not None and settings.setdefault(name, value) != value:
            raise SweepError(f"{name} is given twice, by --set and by its own option", "Give it once")
    if max_steps is not None:
        settings["train.max_steps"] = max_steps
    return configure(get_recipe(recipe), settings)


def make_sweep(
    file: Path | None,
    storage: str,
    *,
    recipe: str | None,
    vary: list[str] | None,
    settings: list[str] | None,
    seeds: int | None,
    trials: int | None,
    max_steps: int | None,
    name: str | None,
    gpu: str | None,
    cpus: float | None,
) -> Sweep:
    """Return the sweep that a file, a record or the options describe; options win over the definition.

    Raises:
        SweepError: neither or both of a sweep and a recipe are given, or there is no such sweep.
        ConfigError: an invalid setting or value.
    """
    if file is None and recipe is None:
        raise SweepError("nothing to run", "Name a sweep, or --recipe NAME with --vary (see `trm recipes`)")
    if file is not None and recipe is not None:
        raise SweepError("both a sweep and --recipe are given", "Name one of them")
    if file is not None and file.suffix == SUFFIX and (vary or settings or seeds or trials or max_steps):
        raise SweepError(f"{file} is a plan: it is run as it is", "Leave the options out, or plan again with them")
    if file is not None:
        values = as_sweep(file, open_storage(storage)).plain()
        base = configure(TrialConfig.parse(values["base"]), single_values(settings))
        if max_steps is not None:
            base = configure(base, {"train.max_steps": max_steps})
        values["base"] = base.plain()
    else:
        assert recipe is not None
        values = {"base": base_config(recipe, settings, max_steps).plain()}
    if trials is not None:
        if seeds is None and values.get("seeds", 1) > 1:  # of a study, which becomes a search
            seeds = values["seeds"]
        values |= {"kind": "search", "trials": trials}
    space = axes_of(vary)
    is_search = values.get("kind") == "search"
    if space:
        axes = {path: axis if is_search else list_values(path, axis) for path, axis in space.items()}
        values["space"] = {path: axis.plain() for path, axis in axes.items()}
    if recipe is not None:
        values["name"] = _made_name(recipe, values, seeds)
    if is_search:
        values.pop("seeds", None)
    if seeds is not None:
        total = {"seeds": seeds}
        values |= {"confirm": {**values.get("confirm", {}), **total}} if is_search else total
    values["resources"] = _resources(values.get("resources"), gpu, cpus)
    values["name"] = name or values["name"]
    return Sweep.parse(values)


def _resources(found: dict[str, Any] | None, gpu: str | None, cpus: float | None) -> dict[str, Any]:
    resources = dict(found or {})
    if gpu is not None:
        resources |= {key: value for key, value in parse_gpu(gpu).plain().items() if key != "cpus"}
    if cpus is not None:
        resources["cpus"] = cpus
    return resources


def _made_name(recipe: str, values: dict[str, Any], seeds: int | None) -> str:
    """Return a name derived from the options: the same command resumes the same sweep, of an older version too."""
    relevant = {key: value for key, value in values.items() if key not in ("name", "resources")}
    if seeds is not None:
        relevant |= {"seeds": seeds, "confirm": {"seeds": seeds}}
    base = values["base"]
    runtime = {key: value for key, value in base["runtime"].items() if key != "recompute"}
    relevant["base"] = base | {"runtime": runtime, "train": TrainConfig.parse(base["train"]).identity()}
    return f"{recipe.replace('/', '-')}-{digest(relevant, 6)}"
