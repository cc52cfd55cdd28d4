"""Take a deployment from a quote to its end: the steps that all backends share."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.cloud import deployments
from orchestrator.cloud.backend import Backend, Closing, CloudError, Deployment, Limits, Options
from orchestrator.cloud.quote import Quote, quote
from orchestrator.cloud.registry import open_backend
from orchestrator.errors import command_line
from orchestrator.storage import LocalStorage, Storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.plan_file import dump_plan
from trm_data import fingerprint

OVER = ("new", "down")
"""States in which no machine of a deployment is up."""


class Launch(NamedTuple):
    """Hold what was decided for one launch before anything starts."""

    sweep: Sweep
    backend: Backend
    quote: Quote
    deployment: Deployment
    is_up: bool
    """Whether the machines are up already, so that only the driver is started."""


def prepare(sweep: Sweep, backend: str, options: Options, limits: Limits, storage: Storage) -> Launch:
    """Price a sweep on a backend, and find out whether its machines are up already. It starts and writes nothing.

    Raises:
        CloudError: the machines cannot be reached, or another backend has this deployment.
    """
    opened = open_backend(backend, options, storage)
    found = deployments.find(storage, sweep.name)
    is_up = found is not None and found.state not in OVER
    if found is not None and is_up and (found.backend != backend or found.options.hosts != options.hosts):
        where = ", ".join(found.options.hosts) or found.backend
        raise CloudError(
            f"deployment {sweep.name!r} is up on {where}",
            f"End it with `{command_line('cloud', 'down', sweep.name, storage=storage.url)}`, or rename the sweep",
        )
    priced = quote(sweep, backend, opened.offers(sweep), storage, limits)
    if found is None or not is_up:
        found = _new(sweep, backend, options, limits, storage, priced)
    return Launch(sweep, opened, priced, found, is_up)


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


def up(launch: Launch, storage: Storage) -> Deployment:
    """Start the machines of a launch. The record is written before anything starts, so that nothing is forgotten.

    Raises:
        CloudError: it failed; what was started is in the record, and `down` ends it.
    """
    deployments.save(storage, launch.deployment)
    return deployments.save(storage, launch.backend.up(launch.deployment))


def submit(launch: Launch, storage: Storage, words: Sequence[str]) -> Deployment:
    """Start the driver of a sweep on machines that are up."""
    deployment = deployments.load(storage, launch.sweep.name)
    with tempfile.TemporaryDirectory(prefix="trm-plan-") as folder:
        plan = Path(folder) / "plan.jsonl"
        plan.write_bytes(dump_plan(launch.sweep, fingerprint))
        return deployments.save(storage, launch.backend.submit(deployment, plan, words))


def reopen(name: str, storage: Storage) -> tuple[Backend, Deployment]:
    """Return a deployment as it is now, and its backend.

    Raises:
        CloudError: no such deployment, or its machines cannot be reached.
    """
    stored = deployments.load(storage, name)
    backend = open_backend(stored.backend, stored.options, storage)
    if stored.state in OVER:
        return backend, stored
    return backend, deployments.save(storage, backend.read(stored))


def down(name: str, storage: Storage, keep: bool) -> tuple[Deployment, Closing]:
    """End a deployment and write when its machines went down."""
    stored = deployments.load(storage, name)
    backend = open_backend(stored.backend, stored.options, storage)
    closing = backend.down(stored, keep)
    latest = deployments.load(storage, name)
    ended = deployments.ended(latest, "ended by `trm cloud down`", time.time(), "down")
    return deployments.save(storage, ended), closing
