"""Take a deployment from a quote to its end: the steps that all backends share."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.cloud import deployments, own
from orchestrator.cloud.backend import Backend, Closing, CloudError, Deployment, Limits, Options, RemoteRecords
from orchestrator.cloud.config import CONFIG_FILE
from orchestrator.cloud.quote import Quote, quote
from orchestrator.cloud.registry import open_backend
from orchestrator.cloud.ssh.project import find_project
from orchestrator.errors import command_line
from orchestrator.storage import LocalStorage, Storage
from orchestrator.storage.lease import Lease
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.plan_file import dump_plan
from trm_data import fingerprint

UP = ("up", "submitted")
"""States in which a driver can be started."""


class Launch(NamedTuple):
    """Hold what was decided for one launch before anything starts."""

    sweep: Sweep
    backend: Backend
    quote: Quote
    deployment: Deployment
    is_up: bool
    """Whether the machines are up already, so that only the driver is started."""
    seen: Deployment | None
    """The record as it was found; None if there was none."""


def prepare(sweep: Sweep, backend: str, options: Options, limits: Limits, storage: Storage) -> Launch:
    """Price a sweep on a backend, and find out whether its machines are up already. It starts and writes nothing.

    Raises:
        CloudError: the machines cannot be reached, or another backend has this deployment.
    """
    opened = open_backend(backend, options, storage)
    found = seen = deployments.find(storage, sweep.name)
    if found is not None and found.state in (*UP, "starting", "ended"):
        _require_same(found, backend, options, storage)
        found = opened.read(_own(found, options, storage))  # the timer may have ended it since
        if found.state in UP and not own.knows(storage, sweep.name):
            raise CloudError(
                f"{sweep.name!r} was launched by another user, or from another computer",
                "Submit it from there, or give the sweep another name",
            )
        _require_same(found, backend, options, storage)
    is_up = found is not None and found.state in UP
    offers, limits = opened.offers(sweep), opened.limited(limits)
    priced = quote(sweep, backend, offers, storage, limits)
    more = {"uploads": str(find_project()), "unknown": (*priced.unknown, *opened.shortages())}
    priced = priced.model_copy(update={**more, "has_timer": opened.has_timer})
    if options.end_command and isinstance(storage, LocalStorage):
        why = (
            "records stay on the machine that --end-command ends until `down` fetches them; --storage s3:// avoids that"
        )
        priced = priced.model_copy(update={"unknown": (*priced.unknown, why)})
    if limits.max_usd is not None and not priced.usd_per_hour:
        raise CloudError(
            "the price of the machines is unknown, so that --max-usd cannot be enforced",
            "Give --usd-per-hour, --usd-per-gpu-hour or --provider, or --no-limit with --max-hours",
        )
    if found is None or not is_up:
        new = _new(sweep, backend, options, limits, storage, priced)
        if found is not None and found.state == "starting":  # machines that are up already bill since then
            new = new.model_copy(update={"machines": found.machines, "created_s": found.created_s})
        found = new
    return Launch(sweep, opened, priced, found, is_up, seen)


def _require_same(found: Deployment, backend: str, options: Options, storage: Storage) -> None:
    """Raise CloudError if a deployment is not over and this launch is not about the same machines."""
    end = command_line("cloud", "down", found.name, storage=storage.url)
    deployments.require_open(found, end)
    if found.backend != backend or found.options.hosts != options.hosts:
        where = ", ".join(found.options.hosts) or found.backend
        raise CloudError(f"deployment {found.name!r} is up on {where}", f"End it with `{end}`, or rename the sweep")


def _new(sweep: Sweep, backend: str, options: Options, limits: Limits, storage: Storage, priced: Quote) -> Deployment:
    dated = next((offer for offer in priced.offers if offer.price_source), None)
    return Deployment(
        name=sweep.name,
        backend=backend,
        storage=storage.url,
        is_remote=isinstance(storage, LocalStorage),
        created_s=time.time(),
        options=options,
        limits=limits,
        planned_usd=priced.usd,
        planned_hours=priced.hours,
        price_source=dated.price_source if dated else "",
        price_date=dated.price_date if dated else "",
    )


def find_up(name: str, storage: Storage) -> Deployment | None:
    """Return the deployment of a sweep whose machines are up; None if there is none."""
    found = deployments.find(storage, name)
    return own.trusted(storage, found) if found is not None and found.state in UP else None


def claim(name: str, storage: Storage) -> Lease:
    """Return the lease under which one command at a time starts what a deployment needs.

    Entering it raises SweepError while another command does so, on this computer or on another one.
    """
    watch = command_line("cloud", "status", name, storage=storage.url)
    what = f"{name!r} is being launched"
    return Lease(deployments.launches(storage, name), name, what=what, remedy=f"Watch it with `{watch}`")


def up(launch: Launch, storage: Storage, file: str) -> Deployment:
    """Start the machines of a launch. The record is written before anything starts, so that nothing is forgotten.

    Args:
        file: the sweep as the user named it, for the commands of the record.

    Raises:
        SweepError: another command launches the same sweep.
        CloudError: another command has launched it since `prepare`; or it failed: what was started is in the record,
            and `down` ends it.
    """
    with claim(launch.deployment.name, storage):
        return _up(launch, storage, file)


def _up(launch: Launch, storage: Storage, file: str) -> Deployment:
    name = launch.deployment.name
    found, seen = deployments.find(storage, name), launch.seen
    if found is not None and (seen is None or (found.created_s, found.state) != (seen.created_s, seen.state)):
        watch = command_line("cloud", "status", name, storage=storage.url)
        raise CloudError(f"another command has launched {name!r} meanwhile: it is {found.state}", f"See `{watch}`")
    verbs = (("submit", file), ("status", name), ("logs", name, "-f"), ("cost", name), ("stop", name), ("down", name))
    commands = tuple(command_line("cloud", *words, storage=storage.url) for words in verbs)
    deployment = launch.deployment.model_copy(update={"commands": commands})
    own.remember(storage, deployment)
    deployment = launch.backend.up(deployments.save(storage, deployment))
    own.remember(storage, deployment)
    return deployments.note(storage, deployment)


def submit(launch: Launch, storage: Storage, words: Sequence[str]) -> Deployment:
    """Start the driver of a sweep on machines that are up. Raises SweepError while another command does so."""
    with claim(launch.sweep.name, storage):
        return _submit(launch, storage, words)


def _submit(launch: Launch, storage: Storage, words: Sequence[str]) -> Deployment:
    deployment = own.trusted(storage, deployments.load(storage, launch.sweep.name))
    deployments.require_open(deployment, command_line("cloud", "down", deployment.name, storage=storage.url))
    with tempfile.TemporaryDirectory(prefix="trm-plan-") as folder:
        plan = Path(folder) / "plan.jsonl"
        plan.write_bytes(dump_plan(launch.sweep, fingerprint))
        return deployments.note(storage, launch.backend.submit(deployment, plan, words))


def reopen(name: str, storage: Storage, options: Options | None = None) -> tuple[Backend, Deployment]:
    """Return a deployment as it is now, and its backend.

    Args:
        options: the machines of a deployment that another client has launched, which this storage has no record of.

    Raises:
        CloudError: no such deployment, or its machines cannot be reached.
    """
    stored = deployments.find(storage, name)
    is_named = options is not None and bool(options.hosts)
    if is_named and (stored is None or (stored.state, stored.backend) == ("down", "ssh")):  # launched since, elsewhere
        stored = deployments.save(storage, _adopted(name, stored, options or Options(), storage))
    if stored is None:
        stored = deployments.load(storage, name)
    if stored.state == "down":  # nothing of it runs, so that nothing is asked
        return open_backend(stored.backend, Options(), storage), stored
    stored = _own(stored, options, storage)
    backend = open_backend(stored.backend, stored.options, storage)
    if stored.state == "new" or not _can_be_asked(stored, storage):
        return backend, stored
    return backend, deployments.note(storage, backend.read(stored))


def _can_be_asked(stored: Deployment, storage: Storage) -> bool:
    """Return whether this computer has what asking for the machines of a deployment takes, besides its record."""
    if stored.backend == "sky" and not own.knows(storage, stored.name):
        return False  # SkyPilot knows its clusters on the computer that launched them alone
    return stored.backend == "ssh" or Path(stored.options.config or CONFIG_FILE).is_file()


def _own(stored: Deployment, options: Options | None, storage: Storage) -> Deployment:
    """Return a record with the parts that this user's commands have set: this one, if it names the machines.

    Raises:
        CloudError: none of them has named the machines.
    """
    if options is not None and options.hosts and stored.backend == "ssh" and not own.knows(storage, stored.name):
        return _adopted(stored.name, stored, options, storage)
    return own.trusted(storage, stored)


def _adopted(name: str, stored: Deployment | None, options: Options, storage: Storage) -> Deployment:
    """Return a deployment that another client has launched, as it lies on the machines that the user has named."""
    backend = open_backend("ssh", options, storage)
    assert isinstance(backend, RemoteRecords)
    found = backend.discover(name, stored)
    own.remember(storage, found)
    return found


def down(name: str, storage: Storage, keep: bool, forget: bool = False) -> tuple[Deployment, Closing]:
    """End a deployment and write when its machines went down.

    Args:
        keep: leave what was installed.
        forget: the machines are gone, so that only the record is closed. What was only on them is lost.

    Raises:
        CloudError: it is down already, or its machines cannot be reached.
    """
    stored = deployments.load(storage, name)
    if stored.state == "down":
        raise CloudError(f"deployment {name!r} is down already", "Launch it again with `trm cloud submit`")
    if forget:
        closing = Closing(["the record is closed; no machine was asked"], [])
        ended = deployments.save(storage, deployments.ended(stored, "its machines are gone", time.time(), "down"))
        own.forget(storage, name)
        return ended, closing
    stored = own.trusted(storage, stored)
    if not _can_be_asked(stored, storage):
        where = "SkyPilot knows its clusters there alone" if stored.backend == "sky" else "its configuration is there"
        raise CloudError(
            f"{name!r} was launched from another computer or folder, and {where}",
            "End it there" + ("" if stored.backend == "sky" else f", or copy its {CONFIG_FILE} into this folder"),
        )
    backend = open_backend(stored.backend, stored.options, storage)
    try:
        stored = deployments.note(storage, backend.read(stored))
        closing = backend.down(stored, keep)
    except CloudError as error:
        forget_it = command_line("cloud", "down", name, "--forget", storage=storage.url)
        raise CloudError(error.what, f"{error.remedy}. If the machine is gone: `{forget_it}`") from None
    ended = deployments.save(storage, deployments.ended(stored, "ended by `trm cloud down`", time.time(), "down"))
    own.forget(storage, name)
    deployments.forget_timer(storage, name)
    return ended, closing
