"""Read a sweep from its file: Python (`sweep = Sweep(...)`), YAML, or a plan (`.jsonl`)."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import SweepError
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.packaged import packaged_name, packaged_sweeps
from orchestrator.sweep.plan_file import SUFFIX, load_plan
from orchestrator.sweep.settings import absolute_path, absolute_paths
from orchestrator.sweep.yaml_file import YAML_SUFFIXES, load_yaml
from trm_data.errors import ConfigError, UserError, nearest
from trm_data.own_code import FUNCTION, is_address, pin, pin_untrusted, relative_to, replace_in

OWN_PACKAGES = ("orchestrator", "trm_model", "trm_data")
"""Packages that stay imported where a sweep file lies next to them."""

MAX_SUGGESTED = 3
"""Files of a folder that a message names."""
MAX_SEARCHED = 100_000
"""Characters of a file in which the mark of a sweep is searched."""


def load_sweep(path: Path) -> Sweep:
    """Return the `sweep` that a Python file defines, the one that a YAML file describes, or the one that a plan file
    (`.jsonl`) holds. The name of a packaged sweep (`demo`) stands for its file.

    Relative paths in its settings become absolute, relative to the folder of the file. Modules of that folder can be
    imported, as with `python FILE`.

    Raises:
        SweepError: there is no such file, the file fails, or it defines no Sweep named `sweep`.
    """
    if path.suffix == SUFFIX:
        from trm_data import fingerprint

        return load_plan(path, fingerprint)
    if not path.is_file():
        path = _packaged(path)
    if path.suffix in YAML_SUFFIXES:
        return _made_absolute(load_yaml(path), path, pin_untrusted)
    try:
        with _importable(path.parent.resolve()), relative_to(path.parent.resolve()):
            found = runpy.run_path(str(path)).get("sweep")
    except UserError as error:
        raise SweepError(f"{path}: {error.what}", error.remedy) from error
    except (Exception, SystemExit) as error:  # a user's own file: whatever it raises is for the user, in one line
        message = _validation_line(error) or f"{type(error).__name__}: {error}"
        raise SweepError(f"{path} fails: {message}", "Run it with python to see the traceback") from error
    if not isinstance(found, Sweep):
        raise SweepError(f"{path} defines no sweep", "Assign a Sweep to the name 'sweep'")
    return _made_absolute(found, path, pin)


def _packaged(path: Path) -> Path:
    """Return the file of the packaged sweep of that name. Raises SweepError, with the nearest file or name."""
    packaged = packaged_sweeps()
    if path.as_posix() in packaged:
        return packaged[path.as_posix()]
    if name := packaged_name(path):
        raise SweepError(f"no sweep file {str(path)!r}", f"{name!r} is a packaged sweep: trm sweep run {name}")
    require_no_folder(path)
    patterns = ("*.py", *(f"*{suffix}" for suffix in (*YAML_SUFFIXES, SUFFIX)))
    known = [str(found) for pattern in patterns for found in path.parent.glob(pattern)]
    raise SweepError(f"no sweep file {str(path)!r}", nearest(str(path), [*known, *packaged]))


def require_no_folder(path: Path) -> None:
    """Raise SweepError if the path is a folder; it names up to three files in it that look like sweeps."""
    if not path.is_dir():
        return
    found = [str(file) for file in sorted(path.iterdir()) if file.is_file() and _looks_like_a_sweep(file)]
    more = f" and {len(found) - MAX_SUGGESTED} more" if len(found) > MAX_SUGGESTED else ""
    remedy = f"Name a file in it: {', '.join(found[:MAX_SUGGESTED])}{more}" if found else "It holds no sweep file"
    raise SweepError(f"{path} is a folder, not a sweep file", remedy)


def _looks_like_a_sweep(file: Path) -> bool:
    if file.suffix == SUFFIX:
        mark = r'\{.*"sweep"'
    elif file.suffix in YAML_SUFFIXES:
        mark = r"(?m)^(recipe|base|method|parameters)\s*:"
    elif file.suffix == ".py":
        mark = r"(?m)^sweep\b[^=\n]*="
    else:
        return False
    with file.open(encoding="utf-8", errors="replace") as text:
        return re.search(mark, text.read(MAX_SEARCHED)) is not None


def _made_absolute(sweep: Sweep, path: Path, pin_file: Callable[..., str]) -> Sweep:
    try:
        return with_absolute_paths(sweep, path.parent, pin_file)
    except ConfigError as error:
        raise SweepError(f"{path}: {error.what}", error.remedy) from error


def with_absolute_paths(sweep: Sweep, folder: Path, pin_file: Callable[..., str] = pin) -> Sweep:
    """Return the sweep with every local path in its settings made absolute, relative to a folder.

    Trials run in other working directories and on other nodes, where a relative path means something else. A file with
    code is also pinned to its content.

    Args:
        pin_file: pins an address, and decides whether its file is trusted.

    Raises:
        ConfigError: a file does not exist.
    """
    plain = sweep.plain()
    values: dict[str, Any] = {**plain, "base": absolute_paths(plain["base"], folder)}
    for variants in (plain["variants"], plain["confirm"]["controls"]):
        for variant in variants:
            settings = variant["settings"]
            variant["settings"] = {name: absolute_path(name, value, folder) for name, value in settings.items()}
    for name, domain in plain["space"].items():
        if domain["kind"] == "choice":
            domain["values"] = [absolute_path(name, value, folder) for value in domain["values"]]
    values = replace_in(values, lambda address, role: pin_file(address, folder, role))
    for section, name in ((values["stopping"], "rule"), (values, "sampler")):
        if is_address(section[name]):
            section[name] = pin_file(section[name], folder, FUNCTION)
    return sweep if values == sweep.plain() else Sweep.parse(values)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Make the modules of a folder importable. They are forgotten afterwards: another sweep file may have its own."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            top = name.partition(".")[0]
            if top not in OWN_PACKAGES and ((folder / f"{top}.py").is_file() or (folder / top).is_dir()):
                del sys.modules[name]


def _validation_line(error: BaseException) -> str | None:
    if not hasattr(error, "errors"):
        return None
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
