"""Ask AWS whether the quotas of an account are sufficient.

for line in shortfalls([Need("g6e.2xlarge", "spot", 12), Need("p5.4xlarge", "on-demand", 2)], region="us-east-1"):
    print(line)          # spot g machines: 96 vCPUs needed, quota 0 (L-3819A6DF): ask for more in the console
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from orchestrator.resources.aws.clients import client as new_client
from orchestrator.resources.aws.errors import asked
from orchestrator.resources.catalogue import CatalogueError, Quota, prices, quotas
from trm_data.errors import nearest


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
    service = client or new_client("service-quotas", region)
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

    return asked(ask, "ask for quotas")


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
