"""Keep on a machine what the user's command has said about a launch, in a file that only the machine's user can write.

The record of a deployment lies in a storage that others may write to, so it only shows limits and prices. The timer and
Ray's process obey this file, which `up` writes through `ssh`.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.cloud.backend import CloudError, Deployment, Limits, Machine, Seconds
from trm_data.errors import ConfigError
from trm_data.files import load_json, write_atomic
from trm_data.settings import Settings, canonical_json

LAUNCH_FILE = "launch.json"
"""Name of the file in the folder of a deployment."""


class LaunchFile(Settings):
    """Hold what decides when a deployment ends, and how."""

    created_s: Seconds
    limits: Limits
    machines: tuple[Machine, ...] = ()
    """With their prices; what starts and ends machines from the head keeps them up to date here."""
    listed_s: Seconds | None = None
    """When the machines were listed last; None where nothing on the head lists them, because they do not change."""
    end_command: str | None = None
    """Command that runs last, to end the machine itself. It may hold a key of the provider."""
    network: str | None = None
    """Network in which the machines reach each other; the one that leads outwards if left out."""

    @classmethod
    def of(cls, deployment: Deployment, end_command: str | None = None) -> LaunchFile:
        """Return the file of a deployment that this user's command describes."""
        return cls(
            created_s=deployment.created_s,
            limits=deployment.limits,
            machines=deployment.machines,
            end_command=end_command or deployment.options.end_command,
            network=deployment.options.network,
        )

    def text(self) -> str:
        """Return the content of the file."""
        return canonical_json(self.plain())


def load(folder: Path) -> LaunchFile:
    """Return the file of the deployment in a folder.

    Raises:
        CloudError: there is none, or it is damaged.
    """
    file = folder / LAUNCH_FILE
    try:
        return LaunchFile.parse(load_json(file.read_bytes()), where=str(file))
    except (OSError, ValueError, TypeError, ConfigError) as error:
        raise CloudError(f"{file} cannot be read: {error}", "Launch again: `trm cloud up` writes it") from None


def save(folder: Path, found: LaunchFile) -> None:
    """Write the file of the deployment in a folder, for this user only."""
    write_private(folder / LAUNCH_FILE, found.text())


def write_private(file: Path, text: str) -> None:
    """Write a file that only this user can read."""
    write_atomic(file, text.encode(), mode=0o600)
