"""Share what backends have in common that read `cloud.toml` and keep the records on S3."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from orchestrator.cloud.aws.end import stop_driver
from orchestrator.cloud.backend import Deployment, Options
from orchestrator.cloud.config import CONFIG_FILE, load_config
from orchestrator.records.index import request_stop, sweep_folder
from orchestrator.storage import Storage

STOP_S = 120.0


class ConfiguredBackend:
    """Hold the options, the configuration and the storage of a deployment.

    Args:
        storage: the user's, of which records are read.

    Raises:
        ConfigError: the configuration cannot be read.
    """

    name: ClassVar[str]

    def __init__(self, options: Options, storage: Storage) -> None:
        self.options = options
        self.storage = storage
        self.file = Path(options.config or CONFIG_FILE)
        self.config = load_config(self.file)

    def stop(self, deployment: Deployment) -> str:
        """Ask the driver to stop cleanly, through the records."""
        request_stop(sweep_folder(self.storage, deployment.name), "requested by `trm cloud stop`")
        return "the driver stops after the last checkpoints of its trials"

    def _with_config(self, deployment: Deployment) -> Options:
        """Return the options of a deployment with the path of the configuration, whatever the working folder."""
        return deployment.options.model_copy(update={"config": str(self.file.absolute())})

    def _end_driver(self, deployment: Deployment) -> list[str]:
        """Stop the driver before its machines end. Return what there is to say about that."""
        if stop_driver(self.storage, deployment.name, "ended by `trm cloud down`", STOP_S):
            return []
        return [f"the driver did not stop within {STOP_S:.0f} s, and ends with its machine"]
