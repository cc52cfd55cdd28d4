"""Find the kinds of puzzles that others define: classes of Python files, and entry points of installed packages.

What they are is defined above this module (`puzzles/kinds/base.py`), which the class itself brings along.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from trm_data.errors import ConfigError, UserError, first_line
from trm_data.own_code import KIND, is_address, is_trusted, load_class, short
from trm_data.run_source import told

GROUP = "trm.puzzle_kinds"
"""Entry points of this group have the names of their benchmarks."""


class OwnKind(NamedTuple):
    """Hold a `PuzzleKind` that this package does not define."""

    kind: Any
    generator: str
    """What enters a dataset's identity: the version of the package; a file's content does so by its address."""


_loaded: dict[type, Any] = {}


def own_kind(name: str) -> OwnKind | None:
    """Return the kind of a pinned address or an entry point; None if the name is neither.

    Raises:
        ConfigError: the file is not trusted, the code fails, or it is not a complete kind.
    """
    if is_address(name):
        return OwnKind(_made(load_class(name, KIND), short(name)), "generator")
    point = next((point for point in plugins() if point.name == name), None)
    if point is None:
        return None
    where = f"puzzle kind {name} ({point.value})"
    try:
        found = point.load()
    except (Exception, SystemExit) as error:
        what = f"the {where} cannot be imported: {type(error).__name__}: {first_line(error)}"
        raise ConfigError(what, "Install its package again, or remove it") from error
    if not isinstance(found, type) or not KIND.is_base_of(found):
        raise ConfigError(f"the {where} is not a PuzzleKind", KIND.derive)
    kind = _made(found, where)
    if kind.name != name:
        raise ConfigError(f"the {where} is named {kind.name!r}", "Give the class and its entry point the same name")
    package = "generator" if point.dist is None else f"{point.dist.name} {point.dist.version}"
    return OwnKind(kind, package)


def plugins() -> list[EntryPoint]:
    """Return the entry points of installed packages, by name."""
    return _plugins(tuple(sys.path))


@cache
def _plugins(path: tuple[str, ...]) -> list[EntryPoint]:
    """Look them up once: that takes 40 ms."""
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def is_readable(benchmark: str) -> bool:
    """Return whether this process may load what a benchmark names: code that only a record names, it may not."""
    return not is_address(benchmark) or is_trusted(benchmark)


def _made(cls: type, where: str) -> Any:
    if cls not in _loaded:
        from trm_data.own_methods import guard  # numpy, which a plan without such a class does not load

        try:
            kind: Any = cls()
            problem = kind.incomplete()
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            file = getattr(sys.modules.get(cls.__module__), "__file__", None)
            raise ConfigError(f"{where} fails: {told(error, file)}", "Correct the class") from error
        if problem:
            raise ConfigError(f"{where}: {problem}", "The documentation has an example: a kind of puzzle of your own")
        _loaded[cls] = guard(kind)
    return _loaded[cls]
