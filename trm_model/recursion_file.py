"""Load a user's own code: Python files that settings name, identified by their content.

A configuration names a recursion as `path/to/file.py:ClassName`, a search a stopping rule or a sampler as
`path/to/file.py:function`. Where a command (`--set`) or Python code (`configure`,
`Sweep(...)`) names it, it is pinned to `/absolute/path/file.py:ClassName#sha256=<hex>`, which records and checkpoints
contain.

Reading a record or a checkpoint must not run code. So a file is executed only if this process was told to trust its
content: because the current command or the user's own code names the file, or because a driver sent the text with a
job. What is parsed from stored values is never pinned. The path in a record is only for people: nothing is executed
from there.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import inspect
import linecache
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from trm_data.errors import ConfigError, UserError, nearest
from trm_data.files import expand_home

_ADDRESS = re.compile(r"(?P<path>.+):(?P<name>\w+?)(?:#sha256=(?P<sha256>[0-9a-f]{64}))?", re.DOTALL)
_FORM = "Write it as path/to/file.py:ClassName"
_FUNCTION_FORM = "path/to/file.py:function"
_DERIVE = "Derive the class from trm_model.Recursion"
_SETTINGS = ("recursion", "model.recursion")
_SHOWN_DIGITS = 12
_OTHER_LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy"}
"""Libraries that contain no Recursion."""


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
_folder: ContextVar[Path | None] = ContextVar("recursion_folder", default=None)
"""Where the relative paths begin that code names; None for the working directory."""


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


def is_address(text: str) -> bool:
    """Return whether a text has the form of an address, unlike the name of something built in."""
    return _ADDRESS.fullmatch(text) is not None


def pin(text: str, folder: Path, *, is_function: bool = False) -> str:
    """Return the address with an absolute path (`folder` is the base of a relative one) and the hash of the file's
    content.

    The file is trusted from now on, so `text` must come from the current command and not from anything stored.

    Args:
        is_function: it names a function, and not a `Recursion`.

    Raises:
        ConfigError: no such file, class or function, a class that cannot be a `Recursion`, or the address has a hash
            already and the file has another one.
    """
    pinned, source = _pinned(text, folder, is_function)
    _trust(source)
    return pinned


def pin_untrusted(text: str, folder: Path, *, is_function: bool = False) -> str:
    """Return the address as `pin` does, without trusting the file: `text` comes from a file that is only data."""
    return _pinned(text, folder, is_function)[0]


def pin_function(value: str, known: Collection[str], *, is_parsed: bool) -> str:
    """Return one of the known names, or the address of a function: pinned, unless it is parsed from stored values.

    Raises:
        ConfigError: see `pin`.
        ValueError: it is neither.
    """
    if value in known:
        return value
    if not is_address(value):
        raise ValueError(f"input should be {', '.join(map(repr, known))} or {_FUNCTION_FORM}")
    address = parse_address(value)
    if is_parsed or address.sha256:
        return value
    return pin(value, named_folder(), is_function=True)


def _pinned(text: str, folder: Path, is_function: bool) -> tuple[str, Source]:
    address = parse_address(text)
    source = _read(folder / expand_home(address.path))
    if address.sha256 not in (None, source.sha256):
        raise ConfigError(_mismatch(address, source), "Restore the file, or leave out #sha256=")
    module = ast.parse(source.text)
    names = _names(module, ast.FunctionDef if is_function else ast.ClassDef)
    if address.name not in names and "*" not in names:
        what = "function" if is_function else "class"
        raise ConfigError(f"{source.path} defines no {what} {address.name!r}", nearest(address.name, names))
    if not is_function and address.name in names and not _may_be_recursion(module, address.name):
        raise ConfigError(f"{source.path} defines no Recursion named {address.name!r}", _DERIVE)
    return str(Address(source.path, address.name, source.sha256)), source


def pin_named(value: Any) -> Any:
    """Return a value of `model.recursion` that the user's own code gives, pinned: an address, or the class itself.

    None and an address that is pinned already are returned unchanged; the latter is not trusted, since it may come from
    a record.

    Raises:
        ConfigError: see `pin`, or the class has no source file.
    """
    if isinstance(value, type):
        return pin(_address_of(value), Path())
    if not isinstance(value, str) or ((found := _ADDRESS.fullmatch(value)) and found["sha256"]):
        return value
    return pin(value, named_folder())


@contextmanager
def relative_to(folder: Path) -> Iterator[None]:
    """Let relative paths of recursion files that code names begin at a folder while the block runs."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def named_folder() -> Path:
    """Return where the relative paths begin that the user's own code names."""
    return _folder.get() or Path.cwd()


def _address_of(cls: type) -> str:
    """Return the address of a class by its source file."""
    name = cls.__qualname__
    if cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
        raise ConfigError(f"model.recursion={name} is built in", "Choose it with model.variant and model.num_latents")
    if not any(base.__name__ == "Recursion" and base.__module__.startswith("trm_model.") for base in cls.__mro__):
        raise ConfigError(f"model.recursion={name} is not a Recursion", _DERIVE)
    if "." in name:
        raise ConfigError(f"model.recursion={name} is defined inside of something", "Define it at the top of a file")
    try:
        file = Path(inspect.getfile(cls))
    except (TypeError, OSError):
        file = None
    if file is None or not file.is_file():
        raise ConfigError(
            f"the source file of model.recursion={name} is not found (it may have been defined in a notebook)",
            f"Write the class into a file and name that: path/to/file.py:{name}",
        )
    return f"{file.resolve()}:{name}"


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
    address, sha256 = parse_address(text), require_pinned(text)
    if sha256 in _trusted:
        return _trusted[sha256]
    named = sorted(_trusted.values(), key=lambda source: Path(source.path).name != Path(address.path).name)
    if named:
        raise ConfigError(
            _mismatch(address, named[0]),
            "Name a file with the recorded content; trials keep that of a recursion as recursion.py",
        )
    raise ConfigError(
        f"the stored configuration names the code {address.name} of {address.path} (sha256 "
        f"{sha256[:_SHOWN_DIGITS]}), which this command does not trust",
        f"Read the file, then add --trust-recursion {address.path}",
    )


def load_function(address: str) -> Callable[..., Any]:
    """Return the function that a pinned address names, from the trusted source.

    Raises:
        ConfigError: the source is not trusted, it fails, or it has no such function.
    """
    found = getattr(execute(trusted_source(address)), parse_address(address).name, None)
    if not callable(found):
        raise ConfigError(f"{short(address)} is not a function", f"Name one: {_FUNCTION_FORM}")
    return found  # type: ignore[no-any-return]  # what it takes and returns is for its caller to check


_executing: set[str] = set()
"""sha256 of the sources that are being executed."""


@cache
def execute(source: Source) -> ModuleType:
    """Return the module that a trusted source defines."""
    if source.sha256 in _executing:
        raise ConfigError(
            f"{source.path} starts training or a sweep when it is imported",
            "Put that under `if __name__ == '__main__':`, or the class into a file of its own",
        )
    module = ModuleType(f"recursion_{Path(source.path).stem}_{source.sha256[:12]}")
    module.__file__ = source.path
    # Tracebacks show the text that runs: the file may be on another machine, or edited since.
    linecache.cache[source.path] = (len(source.text), None, source.text.splitlines(keepends=True), source.path)
    sys.modules[module.__name__] = module  # dataclasses look their module up by its name
    _executing.add(source.sha256)
    try:
        exec(compile(source.text, source.path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        if isinstance(error, UserError):
            raise
        raise ConfigError(f"{source.path} fails: {type(error).__name__}: {error}", "Correct the file") from error
    finally:
        _executing.discard(source.sha256)
    return module


def require_pinned(text: str) -> str:
    """Return the hash of the file's content in an address. Raises ConfigError if it has none."""
    sha256 = parse_address(text).sha256
    if sha256 is None:
        raise ConfigError(
            f"{text} has no hash of the file's content, so its code is not run",
            "Name the file with configure(), in a sweep file or with --set, which add the hash",
        )
    return sha256


def identity_of(text: str) -> str:
    """Return `ClassName#sha256=<hex>`, which determines the result. An address that is not pinned is returned
    unchanged."""
    found = _ADDRESS.fullmatch(text)
    return text if found is None or found["sha256"] is None else f"{found['name']}#sha256={found['sha256']}"


def short(text: str) -> str:
    """Return `ClassName@<first digits of the hash>` for labels; any other text is returned unchanged."""
    found = _ADDRESS.fullmatch(text)
    return text if found is None or found["sha256"] is None else f"{found['name']}@{found['sha256'][:8]}"


def replace_in(values: Any, change: Callable[[Any], Any], names: Collection[str] = _SETTINGS) -> Any:
    """Return nested plain settings with `change` applied to every recursion, or other setting of these `names`, in
    them, as a setting or as a choice."""
    if isinstance(values, Mapping):
        return {
            key: _replace_all(value, change) if key in names else replace_in(value, change, names)
            for key, value in values.items()
        }
    if isinstance(values, list | tuple):
        return type(values)(replace_in(value, change, names) for value in values)
    return values


def _replace_all(values: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(values, Mapping):  # a domain of a sweep: {"kind": "choice", "values": [...]}
        return {key: value if key == "kind" else _replace_all(value, change) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(_replace_all(value, change) for value in values)
    return change(values) if isinstance(values, str | type) else values


def _trust(source: Source) -> Source:
    return _trusted.setdefault(source.sha256, source)


def _read(path: Path) -> Source:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"no Python file {str(path)!r} ({error.strerror})", f"{_FORM}, or :function") from None
    try:
        text = data.decode()
        ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{path} is not Python in UTF-8: {error}", "Correct the file") from None
    except (RecursionError, MemoryError):  # both are raised for nesting that exceeds Python's parser
        raise ConfigError(f"{path} is nested too deeply for Python's parser", "Correct the file") from None
    return Source(str(path.resolve()), text, hashlib.sha256(data).hexdigest())


def _names(module: ast.Module, kind: type[ast.ClassDef | ast.FunctionDef]) -> set[str]:
    """Return all names that the file may define at its top level; `*` if it imports all names of another module."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, kind):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def _may_be_recursion(module: ast.Module, name: str, seen: tuple[str, ...] = ()) -> bool:
    """Return False where the text shows that a name of a file is no `Recursion`; what it does not show may be one."""
    verdicts = []
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            verdicts += [_may_be_base(module, base, (*seen, name)) for base in node.bases] or [False]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            verdicts += [
                _origin(node, alias) not in _OTHER_LIBRARIES
                for alias in node.names
                if name == (alias.asname or alias.name.partition(".")[0])
            ]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return True
    return any(verdicts) if verdicts else not hasattr(builtins, name)


def _may_be_base(module: ast.Module, base: ast.expr, seen: tuple[str, ...]) -> bool:
    while isinstance(base, ast.Attribute):  # nn.Module is judged by where nn comes from
        base = base.value
    if not isinstance(base, ast.Name):
        return True
    return base.id not in seen and _may_be_recursion(module, base.id, seen)


def _origin(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    """Return the top package of what an import statement names; empty for a relative import."""
    imported = (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
    return "" if isinstance(node, ast.ImportFrom) and node.level else imported.partition(".")[0]


def _mismatch(address: Address, source: Source) -> str:
    recorded = "no sha256" if address.sha256 is None else f"sha256 {address.sha256[:_SHOWN_DIGITS]}"
    return (
        f"the settings name {address.name} of {address.path} with {recorded}, but {source.path} has sha256 "
        f"{source.sha256[:_SHOWN_DIGITS]}"
    )
