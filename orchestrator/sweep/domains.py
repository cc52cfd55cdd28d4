"""What one axis of a space may be: some values, or a range."""

from __future__ import annotations

import math
import random
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trm_data.settings import Settings

Value = bool | int | float | str | None


class Choice(Settings):
    """One of some values."""

    kind: Literal["choice"] = "choice"
    values: tuple[Value, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = [value for index, value in enumerate(self.values) if _spelt(value) in map(_spelt, self.values[:index])]
        if twice:
            raise ValueError(f"{twice[0]!r} is given twice")
        return self

    def holds(self, value: Value) -> bool:
        """Whether it is one of them."""
        return value in self.values

    def draw(self, rng: random.Random) -> Value:
        """Any of them."""
        return rng.choice(self.values)

    def spread(self) -> list[Value]:
        """Values that stand for all: all of them."""
        return list(self.values)


def _spelt(value: Value) -> str:
    return repr(value)


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
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"low={self.low} and high={self.high} must be whole numbers with integer=True")
        return self

    def holds(self, value: Value) -> bool:
        """Whether it lies between the bounds."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def draw(self, rng: random.Random) -> Value:
        """Any number of the range."""
        if self.log:
            found = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            found = rng.uniform(self.low, self.high)
        return self._typed(min(max(found, self.low), self.high))

    def spread(self) -> list[Value]:
        """Values that stand for all: low, middle and high."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return [self._typed(value) for value in (self.low, middle, self.high)]

    def _typed(self, value: float) -> Value:
        return round(value) if self.integer else value


Domain = Annotated[Choice | Uniform, Field(discriminator="kind")]
Condition = dict[str, Value | tuple[Value, ...]]
"""Settings that all have the value, or one of the values, that is named."""


def choice(*values: Value) -> Choice:
    """`choice(1, 2, 4)`"""
    return Choice(values=values)


def uniform(low: float, high: float) -> Uniform:
    """`uniform(0.9, 0.999)`"""
    return Uniform(low=low, high=high)


def log_uniform(low: float, high: float) -> Uniform:
    """`log_uniform(1e-4, 1e-2)`"""
    return Uniform(low=low, high=high, log=True)


def integers(low: int, high: int) -> Uniform:
    """`integers(1, 6)`"""
    return Uniform(low=low, high=high, integer=True)
