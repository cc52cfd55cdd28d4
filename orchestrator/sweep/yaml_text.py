"""Parse YAML text to plain values. Nothing is executed: only `yaml.SafeLoader`'s types exist, and dates stay text."""

from __future__ import annotations

import re
from typing import Any

import yaml

from trm_data.errors import ConfigError

MAX_VALUES = 50_000
"""Values of a file with its aliases written out: a few lines of aliases can stand for billions."""
MAX_DEPTH = 30


class _Loader(yaml.SafeLoader):
    """Read `1e-4` as a number, which YAML 1.1 takes for text, and refuse a key that comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise ConfigError(f"line {key.start_mark.line + 1}: {key.value!r} is given twice", "Keep one")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Any:
    """Return the value that a YAML document describes.

    Raises:
        ConfigError: it is not YAML, has a key twice, is too large, or contains itself.
    """
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{where}{error.problem or error.context}", "Correct the YAML") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:  # ValueError: a number of a wrong form
        raise ConfigError(" ".join(str(error).split()), "Correct the YAML") from None
    except RecursionError:
        raise ConfigError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    _require_small(value)
    return value


def _require_small(value: Any) -> None:
    left, open_values = MAX_VALUES, [(value, 0)]
    while open_values:
        one, depth = open_values.pop()
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            raise ConfigError(f"it has more than {MAX_VALUES:,} values or {MAX_DEPTH} levels, aliases written out")
        if isinstance(one, dict):
            open_values += [(child, depth + 1) for child in one.values()]
        elif isinstance(one, list):
            open_values += [(child, depth + 1) for child in one]
