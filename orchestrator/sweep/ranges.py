"""Make ranges of settings: from `LOW..HIGH` on the command line, and from the bounds of a YAML file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from orchestrator.sweep.domains import Choice, Setting, Uniform, decimal
from orchestrator.sweep.settings import takes_fractions, takes_numbers
from trm_data.errors import ConfigError

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"\s*(?:(?P<scale>[A-Za-z_]+):)?\s*(?P<low>{_NUMBER})\s*\.\.\s*(?P<high>{_NUMBER})\s*")
_WHOLE_RANGE = re.compile(r"\s*(?P<low>\d{1,18})\s*\.\.\s*(?P<high>\d{1,18})\s*")

MAX_LISTED = 10_000
"""Values of a range that are listed one by one, where every one of them is run."""


def parse_axis(path: str, values: Sequence[Setting]) -> Choice | Uniform:
    """Return the axis of the values that follow `--vary PATH=`: a list, a range, or a list with ranges of integers.

    Raises:
        ConfigError: it is not an axis of that setting.
    """
    ranges = [parse_range(path, value) if isinstance(value, str) else None for value in values]
    if len(values) == 1 and ranges[0] is not None:
        return ranges[0]
    listed: list[Setting] = []
    for value, found in zip(values, ranges, strict=True):
        listed += [value] if found is None else list_values(path, found).values
    return Choice.parse({"values": tuple(listed)}, where=f"--vary {path}")


def list_values(path: str, domain: Choice | Uniform) -> Choice:
    """Return the values of an axis one by one.

    Raises:
        ConfigError: it is a range of real numbers, or a very large one.
    """
    if isinstance(domain, Choice):
        return domain
    if domain.count is None:
        raise ConfigError(
            f"{path} has a range of real numbers, of which only a search can draw",
            f"Make it a search (--trials 20, or method: random), or list values: {path}={domain.low:g},{domain.high:g}",
        )
    if domain.count > MAX_LISTED:
        raise ConfigError(f"{path} has {domain.count:,} values, and each would be run", "Make it a search: --trials 20")
    return Choice(values=tuple(domain.values()))


def list_whole_numbers(name: str, values: Sequence[str]) -> list[str]:
    """Return texts with every range of whole numbers among them (`4..16`) replaced by its numbers, each once.

    Raises:
        ConfigError: a text with `..` is no such range, or a range has more than `MAX_LISTED` numbers.
    """
    listed: dict[str, None] = {}
    for value in values:
        if ".." not in value:
            listed[value] = None
            continue
        found = _WHOLE_RANGE.fullmatch(value)
        if found is None:
            raise ConfigError(f"{name}={value}: not a range of whole numbers", f"Write {name}=1..16, or list values")
        low, high = int(found["low"]), int(found["high"])
        if low > high:
            raise ConfigError(f"{name}={value}: {low} is above {high}", f"Write {name}={high}..{low}")
        if high - low >= MAX_LISTED:
            raise ConfigError(f"{name}={value}: more than {MAX_LISTED:,} numbers", "Write a shorter range")
        listed |= dict.fromkeys(map(str, range(low, high + 1)))
    return list(listed)


def parse_range(path: str, text: str) -> Uniform | None:
    """Return the range that a text is: `1..4`, `log:1e-4..1e-2`; None for any other text.

    Raises:
        ConfigError: it is of the form of a range that the setting cannot have.
    """
    found = _RANGE.fullmatch(text)
    if found is None or not takes_numbers(path):
        return None
    if found["scale"] not in (None, "log"):
        raise ConfigError(
            f"{path}={text}: unknown scale {found['scale']!r}", f"Write {path}=log:LOW..HIGH or LOW..HIGH"
        )
    return number_range(path, float(found["low"]), float(found["high"]), is_log=found["scale"] == "log")


def number_range(
    path: str,
    low: float,
    high: float,
    *,
    is_log: bool = False,
    step: float | None = None,
    is_integer: bool | None = None,
) -> Uniform:
    """Return a range of a setting.

    Args:
        step: only multiples of it that lie between the bounds.
        is_integer: whether only whole numbers; None for what the setting takes.

    Raises:
        ConfigError: the setting cannot have such a range.
    """
    if not takes_numbers(path):
        raise ConfigError(f"{path} takes no numbers, so it has no range", "List its values")
    needs_integers = not takes_fractions(path)
    if is_integer is False and needs_integers:
        raise ConfigError(f"{path} takes whole numbers only", "Use distribution: int_uniform, or leave it out")
    is_integer = is_integer or needs_integers
    if is_integer and not (low.is_integer() and high.is_integer()):
        raise ConfigError(f"{path} takes whole numbers, and {low:g}..{high:g} has others", f"Write {path}=1..4")
    if step is not None and step > 0:
        if is_integer and not step.is_integer():
            raise ConfigError(f"{path} takes whole numbers, and steps of {step:g} lead to others", "Use whole steps")
        low, high = (
            float(side(decimal(bound) / decimal(step)) * decimal(step))
            for side, bound in ((math.ceil, low), (math.floor, high))
        )
    values = {"low": low, "high": high, "log": is_log, "integer": is_integer, "step": step}
    try:
        return Uniform.parse(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.what.removeprefix('Uniform: ')}", error.remedy) from None
