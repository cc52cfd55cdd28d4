"""A sweep from its file, and values from the command line."""

from __future__ import annotations

import runpy
from pathlib import Path

from orchestrator.errors import SweepError
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.domains import Value
from orchestrator.sweep.plan_file import SUFFIX, load_plan
from orchestrator.sweep.settings import check_path
from trm_data.errors import ConfigError, nearest
from trm_model.recursion_file import pin, replace_in


def load_sweep(path: Path) -> Sweep:
    """The `sweep` that a Python file defines, or the one that a plan file (`.jsonl`) holds.

    Raises:
        SweepError: no such file, the file fails, or it defines no Sweep named `sweep`.
    """
    if path.suffix == SUFFIX:
        from trm_data import fingerprint

        return load_plan(path, fingerprint)
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
    return _pinned(found, path)


def _pinned(sweep: Sweep, path: Path) -> Sweep:
    """The sweep with every recursion file found, from the folder of the sweep's file, and pinned to its content."""
    plain = sweep.plain()
    try:
        values = replace_in(plain, lambda address: pin(address, path.parent))
    except ConfigError as error:
        raise SweepError(f"{path}: {error.what}", error.remedy) from error
    return sweep if values == plain else Sweep.parse(values, where=str(path))


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
