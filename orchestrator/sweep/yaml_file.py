"""Read a sweep from a YAML file: the keys of W&B's sweep configuration, and every field of `Sweep`.

    recipe: sudoku-mini
    method: bayes
    metric: {name: exact_accuracy, goal: maximize}
    parameters:
      lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-2}
      T: {min: 1, max: 3}
    run_cap: 20

A YAML file is data: nothing in it is executed, and code that `model.recursion` names is not trusted (see
`trm_data.own_code`). docs/sweeps.md lists the keys.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import SweepError
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.domains import Setting
from orchestrator.sweep.settings import flatten, full_path, replace_settings
from orchestrator.sweep.wandb_keys import (
    IGNORED,
    METHODS,
    REFUSED,
    as_setting,
    parse_early_terminate,
    parse_parameters,
    require_known,
    require_mapping,
)
from trm_data.errors import ConfigError, UserError, nearest
from trm_data.own_code import is_address
from trm_data.yaml_text import parse_yaml
from trm_model.config import TrialConfig
from trm_model.recipes import get_recipe

logger = logging.getLogger(__name__)

YAML_SUFFIXES = (".yaml", ".yml")
LIMITS = {"max_trials": "trials", "max_gpu_hours": "gpu_hours", "max_usd": "usd", "max_hours": "wall_hours"}
"""The options of `trm sweep run` for a budget, and its fields."""
_OPTIONS = (
    "address",
    "max_gpus",
    "share_gpus",
    "prefer",
    "canary",
    "reuse",
    "replay",
    "max_failures",
    "retries",
    "tracking",
)
"""Options of a run, which depend on the machine and not on the question."""
_WANDB_KEYS = ("method", "metric", "parameters", "run_cap", "early_terminate")
_OWN_KEYS = ("recipe", "set", *LIMITS)
_KEYS = (*_WANDB_KEYS, *_OWN_KEYS, *Sweep.model_fields, "minimize")


def load_yaml(path: Path) -> Sweep:
    """Return the sweep that a YAML file describes. Paths in it are as they are written.

    Raises:
        SweepError: it cannot be read, or a key or value is wrong: names the file, the key and the remedy.
    """
    try:
        return _sweep(parse_yaml(path.read_text(encoding="utf-8-sig")), path)
    except UnicodeDecodeError:
        raise SweepError(f"{path} is not UTF-8 text", "Save it as UTF-8") from None
    except UserError as error:
        raise SweepError(f"{path}: {error.what}", error.remedy) from None


def _sweep(document: Any, path: Path) -> Sweep:
    if document is None:
        raise ConfigError("it is empty", "Write recipe:, method: and parameters:; `trm init` writes an example")
    values = dict(require_mapping(document, "the document"))
    _check_keys(values, path)
    kind = _method(values)
    base = _base(values)
    if (found := values.pop("parameters", None)) is not None:
        parameters = parse_parameters(found, is_grid=kind == "study")
        base = replace_settings(base, parameters.fixed)
        space = require_mapping(values.get("space") or {}, "space")
        values["space"] = {**space, **{name: axis.plain() for name, axis in parameters.axes.items()}}
    if (rule := values.pop("early_terminate", None)) is not None:
        _require_one(values, "early_terminate", "stopping")
        values["stopping"] = parse_early_terminate(rule, base)
        if kind == "study":
            raise ConfigError("early_terminate is for a search, and this is a study", "Delete it: every cell is run")
    _metric(values)
    _limits(values, kind)
    return Sweep.parse({"name": path.stem, **values, "kind": kind, "base": base.plain()})


def _check_keys(values: dict[str, Any], path: Path) -> None:
    """Drop the keys of W&B that change no trial, and refuse those that a trial would not follow."""
    if refused := [key for key in REFUSED if key in values]:
        raise ConfigError(
            f"{refused[0]}: names what W&B's agent starts, and a trial is always a training run of this program",
            f"Delete {refused[0]}; recipe: and set: say what is trained",
        )
    if options := [key for key in values if key in _OPTIONS]:
        option = f"--{options[0].replace('_', '-')}"
        raise ConfigError(f"{options[0]} is not part of a definition", f"It is an option of `trm sweep run`: {option}")
    require_known({key: value for key, value in values.items() if key not in IGNORED}, _KEYS, "the top level")
    if ignored := [key for key in IGNORED if values.pop(key, None) is not None]:
        logger.warning("%s: %s: about W&B's server, so without effect here", path, ", ".join(ignored))
    for key in [key for key, value in values.items() if value is None and key not in Sweep.model_fields]:
        raise ConfigError(f"{key} is empty", "Give it a value, or delete it")


def _method(values: dict[str, Any]) -> str:
    """Replace `method` by a sampler and the meaning that W&B gives to what is left out. Return the kind of sweep."""
    method = values.pop("method", None)
    if method is None:
        kind = values.get("kind", "study")
        if kind not in ("study", "search"):
            raise ConfigError(f"kind={kind!r}: should be 'study' or 'search'", nearest(str(kind), ("study", "search")))
        return str(kind)
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(f"unknown method {method!r}", nearest(str(method), METHODS))
    kind, samplers = METHODS[method]
    if values.get("kind", kind) != kind:
        raise ConfigError(f"method={method!r} and kind={values['kind']!r} exclude each other", "Delete kind")
    if kind == "study":
        if "sampler" in values:
            raise ConfigError(
                f"method={method!r} runs every cell, so that sampler={values['sampler']!r} has no effect",
                "Delete sampler, or write method: random or bayes",
            )
        return kind
    if values.setdefault("sampler", samplers[0]) not in samplers and not is_address(str(values["sampler"])):
        raise ConfigError(
            f"method={method!r} and sampler={values['sampler']!r} exclude each other",
            f"Samplers of {method}: {', '.join(samplers)}",
        )
    if "early_terminate" not in values:  # W&B stops nothing unless it is told to
        values.setdefault("stopping", {"rule": "none"})
    return kind


def _base(values: dict[str, Any]) -> TrialConfig:
    """Return the recipe with the settings of `base` and `set`."""
    recipe, base, chosen = (values.pop(key, None) for key in ("recipe", "base", "set"))
    if recipe is None and base is None:
        raise ConfigError("it names no recipe", "Add recipe: sudoku-mini (`trm recipes` lists them)")
    if recipe is not None and not isinstance(recipe, str):
        raise ConfigError(f"recipe={recipe!r} is not a name", "`trm recipes` lists them")
    config = TrialConfig() if recipe is None else get_recipe(recipe)
    for key, settings in (("base", base), ("set", chosen)):
        found: dict[str, Setting] = {}
        for name, value in flatten(require_mapping(settings or {}, key)).items():
            path = full_path(name)
            if path in found:
                raise ConfigError(f"{key} gives {path} twice", "Keep one")
            found[path] = as_setting(value)
        config = replace_settings(config, found)
    return config


def _metric(values: dict[str, Any]) -> None:
    metric = values.get("metric")
    if not isinstance(metric, Mapping):
        return
    require_known(metric, ("name", "goal", "target"), "metric")
    if "target" in metric:
        raise ConfigError("metric.target is not supported", "Delete it; run_cap and early_terminate bound the work")
    if "name" not in metric:
        raise ConfigError("metric has no name", "Write metric: {name: exact_accuracy, goal: maximize}")
    goal = metric.get("goal", "maximize")
    if goal not in ("maximize", "maximise"):
        raise ConfigError(
            f"metric.goal={goal!r}: every metric here is better when it is higher",
            "Write goal: maximize; costs are minimized with minimize: [train_flops]",
        )
    values["metric"] = metric["name"]


def _limits(values: dict[str, Any], kind: str) -> None:
    """Turn `run_cap` and the limits of the command line into trials and a budget."""
    limits: dict[str, Any] = {}
    for key in [key for key in LIMITS if key in values]:
        limits[LIMITS[key]] = limit = values.pop(key)
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
            raise ConfigError(f"{key}={limit!r} is not a number above 0", f"Write {key}: 10")
    if "run_cap" in values:
        cap = values.pop("run_cap")
        if isinstance(cap, bool) or not isinstance(cap, int) or cap < 1:
            raise ConfigError(f"run_cap={cap!r} is not a number of trials", "Write run_cap: 20")
        if kind == "search":
            _require_one(values, "run_cap", "trials")
            values["trials"] = cap
        elif "trials" in limits:
            raise ConfigError("run_cap and max_trials are both given", "Keep one")
        else:
            limits["trials"] = cap
    elif kind == "search" and values.get("trials") is None:
        raise ConfigError("a search has no number of trials", "Add run_cap: 20")
    if limits:
        _require_one(values, "a limit such as max_usd", "budget")
        values["budget"] = limits


def _require_one(values: Mapping[str, Any], key: str, other: str) -> None:
    if values.get(other) is not None:
        raise ConfigError(f"{key} and {other} are both given", "Keep one")
