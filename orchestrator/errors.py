"""Errors of the orchestrator that a user can correct, and the commands that correct them.

UserError (trm_data.errors)
+-- SweepError         a sweep definition, its name, its state
+-- ClusterError       a Ray cluster that cannot be used
"""

from __future__ import annotations

import shlex
from pathlib import Path

from trm_data.errors import UserError

DEFAULT_STORAGE = "runs"
"""Folder that every command uses where `--storage` is left out."""


class SweepError(UserError):
    """A sweep that cannot be planned, run or resumed as it is."""


class ClusterError(UserError):
    """A Ray cluster that cannot be reached or cannot hold what was asked for."""


def command_line(*words: str, storage: str = "") -> str:
    """Return a `trm` command that a shell takes as it is: words quoted, `--storage` added where it is needed.

    Args:
        words: the verbs, arguments and options, without `trm`.
        storage: address of the storage that the command is about; empty if it is about none. It is left out of the
            command where it is the default folder of the current directory.
    """
    is_default = "://" not in storage and Path(storage).absolute() == Path(DEFAULT_STORAGE).absolute()
    return shlex.join(["trm", *words, *([] if not storage or is_default else ["--storage", storage])])
