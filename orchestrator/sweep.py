"""What to run: one `Sweep` object, from a Python file in `sweeps/` or from `--vary` on the command line.

Two kinds. A *search* explores a space with one seed on the validation split, stops hopeless trials early, and confirms
the best with several seeds on the test split, beside named controls. A *study* runs every cell with every seed to the
end. Only confirmed results (confirm stage of a search, every cell of a study) reach a leaderboard.
"""

from __future__ import annotations

import itertools
import re
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from orchestrator.errors import SweepError
from trm_data.errors import ConfigError, nearest
from trm_data.settings import Settings, field_names
from trm_model.config import ALIASES, TrialConfig

Value = bool | int | float | str | None


class Choice(Settings):
    """One of some values."""

    kind: Literal["choice"] = "choice"
    values: tuple[Value, ...] = Field(min_length=1)


class Uniform(Settings):
    """A number between two bounds, both included; `log` draws uniformly in the logarithm."""

    kind: Literal["uniform"] = "uniform"
    low: float
    high: float
    log: bool = False
    integer: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low={self.low} must be below high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low} must be above 0 with log=True")
        return self


Domain = Annotated[Choice | Uniform, Field(discriminator="kind")]


def choice(*values: Value) -> Choice:
    """`choice(1, 2, 4)`"""
    return Choice(values=values)


def log_uniform(low: float, high: float) -> Uniform:
    """`log_uniform(1e-4, 1e-2)`"""
    return Uniform(low=low, high=high, log=True)


class Variant(Settings):
    """A named configuration: settings that differ from the base."""

    name: str = Field(min_length=1)
    settings: dict[str, Value]


class Confirm(Settings):
    """The second stage of a search."""

    top: int = Field(1, ge=0)
    """How many of the best explored configurations."""
    seeds: int = Field(3, ge=1)
    controls: tuple[Variant, ...] = ()
    """Named rivals that are run with the same seeds, each relative to the base."""
    train_splits: tuple[Literal["train", "validation"], ...] = ("train",)
    """`("train", "validation")`: nothing is chosen any more, so the validation puzzles may be trained on."""


class Stopping(Settings):
    """When a trial is stopped early: see `orchestrator.stopping`."""

    rule: Literal["none", "halving"] = "halving"
    grace: float = Field(0.4, ge=0, lt=1)
    """Share of a trial's steps before which nothing is stopped: exact accuracy stays near 0 for long, then jumps."""
    keep: float = Field(0.5, gt=0, le=1)
    """Share of the trials seen at a rung that go on."""


class Resources(Settings):
    """What one trial occupies while it runs. Not part of any identity."""

    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)
    gpu_type: str | None = None
    """`L40S`, `H100`, `L40S|H100` for either, or `any`; None asks for no particular type."""


class ResourceRule(Settings):
    """Trials whose settings equal `when` get `resources` instead of the sweep's own."""

    when: dict[str, Value]
    resources: Resources


class Sweep(Settings):
    """A complete question. `space` and every `settings` use paths (`model.cycles`) or the paper's letters (`T`)."""

    name: str
    kind: Literal["search", "study"] = "study"
    base: TrialConfig
    space: dict[str, Domain] = Field(default_factory=dict)
    variants: tuple[Variant, ...] = ()
    """Study: named cells beside (or instead of) the grid over `space`."""
    seeds: int = Field(1, ge=1)
    """Study: seeds per cell."""
    trials: int | None = Field(None, ge=1)
    """Search: number of explored configurations."""
    sampler: Literal["tpe", "random", "qmc"] = "tpe"
    sampler_seed: int = Field(0, ge=0)
    metric: str = "exact_accuracy"
    """Validation metric that a search maximises."""
    stopping: Stopping = Stopping()
    confirm: Confirm = Confirm()
    equal: Literal["steps", "puzzles", "flops"] = "steps"
    """The axis on which the compared trials are equal."""
    resources: Resources = Resources()
    resource_rules: tuple[ResourceRule, ...] = ()
    max_concurrent: int | None = Field(None, ge=1)
    """Trials at once; None means as many as the cluster holds."""

    @model_validator(mode="before")
    @classmethod
    def _resolve_aliases(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("space"), Mapping):
            values = {**values, "space": {ALIASES.get(key, key): domain for key, domain in values["space"].items()}}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", self.name):
            raise ValueError(f"name={self.name!r} must be letters, digits, '.', '_' or '-', at most 80")
        for path, domain in self.space.items():
            check_path(path)
            for value in domain.values if isinstance(domain, Choice) else (domain.low, domain.high):
                if isinstance(domain, Choice) or not domain.integer:
                    configure(self.base, {path: value})
        for settings in [v.settings for v in (*self.variants, *self.confirm.controls)] + [
            rule.when for rule in self.resource_rules
        ]:
            for path in settings:
                check_path(path)
        for variant in (*self.variants, *self.confirm.controls):
            configure(self.base, variant.settings)
        if self.kind == "search" and (self.trials is None or not self.space):
            raise ValueError("a search needs 'trials' (how many) and a 'space' (over what)")
        if self.kind == "study" and any(isinstance(domain, Uniform) for domain in self.space.values()):
            raise ValueError("a study runs every cell: give choices, not ranges, or make it a search")
        return self

    def resources_of(self, config: TrialConfig) -> Resources:
        """The first matching rule's resources, else the sweep's."""
        for rule in self.resource_rules:
            if all(get_setting(config, path) == value for path, value in rule.when.items()):
                return rule.resources
        return self.resources

    def definition(self) -> dict[str, Any]:
        """What makes it this sweep: everything but where and how fast it runs."""
        plain = self.plain()
        for operational in ("resources", "resource_rules", "max_concurrent"):
            del plain[operational]
        del plain["base"]["runtime"]
        return plain


def check_path(path: str) -> None:
    """Raises ConfigError with the nearest valid name where `path` is not a setting of a trial."""
    parts = ALIASES.get(path, path).split(".")
    inside = field_names(TrialConfig, parts)
    if inside:
        raise ConfigError(f"{path!r} is a group of settings", f"Name one of: {', '.join(inside)}")
    if parts[-1] in field_names(TrialConfig, parts[:-1]):
        return
    every = [
        ".".join(filter(None, [section, name]))
        for section in ["", *TrialConfig.model_fields]
        for name in field_names(TrialConfig, [section] if section else [])
    ]
    same_leaf = [name for name in every if name.rsplit(".", 1)[-1] == path]
    hint = (
        f"Did you mean {same_leaf[0]!r}?" if same_leaf else nearest(path, every if "." in path else [*ALIASES, *every])
    )
    raise ConfigError(f"unknown setting {path!r}", hint if hint.startswith("Did") else "See `trm train --show-config`")


def configure(base: TrialConfig, settings: Mapping[str, Value]) -> TrialConfig:
    """The base with some settings replaced. Raises ConfigError naming the field and the remedy."""
    values = base.model_dump()
    for name, value in settings.items():
        check_path(name)
        *sections, leaf = ALIASES.get(name, name).split(".")
        target = values
        for section in sections:
            target = target[section]
        target[leaf] = value
    return TrialConfig.parse(values)


def get_setting(config: TrialConfig, name: str) -> Any:
    """The value at a path or alias."""
    value: Any = config
    for part in ALIASES.get(name, name).split("."):
        value = getattr(value, part)
    return value


def short_name(path: str) -> str:
    """The paper's letter where there is one, else the last part of the path."""
    return {full: alias for alias, full in ALIASES.items()}.get(path, path.rsplit(".", 1)[-1])


def label(settings: Mapping[str, Value]) -> str:
    """`T=2 n=4`: the name of a cell."""
    return " ".join(f"{short_name(path)}={_show(value)}" for path, value in settings.items()) or "base"


def _show(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def cells(sweep: Sweep) -> Iterator[tuple[str, dict[str, Value]]]:
    """(family name, settings) of every cell of a study: the grid over `space`, then the named variants."""
    if sweep.space or not sweep.variants:
        axes = [
            [(path, value) for value in domain.values]
            for path, domain in sweep.space.items()
            if isinstance(domain, Choice)
        ]
        for combination in itertools.product(*axes):
            yield label(dict(combination)), dict(combination)
    for variant in sweep.variants:
        yield variant.name, dict(variant.settings)


def load_sweep(path: Path) -> Sweep:
    """The `sweep` that a Python file defines.

    Raises:
        SweepError: no such file, the file fails, or it defines no Sweep named `sweep`.
    """
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("sweeps")
        known = [str(p) for p in folder.glob("**/*.py")]
        raise SweepError(f"no sweep file {str(path)!r}", nearest(str(path), known))
    try:
        found = runpy.run_path(str(path)).get("sweep")
    except (ConfigError, SweepError) as error:
        raise SweepError(f"{path}: {error.what}", error.remedy) from error
    except Exception as error:  # a user's own file: whatever it raises is for the user, in one line
        message = _validation_line(error) or f"{type(error).__name__}: {error}"
        raise SweepError(f"{path} fails: {message}", "Run it with python to see the traceback") from error
    if not isinstance(found, Sweep):
        raise SweepError(f"{path} defines no sweep", "Assign a Sweep to the name 'sweep'")
    return found


def _validation_line(error: Exception) -> str | None:
    if not hasattr(error, "errors"):
        return None
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def parse_value(text: str) -> Value:
    """A command-line value: null, true, false, a number, or the text itself."""
    words: dict[str, Value] = {"null": None, "none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_assignment(text: str, option: str) -> tuple[str, list[Value]]:
    """`T=1,2` -> ("T", [1, 2]). Raises ConfigError if it is not of that form."""
    name, sign, values = text.partition("=")
    if not sign or not name.strip() or not values.strip():
        raise ConfigError(f"{option} {text!r} is not of the form NAME=VALUE[,VALUE...]", f"Example: {option} T=1,2")
    check_path(name.strip())
    return name.strip(), [parse_value(value.strip()) for value in values.split(",")]
