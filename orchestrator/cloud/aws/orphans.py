"""Find everything on AWS that has our tag and is billed: instances, volumes, addresses, spot requests.

What is still running is listed too: whether somebody needs it, its owner decides. A price that is not known is None.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from orchestrator.resources.aws.clients import client, new_session
from orchestrator.resources.aws.errors import AwsError, asked
from orchestrator.resources.aws.instances import CLUSTER_TAG, GONE
from orchestrator.resources.catalogue import host_prices, prices
from trm_data.settings import Settings

PARALLEL_REGIONS = 8
_TAGGED = [{"Name": "tag-key", "Values": [CLUSTER_TAG]}]


class Orphan(Settings):
    """Describe one resource that is billed."""

    kind: str
    """`instance`, `volume`, `address` or `spot request`."""
    name: str
    region: str
    cluster: str
    """Value of the tag: the name in `cloud.toml`."""
    what: str
    """Instance type and state, or size."""
    age_s: float | None
    """None where AWS does not say when it was made."""
    usd_per_hour: float | None
    """None where the price is unknown."""
    command: str
    """Command that ends it."""


def find_orphans(now_s: float, regions: Sequence[str] = (), unseen: list[AwsError] | None = None) -> list[Orphan]:
    """Return the billed resources with our tag, the oldest first.

    Args:
        now_s: the time, in seconds since the epoch.
        regions: all that the account has enabled, if empty.
        unseen: receives the errors of regions that cannot be looked at, unless none can.

    Raises:
        AwsError: refused, no credentials, no network, no such region.
    """
    session = new_session()
    found = list(regions) or _enabled_regions(session)
    clients = {region: client("ec2", region, session) for region in found}
    errors: list[AwsError] = []

    def look(region: str) -> list[Orphan]:
        try:
            return list(_in_region(clients[region], region, now_s))
        except AwsError as error:
            errors.append(error)
            return []

    with ThreadPoolExecutor(PARALLEL_REGIONS, thread_name_prefix="orphans") as pool:
        listed = [orphan for each in pool.map(look, found) for orphan in each]
    if errors and (unseen is None or len(errors) == len(found)):
        raise errors[0]
    if unseen is not None:
        unseen += errors
    return sorted(listed, key=lambda orphan: (-(orphan.age_s or 0.0), orphan.name))


def _enabled_regions(session: Any) -> list[str]:
    answer = asked(client("ec2", None, session).describe_regions, "list the regions")
    return sorted(str(each["RegionName"]) for each in answer["Regions"])


def _in_region(ec2: Any, region: str, now_s: float) -> Iterator[Orphan]:
    machines = [
        machine
        for page in _pages(ec2, "describe_instances")
        for reservation in page["Reservations"]
        for machine in reservation["Instances"]
        if machine["State"]["Name"] not in GONE
    ]
    for machine in machines:
        yield _instance(machine, region, now_s)
    going = {
        disk["Ebs"]["VolumeId"]
        for machine in machines
        for disk in machine.get("BlockDeviceMappings", [])
        if disk.get("Ebs", {}).get("DeleteOnTermination")
    }
    for page in _pages(ec2, "describe_volumes"):
        for volume in page["Volumes"]:
            if volume["VolumeId"] not in going:  # the others go with their instance
                yield _volume(volume, region, now_s)
    for address in asked(lambda: ec2.describe_addresses(Filters=_TAGGED), f"list addresses in {region}")["Addresses"]:
        yield _address(address, region)
    listed = {machine["InstanceId"] for machine in machines}
    for page in _pages(ec2, "describe_spot_instance_requests"):
        for request in page["SpotInstanceRequests"]:
            # A fulfilled one-time request ends with its instance.
            if request["State"] == "open" or (request["State"] == "active" and request.get("InstanceId") not in listed):
                yield _spot_request(request, region, now_s)


def _pages(ec2: Any, operation: str) -> Iterator[Any]:
    pages = ec2.get_paginator(operation).paginate(Filters=_TAGGED)
    yield from asked(lambda: list(pages), f"{operation.replace('_', ' ')} in {ec2.meta.region_name}")


def _instance(machine: Any, region: str, now_s: float) -> Orphan:
    state, kind = str(machine["State"]["Name"]), str(machine["InstanceType"])
    market = "spot" if machine.get("InstanceLifecycle") == "spot" else "on-demand"
    name = str(machine["InstanceId"])
    return Orphan(
        kind="instance",
        name=name,
        region=region,
        cluster=_cluster(machine),
        what=f"{kind} {market}, {state}",
        age_s=_age(machine.get("LaunchTime"), now_s),
        # A stopped machine costs its disks only.
        usd_per_hour=usd_per_hour(kind, market, region) if state in ("running", "pending") else None,
        command=f"aws ec2 terminate-instances --region {region} --instance-ids {name}",
    )


def usd_per_hour(instance: str, market: str, region: str) -> float | None:
    """Return the catalogue's price of a machine of AWS in a region; None if it has none."""
    for price in prices():
        if (price.provider, price.instance, price.market, price.region) == ("aws", instance, market, region):
            return price.usd_per_hour
    if market == "on-demand":
        for host in host_prices():
            if (host.provider, host.instance, host.region) == ("aws", instance, region):
                return host.usd_per_hour
    return None


def _volume(volume: Any, region: str, now_s: float) -> Orphan:
    name = str(volume["VolumeId"])
    command = f"aws ec2 delete-volume --region {region} --volume-id {name}"
    holders = [str(each["InstanceId"]) for each in volume.get("Attachments", [])]
    if holders:
        command = f"aws ec2 detach-volume --region {region} --volume-id {name} && {command}"
    return Orphan(
        kind="volume",
        name=name,
        region=region,
        cluster=_cluster(volume),
        what=f"{volume['Size']} GB {volume.get('VolumeType', '')}, {volume['State']}",
        age_s=_age(volume.get("CreateTime"), now_s),
        usd_per_hour=None,
        command=command,
    )


def _address(address: Any, region: str) -> Orphan:
    name = str(address.get("AllocationId", address.get("PublicIp")))
    return Orphan(
        kind="address",
        name=name,
        region=region,
        cluster=_cluster(address),
        what=str(address.get("PublicIp", "")),
        age_s=None,
        usd_per_hour=None,
        command=f"aws ec2 release-address --region {region} --allocation-id {name}",
    )


def _spot_request(request: Any, region: str, now_s: float) -> Orphan:
    name = str(request["SpotInstanceRequestId"])
    kind = str(request.get("LaunchSpecification", {}).get("InstanceType", ""))
    return Orphan(
        kind="spot request",
        name=name,
        region=region,
        cluster=_cluster(request),
        what=f"{kind} {request['State']}".strip(),
        age_s=_age(request.get("CreateTime"), now_s),
        usd_per_hour=None,
        command=f"aws ec2 cancel-spot-instance-requests --region {region} --spot-instance-request-ids {name}",
    )


def _cluster(resource: Any) -> str:
    return next((str(tag["Value"]) for tag in resource.get("Tags", []) if tag["Key"] == CLUSTER_TAG), "")


def _age(made: datetime | None, now_s: float) -> float | None:
    return None if made is None else max(0.0, now_s - made.timestamp())
