"""Remember which configuration files of ssh this user has named.

Such a file can name programs that ssh runs. The record of a deployment lies in a storage that others may write to, so
that it must not choose one: it is used only if a command of this user has named it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from orchestrator.cloud.backend import CloudError
from orchestrator.cloud.local_copy import state_folder


def remember(path: str) -> None:
    """Remember a file that a command has named."""
    with suppress(OSError):  # without a home folder every command has to name it
        file, named = _file(), str(Path(path).absolute())
        if named not in _known():
            with file.open("a", encoding="utf-8") as lines:
                lines.write(f"{named}\n")


def require_known(path: str, deployment: str) -> None:
    """Raise CloudError for a file that no command of this user has named."""
    if path not in _known():
        raise CloudError(
            f"the record of {deployment!r} names {path} as ssh's configuration, and no command of yours has named it",
            f"Read the file, then name it: trm cloud status {deployment} --ssh-config {path}",
        )


def _file() -> Path:
    return state_folder("ssh", "configurations") / "named.txt"


def _known() -> set[str]:
    try:
        return set(_file().read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return set()
