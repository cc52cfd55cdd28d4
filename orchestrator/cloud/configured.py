"""Share what backends have in common that read `cloud.toml` and keep the records on S3."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import ClassVar

from orchestrator.cloud.aws.end import stop_driver
from orchestrator.cloud.backend import Deployment, Limits, Options
from orchestrator.cloud.config import CONFIG_FILE, CloudConfig, load_config
from orchestrator.records.index import request_stop, sweep_folder
from orchestrator.storage import Storage

STOP_S = 120.0


class ConfiguredBackend:
    """Hold the options, the configuration and the storage of a deployment.

    The configuration is read on use, which raises ConfigError: what reads records alone needs none.

    Args:
        storage: the user's, of which records are read.
    """

    name: ClassVar[str]

    def __init__(self, options: Options, storage: Storage) -> None:
        self.options = options
        self.storage = storage
        self.file = Path(options.config or CONFIG_FILE)

    @cached_property
    def config(self) -> CloudConfig:
        """Return the configuration."""
        return load_config(self.file)

    def limited(self, limits: Limits) -> Limits:
        """Return the limits with those of the configuration where the command gave none, or higher dollars."""
        changed = {
            "max_hours": limits.max_hours or self.config.max_hours,
            "max_usd": min(filter(None, (limits.max_usd, self.config.max_usd)), default=None),
        }
        if "idle_minutes" not in limits.model_fields_set:
            changed["idle_minutes"] = self.config.idle_minutes
        return limits.model_copy(update=changed)

    def shortages(self) -> list[str]:
        """Return nothing: the provider of the machines is not known."""
        return []

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
