"""Load a user's own recursions: Python files that a configuration names, identified by their content.

A configuration names one as `path/to/file.py:ClassName`. When it is read (from a sweep file or `--set`), it is
pinned to `/absolute/path/file.py:ClassName#sha256=<hex>`, which records and checkpoints contain.

Reading a record or a checkpoint must not run code. So a file is executed only if this process was told to trust its
content: because the current command names the file, or because a driver sent the text with a job. The path in a
record is only for people: nothing is executed from there.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trm_data.errors import ConfigError, nearest

_ADDRESS = re.compile(r"(?P<path>.+):(?P<name>\w+?)(?:#sha256=(?P<sha256>[0-9a-f]{64}))?", re.DOTALL)
_FORM = "Write it as path/to/file.py:ClassName"
_SETTINGS = ("recursion", "model.recursion")
_SHOWN_DIGITS = 12


class Address(NamedTuple):
    """Hold the parts of `model.recursion`."""

    path: str
    name: str
    """Name of the class."""
    sha256: str | None
    """Of the file's bytes; None where the address has not been pinned yet."""

    def __str__(self) -> str:
        return f"{self.path}:{self.name}" + (f"#sha256={self.sha256}" if self.sha256 else "")


class Source(NamedTuple):
    """Hold a file whose code may be executed in this process."""

    path: str
    text: str
    sha256: str


_trusted: dict[str, Source] = {}
"""Sources whose code may run, by sha256."""


def parse_address(text: str) -> Address:
    """Split an address.

    Raises:
        ConfigError: it has another form.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ConfigError(f"model.recursion={text!r} does not name a class of a Python file", _FORM)
    return Address(found["path"], found["name"], found["sha256"])


def trust(path: Path) -> Source:
    """Allow this process to execute the current content of a file.

    Raises:
        ConfigError: there is no such file, or it is not Python in UTF-8.
    """
    return _trust(_read(path))


def distrust_all() -> None:
    """Forget all trusted files: trust lasts for one command."""
    _trusted.clear()


def pin(text: str, folder: Path) -> str:
    """Return the address with an absolute path (`folder` is the base of a relative one) and the hash of the file's
    content.

    The file is trusted from now on, so `text` must come from the current command and not from anything stored.

    Raises:
        ConfigError: no such file or class, or the address has a hash already and the file has another one.
    """
    address = parse_address(text)
    source = _read(folder / Path(address.path).expanduser())
    if address.sha256 not in (None, source.sha256):
        raise ConfigError(_mismatch(address, source), "Restore the file, or leave out #sha256=")
    names = _names(ast.parse(source.text))
    if address.name not in names and "*" not in names:
        raise ConfigError(f"{source.path} defines no class {address.name!r}", nearest(address.name, names))
    _trust(source)
    return str(Address(source.path, address.name, source.sha256))


def accept(text: str, source: str) -> None:
    """Trust a source that the driver sent along with a job for the pinned address `text`.

    Raises:
        ConfigError: the source is not the one that the address is pinned to.
    """
    address = parse_address(text)
    received = Source(address.path, source, hashlib.sha256(source.encode()).hexdigest())
    if received.sha256 != address.sha256:
        raise ConfigError(_mismatch(address, received), "Start the sweep again")
    _trust(received)


def trusted_source(text: str) -> Source:
    """Return the source that a pinned address refers to.

    Raises:
        ConfigError: this process does not trust it.
    """
    address = parse_address(text)
    if address.sha256 is None:
        raise ConfigError(
            f"model.recursion={text} has no hash of the file's content, so its code is not run",
            "Name the file in a sweep file or with --set, which add the hash",
        )
    if address.sha256 in _trusted:
        return _trusted[address.sha256]
    named = sorted(_trusted.values(), key=lambda source: Path(source.path).name != Path(address.path).name)
    if named:
        raise ConfigError(
            _mismatch(address, named[0]), "Name a file with the recorded content; trials keep it as recursion.py"
        )
    raise ConfigError(
        f"the stored configuration names the code {address.name} of {address.path} (sha256 "
        f"{address.sha256[:_SHOWN_DIGITS]}), which this command does not trust",
        f"Read the file, then add --trust-recursion {address.path}",
    )


def identity_of(text: str) -> str:
    """Return `ClassName#sha256=<hex>`, which determines the result. An address that is not pinned is returned
    unchanged."""
    found = _ADDRESS.fullmatch(text)
    return text if found is None or found["sha256"] is None else f"{found['name']}#sha256={found['sha256']}"


def short(text: str) -> str:
    """Return `ClassName@<first digits of the hash>` for labels; any other text is returned unchanged."""
    found = _ADDRESS.fullmatch(text)
    return text if found is None or found["sha256"] is None else f"{found['name']}@{found['sha256'][:8]}"


def replace_in(values: Any, change: Callable[[str], str]) -> Any:
    """Return nested plain settings with `change` applied to every recursion in them, as a setting or as a choice."""
    if isinstance(values, Mapping):
        return {
            key: _replace_all(value, change) if key in _SETTINGS else replace_in(value, change)
            for key, value in values.items()
        }
    if isinstance(values, list | tuple):
        return [replace_in(value, change) for value in values]
    return values


def _replace_all(values: Any, change: Callable[[str], str]) -> Any:
    if isinstance(values, Mapping):  # a domain of a sweep: {"kind": "choice", "values": [...]}
        return {key: value if key == "kind" else _replace_all(value, change) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_replace_all(value, change) for value in values]
    return change(values) if isinstance(values, str) else values


def _trust(source: Source) -> Source:
    return _trusted.setdefault(source.sha256, source)


def _read(path: Path) -> Source:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"no Python file {str(path)!r} for model.recursion ({error.strerror})", _FORM) from None
    try:
        text = data.decode()
        ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{path} is not Python in UTF-8: {error}", "Correct the file") from None
    return Source(str(path.resolve()), text, hashlib.sha256(data).hexdigest())


def _names(module: ast.Module) -> set[str]:
    """Return all names that the file may define at its top level; `*` if it imports all names of another module."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def _mismatch(address: Address, source: Source) -> str:
    recorded = "no sha256" if address.sha256 is None else f"sha256 {address.sha256[:_SHOWN_DIGITS]}"
    return (
        f"model.recursion names {address.name} of {address.path} with {recorded}, but {source.path} has sha256 "
        f"{source.sha256[:_SHOWN_DIGITS]}"
    )
