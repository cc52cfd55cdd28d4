"""Define the domain of one axis of a space: a list of values, or a range."""

from __future__ import annotations

import math
import random
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, field_validator, model_validator
from typing_extensions import TypeAliasType

from trm_data.errors import ConfigError
from trm_data.settings import Settings
from trm_model.recursion_file import pin_named

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
        """Replace classes, which only `model.recursion` takes, by their addresses."""
        is_list = isinstance(values, list | tuple)
        return tuple(pin_named(value) if isinstance(value, type) else value for value in values) if is_list else values

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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"low={self.low} and high={self.high} must be finite numbers")
        if not self.low < self.high:
            raise ValueError(f"low={self.low} must be below high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low} must be above 0 with log=True")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"low={self.low} and high={self.high} must be whole numbers with integer=True")
        return self

    @property
    def count(self) -> int | None:
        """Return the number of values; None for real numbers."""
        return int(self.high) - int(self.low) + 1 if self.integer else None

    def holds(self, value: Setting) -> bool:
        """Return whether it lies between the bounds."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def draw(self, rng: random.Random) -> Setting:
        """Draw a number of the range."""
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = rng.uniform(self.low, self.high)
        return self._typed(min(max(drawn, self.low), self.high))

    def spread(self) -> list[Setting]:
        """Return the values that represent the axis: low, middle and high, each once."""
        middle = math.sqrt(self.low) * math.sqrt(self.high) if self.log else self.low / 2 + self.high / 2
        return list(dict.fromkeys(self._typed(value) for value in (self.low, middle, self.high)))

    def _typed(self, value: float) -> int | float:
        return round(value) if self.integer else value


Domain = Annotated[Choice | Uniform, Field(discriminator="kind")]
Condition = dict[str, Value | tuple[Value, ...]]
"""Settings that all have the value, or one of the values, that is named."""


def choice(*values: Setting | type) -> Choice:
    """Return an axis of these values: `choice(1, 2, 4)`, or for `model.recursion` classes or files with classes:
    `choice(None, MyRecursion, "other.py:Other")`. Raises ConfigError if they are one list."""
    if len(values) == 1 and isinstance(values[0], list):
        raise ConfigError(f"choice({values[0]!r}) has one value, a list", "Give the values as arguments: choice(1, 2)")
    return Choice(values=cast(tuple[Setting, ...], values))


def uniform(low: float, high: float) -> Uniform:
    """Return a range: `uniform(0.9, 0.999)`."""
    return Uniform(low=low, high=high)


def log_uniform(low: float, high: float) -> Uniform:
    """Return a range that is searched by order of magnitude: `log_uniform(1e-4, 1e-2)`."""
    return Uniform(low=low, high=high, log=True)


def integers(low: int, high: int) -> Uniform:
    """Return a range of integers, both ends included: `integers(1, 6)`."""
    return Uniform(low=low, high=high, integer=True)
