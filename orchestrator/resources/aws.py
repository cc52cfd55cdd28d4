"""Ask AWS for quotas, and terminate the instances of a cluster. boto3 is imported on use.

for line in shortfalls([Need("g6e.2xlarge", "spot", 12), Need("p5.4xlarge", "on-demand", 2)], region="us-east-1"):
    print(line)          # spot g machines: 96 vCPUs needed, quota 0 (L-3819A6DF): ask for more in the console
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, TypeVar

from orchestrator.errors import project_file
from orchestrator.resources.catalogue import CatalogueError, Quota, prices, quotas
from trm_data.errors import UserError, nearest

T = TypeVar("T")


class AwsError(UserError):
    """Raised if AWS cannot be reached or refuses a request."""


class Need(NamedTuple):
    """Describe instances of one type that are needed at the same time."""

    instance: str
    market: Literal["on-demand", "spot"]
    machines: int


def shortfalls(needs: Iterable[Need], region: str | None = None, client: Any = None) -> list[str]:
    """Return one line for every quota that is too small for all these instances together.

    Raises:
        CatalogueError: an instance type that the catalogue does not have.
        AwsError: no credentials, no right to ask (servicequotas:GetServiceQuota), no network.
    """
    wanted: dict[Quota, int] = {}
    for need in needs:
        quota = quota_of(need.instance, need.market)
        wanted[quota] = wanted.get(quota, 0) + need.machines * vcpus_of(need.instance)
    if not wanted:
        return []
    service = client or _client("service-quotas", region)
    allowed = {quota: vcpu_quota(quota, service) for quota in wanted}
    return [
        f"{quota.market} {quota.family} machines: {vcpus} vCPUs needed, quota {allowed[quota]:g} ({quota.code}): "
        "ask for more in the Service Quotas console"
        for quota, vcpus in wanted.items()
        if vcpus > allowed[quota]
    ]


def vcpu_quota(quota: Quota, client: Any) -> float:
    """Return the account's value of a quota, in vCPUs; AWS's default if the account has no own value."""

    def ask() -> float:
        where = {"ServiceCode": "ec2", "QuotaCode": quota.code}
        try:
            answer = client.get_service_quota(**where)
        except client.exceptions.NoSuchResourceException:
            answer = client.get_aws_default_service_quota(**where)
        return float(answer["Quota"]["Value"])

    return _asked(ask)


def quota_of(instance: str, market: Literal["on-demand", "spot"]) -> Quota:
    """Return the quota that bounds an instance type in a market. Raises CatalogueError."""
    vcpus_of(instance)
    return next(quota for quota in quotas() if quota.market == market and instance.startswith(quota.family))


def vcpus_of(instance: str) -> int:
    """Return how many vCPUs of its quota an instance takes. Raises CatalogueError."""
    known = {price.instance: price.num_vcpus for price in prices() if price.provider == "aws"}
    vcpus = known.get(instance)
    if vcpus is None:
        raise CatalogueError(f"unknown AWS instance type {instance!r}", nearest(instance, known))
    return vcpus


def terminate_workers(cluster_name: str, region: str | None = None, client: Any = None) -> list[str]:
    """Terminate every worker instance that Ray started for a cluster; the head stays. Return their ids.

    Raises:
        AwsError: no credentials, no right, no network.
    """
    ec2 = client or _client("ec2", region)

    def end() -> list[str]:
        pages = ec2.get_paginator("describe_instances").paginate(
            Filters=[
                {"Name": "tag:ray-cluster-name", "Values": [cluster_name]},
                {"Name": "tag:ray-node-type", "Values": ["worker"]},
                {"Name": "instance-state-name", "Values": ["pending", "running"]},
            ]
        )
        found = [
            str(machine["InstanceId"])
            for page in pages
            for reservation in page["Reservations"]
            for machine in reservation["Instances"]
        ]
        if found:
            ec2.terminate_instances(InstanceIds=found)
        return found

    return _asked(end)


def _client(service: str, region: str | None) -> Any:
    import boto3.session
    from botocore.config import Config

    config = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3})
    return _asked(lambda: boto3.session.Session().client(service, region_name=region, config=config))


def _asked(call: Callable[[], T]) -> T:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call()
    except (BotoCoreError, ClientError) as error:
        remedy = f"Check credentials, region and rights ({project_file('infra/aws/README.md')})"
        raise AwsError(f"AWS: {' '.join(str(error).split())}", remedy) from error
