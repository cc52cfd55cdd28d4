"""Store the records of deployments: `deployments/NAME.json` in the storage of their sweeps.

Whoever can read the storage can read them: the laptop, the timer on the head, another user. A change reads the record
and replaces it only if nobody else did so in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.cloud.backend import CloudError, Deployment, Machine
from orchestrator.storage import Storage
from orchestrator.storage.base import to_json_bytes
from trm_data.errors import ConfigError, nearest
from trm_data.files import load_json

FOLDER = "deployments"
LAUNCHES = "launches"
"""Folder of what is no record: the lease of a launch, and the timer's signs of life."""
OVER = ("ended", "down")
"""States of deployments that have ended."""
_BEAT = "timer.json"
ATTEMPTS = 20
"""Times that a change is tried against other writers."""


def key_of(name: str) -> str:
    """Return the key of a record."""
    return f"{FOLDER}/{name}.json"


def names(storage: Storage) -> list[str]:
    """Return the names of all deployments of a storage, sorted."""
    return [key.rpartition("/")[2].removesuffix(".json") for key in storage.list(FOLDER) if key.endswith(".json")]


def find(storage: Storage, name: str) -> Deployment | None:
    """Return the record of a deployment, or None. Raises CloudError if it cannot be read."""
    where = f"{storage.url}/{key_of(name)}"
    try:
        found = decode(storage.read(key_of(name)), where)
    except KeyError:
        return None
    if found.name != name:
        raise CloudError(f"{where} is the record of another deployment, {found.name!r}", "Remove the file")
    return found


def load(storage: Storage, name: str) -> Deployment:
    """Return the record of a deployment. Raises CloudError with the nearest known name if there is none."""
    found = find(storage, name)
    if found is None:
        hint = nearest(name, names(storage)) or "Start one with `trm cloud up SWEEP --on ssh USER@HOST`"
        raise CloudError(f"no deployment {name!r} in {storage.url}", hint)
    return found


def save(storage: Storage, deployment: Deployment) -> Deployment:
    """Write the whole record, whatever is there."""
    storage.write(key_of(deployment.name), encode(deployment))
    return deployment


def change(storage: Storage, name: str, edit: Callable[[Deployment], Deployment]) -> Deployment:
    """Apply a change to the stored record and return the result. `edit` may be called several times."""
    for _ in range(ATTEMPTS):
        try:
            data, etag = storage.read_tagged(key_of(name))
        except KeyError:
            raise CloudError(f"no deployment {name!r} in {storage.url}", "It has been removed") from None
        edited = edit(decode(data, f"{storage.url}/{key_of(name)}"))
        if storage.replace_if(key_of(name), encode(edited), etag) is not None:
            return edited
        time.sleep(0.05)
    raise CloudError(f"the record of deployment {name!r} is changed by others all the time", "Try again")


def observed(own: Deployment, found: Deployment) -> Deployment:
    """Return a deployment with what its record knows better: state, machines, when and why it ended.

    Args:
        own: as this user's commands have described it.
        found: as its record describes it, which others may have written.
    """
    seen = {name: getattr(found, name) for name in ("state", "machines", "ended_s", "ended_why")}
    return own.model_copy(update=seen)


def note(storage: Storage, seen: Deployment) -> Deployment:
    """Write what was observed into the record, and return it. An end that others have noted meanwhile stays."""

    def edit(current: Deployment) -> Deployment:
        is_over = current.state in OVER and seen.state not in OVER
        if current.created_s != seen.created_s or is_over:
            return current
        return seen.model_copy(update={"limits": current.limits})

    change(storage, seen.name, edit)
    return seen


def launches(storage: Storage, name: str) -> Storage:
    """Return the folder of what is written while a deployment starts and runs."""
    return storage.sub(f"{LAUNCHES}/{name}")


def require_open(deployment: Deployment, end: str = "") -> None:
    """Raise CloudError if a deployment has ended.

    Args:
        end: command that fetches its records; the shortest one if left out.
    """
    if deployment.state in OVER:
        remedy = f"Fetch its records first: `{end or f'trm cloud down {deployment.name}'}`"
        raise CloudError(f"deployment {deployment.name!r} has ended: {deployment.ended_why}", remedy)


def beat(storage: Storage, name: str, now_s: float) -> None:
    """Write a sign of life of the timer."""
    launches(storage, name).write(_BEAT, to_json_bytes({"seen_s": now_s}))


def timer_age_s(storage: Storage, name: str) -> float | None:
    """Return how many seconds ago the timer was last seen, by the storage's clock; None if it never was."""
    try:
        return launches(storage, name).age_s(_BEAT)
    except KeyError:
        return None


def forget_timer(storage: Storage, name: str) -> None:
    """Remove the timer's sign of life."""
    launches(storage, name).delete(_BEAT)


def encode(deployment: Deployment) -> bytes:
    """Return the bytes of a record, without the command that ends a machine: it may hold a key of the provider."""
    options = deployment.options.model_copy(update={"end_command": None})
    return to_json_bytes(deployment.model_copy(update={"options": options}).plain())


def decode(data: bytes, where: str) -> Deployment:
    """Return the record that bytes hold. Raises CloudError if they hold none."""
    try:
        return Deployment.parse(load_json(data), where=where)
    except (ValueError, TypeError, ConfigError) as error:
        raise CloudError(
            f"{where} is not a record of a deployment: {error}",
            "Use the version that wrote it. To end its machines without it, move it away, then `trm cloud down NAME "
            "USER@HOST`; on AWS `trm cloud orphans` prints how",
        ) from None


def ended(deployment: Deployment, why: str, now_s: float, state: str = "ended") -> Deployment:
    """Return the record of a deployment whose machines are all down."""
    machines = tuple(down(machine, now_s) for machine in deployment.machines)
    first = {} if deployment.ended_s is not None else {"ended_s": now_s, "ended_why": why}
    return deployment.model_copy(update={"machines": machines, "state": state, **first})


def down(machine: Machine, now_s: float) -> Machine:
    """Return a machine that is down since `now_s`, unless it was down already."""
    return machine if machine.down_s is not None else machine.model_copy(update={"down_s": now_s})
