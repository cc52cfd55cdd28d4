"""List and end the machines of a cluster on AWS."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.resources.aws.clients import client as new_client
from orchestrator.resources.aws.errors import AwsError, asked

CLUSTER_TAG = "trm-cluster"
"""Tag of everything that is rented here."""
RAY_TAG, RAY_KIND = "ray-cluster-name", "ray-node-type"
"""Tags that Ray gives to every machine that it starts: its cluster, and `head` or `worker`."""
GONE = ("shutting-down", "terminated")
"""States of machines that do not cost anything any more."""
END_S = 300.0
"""Seconds within which AWS reports a machine that was told to end as shutting down."""
POLL_S = 1.0
AGAIN = 2
"""Times in a row that no machine must be found: one that was just started is not listed at once."""


def instances(ec2: Any, tags: Mapping[str, str], *, gone: bool = False, but_head: bool = False) -> list[Any]:
    """Return the instances with these tags as AWS describes them.

    Args:
        gone: those too that have ended; AWS forgets them after an hour.
        but_head: all but those that Ray started as a head.
    """
    filters = [{"Name": f"tag:{name}", "Values": [value]} for name, value in tags.items()]
    pages = asked(lambda: list(ec2.get_paginator("describe_instances").paginate(Filters=filters)), "list the machines")
    found = [each for page in pages for reservation in page["Reservations"] for each in reservation["Instances"]]
    head = {"Key": RAY_KIND, "Value": "head"}
    return [
        each
        for each in found
        if (gone or each["State"]["Name"] not in GONE) and not (but_head and head in each.get("Tags", ()))
    ]


def end_instances(ec2: Any, tags: Mapping[str, str], *, but_head: bool = False, limit_s: float = END_S) -> list[str]:
    """End all machines with these tags, those too that are started meanwhile, until AWS lists none any more.

    Returns:
        The identifiers of those that were up.

    Raises:
        AwsError: refused, or a machine is still up after the limit.
    """
    ended: dict[str, None] = {}
    deadline_s, empty = time.monotonic() + limit_s, 0
    while True:
        left = [str(each["InstanceId"]) for each in instances(ec2, tags, but_head=but_head)]
        empty = 0 if left else empty + 1
        if empty >= (AGAIN if ended else 1):
            return [*ended]
        if new := [name for name in left if name not in ended]:
            _terminate(ec2, new)
            ended.update(dict.fromkeys(new))
        elif left and time.monotonic() > deadline_s:
            raise AwsError(f"still up after {limit_s:.0f} s: {', '.join(left)}", "See `trm cloud orphans`")
        time.sleep(POLL_S)


def _terminate(ec2: Any, names: Sequence[str]) -> None:
    asked(lambda: ec2.terminate_instances(InstanceIds=[*names]), "end the machines")


def terminate_workers(cluster: str, region: str | None = None, client: Any = None) -> list[str]:
    """End every worker that Ray started for a cluster; the head stays. Return their identifiers.

    Raises:
        AwsError: no credentials, no right, no network, or a machine is still up after some minutes.
    """
    tags = {RAY_TAG: cluster, RAY_KIND: "worker"}
    return end_instances(client or new_client("ec2", region), tags)
