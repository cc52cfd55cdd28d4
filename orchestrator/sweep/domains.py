"""Define the domain of one axis of a space: a list of values, or a range."""

from __future__ import annotations

import math
import random
from decimal import Decimal
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, field_validator, model_validator
from typing_extensions import TypeAliasType

from trm_data.errors import ConfigError
from trm_data.own_code import pin_class, pin_named, replace_in
from trm_data.settings import Settings
from trm_model.start_file import pin_named_start, replace_starts

ROUNDING = 1e-9
"""Relative error of binary fractions that counts as none."""
MAX_STEPS = 1_000_000
"""Values of a range with steps; a finer one is as good as none."""
Value = bool | int | float | str | None
"""A single value of a setting."""
Setting = TypeAliasType("Setting", "bool | int | float | str | tuple[Setting, ...] | None")
"""A value of a setting, lists included: `optimizer.betas`, `data.train_splits`, `train.depth_curriculum`."""


class Choice(Settings):
    """Choose from a list of values."""

    kind: Literal["choice"] = "choice"
    values: tuple[Setting, ...] = Field(min_length=1)

    @field_validator("values", mode="before")
    @classmethod
    def _name_classes(cls, values: Any) -> Any:
        """Replace classes by their addresses."""
        is_list = isinstance(values, list | tuple)
        return tuple(pin_class(value) if isinstance(value, type) else value for value in values) if is_list else values

    @model_validator(mode="after")
    def _check(self) -> Self:
        keys = [repr(value) for value in self.values]  # 1, 1.0 and True are equal in Python
        if twice := [value for index, value in enumerate(self.values) if keys[index] in keys[:index]]:
            raise ValueError(f"{twice[0]!r} is given twice")
        if bad := [value for value in self.values if isinstance(value, float) and not math.isfinite(value)]:
            raise ValueError(f"{bad[0]!r} is not a value that can be trained with")
        return self

    @property
    def count(self) -> int | None:
        """Return the number of values."""
        return len(self.values)

    def holds(self, value: Setting) -> bool:
        """Return whether it is one of the values."""
        return value in self.values

    def draw(self, rng: random.Random) -> Setting:
        """Draw one of the values."""
        return rng.choice(self.values)

    def spread(self) -> list[Setting]:
        """Return the values that represent the axis: all of them."""
        return list(self.values)


class Uniform(Settings):
    """Choose a number between two bounds, both included; `log` draws uniformly in the logarithm."""

    kind: Literal["uniform"] = "uniform"
    low: float
    high: float
    log: bool = False
    integer: bool = False
    step: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Only `low` and the values whole steps above it, up to `high`; None for all numbers between the bounds."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"low={self.low} and high={self.high} must be finite numbers")
        if not self.low < self.high:
            raise ValueError(f"low={self.low:.12g} must be below high={self.high:.12g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low} must be above 0 with log=True")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"low={self.low} and high={self.high} must be whole numbers with integer=True")
        if self.step is not None and self.log:
            raise ValueError("steps are equal, so that step and log=True exclude each other")
        if self.step is not None and self.integer and not self.step.is_integer():
            raise ValueError(f"step={self.step} must be a whole number with integer=True")
        if self.step is not None and self.high - self.low > MAX_STEPS * self.step:
            raise ValueError(f"step={self.step} makes more than {MAX_STEPS:,} values: leave it out")
        if self.step is not None and (decimal(self.high) - decimal(self.low)) % decimal(self.step):
            raise ValueError(f"high={self.high} is not a whole number of steps of {self.step} above low={self.low}")
        return self

    @property
    def count(self) -> int | None:
        """Return the number of values; None for real numbers."""
        if self.step is not None:
            return int((decimal(self.high) - decimal(self.low)) / decimal(self.step)) + 1
        return int(self.high) - int(self.low) + 1 if self.integer else None

    def holds(self, value: Setting) -> bool:
        """Return whether it lies between the bounds, on a step where there are steps."""
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or math.isclose(self.snapped(value), value, rel_tol=ROUNDING)

    def draw(self, rng: random.Random) -> Setting:
        """Draw a number of the range."""
        if self.step is not None:
            return self._at(rng.randrange(self.count or 1))
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = rng.uniform(self.low, self.high)
        return self._typed(min(max(drawn, self.low), self.high))

    def spread(self) -> list[Setting]:
        """Return the values that represent the axis: low, middle and high, each once."""
        middle = math.sqrt(self.low) * math.sqrt(self.high) if self.log else self.low / 2 + self.high / 2
        return list(dict.fromkeys(self.snapped(value) for value in (self.low, middle, self.high)))

    def values(self) -> list[int | float]:
        """Return every value of a range of integers or of steps.

        Raises:
            ValueError: it is a range of real numbers.
        """
        if self.count is None:
            raise ValueError("a range of real numbers has no list of values")
        if self.step is not None:
            return [self._at(index) for index in range(self.count)]
        return [int(self.low) + index for index in range(self.count)]

    def snapped(self, value: float) -> int | float:
        """Return the nearest value of the range."""
        if self.step is None:
            return self._typed(value)
        return self._at(min(round((value - self.low) / self.step), (self.count or 1) - 1))

    def _at(self, index: int) -> int | float:
        """Return the value that many steps above the lowest, without the error of binary fractions: 0.3, not
        0.30000000000000004."""
        assert self.step is not None
        return self._typed(float(decimal(self.low) + index * decimal(self.step)))

    def _typed(self, value: float) -> int | float:
        return round(value) if self.integer else value


def decimal(number: float) -> Decimal:
    """Return the number as it is written, so that steps of 0.1 add up."""
    return Decimal(repr(number))


Domain = Annotated[Choice | Uniform, Field(discriminator="kind")]
Condition = dict[str, Value | tuple[Value, ...]]
"""Settings that all have the value, or one of the values, that is named."""


def choice(*values: Setting | type) -> Choice:
    """Return an axis of these values: `choice(1, 2, 4)`, or for `model.recursion` classes or files with classes:
    `choice(None, MyRecursion, "other.py:Other")`. Raises ConfigError if they are one list."""
    if len(values) == 1 and isinstance(values[0], list):
        raise ConfigError(f"choice({values[0]!r}) has one value, a list", "Give the values as arguments: choice(1, 2)")
    return Choice(values=cast(tuple[Setting, ...], values))


def uniform(low: float, high: float, *, log: bool = False, step: float | None = None) -> Uniform:
    """Return a range: `uniform(0.9, 0.999)`; with `log` searched by order of magnitude; with `step` only `low` and
    whole steps above it."""
    return Uniform(low=low, high=high, log=log, step=step)


def log_uniform(low: float, high: float) -> Uniform:
    """Return `uniform(low, high, log=True)`: `log_uniform(1e-4, 1e-2)`."""
    return uniform(low, high, log=True)


def integers(low: int, high: int, *, log: bool = False, step: int | None = None) -> Uniform:
    """Return a range of integers, both ends included: `integers(1, 6)`; with `log` searched by order of magnitude."""
    return Uniform(low=low, high=high, integer=True, log=log, step=step)


def pin_files(settings: Any) -> Any:
    """Return nested settings that the user's own code gives, with the files that they name pinned to their content.

    Raises:
        ConfigError: there is no such file, or it is not what the setting takes.
    """
    return replace_starts(replace_in(settings, pin_named), pin_named_start)


def pin_axis(path: str, domain: Any) -> Any:
    """Return the axis of a setting that names files with pinned addresses; any other axis as it is."""
    if not isinstance(domain, Choice):
        return pin_files({path: domain})[path]
    values = pin_files({path: domain.values})[path]
    return domain if values == domain.values else Choice(values=values)
