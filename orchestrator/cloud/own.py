"""Keep what commands of this user have said about a launch, in files that only this user can write.

The record of a deployment lies in a storage that others may write to. What decides which program runs on which machine
and within which limits is taken from here instead: machines, the configuration file of ssh, folders and interpreters,
the command that ends a machine. So a record of others can neither run code here nor send commands elsewhere.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from pathlib import Path

from orchestrator.cloud.backend import CloudError, Deployment, Limits, Options, Worker
from orchestrator.cloud.launch_file import write_private
from orchestrator.cloud.local_copy import state_folder
from orchestrator.errors import command_line
from orchestrator.storage import LocalStorage, Storage
from trm_data.errors import ConfigError, UserError
from trm_data.files import load_json
from trm_data.settings import Settings, canonical_json

logger = logging.getLogger(__name__)


class Own(Settings):
    """Hold the parts of a deployment that are not taken from its record."""

    backend: str
    options: Options
    limits: Limits
    storage: str
    """Address of the records, as the head opens it."""
    is_remote: bool
    place: str = ""
    interpreter: str = ""
    cluster: str = ""
    workers: tuple[Worker, ...] = ()


def remember(storage: Storage, deployment: Deployment) -> None:
    """Keep what is trusted about a deployment that a command of this user has launched, or has named a machine of."""
    parts = {name: getattr(deployment, name) for name in Own.model_fields}
    file = _file(storage, deployment.name)
    try:
        write_private(file, canonical_json(Own(**parts).plain()))
    except (OSError, UserError) as error:
        logger.warning("later commands will ask for the machines of %s again: %s", deployment.name, error)


def forget(storage: Storage, name: str) -> None:
    """Remove what is kept of a deployment that is down."""
    with suppress(OSError):
        _file(storage, name).unlink(missing_ok=True)


def knows(storage: Storage, name: str) -> bool:
    """Return whether a command of this user has launched a deployment or named its machines."""
    return _find(storage, name) is not None


def trusted(storage: Storage, deployment: Deployment) -> Deployment:
    """Return a record with the parts that this user's commands have set.

    Raises:
        CloudError: none of them has named its machines.
    """
    own = _find(storage, deployment.name)
    if own is not None:
        return deployment.model_copy(update={name: getattr(own, name) for name in Own.model_fields})
    if deployment.backend == "ssh" and (deployment.options.hosts or deployment.place or deployment.workers):
        hosts = ",".join(deployment.options.hosts) or "USER@HOST"
        named = command_line("cloud", "status", deployment.name, hosts, storage=storage.url)
        raise CloudError(
            f"the record of {deployment.name!r} names {hosts} as its machine, and no command of yours has done so",
            f"If it is yours, name it: {named} (with --ssh-config if you use one)",
        )
    # The configuration file in the working folder counts: it is the user's own.
    options = deployment.options.model_copy(update={"config": None, "ssh_config": None, "end_command": None})
    return deployment.model_copy(update={"options": options, "place": "", "interpreter": "", "workers": ()})


def _find(storage: Storage, name: str) -> Own | None:
    try:
        file = _file(storage, name)
        return Own.parse(load_json(file.read_bytes()), where=str(file))
    except (OSError, ValueError, TypeError, ConfigError):
        return None


def _file(storage: Storage, name: str) -> Path:
    url = str(storage.root.resolve()) if isinstance(storage, LocalStorage) else storage.url
    digest = hashlib.sha256(f"{url}\n{name}".encode()).hexdigest()[:16]
    return state_folder("launches", digest) / "own.json"
