"""Do on the head, or on another machine of a deployment, what the client asks for through `ssh`, one verb a call.

python -m orchestrator.cloud.head start FOLDER STORAGE NAME PROCESS WORD...
python -m orchestrator.cloud.head end|receipt|waiting FOLDER STORAGE NAME
python -m orchestrator.cloud.head check|token|reach|end-ray FOLDER STORAGE NAME
python -m orchestrator.cloud.head joined FOLDER STORAGE NAME MACHINE...
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.cloud import deployments, launch_file, processes, ray_node
from orchestrator.cloud.backend import CloudError, Deployment, Receipt
from orchestrator.cloud.receipt import receipt
from orchestrator.errors import ClusterError
from orchestrator.records.index import find_definition
from orchestrator.records.reader import read_trials
from orchestrator.resources.nodes import describe_cluster, require_answer
from orchestrator.storage import Storage, StorageError, open_storage
from trm_data.errors import UserError
from trm_data.settings import strict_json

START_S = 60.0
"""Seconds for which `waiting` waits for a driver to write the definition of its sweep."""
REACH_S = 10.0
"""Seconds within which a machine must reach Ray's head."""
JOIN_S = 300.0
"""Seconds within which a machine must have joined: Ray's own limit is 30 s, and a busy machine takes more attempts."""


def main(arguments: Sequence[str]) -> int:
    """Run one verb. Return 0, or 2 with one line on standard error."""
    verb, place, url, name = arguments[:4]
    folder, more = Path(place), list(arguments[4:])
    verbs: dict[str, Callable[[Storage], None]] = {
        "start": lambda storage: _start(name, folder, storage, more[0], more[1:]),
        "end": lambda storage: _end(folder, storage, name),
        "receipt": lambda storage: print(strict_json(_receipt(folder, storage, name).plain())),
        "waiting": lambda storage: _wait_for_definition(folder, storage, name),
        "check": lambda _: _check(url),
        "token": lambda _: _make_token(folder),
        "reach": lambda _: _reach(folder),
        "joined": lambda _: print(strict_json(_missing(folder, more))),
        "end-ray": lambda _: _end_ray(folder),
    }
    if verb not in verbs:
        print(f"error: unknown verb {verb}", file=sys.stderr)
        return 2
    try:
        verbs[verb](open_storage(url))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _end(folder: Path, storage: Storage, name: str) -> None:
    """End the driver, then Ray, then the timer."""
    print(processes.end_driver(storage, name, folder, "ended by `trm cloud down`"))
    _end_ray(folder)
    processes.end(folder, processes.TIMER, 5.0)


def _end_ray(folder: Path) -> None:
    processes.end(folder, processes.RAY, processes.RAY_GRACE_S)


def _wait_for_definition(folder: Path, storage: Storage, name: str) -> None:
    """Wait until the driver has written the definition of its sweep."""
    deadline_s = time.monotonic() + START_S
    while find_definition(storage, name) is None and processes.is_alive(folder, processes.DRIVER):
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.5)


def _check(url: str) -> None:
    """Write, read and delete a probe. Raises CloudError if this machine cannot use the storage of the records."""
    storage, key = open_storage(url, attempts=2, patience_s=0), f"probe-{uuid.uuid4().hex}"
    try:
        storage.write(key, b"probe")
        storage.read(key)
        storage.delete(key)
    except StorageError as error:
        raise CloudError(
            f"this machine cannot use the storage: {error.what}",
            "Put credentials for it there (~/.aws/credentials); `trm cloud` uploads none",
        ) from None


def _make_token(folder: Path) -> None:
    """Make the token of the cluster. Raises CloudError if this machine has no address in the network of the launch."""
    ray_node.own_address(launch_file.load(folder).network)
    ray_node.make_token(folder)


def _reach(folder: Path) -> None:
    """Raise CloudError unless this machine is in the network of the launch and reaches Ray's head."""
    ray_node.own_address(launch_file.load(folder).network)
    try:
        require_answer(ray_node.read_address(folder) or "", REACH_S)
    except ClusterError as error:
        raise CloudError(error.what) from None


def _missing(folder: Path, machines: Sequence[str]) -> list[str]:
    """Wait until machines have joined the cluster. Return those that have not within the limit, or before Ray ended."""
    os.environ.update(ray_node.environment(folder))
    deadline_s, missing = time.monotonic() + JOIN_S, list(machines)
    while missing and time.monotonic() < deadline_s and processes.is_alive(folder, processes.RAY):
        with suppress(ClusterError):
            alive = {node.name for node in describe_cluster(ray_node.read_address(folder) or "").nodes}
            missing = [machine for machine in machines if machine not in alive]
        if missing:
            time.sleep(0.5)
    return missing


def _start(name: str, folder: Path, storage: Storage, process: str, words: list[str]) -> None:
    """Start a process. One timer is enough; a second driver is an error.

    Raises:
        CloudError: the driver runs already, or the timer has no limits that it could enforce; or the timer has ended
            the deployment, so that a driver would run without limits.
    """
    is_driver = process == processes.DRIVER
    if process == processes.TIMER:
        launch_file.load(folder)
    if processes.is_alive(folder, process):
        if is_driver:
            raise CloudError("the driver of this sweep is running already", f"Watch it: `trm cloud logs {name} -f`")
        return
    if is_driver:
        _submitted(deployments.load(storage, name))
    print(processes.start(folder, process, words))
    if is_driver:
        try:  # the timer closes the record before it looks for drivers a last time
            deployments.change(storage, name, _submitted)
        except UserError:
            processes.end(folder, process, processes.GRACE_S / 4)
            raise


def _submitted(current: Deployment) -> Deployment:
    """Return the record of a deployment whose driver runs. Raises CloudError if the deployment is over."""
    deployments.require_open(current)
    return current.model_copy(update={"state": "submitted"})


def _receipt(folder: Path, storage: Storage, name: str) -> Receipt:
    """Return the account of a deployment, with a warning where nothing would end it."""
    deployment = deployments.load(storage, name)
    found = receipt(deployment, read_trials(storage, name), time.time())
    if deployment.state in ("up", "submitted") and not processes.is_alive(folder, processes.TIMER):
        warning = "the timer is not running, so that no limit is enforced: `trm cloud submit` starts it again"
        found = found.model_copy(update={"unknown": (*found.unknown, warning)})
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
