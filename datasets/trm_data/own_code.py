"""Load a user's own code: Python files that settings name, identified by their content.

A configuration names a recursion or a kind of puzzle as `path/to/file.py:ClassName`, a search a stopping rule or a
sampler as `path/to/file.py:function`. Where a command (`--set`) or Python code (`configure`, `Sweep(...)`) names it, it
is pinned to `/absolute/path/file.py:ClassName#sha256=<hex>`, which records and checkpoints contain.

Reading a record or a checkpoint must not run code. So a file is executed only if this process was told to trust its
content: because the current command or the user's own code names the file, or because a driver sent the text with a
job. What is parsed from stored values is never pinned. The path in a record is only for people: nothing is executed
from there.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from trm_data.errors import ConfigError, nearest
from trm_data.files import expand_home
from trm_data.python_text import may_derive, names_in
from trm_data.run_source import Source, execute, trusting

_ADDRESS = re.compile(r"(?P<path>.+):(?P<name>\w+?)(?:#sha256=(?P<sha256>[0-9a-f]{64}))?", re.DOTALL)
_FORM = "Write it as path/to/file.py:ClassName"
_FUNCTION_FORM = "path/to/file.py:function"
_SHOWN_DIGITS = 12
_OTHER_LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy"}
"""Libraries that contain no class to derive from."""


class Role(NamedTuple):
    """Say what the code that a setting names has to be."""

    setting: str
    base: str
    """Name of the class that it derives from; empty for a function."""
    package: str = ""
    """Where that class is from."""
    built_in: str = ""
    """How to choose what this package defines."""
    file: str = ""
    """Name under which a trial's record keeps the source."""

    @property
    def derive(self) -> str:
        """Return what to do with another class."""
        return f"Derive the class from {self.package}.{self.base}"

    def is_base_of(self, cls: type) -> bool:
        """Return whether a class derives from the role's class."""
        home = f"{self.package}."
        return any(each.__name__ == self.base and each.__module__.startswith(home) for each in cls.__mro__)


RECURSION = Role("model.recursion", "Recursion", "trm_model", "Choose it with model.variant", "recursion.py")
KIND = Role("data.benchmark", "PuzzleKind", "trm_data", "Choose one of `trm data list`", "kind.py")
FUNCTION = Role("", "")
SOURCE_FILES = (RECURSION.file, KIND.file)
_ROLES = {name: role for role in (RECURSION, KIND) for name in (role.setting, role.setting.partition(".")[2])}


class Address(NamedTuple):
    """Hold the parts of a setting that names code."""

    path: str
    name: str
    """Name of the class."""
    sha256: str | None
    """Of the file's bytes; None where the address has not been pinned yet."""

    def __str__(self) -> str:
        return f"{self.path}:{self.name}" + (f"#sha256={self.sha256}" if self.sha256 else "")


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


def pin(text: str, folder: Path, role: Role = RECURSION) -> str:
    """Return the address with an absolute path (`folder` is the base of a relative one) and the hash of the file's
    content.

    The file is trusted from now on, so `text` must come from the current command and not from anything stored.

    Raises:
        ConfigError: no such file, class or function, a class that cannot have the role, or the address has a hash
            already and the file has another one.
    """
    pinned, source = _pinned(text, folder, role)
    _trust(source)
    return pinned


def pin_untrusted(text: str, folder: Path, role: Role = RECURSION) -> str:
    """Return the address as `pin` does, without trusting the file: `text` comes from a file that is only data."""
    return _pinned(text, folder, role)[0]


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
    return pin(value, named_folder(), FUNCTION)


def _pinned(text: str, folder: Path, role: Role) -> tuple[str, Source]:
    address = parse_address(text)
    source = _read(folder / expand_home(address.path))
    if address.sha256 not in (None, source.sha256):
        raise ConfigError(_mismatch(address, source), "Restore the file, or leave out #sha256=")
    module = ast.parse(source.text)
    names = names_in(module, ast.ClassDef if role.base else ast.FunctionDef)
    if address.name not in names and "*" not in names:
        what = "class" if role.base else "function"
        raise ConfigError(f"{source.path} defines no {what} {address.name!r}", nearest(address.name, names))
    if role.base and address.name in names and not may_derive(module, address.name, _OTHER_LIBRARIES):
        raise ConfigError(f"{source.path} defines no {role.base} named {address.name!r}", role.derive)
    return str(Address(source.path, address.name, source.sha256)), source


def pin_named(value: Any, role: Role = RECURSION) -> Any:
    """Return the value of a setting that the user's own code gives, pinned: an address, or the class itself.

    None, the name of something built in and an address that is pinned already are returned unchanged; the latter is not
    trusted, since it may come from a record.

    Raises:
        ConfigError: see `pin`, or the class has no source file.
    """
    if isinstance(value, type):
        return pin(_address_of(value, role), Path(), role)
    if not isinstance(value, str) or ((found := _ADDRESS.fullmatch(value)) and found["sha256"]):
        return value
    return value if role is KIND and found is None else pin(value, named_folder(), role)


def pin_class(cls: type) -> str:
    """Return the pinned address of a class, whose base says what it is. Raises ConfigError as `pin_named` does."""
    named: str = pin_named(cls, KIND if KIND.is_base_of(cls) else RECURSION)
    return named


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


def _address_of(cls: type, role: Role) -> str:
    """Return the address of a class by its source file."""
    name, setting = cls.__qualname__, role.setting
    if cls.__module__.partition(".")[0] == role.package:
        raise ConfigError(f"{setting}={name} is built in", role.built_in)
    if not role.is_base_of(cls):
        raise ConfigError(f"{setting}={name} is not a {role.base}", role.derive)
    if "." in name:
        raise ConfigError(f"{setting}={name} is defined inside of something", "Define it at the top of a file")
    try:
        file = Path(inspect.getfile(cls))
    except (TypeError, OSError):
        file = None
    if file is None or not file.is_file():
        raise ConfigError(
            f"the source file of {setting}={name} is not found (it may have been defined in a notebook)",
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
            "Name a file with the recorded content; trials keep it as recursion.py or kind.py",
        )
    raise ConfigError(
        f"the stored configuration names the code {address.name} of {address.path} (sha256 "
        f"{sha256[:_SHOWN_DIGITS]}), which this command does not trust",
        f"Read the file, then {trusting(address.path)}",
    )


def is_trusted(text: str) -> bool:
    """Return whether this process may execute what an address names."""
    return parse_address(text).sha256 in _trusted


def load_class(address: str, role: Role) -> type:
    """Return the class that a pinned address names, from the trusted source and not from the file at its path.

    Raises:
        ConfigError: the source is not trusted, it fails, or it has no such class of the role.
    """
    name, source = parse_address(address).name, trusted_source(address)
    module = execute(source)
    known = {key: value for key, value in vars(module).items() if isinstance(value, type) and role.is_base_of(value)}
    if name not in known:
        raise ConfigError(f"{source.path} defines no {role.base} named {name!r}", nearest(name, known))
    return known[name]


def load_function(address: str) -> Callable[..., Any]:
    """Return the function that a pinned address names, from the trusted source.

    Raises:
        ConfigError: the source is not trusted, it fails, or it has no such function.
    """
    found = getattr(execute(trusted_source(address)), parse_address(address).name, None)
    if not callable(found):
        raise ConfigError(f"{short(address)} is not a function", f"Name one: {_FUNCTION_FORM}")
    return found  # type: ignore[no-any-return]  # what it takes and returns is for its caller to check


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


def replace_values(values: Any, changes: Mapping[str, Callable[[Any], Any]]) -> Any:
    """Return nested plain settings with `changes[name]` applied to each value of a setting of that name, and to each
    of its choices."""
    if isinstance(values, Mapping):
        return {
            key: _replace_all(value, changes[key]) if key in changes else replace_values(value, changes)
            for key, value in values.items()
        }
    if isinstance(values, list | tuple):
        return type(values)(replace_values(value, changes) for value in values)
    return values


def _replace_all(values: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(values, Mapping):  # a domain of a sweep: {"kind": "choice", "values": [...]}
        return {key: value if key == "kind" else _replace_all(value, change) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(_replace_all(value, change) for value in values)
    return change(values)


def replace_in(values: Any, change: Callable[[Any, Role], Any]) -> Any:
    """Return nested plain settings with `change` applied to every class in them, as a setting or as a choice."""

    def of(role: Role) -> Callable[[Any], Any]:
        return lambda value: change(value, role) if _is_class(value, role) else value

    return replace_values(values, {name: of(role) for name, role in _ROLES.items()})


def _is_class(value: Any, role: Role) -> bool:
    return isinstance(value, type) or (isinstance(value, str) and (role is RECURSION or is_address(value)))


def classes_in(values: Any) -> dict[str, Role]:
    """Return the addresses of all classes that nested plain settings name."""
    found: dict[str, Role] = {}
    replace_in(values, found.setdefault)
    return found


def sources_in(values: Any) -> dict[str, str]:
    """Return the text of every class's file that nested plain settings name, by the pinned address of the class.

    Raises:
        ConfigError: this process does not trust one.
    """
    return {address: trusted_source(address).text for address in classes_in(values)}


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


def _mismatch(address: Address, source: Source) -> str:
    recorded = "no sha256" if address.sha256 is None else f"sha256 {address.sha256[:_SHOWN_DIGITS]}"
    return (
        f"the settings name {address.name} of {address.path} with {recorded}, but {source.path} has sha256 "
        f"{source.sha256[:_SHOWN_DIGITS]}"
    )
