"""What to run: one `Sweep` object, from a Python file in `sweeps/` or from `--vary` on the command line.

Two kinds. A *search* explores a space with one seed on the validation split, stops hopeless trials early, and confirms
the best with several seeds on the test split, beside named controls. A *study* runs every cell with every seed to the
end. Only confirmed results (confirm stage of a search, every cell of a study) reach a leaderboard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from orchestrator.sweep.domains import Condition, Domain, Uniform, Value, choice, integers, log_uniform, uniform
from orchestrator.sweep.matching import Axis, match_axis
from orchestrator.sweep.settings import check_path, configure, get_setting
from orchestrator.sweep.space import grid, is_countable
from trm_data.settings import Settings
from trm_model.config import ALIASES, TrialConfig

__all__ = [
    "Confirm",
    "ResourceRule",
    "Resources",
    "Stopping",
    "Sweep",
    "Variant",
    "choice",
    "configure",
    "integers",
    "log_uniform",
    "uniform",
]
"""What a sweep file needs."""

MOST_CHECKED = 256
"""Cells of a space that are looked at before anything runs: a bad combination is found in the file, not on day two."""


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
    """When a trial is stopped early: see `orchestrator.search.early_stopping`."""

    rule: Literal["none", "halving", "median", "patience"] = "halving"
    grace: float = Field(0.6, ge=0, lt=1)
    """Share of a trial's steps before which nothing is stopped: exact accuracy stays near 0 for long, then jumps, and
    the deepest take off last. On recorded curves 0.4 lost the best in two of five orders (docs/sweeps.md)."""
    keep: float = Field(0.5, gt=0, le=1)
    """halving: share of the trials seen at a rung that go on. The next rung lies 1 / keep times as far."""
    patience: float = Field(0.25, gt=0, le=1)
    """patience: share of a trial's steps that it may take without a gain in exact accuracy."""


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
    only_if: dict[str, Condition] = Field(default_factory=dict)
    """Axes that count only where earlier axes have certain values; elsewhere the base's value stays."""
    forbidden: tuple[Condition, ...] = ()
    """Combinations that are left out."""
    variants: tuple[Variant, ...] = ()
    """Study: named cells beside (or instead of) the grid over `space`."""
    seeds: int = Field(1, ge=1)
    """Study: seeds per cell."""
    only: tuple[str, ...] | None = None
    """Study: ids of the trials to run, as a plan file lists them; None means all."""
    trials: int | None = Field(None, ge=1)
    """Search: number of explored configurations."""
    sampler: Literal["tpe", "random", "qmc", "cmaes", "gp"] = "tpe"
    sampler_seed: int = Field(0, ge=0)
    metric: str = "exact_accuracy"
    """Validation metric that a search maximises."""
    minimise: tuple[Literal["train_flops", "train_s", "num_parameters", "usd"], ...] = ()
    """Costs that a search weighs against the metric; it then confirms its Pareto front."""
    warm_start: tuple[str, ...] = ()
    """Earlier sweeps of the same storage that a search learns from, or `published`; see
    `orchestrator.search.warm_start`."""
    stopping: Stopping = Stopping()
    confirm: Confirm = Confirm()
    equal: Axis = "steps"
    """The axis on which the compared trials are equal: see `orchestrator.sweep.matching`."""
    resources: Resources = Resources()
    resource_rules: tuple[ResourceRule, ...] = ()
    max_concurrent: int | None = Field(None, ge=1)
    """Trials at once; None means as many as the cluster holds."""

    @model_validator(mode="before")
    @classmethod
    def _resolve_aliases(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("space"), Mapping):
            values = {**values, "space": _resolved(values["space"])}
            if isinstance(values.get("only_if"), Mapping):
                values["only_if"] = {key: _resolved(when) for key, when in _resolved(values["only_if"]).items()}
            if "forbidden" in values:
                values["forbidden"] = tuple(_resolved(condition) for condition in values["forbidden"])
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", self.name):
            raise ValueError(f"name={self.name!r} must be letters, digits, '.', '_' or '-', at most 80")
        self._check_space()
        for rule in self.resource_rules:
            for path in rule.when:
                check_path(path)
        for variant in (*self.variants, *self.confirm.controls):
            match_axis(configure(self.base, variant.settings), self.base, self.equal)
        self._check_axis()
        self._check_kind()
        return self

    def _check_space(self) -> None:
        for path, domain in self.space.items():
            check_path(path)
            for value in domain.spread():
                configure(self.base, {path: value})
        for path, condition in self.only_if.items():
            if path not in self.space:
                raise ValueError(f"only_if names {path!r}, which is no axis of the space")
            order = list(self.space)
            if late := [other for other in condition if other in order and order.index(other) >= order.index(path)]:
                raise ValueError(f"only_if: {path!r} follows from {late[0]!r}: put that axis before it in the space")
        for condition in (*self.only_if.values(), *self.forbidden):
            for path in condition:
                check_path(path)
        if self.space and is_countable(self):
            found = grid(self)
            if not found:
                raise ValueError("the space is empty: every cell is forbidden")
            for cell in found[:MOST_CHECKED]:
                configure(self.base, cell)

    def _check_kind(self) -> None:
        ranges = sum(isinstance(domain, Uniform) for domain in self.space.values())
        if self.kind == "study":
            if ranges:
                raise ValueError("a study runs every cell: give choices, not ranges, or make it a search")
            if self.minimise or self.warm_start:
                raise ValueError("a study runs every cell: 'minimise' and 'warm_start' are for a search")
            return
        if self.trials is None or not self.space:
            raise ValueError("a search needs 'trials' (how many) and a 'space' (over what)")
        if self.sampler == "cmaes" and (ranges < 2 or self.minimise):
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


def _resolved(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's letters as paths."""
    return {ALIASES.get(name, name): value for name, value in settings.items()}
