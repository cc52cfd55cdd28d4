"""List the machines of a cluster on AWS, with their prices.

    python -m orchestrator.cloud.aws.machines FOLDER REGION CLUSTER STORAGE NAME

keeps the launch file and the record of a deployment up to date from its head: workers come and go without the client,
and the timer adds up what the launch file says.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.cloud import deployments, launch_file
from orchestrator.cloud.aws.orphans import usd_per_hour
from orchestrator.cloud.backend import Deployment, Machine
from orchestrator.resources import catalogue
from orchestrator.resources.aws.clients import client
from orchestrator.resources.aws.errors import AwsError, asked
from orchestrator.resources.aws.instances import CLUSTER_TAG, GONE, instances
from orchestrator.resources.catalogue import Market
from orchestrator.storage import open_storage
from trm_data.errors import UserError

logger = logging.getLogger(__name__)

POLL_S = 20.0
EARLIER_S = 60.0
"""Seconds by which the clock of the laptop that made a deployment may be ahead of AWS's."""


def machines_of(ec2: Any, cluster: str, known: Sequence[Machine], now_s: float, since_s: float) -> tuple[Machine, ...]:
    """Return the machines of a cluster: those that the record knows, and those that are new; ended ones have an end.

    Args:
        known: machines of the record.
        since_s: when the deployment was made: what was ended before belongs to an earlier one on the same cluster.
    """
    found = {str(each["InstanceId"]): each for each in instances(ec2, {CLUSTER_TAG: cluster}, gone=True)}
    billed = _spot_prices(ec2, [each for each in found.values() if each.get("InstanceLifecycle") == "spot"])
    before = {machine.name: machine for machine in known}
    machines = {name: _machine(each, ec2.meta.region_name, billed) for name, each in found.items()}
    for name, machine in {**before, **machines}.items():
        is_up = name in found and found[name]["State"]["Name"] not in GONE
        # The timer writes its record before it ends the machines; AWS knows when they were ended.
        ended_s = _ended_s(found[name]) if name in found else None
        ended_s = ended_s or (before[name].down_s if name in before else None) or now_s
        machines[name] = machine.model_copy(update={"down_s": None if is_up else ended_s})
    own = [each for each in machines.values() if (each.down_s or each.up_s) >= since_s - EARLIER_S]
    return tuple(sorted(own, key=lambda machine: (machine.up_s, machine.name)))


def _ended_s(instance: Any) -> float | None:
    """Return when somebody ended an instance, which AWS only says in words; None if it does not say when."""
    said = re.search(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)", instance.get("StateTransitionReason", ""))
    return datetime.fromisoformat(f"{said[1]}+00:00").timestamp() if said else None


def _machine(instance: Any, region: str, billed: dict[tuple[str, str], float]) -> Machine:
    kind = str(instance["InstanceType"])
    market: Market = "spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand"
    listed = next((each for each in catalogue.prices() if (each.provider, each.instance) == ("aws", kind)), None)
    zone = str(instance.get("Placement", {}).get("AvailabilityZone", ""))
    return Machine(
        name=str(instance["InstanceId"]),
        kind=kind,
        gpu=None if listed is None else catalogue.gpu(listed.gpu).ray_type,
        num_gpus=0 if listed is None else listed.num_gpus,
        market=market,
        usd_per_hour=assumed_usd(kind, market, region),
        billed_usd_per_hour=billed.get((kind, zone)) if market == "spot" else None,
        up_s=instance["LaunchTime"].timestamp(),
    )


def assumed_usd(instance: str, market: str, region: str) -> float | None:
    """Return the price that a plan assumes; that of on demand, which bounds it, for spot without a known price."""
    return usd_per_hour(instance, market, region) or usd_per_hour(instance, "on-demand", region)


def _spot_prices(ec2: Any, spot: Sequence[Any]) -> dict[tuple[str, str], float]:
    """Return what AWS bills for spot machines now, by type and zone; nothing where it does not say."""
    kinds = sorted({str(each["InstanceType"]) for each in spot})
    if not kinds:
        return {}
    now = datetime.now(UTC)
    try:
        answer = asked(
            lambda: ec2.describe_spot_price_history(
                InstanceTypes=kinds, ProductDescriptions=["Linux/UNIX"], StartTime=now
            ),
            "ask for spot prices",
        )
    except AwsError as error:
        logger.warning("%s", error)
        return {}
    entries = sorted(answer["SpotPriceHistory"], key=lambda each: each["Timestamp"])
    return {(str(each["InstanceType"]), str(each["AvailabilityZone"])): float(each["SpotPrice"]) for each in entries}


def keep_record(folder: Path, region: str, cluster: str, url: str, name: str, poll_s: float = POLL_S) -> None:
    """Write the machines of a cluster into the launch file, and into the record of its deployment until that is over.

    Args:
        folder: of the deployment, on this machine.
    """
    storage, ec2 = open_storage(url), client("ec2", region)
    while True:
        try:
            told = launch_file.load(folder)
            machines = machines_of(ec2, cluster, told.machines, time.time(), told.created_s)
            now = {"machines": machines, "listed_s": time.time()}
            launch_file.save(folder, launch_file.load(folder).model_copy(update=now))
            found = deployments.find(storage, name)
            if found is None or found.state in deployments.OVER:
                return
            if machines != found.machines:
                deployments.change(storage, name, partial(_with_machines, machines))
        except UserError as error:  # an outage, or a damaged record, says nothing about the machines
            logger.warning("%s", error)
        time.sleep(poll_s)


def _with_machines(machines: tuple[Machine, ...], record: Deployment) -> Deployment:
    """Return a record with these machines; one that was closed meanwhile keeps its own, whose hours have ended."""
    return record if record.state in deployments.OVER else record.model_copy(update={"machines": machines})


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    place, region, cluster, url, name = sys.argv[1:]
    keep_record(Path(place), region, cluster, url, name)
