"""Define errors of the orchestrator that a user can correct, and format the commands that correct them.

UserError (trm_data.errors)
+-- SweepError         a sweep definition, its name, its state
+-- ClusterError       a Ray cluster that cannot be used
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from trm_data.errors import UserError

DEFAULT_STORAGE = "runs"
"""Folder that every command uses where `--storage` is left out."""


class SweepError(UserError):
    """Raised for a sweep that cannot be planned, run or resumed in its current state."""


class ClusterError(UserError):
    """Raised for a Ray cluster that cannot be reached or cannot hold what was requested."""


_PATH_LIKE_OPTION = re.compile(r"-(?!\.?\d)[^=\s]*[./]")
"""A path that begins with a dash: no option has a dot or a slash in its name."""


def project_file(name: str) -> str:
    """Return the path of a file of `infra/` for a message: in a wheel those files lie inside of the package.

    Args:
        name: path in the repository: `infra/aws/README.md`.
    """
    package = Path(__file__).parent
    packed = package / "_infra" / name.removeprefix("infra/")
    found = packed if packed.is_file() else package.parent / name
    return str(found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found)


def command_line(*words: str, storage: str = "") -> str:
    """Return a `trm` command quoted for a shell, with `--storage` added if necessary.

    Args:
        words: the verbs, arguments and options, without `trm`.
        storage: address of the storage that the command is about; empty if it is about none. It is left out of the
            command where it is the default folder of the current directory.
    """
    is_default = "://" not in storage and Path(storage).absolute() == Path(DEFAULT_STORAGE).absolute()
    named = [f"./{word}" if _PATH_LIKE_OPTION.match(word) else word for word in words]
    return shlex.join(["trm", *named, *([] if not storage or is_default else ["--storage", storage])])
