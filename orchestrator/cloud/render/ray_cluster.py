"""Render the cluster file that `ray up` takes: a CPU head, and GPU machines that start from zero by label.

Workers are requested by label (`ray.io/accelerator-type`, `ray.io/market-type`), which needs version 2 of Ray's
autoscaler: version 1 ignores labels when it starts machines, and trials would wait forever. The market that a worker
type names first has the highest priority; the next is used while AWS has no capacity in the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.cloud.config import Aws, CloudConfig, Market, Worker, gpu_label
from orchestrator.cloud.render.text import yaml_text
from orchestrator.cloud.torch_build import cpu_torch_script
from orchestrator.resources.aws.instances import CLUSTER_TAG

PROJECT = "~/trm-orchestrator"
TOKEN = "~/.ray/auth_token"
"""Where Ray looks for the token of a cluster."""
BIN = "~/venv/bin"
PORT = 6379
LATEST_MINUTES = 60
"""Minutes after the longest time of a deployment at which its machines end by themselves."""
UNKNOWN_GROUP = "sg-made-by-trm-cloud-init"
"""AWS refuses it: a file that was rendered without the group starts nothing."""
HEADER = """Rendered from cloud.toml by `trm cloud render --on aws`: change that file, not this one.

`trm cloud up --on aws` renders it again, fills in the security group and calls `ray up`."""
SINGLE_HEADER = """Rendered from cloud.toml by `trm cloud render --on aws --single`: change that file, not this one.

One GPU machine is head and worker. It has no right to start or end machines, and ends itself by shutting down."""


def render_cluster(config: CloudConfig, project: str = ".", token: str = TOKEN) -> str:
    """Return the cluster file for a head and workers.

    Args:
        config: with a table `[aws]`.
        project: folder that is copied to every machine.
        token: file with the token of the cluster.
    """
    aws = config.aws_settings()
    kinds = {"head": _head(config, aws)} | dict(_workers(config, aws))
    return yaml_text(HEADER, _cluster(config, aws, kinds, aws.max_machines, {TOKEN: token, PROJECT: project}))


def render_single(config: CloudConfig, project: str = ".", token: str = TOKEN) -> str:
    """Return the cluster file for one GPU machine without workers."""
    aws = config.aws_settings()
    machine = aws.single.machine
    node = {
        "InstanceType": aws.single.instance,
        "ImageId": aws.images.gpu,
        **_common(config, aws, "worker", aws.single.disk_gb, aws.single.market),
    }
    kind = {
        "resources": {"CPU": machine.num_vcpus, "GPU": machine.num_gpus},
        "labels": {"ray.io/accelerator-type": gpu_label(machine), "ray.io/market-type": aws.single.market},
        "node_config": node,
    }
    return yaml_text(SINGLE_HEADER, _cluster(config, aws, {"head": kind}, 0, {TOKEN: token, PROJECT: project}))


def worker_kinds(aws: Aws) -> Iterator[tuple[str, Worker, Market]]:
    """Yield the name, the type and the market of every kind of worker."""
    for worker in aws.workers:
        for market in worker.markets:
            yield f"{worker.instance.replace('.', '-')}-{market}", worker, market


def tags_of(config: CloudConfig) -> dict[str, str]:
    """Return the tags of everything that is rented."""
    return {CLUSTER_TAG: config.name, **config.tags}


def _cluster(
    config: CloudConfig, aws: Aws, kinds: Mapping[str, Any], max_workers: int, files: Mapping[str, str]
) -> dict[str, Any]:
    provider: dict[str, Any] = {"type": "aws", "region": aws.region}
    if aws.zones:
        provider["availability_zone"] = ",".join(aws.zones)
    provider["cache_stopped_nodes"] = False  # a stopped GPU machine still costs its disk
    is_single = not max_workers
    return {
        "cluster_name": config.name,
        "max_workers": max_workers,
        "upscaling_speed": 4.0,  # trials that fit together should boot together: a start takes minutes
        "idle_timeout_minutes": 5,
        "provider": provider,
        "auth": {"ssh_user": "ubuntu"},
        "head_node_type": "head",
        "available_node_types": dict(kinds),
        # Remote path: local path. The token is a secret: it travels over SSH and is in no image and no log.
        "file_mounts": dict(files),
        "rsync_exclude": [".venv*", "runs", "build", ".env*", "**/__pycache__"],
        "rsync_filter": [".gitignore"],
        "initialization_commands": [
            # Whatever happens to the timer or the head: a machine that shuts down is terminated.
            f"sudo shutdown -h +{math.ceil(config.max_hours * 60) + LATEST_MINUTES} > /dev/null 2>&1 || true",
            "cloud-init status --wait > /dev/null || true",  # apt is locked until then
        ],
        "setup_commands": _setup(),
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": _start_head(aws, is_single),
        "worker_start_ray_commands": [] if is_single else _start_worker(),
    }


def _head(config: CloudConfig, aws: Aws) -> dict[str, Any]:
    return {
        "resources": {"CPU": 0},  # drivers and the autoscaler only: a trial here would slow both
        "node_config": {
            "InstanceType": aws.head.instance,
            "ImageId": aws.images.cpu,
            **_common(config, aws, "head", aws.head.disk_gb, "on-demand"),  # losing the head stops the driver
        },
    }


def _workers(config: CloudConfig, aws: Aws) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, worker, market in worker_kinds(aws):
        machine = worker.machine
        # Never a machine with many GPUs for a trial that a smaller one can hold.
        priority = 10 * (len(worker.markets) - 1 - worker.markets.index(market)) - (100 if machine.num_gpus > 1 else 0)
        yield (
            name,
            {
                "min_workers": 0,
                "max_workers": worker.max_machines,
                "priority": priority,
                "resources": {"CPU": machine.num_vcpus, "GPU": machine.num_gpus},
                "labels": {"ray.io/accelerator-type": gpu_label(machine), "ray.io/market-type": market},
                "node_config": {
                    "InstanceType": worker.instance,
                    "ImageId": aws.images.gpu,
                    **_common(config, aws, "worker", worker.disk_gb, market),
                },
            },
        )


def _common(config: CloudConfig, aws: Aws, role: str, disk_gb: int, market: Market) -> dict[str, Any]:
    """Return the part of a node's configuration that all kinds share."""
    tags = [{"Key": key, "Value": value} for key, value in tags_of(config).items()]
    tagged = ["instance", "volume", "network-interface", *(["spot-instances-request"] if market == "spot" else [])]
    disk = {"VolumeSize": disk_gb, "VolumeType": "gp3", "DeleteOnTermination": True, "Encrypted": True}
    # No MaxPrice for spot: the on-demand price is the limit.
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}} if market == "spot" else {}
    return {
        "IamInstanceProfile": {"Name": f"{config.name}-{role}"},
        **({"SubnetIds": [aws.subnet]} if aws.subnet else {}),
        "SecurityGroupIds": [aws.security_group or UNKNOWN_GROUP],
        # No container asks for credentials, so that one hop is enough.
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}],
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in tagged],
        **spot,
    }


def _setup() -> list[str]:
    packages = "sudo apt-get update -qq && sudo apt-get install -qq -y g++ python3.12-dev python3.12-venv"
    exports = r"export RAY_AUTH_MODE=token\nexport PATH=$HOME/venv/bin:$PATH\n"
    return [
        "chmod 600 ~/.ray/auth_token",
        f"test -x {BIN}/pip || ({packages} && python3.12 -m venv ~/venv)",
        f"command -v nvidia-smi > /dev/null || {cpu_torch_script(f'{BIN}/pip', f'{PROJECT}/constraints.txt')}",
        f"{BIN}/pip install -q -c {PROJECT}/constraints.txt -e {PROJECT}",
        f"grep -q RAY_AUTH_MODE ~/.bashrc || printf '{exports}' >> ~/.bashrc",
    ]


def _start_head(aws: Aws, is_single: bool) -> list[str]:
    scaling = "" if is_single else " RAY_enable_autoscaler_v2=1"
    config = "" if is_single else " --autoscaling-config=~/ray_bootstrap_config.yaml"
    commands = [
        f"{BIN}/ray stop",
        f"export RAY_AUTH_MODE=token{scaling}; ulimit -n 65536; {BIN}/ray start --head --port={PORT} "
        f"--object-manager-port=8076{config} --dashboard-host=127.0.0.1",
    ]
    return [*commands, _spot_notices("127.0.0.1")] if is_single and aws.single.market == "spot" else commands


def _start_worker() -> list[str]:
    return [
        f"{BIN}/ray stop",
        f"export RAY_AUTH_MODE=token; ulimit -n 65536; {BIN}/ray start --address=$RAY_HEAD_IP:{PORT} "
        "--object-manager-port=8076",
        _spot_notices("$RAY_HEAD_IP"),
    ]


def _spot_notices(head: str) -> str:
    """Return the command that asks for the notice of termination, drains the node and notifies its trials."""
    watch = f"{BIN}/python -m orchestrator.worker.spot {head}:{PORT}"
    return f"(RAY_AUTH_MODE=token setsid nohup {watch} < /dev/null > ~/trm-spot.log 2>&1 &)"
