"""Make one Ray cluster of the machines of a deployment, and end it.

The token of the cluster is made on the head. It passes through the memory of this process and the standard input of
`ssh`, and lies in a file of each machine that only its user can read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from orchestrator.cloud.backend import CloudError
from orchestrator.cloud.processes import RAY
from orchestrator.cloud.progress import waiting_for
from orchestrator.cloud.ray_node import ADDRESS_FILE, TOKEN_FILE
from orchestrator.cloud.ssh.connection import quoted
from orchestrator.cloud.ssh.inspection import Found
from orchestrator.cloud.ssh.site import Site

logger = logging.getLogger(__name__)

MODULE = "orchestrator.cloud.ray_node"
NETWORK = (
    "All machines need one private network, in which each reaches the others on all ports; --network names it: "
    "10.0.0.0/24"
)
AT_ONCE = 8
"""Machines that are installed at the same time."""

T = TypeVar("T")
R = TypeVar("R")


def require_alike(hosts: Sequence[str], found: Sequence[Found]) -> None:
    """Raise CloudError for machines that cannot form a cluster: one that is named twice, other versions of Python."""
    seen: dict[tuple[str, str], str] = {}
    for host, each in zip(hosts, found, strict=True):
        if other := seen.get((each.machine, each.home)):
            what = f"{host} is named twice" if host == other else f"{other} and {host} are the same machine"
            raise CloudError(what, "Name each machine once")
        seen[each.machine, each.home] = host
        if each.python != found[0].python:
            raise CloudError(
                f"{hosts[0]} has Python {found[0].python} and {host} has {each.python}, and Ray needs one version",
                "Install the same on all, and name it: --python or --environment",
            )


def for_all(call: Callable[[T], R], values: Sequence[T]) -> list[R]:
    """Return the results of calls that run side by side; the error of the first that fails, after all have ended."""
    if len(values) < 2:
        return [call(value) for value in values]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(call, values))


def start_cluster(head: Site, workers: Sequence[Site]) -> None:
    """Start Ray on all machines where it does not run, and wait until all have joined.

    Raises:
        CloudError: a machine did not join. What was started here is ended then.
    """
    started: list[Site] = []
    try:
        _form_cluster(head, workers, started)
    except BaseException:
        for site in reversed(started):
            with suppress(CloudError):
                site.head("end-ray")
        raise


def _form_cluster(head: Site, workers: Sequence[Site], started: list[Site]) -> None:
    head.head("token")
    _start_ray(head, "head", started)
    if _missing(head, [head]):
        raise CloudError(f"Ray does not start on {head.host}: {head.ray_log()}", "Try again")
    address = head.connection.run(f"cat {quoted(f'{head.place}/{ADDRESS_FILE}')}").out.strip()
    token = head.connection.run(f"cat {quoted(f'{head.place}/{TOKEN_FILE}')}").out
    for worker in workers:
        worker.write(ADDRESS_FILE, address)
        worker.write(TOKEN_FILE, token)
        _require_route(worker, head, address)
        _start_ray(worker, "worker", started)
    for worker in _missing(head, [head, *workers]):
        raise CloudError(
            f"{worker.host} has not joined the cluster of {head.host} at {address}: {worker.ray_log()}", NETWORK
        )


def _start_ray(site: Site, role: str, started: list[Site]) -> None:
    if site.start(RAY, MODULE, site.place, site.storage, site.name, role, site.host):
        started.append(site)


def _missing(head: Site, sites: Sequence[Site]) -> list[Site]:
    """Wait until machines have joined, and return those that have not."""
    hosts = [site.host for site in sites]
    with waiting_for(f"Ray starts on {', '.join(hosts)}"):
        names = json.loads(head.head("joined", *hosts))
    return [site for site in sites if site.host in names]


def _require_route(worker: Site, head: Site, address: str) -> None:
    try:
        worker.head("reach")
    except CloudError as error:
        cause = error.what.removeprefix(f"{worker.host}: ")
        raise CloudError(f"{worker.host} cannot reach Ray's head, {head.host} at {address}: {cause}", NETWORK) from None
