"""Execute the text of a user's Python file as a module, wherever the file itself may be."""

from __future__ import annotations

import hashlib
import linecache
import shlex
import sys
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from trm_data.errors import ConfigError, UserError, first_line

_LARGEST_BYTES = 10_000_000


class Source(NamedTuple):
    """Hold a file whose code may be executed in this process."""

    path: str
    text: str
    sha256: str


def trusting(path: Path | str) -> str:
    """Return the option that trusts a file, for a message that says what to do, quoted for a shell."""
    return f"add --trust {shlex.quote(str(path))}"


def has_content(path: Path, sha256: str | None) -> bool:
    """Return whether a file that a record names has the recorded content. Reads nothing longer than source files."""
    try:
        is_small = path.is_file() and path.stat().st_size <= _LARGEST_BYTES
        return is_small and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def told(error: BaseException, file: str | None) -> str:
    """Return one line: type and message of an error of a user's code, and the last line of its file that was run."""
    passed = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    where = f" ({Path(file).name}:{passed[-1]})" if file and passed else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"


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
    module = ModuleType(f"own_{Path(source.path).stem}_{source.sha256[:12]}")
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
        raise ConfigError(f"{source.path} fails: {told(error, source.path)}", "Correct the file") from error
    finally:
        _executing.discard(source.sha256)
    return module
