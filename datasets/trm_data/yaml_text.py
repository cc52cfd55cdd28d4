"""Parse YAML text to plain values. Nothing is executed: only `yaml.SafeLoader`'s types exist, and dates stay text."""

from __future__ import annotations

import re
from typing import Any

import yaml

from trm_data.errors import ConfigError, UserError

MAX_VALUES = 50_000
"""Values of a file with its aliases written out: a few lines of aliases can stand for billions."""
MAX_DEPTH = 30


MAX_CHARS = 2**20
MAX_DIGITS = 400
"""Characters of a number: a float has at most 309 digits before its point."""
_UNUSED = ("binary", "timestamp", "omap", "pairs", "set")
"""YAML's other types, which no setting has."""


class _Loader(yaml.SafeLoader):
    """Read `1e-4` as a number, which YAML 1.1 takes for text, and refuse a key that comes twice."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level > MAX_DEPTH:  # composing them takes time that grows with the square of the depth
            raise _TooDeepError
        super().fetch_flow_collection_start(TokenClass)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node. An error of Python in it, such as `!!int x` causes, names the line."""
        try:
            if isinstance(node, yaml.ScalarNode) and len(node.value) > MAX_DIGITS and node.tag in _NUMBERS:
                raise ValueError("it has too many digits")
            return super().construct_object(node, deep)
        except (UserError, yaml.YAMLError, RecursionError):
            raise
        except Exception:
            shown = repr(node.value)[:40] if isinstance(node, yaml.ScalarNode) else "a collection"
            kind = node.tag.rpartition(":")[2]
            raise ConfigError(f"line {node.start_mark.line + 1}: {shown} is no {kind}", "Correct the YAML") from None

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace `<<` by what it stands for. Merges of merges can stand for billions of keys."""
        super().flatten_mapping(node)
        if len(node.value) > MAX_VALUES:
            raise ConfigError(f"line {node.start_mark.line + 1}: more than {MAX_VALUES:,} keys are merged")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise ConfigError(f"line {key.start_mark.line + 1}: {key.value!r} is given twice", "Keep one")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _TooDeepError(Exception):
    """Raised while a document is scanned."""


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag not in {f"tag:yaml.org,2002:{name}" for name in _UNUSED}
}
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
    if len(text) > MAX_CHARS:
        raise ConfigError(f"it has more than {MAX_CHARS:,} characters")
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{where}{error.problem or error.context}", "Correct the YAML") from None
    except UserError:
        raise
    except (RecursionError, _TooDeepError):
        raise ConfigError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except Exception as error:
        raise ConfigError(" ".join(str(error).split()), "Correct the YAML") from None
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
