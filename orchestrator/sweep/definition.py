"""Define what to run: one `Sweep` object, from a Python file or from `--vary` on the command line.

There are two kinds. A *search* explores a space with one seed per configuration on the validation split, stops
unpromising trials early, and confirms the best configurations with several seeds on the test split, together with
named controls. A *study* runs every cell with every seed to the end. Only confirmed results (the confirm stage of a
search, every cell of a study) reach a leaderboard.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from orchestrator.sweep.budget import Budget
from orchestrator.sweep.domains import Choice, Condition, Domain, Setting, Uniform, Value, pin_axis, pin_files
from orchestrator.sweep.identity import changes_result, expected_id, sweep_identity
from orchestrator.sweep.matching import Axis, match_axis
from orchestrator.sweep.metrics import require_metric
from orchestrator.sweep.rules import require_rules
from orchestrator.sweep.settings import (
    check_path,
    check_value,
    describe_axis,
    functions_of,
    get_setting,
    label,
    replace_settings,
    require_whole_gpus,
)
from orchestrator.sweep.space import Cell, Space, head, require_few, with_paths
from orchestrator.sweep.text import FILE_ENDINGS, MOST_ROWS, plural
from trm_data.benchmarks import complete
from trm_data.errors import ConfigError
from trm_data.own_code import classes_in, pin_function, require_pinned, short
from trm_data.own_kinds import is_readable
from trm_data.settings import Settings, is_parsed
from trm_model.config import ALIASES, TrialConfig
from trm_model.start_file import replace_starts, start_sha256

SET_BY_PLANS = {"seed", "evaluation.split", "data.train_splits", "train.max_steps"}
"""Settings that trials may have otherwise than the base and its axes say."""
MAX_CHECKED_CELLS = 256
"""Number of cells that are validated before anything runs, so that an invalid combination is reported early."""
RESERVED_NAMES = {
    "train": "the records of `trm train`",
    "reproduced": "the repetitions of `trm trial reproduce`",
    "published": "the published results that a search may start from",
}
"""Names that no sweep may have, and what they stand for."""
BEST_PREFIX = "best "
"""Begins the family of a configuration that a search has chosen, and so the name of no control."""
FIELDS_OF_KIND = {
    "search": ("trials", "sampler", "sampler_seed", "minimise", "warm_start", "stopping", "confirm"),
    "study": ("seeds", "only", "variants"),
}
"""Fields of `Sweep` that the other kind does not use, and so refuses."""


def _one_of(*known: str) -> AfterValidator:
    """Accept these names, and the address of a function, which is pinned where code gives it."""
    return AfterValidator(lambda value, info: pin_function(value, known, is_parsed=is_parsed(info)))


class Variant(Settings):
    """Name a configuration by the settings that differ from the base."""

    name: str = Field(min_length=1)
    settings: dict[str, Setting]

    @field_validator("settings", mode="before")
    @classmethod
    def _pin_recursion(cls, settings: Any, info: ValidationInfo) -> Any:
        return settings if is_parsed(info) else pin_files(settings)


class Confirm(Settings):
    """Configure the second stage of a search."""

    top: int = Field(1, ge=0)
    """How many of the best explored configurations are confirmed."""
    seeds: int = Field(3, ge=1)
    controls: tuple[Variant, ...] = ()
    """Named control configurations that are run with the same seeds, each relative to the base."""
    train_splits: tuple[Literal["train", "validation"], ...] = ("train",)
    """`("train", "validation")`: nothing is chosen any more, so the validation puzzles may be trained on."""


class Stopping(Settings):
    """Configure when a trial is stopped early: see `orchestrator.search.early_stopping`."""

    rule: Annotated[str, _one_of("none", "halving", "median", "patience")] = "halving"
    """`none`, `halving`, `median`, `patience`, or a function of your own: `path/to/file.py:function`."""
    grace: float = Field(0.6, ge=0, lt=1)
    """Share of a trial's steps before which nothing is stopped: exact accuracy stays near 0 for long, then jumps, and
    the deepest models improve last. On recorded curves 0.4 lost the best in two of five orders (docs/sweeps.md)."""
    keep: float = Field(0.5, gt=0, le=1)
    """halving: share of the trials seen at a rung that continue. The next rung lies 1 / keep times as far."""
    patience: float = Field(0.25, gt=0, le=1)
    """patience: share of a trial's steps that it may take without a gain in exact accuracy."""


class Resources(Settings):
    """Set the resources that one trial occupies while it runs. Not part of any identity."""

    cpus: float = Field(1, gt=0, allow_inf_nan=False)
    gpus: Annotated[float | None, AfterValidator(require_whole_gpus)] = Field(None, ge=0, allow_inf_nan=False)
    """GPUs of one trial, or a share of one; 0 lets it use the CPU only. None: on this machine, the GPUs that it
    has, shared by memory; on a cluster, none (`orchestrator.resources.gpu_choice`)."""
    gpu_type: str | None = Field(None, pattern=r"^[\w.+-]+(\|[\w.+-]+)*$")
    """`L40S`, `H100`, `L40S|H100` for either, or `any`; None requests no particular type."""


class ResourceRule(Settings):
    """Give trials whose settings equal `when` other `resources` than the sweep's default."""

    when: dict[str, Value]
    resources: Resources

    @field_validator("when", mode="before")
    @classmethod
    def _pin_recursion(cls, when: Any, info: ValidationInfo) -> Any:
        return when if is_parsed(info) else pin_files(when)


class Sweep(Settings):
    """Define a sweep. `space` and every `settings` use paths (`model.cycles`) or the paper's letters (`T`)."""

    name: str
    kind: Literal["search", "study"] = "study"
    base: TrialConfig
    space: dict[str, Domain] = Field(default_factory=dict)
    only_if: dict[str, Condition] = Field(default_factory=dict)
    """Axes that count only where earlier axes have certain values; elsewhere the base's value stays."""
    forbidden: tuple[Condition, ...] = ()
    """Combinations that are left out."""
    variants: tuple[Variant, ...] = ()
    """Study: named cells in addition to (or instead of) the grid over `space`."""
    seeds: int = Field(1, ge=1)
    """Study: seeds per cell."""
    only: tuple[str, ...] | None = None
    """Study: ids of the trials to run, as a plan file lists them; None means all."""
    trials: int | None = Field(None, ge=1)
    """Search: number of explored configurations."""
    sampler: Annotated[str, _one_of("tpe", "random", "qmc", "cmaes", "gp")] = "tpe"
    """`tpe`, `random`, `qmc`, `cmaes`, `gp`, or a function that makes one of your own: `path/to/file.py:function`."""
    sampler_seed: int = Field(0, ge=0)
    metric: str = "exact_accuracy"
    """Validation metric that a search maximises."""
    minimise: tuple[Literal["train_flops", "train_s", "num_parameters", "usd"], ...] = ()
    """Costs that a search weighs against the metric; it then confirms its Pareto front. Also spelt `minimize`."""
    warm_start: tuple[str, ...] = ()
    """Other sweeps of the same storage that a search learns from, or `published`; see
    `orchestrator.search.warm_start`."""
    stopping: Stopping = Stopping()
    confirm: Confirm = Confirm()
    equal: Axis = "steps"
    """The axis on which the compared trials are equal: see `orchestrator.sweep.matching`."""
    resources: Resources = Resources()
    resource_rules: Annotated[tuple[ResourceRule, ...], BeforeValidator(require_rules)] = ()
    max_concurrent: int | None = Field(None, ge=1)
    """Trials at once; None means as many as the cluster holds."""
    budget: Budget = Budget()
    """Limits that every run of this sweep keeps; those of the run itself take their place. Not part of any identity."""

    @model_validator(mode="before")
    @classmethod
    def _resolve_aliases(cls, values: Any, info: ValidationInfo) -> Any:
        if info.context and info.context.get("is_recorded"):
            values = own_fields(values)
        if isinstance(values, Mapping) and "minimize" in values:
            if "minimise" in values:
                raise ValueError("'minimize' and 'minimise' are the same field: give one of them")
            values = {"minimise" if name == "minimize" else name: value for name, value in values.items()}
        if isinstance(values, dict) and isinstance(values.get("space"), Mapping):
            for path, domain in values["space"].items():
                if not isinstance(domain, Choice | Uniform | Mapping):
                    raise ValueError(f"space: {path}={domain!r} is not a domain: write choice(1, 2) or uniform(0, 1)")
            values = {**values, "space": with_paths(values["space"])}
            if isinstance(values.get("only_if"), Mapping):
                values["only_if"] = {key: with_paths(when) for key, when in with_paths(values["only_if"]).items()}
            if isinstance(values.get("forbidden"), list | tuple):
                values["forbidden"] = tuple(with_paths(condition) for condition in values["forbidden"])
            if not is_parsed(info):
                axes = {path: pin_axis(path, domain) for path, domain in values["space"].items()}
                conditions = {key: values[key] for key in ("only_if", "forbidden") if key in values}
                values |= {"space": axes, **pin_files(conditions)}
        return values

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Self:
        """Read a recorded definition. It was checked when it was created, possibly by a version with fewer checks.

        Raises:
            ConfigError: it is not of the form of a definition, or names a recursion file without the hash of its
                content, which no record of this program does.
        """
        replace_starts(values, start_sha256)
        for address in (*classes_in(values), *functions_of(values)):
            require_pinned(address)
        sweep = cls.parse(values, context={"is_recorded": True})
        named = [variant.settings for variant in (*sweep.variants, *sweep.confirm.controls)]
        for path in itertools.chain(sweep.space, sweep.only_if, *sweep.only_if.values(), *sweep.forbidden, *named):
            check_path(path)
        return sweep

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        if info.context and info.context.get("is_recorded"):
            return self
        self._check_names()
        self._check_conditions()
        self._check_axis()
        self._check_space()
        self._check_variants()
        self._check_kind()
        confirmed = self.confirm.seeds * (self.confirm.top + len(self.confirm.controls)) * (self.kind == "search")
        require_few(self.search_space, self.seeds, self.trials, self.seeds * len(self.variants) + confirmed)
        require_metric(self.metric, self.kind, self.base)
        return self

    def __str__(self) -> str:
        base = f", base {self.base.recipe}" if self.base.recipe else ""
        lines = [f"{self.name} ({self.kind}), equal {self.equal}{base}"]
        lines += [f"  {describe_axis(path, domain)}" for path, domain in self.space.items()]
        named = self.variants if self.kind == "study" else self.confirm.controls
        if named:
            more = f", ... ({len(named)})" if len(named) > MOST_ROWS else ""
            what = "variants" if self.kind == "study" else "controls"
            lines.append(f"  {what}: {', '.join(variant.name for variant in named[:MOST_ROWS])}{more}")
        if self.kind == "study":
            lines.append(f"  {plural(self.seeds, 'seed')} per cell")
        else:
            aim = self.metric.replace("_", " ")
            lines.append(f"  {plural(self.trials or 0, 'trial')} by {short(self.sampler)} for {aim}")
            confirmed = f"{self.confirm.top} best and controls" if named else f"{self.confirm.top} best"
            lines.append(f"  confirmed: {confirmed}, {plural(self.confirm.seeds, 'seed')} each")
        return "\n".join(lines)

    @property
    def search_space(self) -> Space:
        """Return the cells over `space`, with their conditions."""
        return Space(self.base, self.space, self.only_if, self.forbidden)

    def cell_like(self, variant: Variant) -> Cell | None:
        """Return the cell of the space that a variant repeats, or None."""
        config = replace_settings(self.base, variant.settings)
        cell = self.search_space.cell_of(config)
        if not self.space or not self.search_space.holds(cell):
            return None
        return cell if expected_id(replace_settings(self.base, cell)) == expected_id(config) else None

    def _configured(self, settings: Mapping[str, Setting]) -> TrialConfig:
        """Return a configuration whose puzzles can be built. Raises ConfigError otherwise."""
        config = replace_settings(self.base, settings)
        if is_readable(config.data.benchmark):  # else a file that is only data names it: it is checked when it runs
            complete(config.data.request())
        return config

    def _check_names(self) -> None:
        for field, name in [("name", self.name), *(("warm_start", name) for name in self.warm_start)]:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name):
                raise ValueError(f"{field}={name!r} must be letters, digits, '.', '_' or '-', at most 80")
        reserved = "files of sweeps" if self.name.endswith(FILE_ENDINGS) else RESERVED_NAMES.get(self.name.casefold())
        if reserved:
            raise ValueError(f"the name {self.name!r} is reserved for {reserved}: take another")
        if self.name in self.warm_start:
            raise ValueError(f"warm_start names {self.name!r}, the sweep itself")

    def _check_conditions(self) -> None:
        order = list(self.space)
        for path, condition in self.only_if.items():
            if path not in self.space:
                raise ValueError(f"only_if names {path!r}, which is not an axis of the space")
            if late := [other for other in condition if other in order and order.index(other) >= order.index(path)]:
                raise ValueError(f"only_if: {path!r} follows from {late[0]!r}: put that axis before it in the space")
        rules: list[Condition] = [{**rule.when} for rule in self.resource_rules]
        for condition in (*self.only_if.values(), *self.forbidden, *rules):
            if not condition:
                raise ValueError("a condition without settings holds everywhere: name at least one")
            for path, wanted in condition.items():
                for value in wanted if isinstance(wanted, tuple) else (wanted,):
                    check_value(path, value)
        named = [with_paths(variant.settings) for variant in (*self.variants, *self.confirm.controls)]
        for path, one in (pair for rule in self.resource_rules for pair in rule.when.items()):
            setting = ALIASES.get(path, path)
            may_have = setting in SET_BY_PLANS or self.search_space.may_have(setting, one)
            if not may_have and all(settings.get(setting) != one for settings in named):
                raise ValueError(f"resource_rules: no trial has {path}={one!r}: correct the rule, or leave it out")

    def _check_space(self) -> None:
        for path, domain in self.space.items():
            check_path(path)
            if domain.count != 1 and not changes_result(path):
                raise ValueError(f"{path} does not change a result: leave it out of the space, and set it in the base")
            values = [get_setting(self._configured({path: value}), path) for value in domain.spread()]
            if equal := [value for index, value in enumerate(values) if value in values[:index]]:
                raise ValueError(f"two values of {path} are the same setting, {equal[0]!r}: leave one out")
        space = self.search_space
        if self.space and space.is_countable:
            first = head(space.grid(), MAX_CHECKED_CELLS)
            if not first:
                raise ValueError("the space is empty: every cell is forbidden")
            known: dict[str, Cell] = {}
            for cell in first:
                try:
                    config = match_axis(self._configured(cell), self.base, self.equal)
                except ConfigError as error:
                    raise ConfigError(
                        f"cell {label(cell)!r} cannot run: {error.what}",
                        error.remedy or "Exclude the combination with 'forbidden', or drop the value",
                    ) from None
                if (same := known.setdefault(expected_id(config), cell)) is not cell:
                    both = f"{label(same)!r} and {label(cell)!r}"
                    raise ValueError(f"cells {both} give the same result: exclude one with 'forbidden'")

    def _check_variants(self) -> None:
        space = self.search_space
        has_cells = self.kind == "study" and bool(self.space) and space.is_countable
        cells = {label(cell): cell for cell in head(space.grid(), MAX_CHECKED_CELLS)} if has_cells else {}
        for kind, variants in (("variants", self.variants), ("controls", self.confirm.controls)):
            names: dict[str, str] = {}
            for variant in variants:
                result = expected_id(match_axis(self._configured(variant.settings), self.base, self.equal))
                if not variant.name.isprintable():
                    raise ValueError(f"{kind}: the name {variant.name!r} has characters that cannot be printed")
                if kind == "controls" and variant.name.startswith(BEST_PREFIX):
                    raise ValueError(f"a control named {variant.name!r} would be taken for one of the best: rename it")
                if variant.name in cells and self.cell_like(variant) != cells[variant.name]:
                    raise ValueError(f"{kind}: {variant.name!r} is the name of another cell: take another name")
                name = unicodedata.normalize("NFC", variant.name.strip())
                if name in names:
                    raise ValueError(f"two {kind} are named {variant.name!r}: give each its own name")
                if same := [name for name, known in names.items() if known == result]:
                    raise ValueError(f"{kind} {same[0]!r} and {name!r} give the same result: leave one out")
                names[name] = result

    def _check_kind(self) -> None:
        other = "search" if self.kind == "study" else "study"
        for name in FIELDS_OF_KIND[other]:
            if getattr(self, name) != type(self).model_fields[name].default:
                instead = {"seeds": "confirm.seeds", "variants": "confirm.controls"}.get(name)
                remedy = f"For a search set {instead}" if instead else f"Leave it out, or set kind={other!r}"
                raise ConfigError(f"{name!r} is for kind={other!r}, and this is a {self.kind}", remedy)
        ranges = [path for path, domain in self.space.items() if isinstance(domain, Uniform)]
        if self.kind == "study":
            if self.seeds > 1 and ("seed" in self.space or any("seed" in each.settings for each in self.variants)):
                raise ValueError(f"'seed' varies, and seeds={self.seeds} varies it too: take one of them")
            if ranges:
                what = f"{ranges[0]}: a study runs every cell, and this is a range: give choices"
                raise ValueError(f'{what}, or make it a search with kind="search", trials=N')
            return
        if self.trials is None or not self.space:
            raise ValueError("a search needs 'trials' (how many) and a 'space' (over what)")
        for path, domain in self.space.items():
            if isinstance(domain, Choice) and any(isinstance(value, tuple) for value in domain.values):
                raise ValueError(f"{path}: a search cannot choose among lists; make it a study, or use controls")
        if len(set(self.minimise)) < len(self.minimise):
            raise ValueError("'minimise' names a cost twice")
        if self.sampler == "cmaes" and (len(ranges) < 2 or self.minimise):
            raise ValueError("sampler='cmaes' needs two or more ranges and a single aim; tpe and gp take anything")
        if self.minimise and self.stopping.rule != "none":
            raise ValueError("a cheap trial of low score may lie on the Pareto front: set Stopping(rule='none')")
        if "usd" in self.minimise and not self.resources.gpus:
            raise ValueError("minimise='usd' needs trials on GPUs: the catalogue has no price of a CPU")

    def _check_axis(self) -> None:
        if self.equal == "steps":
            return
        match_axis(self.base, self.base, self.equal)
        chosen = {ALIASES.get(path, path) for path in self.space}
        chosen |= {ALIASES.get(path, path) for v in (*self.variants, *self.confirm.controls) for path in v.settings}
        if taken := chosen & {"train.max_steps", "train.max_puzzles"}:
            raise ValueError(f"equal={self.equal!r} decides when a trial ends: leave {sorted(taken)[0]} to the base")
        if self.kind == "search" and self.stopping.rule != "none":
            raise ValueError(f"equal={self.equal!r}: early stopping compares equal steps; set Stopping(rule='none')")

    def resources_of(self, config: TrialConfig) -> Resources:
        """Return the first matching rule's resources, else the sweep's."""
        for rule in self.resource_rules:
            if all(get_setting(config, path) == value for path, value in rule.when.items()):
                return rule.resources
        return self.resources

    def definition(self) -> dict[str, Any]:
        """Return the settings that identify this sweep."""
        return sweep_identity(self.plain())


def own_fields(values: Any) -> Any:
    """Return the fields of a definition without those of the other kind, which older versions accepted and ignored."""
    if not isinstance(values, Mapping):
        return values
    unused = FIELDS_OF_KIND["search" if values.get("kind", "study") == "study" else "study"]
    return {name: value for name, value in values.items() if name not in unused}
