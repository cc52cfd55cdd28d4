"""Translate the keys of a sweep configuration of Weights & Biases: `method`, `parameters`, `early_terminate`.

https://docs.wandb.ai/models/sweeps/sweep-config-keys
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from orchestrator.sweep.domains import Choice, Setting, Uniform
from orchestrator.sweep.ranges import list_values, number_range
from orchestrator.sweep.settings import check_value, full_path
from trm_data.errors import ConfigError, nearest
from trm_model.config import TrialConfig

METHODS: dict[str, tuple[str, tuple[str, ...]]] = {
    "grid": ("study", ()),
    "random": ("search", ("random", "qmc")),
    "bayes": ("search", ("tpe", "gp", "cmaes")),
}
"""The kind of sweep of each method, and the samplers that it may have; the first is the default."""
IGNORED = ("entity", "project", "description", "controller")
"""Keys about W&B's server, which change no trial."""
REFUSED = ("program", "command", "job", "image_uri", "scheduler", "env")
"""Keys about what W&B's agent starts. Ignoring them would train something else than the file says."""
_SPEC_KEYS = ("value", "values", "min", "max", "distribution", "q", "probabilities", "mu", "sigma", "parameters")
BY_TYPE = "int_uniform or uniform"
_IS_INTEGER = {"int_uniform": True, "q_log_uniform_values": True, "q_uniform": None, BY_TYPE: None}
"""Whether a distribution gives whole numbers only; None for what the setting takes. The others do not."""
_RANGES = ("int_uniform", "uniform", "q_uniform", "log_uniform", "log_uniform_values", "q_log_uniform_values")
_DISTRIBUTIONS = ("constant", "categorical", *_RANGES)
_UNSUPPORTED = (
    *("normal", "q_normal", "log_normal", "q_log_normal", "beta", "q_beta", "inv_log_uniform"),
    *("inv_log_uniform_values", "q_log_uniform", "categorical_w_probabilities"),
)
_HYPERBAND_KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")
DEFAULT_ETA = 3
"""W&B's own default."""


class Parameters(NamedTuple):
    """Hold what `parameters` describes: fixed settings, and axes of the space, by path."""

    fixed: dict[str, Setting]
    axes: dict[str, Choice | Uniform]


def parse_parameters(values: Any, *, is_grid: bool) -> Parameters:
    """Translate `parameters`.

    Args:
        is_grid: every cell is run, so that a range of whole numbers or of steps stands for all of its values.

    Raises:
        ConfigError: naming the key, the nearest known one, and the remedy.
    """
    found = Parameters({}, {})
    for where, name, spec in _specs(require_mapping(values, "parameters"), "parameters", ""):
        try:
            path = full_path(name)
            if path in found.fixed or path in found.axes:
                raise ConfigError(f"{path} is given twice", "Keep one")
            axis = _axis(path, spec)
            for value in axis if isinstance(axis, tuple) else axis.spread():
                check_value(path, value)
            if not isinstance(axis, Choice | Uniform):
                found.fixed[path] = axis[0]
            elif is_grid:
                found.axes[path] = list_values(path, axis)
            else:
                found.axes[path] = axis
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.what}", error.remedy) from None
    return found


def _specs(values: Mapping[str, Any], where: str, prefix: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (place in the file, name, specification) of every parameter, nested ones by their dotted names."""
    for name, spec in values.items():
        place, full = f"{where}.{name}", f"{prefix}{name}"
        if isinstance(spec, list):
            raise ConfigError(f"{place} is a list", f"Write {name}: {{values: {spec}}}")
        if not isinstance(spec, Mapping):
            raise ConfigError(f"{place}={spec!r} is not a mapping", f"Write {name}: {{value: {spec}}}")
        require_known(spec, _SPEC_KEYS, place)
        if "parameters" in spec:
            if len(spec) > 1:
                raise ConfigError(f"{place} has 'parameters' and other keys", "Keep either")
            yield from _specs(require_mapping(spec["parameters"], place), place, f"{full}.")
        else:
            yield place, full, spec


def _axis(path: str, spec: Mapping[str, Any]) -> Choice | Uniform | tuple[Setting]:
    """Return the axis of a parameter; a tuple of one for a constant."""
    kind = spec.get("distribution") or _default_distribution(spec)
    if kind in _UNSUPPORTED:
        raise ConfigError(f"distribution={kind!r} is not supported", f"Use one of {', '.join(_DISTRIBUTIONS)}")
    if kind not in (*_DISTRIBUTIONS, BY_TYPE):
        raise ConfigError(f"unknown distribution {kind!r}", nearest(str(kind), _DISTRIBUTIONS))
    needed = {"constant": ("value",), "categorical": ("values",)}.get(kind, ("min", "max"))
    steps = ("q",) if kind.startswith("q_") else ()
    for key in spec:
        if key not in (*needed, *steps, "distribution"):
            wanted = " and ".join((*needed, *steps))
            raise ConfigError(f"{key!r} does not belong to distribution {kind}, which takes {wanted}", "Leave it out")
    if missing := [key for key in needed if key not in spec]:
        raise ConfigError(f"distribution {kind} needs {missing[0]!r}", f"Add {missing[0]}:")
    if kind == "constant":
        return (as_setting(spec["value"]),)
    if kind == "categorical":
        values = spec["values"]
        if not isinstance(values, list):
            raise ConfigError(f"values={values!r} is not a list", f"Write values: [{values}]")
        return Choice.parse({"values": tuple(map(as_setting, values))}, where="values")
    return _range(path, kind, spec)


def _default_distribution(spec: Mapping[str, Any]) -> str:
    """Return the distribution that W&B infers, except that the type of the setting decides between whole numbers and
    others, not the form of the bounds."""
    if "values" in spec:
        return "categorical"
    if "value" in spec:
        return "constant"
    if "min" in spec or "max" in spec:
        return BY_TYPE
    raise ConfigError("it has neither value, values, nor min and max", "Write {values: [1, 2]} or {min: 1, max: 4}")


def _range(path: str, kind: str, spec: Mapping[str, Any]) -> Uniform:
    low, high = (_number(spec[key], key) for key in ("min", "max"))
    step = _number(spec.get("q", 1), "q") if kind.startswith("q_") else None
    if kind == "log_uniform":  # W&B gives the bounds as exponents of e
        low, high = math.exp(low), math.exp(high)
    if kind == "q_log_uniform_values" and step != 1:
        raise ConfigError("steps on a logarithmic scale are supported for q: 1 only", "Use log_uniform_values")
    return number_range(
        path,
        low,
        high,
        is_log="log" in kind,
        step=step if kind == "q_uniform" else None,
        is_integer={"int_uniform": True, "q_log_uniform_values": True, "q_uniform": None, BY_TYPE: None}.get(
            kind, False
        ),
    )


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{key}={value!r} is not a number", f"Write {key}: 0.001")
    try:
        return float(value)
    except OverflowError:
        raise ConfigError(f"{key} is too large") from None


def parse_early_terminate(values: Any, base: TrialConfig) -> dict[str, Any]:
    """Translate Hyperband to the rule `halving`: brackets are rungs, and 1 / eta of the trials pass each.

    Iterations are evaluations on the validation split. The first rung is `min_iter`, or `max_iter / eta ** s`.

    Raises:
        ConfigError: another type than Hyperband, or a key or value that it does not have.
    """
    spec = require_mapping(values, "early_terminate")
    require_known(spec, _HYPERBAND_KEYS, "early_terminate")
    if spec.get("type") != "hyperband":
        raise ConfigError(
            f"early_terminate.type={spec.get('type')!r} is not supported",
            "Write type: hyperband, or stopping: {rule: halving|median|patience|none} in its place",
        )
    if spec.get("strict"):
        raise ConfigError("early_terminate.strict is not supported", "Leave it out")
    eta = _number(spec.get("eta", DEFAULT_ETA), "early_terminate.eta")
    if not eta > 1:
        raise ConfigError(f"early_terminate.eta={eta:g} must be above 1", f"W&B's default is {DEFAULT_ETA}")
    rule: dict[str, Any] = {"rule": "halving", "keep": 1 / eta}
    first = None
    if "min_iter" in spec:
        first = _number(spec["min_iter"], "early_terminate.min_iter")
    elif "max_iter" in spec or "s" in spec:
        if not ("max_iter" in spec and "s" in spec):
            raise ConfigError("early_terminate needs both max_iter and s, or min_iter", "Write min_iter: 6")
        longest, brackets = (_number(spec[key], f"early_terminate.{key}") for key in ("max_iter", "s"))
        first = longest / eta ** max(0.0, brackets)
    if first is not None:
        every = base.runtime.evaluate_every or max(1, base.train.max_steps // 10)
        share = first * every / base.train.max_steps
        if not 0 < share < 1:
            raise ConfigError(
                f"early_terminate: the first bracket is evaluation {first:g}, and a trial has "
                f"{base.train.max_steps // every} (one every {every} steps)",
                "Give a smaller min_iter, or more evaluations with runtime.evaluate_every",
            )
        rule["grace"] = math.floor(share * 1e6 + 1e-3) / 1e6  # never above the evaluation itself
    return rule


def require_mapping(value: Any, where: str) -> Mapping[str, Any]:
    """Return a value that is a mapping with text as keys. Raises ConfigError for any other."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}={value!r} is not a mapping", "Write one key: value pair a line, indented below it")
    if wrong := [key for key in value if not isinstance(key, str)]:
        raise ConfigError(f"{where}: the key {wrong[0]!r} is not text", "Put it in quotes")
    return value


def require_known(values: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Raise ConfigError, with the nearest known key, where a mapping has a key that does not exist."""
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}", nearest(str(key), known))


def as_setting(value: Any) -> Setting:
    """Return a plain value as a setting; lists become tuples. Raises ConfigError for a mapping."""
    if isinstance(value, list):
        return tuple(map(as_setting, value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(
        f"{value!r} is not a value of a setting", "A value is a number, text, true, false, null or a list"
    )
