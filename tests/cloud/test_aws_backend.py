"""A deployment on AWS from `up` to `down`: Ray's real launcher, EC2 and S3 of moto, and stand-ins for ssh and rsync."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from orchestrator.cloud import deployments, launch, launch_file
from orchestrator.cloud.aws.backend import AwsBackend
from orchestrator.cloud.aws.end import end_cluster
from orchestrator.cloud.aws.machines import keep_record, machines_of
from orchestrator.cloud.aws.setup import security_group_id, set_up
from orchestrator.cloud.backend import CloudError, Deployment, Limits, Options
from orchestrator.cloud.config import load_config, parse_config
from orchestrator.cloud.render.ray_cluster import render_cluster
from orchestrator.resources.aws.errors import AwsError
from orchestrator.resources.aws.instances import end_instances
from orchestrator.storage import Storage, open_storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import configure
from tests.support.aws import aws_server
from trm_data.errors import ConfigError
from trm_model.recipes import get_recipe

STAND_IN = """#!/bin/bash
printf '%s\\n' "$(basename "$0") $*" >> "$LOG"
"""


def sweep(gpu: str | None = None) -> Sweep:
    base = configure(get_recipe("sudoku-mini"), {"train.max_steps": 2})
    found = Sweep(name="small", base=base, seeds=1)
    return found.model_copy(update={"resources": found.resources.model_copy(update={"gpus": 1.0, "gpu_type": gpu})})


@pytest.fixture
def name() -> str:
    return f"trm-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def aws(name: str, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Options]:
    """An account that `init` has set up, and programs that only note how they are called; what is left is ended."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("ssh", "rsync"):
        (programs / program).write_text(STAND_IN)
        (programs / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    file = tmp_path / "cloud.toml"
    file.write_text(
        f'name = "{name}"\nmax_hours = 6\n'
        f'[aws]\nregion = "us-east-1"\nbucket = "{name}"\nssh_from = ["203.0.113.7/32"]\n'
        '[[aws.workers]]\ninstance = "g6e.2xlarge"\nmax_machines = 2\n'
        '[[aws.workers]]\ninstance = "p5.4xlarge"\nmax_machines = 1\n'
        '[[aws.workers]]\ninstance = "p5.48xlarge"\nmarkets = ["on-demand"]\nmax_machines = 1\n'
    )
    list(set_up(load_config(file)))
    yield Options(config=str(file))
    ec2 = boto3.client("ec2")
    if left := [each["InstanceId"] for each in instances(name)]:
        ec2.terminate_instances(InstanceIds=left)


@pytest.fixture
def storage(name: str, s3_endpoint: str) -> Storage:
    return open_storage(f"s3://{name}/trm?region=us-east-1&endpoint_override={s3_endpoint}")


def instances(name: str) -> list[Any]:
    """The machines of a cluster that are up."""
    filters = [
        {"Name": "tag:trm-cluster", "Values": [name]},
        {"Name": "instance-state-name", "Values": ["pending", "running"]},
    ]
    found = boto3.client("ec2").describe_instances(Filters=filters)["Reservations"]
    return [machine for reservation in found for machine in reservation["Instances"]]


def start_workers(file: Path, name: str) -> None:
    """Start one worker of every kind of the rendered file, as Ray's autoscaler on the head does."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    cluster = bootstrap_aws(prepare_config(yaml.safe_load(file.read_text())))
    provider = AWSNodeProvider(cluster["provider"], name)
    for kind, node in cluster["available_node_types"].items():
        if kind != "head":
            provider.create_node(node["node_config"], {"ray-user-node-type": kind, "ray-node-type": "worker"}, 1)


def test_offers_are_the_head_and_the_machines_with_the_gpus_of_the_sweep(aws: Options, storage: Storage) -> None:
    def offered(gpu: str | None, **changed: object) -> list[tuple[str, int, str]]:
        backend = AwsBackend(aws.model_copy(update=changed), storage)
        return [(each.machine, each.count, each.market) for each in backend.offers(sweep(gpu))]

    head = ("m7i.xlarge", 1, "on-demand")
    assert offered("L40S") == [head, ("g6e.2xlarge", 2, "spot")]
    assert offered(None) == [head, ("g6e.2xlarge", 2, "spot"), ("p5.4xlarge", 1, "spot")]
    assert offered(None, single=True) == [("g6e.2xlarge", 1, "on-demand")]
    with pytest.raises(CloudError, match="no machine in the configuration has the GPUs"):
        offered("A100")
    elsewhere = AwsBackend(aws, open_storage("s3://elsewhere/trm"))
    with pytest.raises(CloudError, match="no rights on the storage s3://elsewhere/trm"):
        elsewhere.offers(sweep())
    assert all(offer.usd_per_hour for offer in AwsBackend(aws, storage).offers(sweep()))


def test_plan_shows_dated_prices_quotas_and_the_limits_of_the_configuration(aws: Options, storage: Storage) -> None:
    file = Path(str(aws.config))
    file.write_text(f"max_usd = 20\nidle_minutes = 7\n{file.read_text()}")
    quote = launch.prepare(sweep("L40S"), "aws", aws, Limits(max_usd=50), storage).quote
    assert quote.limits == Limits(max_usd=20, max_hours=6, idle_minutes=7)
    mine = launch.prepare(sweep("L40S"), "aws", aws, Limits(max_usd=5, max_hours=2, idle_minutes=3), storage).quote
    assert mine.limits == Limits(max_usd=5, max_hours=2, idle_minutes=3)
    assert any("quota" in text for text in quote.unknown)
    head, spot = quote.offers
    assert head.price_source and head.price_date.startswith("2026")
    assert spot.market == "spot" and spot.spot_usd_per_hour is None, "the catalogue has no such price"
    assert spot.price_source.startswith("on-demand price, the highest for spot: ") and spot.price_date


@pytest.mark.slow
def test_a_deployment_goes_from_up_to_down_and_nothing_is_left(
    aws: Options, storage: Storage, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prepared = launch.prepare(sweep(), "aws", aws, Limits(max_usd=50), storage)
    up = launch.up(prepared, storage, "small.yaml")
    assert up.state == "up" and up.limits.max_hours == 6
    (head,) = up.machines
    assert (head.kind, head.usd_per_hour) == ("m7i.xlarge", 0.2016)
    ran = (tmp_path / "log").read_text()
    assert "ray start --head" in ran and "orchestrator.cloud.timer" in ran
    assert "orchestrator.cloud.aws.machines ~/trm-deployment us-east-1" in ran
    folder = tmp_path / ".local/state/trm/aws/small"
    token_file = folder / "ray-token"
    token = token_file.read_text()
    assert len(token) == 64 and token_file.stat().st_mode & 0o077 == 0
    assert not (tmp_path / ".ray").exists(), "no token serves two clusters"
    mounts = yaml.safe_load((folder / "ray-cluster.yaml").read_text())["file_mounts"]
    assert mounts["~/.ray/auth_token"] == str(token_file)
    assert token not in ran + (folder / "ray.log").read_text()
    told = launch_file.load(folder)
    assert told.limits == up.limits and told.machines == up.machines
    assert told.end_command is not None and "orchestrator.cloud.aws.end us-east-1" in told.end_command
    assert f"{folder / 'launch.json'} ubuntu@" in ran and "trm-deployment/launch.json" in ran
    assert not (folder / "project" / ".git").exists() and (folder / "project" / "pyproject.toml").is_file()

    launch.submit(prepared, storage, ["--max-concurrent", "2"])
    ran = (tmp_path / "log").read_text()
    assert "ray job submit" in ran and "RAY_AUTH_MODE=token" in ran and "--max-concurrent 2" in ran

    start_workers(folder / "ray-cluster.yaml", name)
    _, seen = launch.reopen("small", storage)
    assert sorted((each.kind, each.market) for each in seen.machines) == [
        ("g6e.2xlarge", "on-demand"),
        ("g6e.2xlarge", "spot"),
        ("m7i.xlarge", "on-demand"),
        ("p5.48xlarge", "on-demand"),
        ("p5.4xlarge", "on-demand"),
        ("p5.4xlarge", "spot"),
    ]
    billed = {each.kind for each in seen.machines if each.billed_usd_per_hour is not None}
    assert billed and billed <= {"g6e.2xlarge", "p5.4xlarge"}
    assert [each.down_s for each in seen.machines] == [None] * 6

    ended, closing = launch.down("small", storage, keep=False)
    assert not instances(name) and not closing.left
    assert ended.state == "down" and all(each.down_s for each in ended.machines)
    assert not token_file.exists(), "the next launch has another one"


@pytest.mark.parametrize(
    ("code", "message", "what"),
    [
        ("InsufficientInstanceCapacity", "We currently do not have sufficient m7i.xlarge capacity", "no capacity"),
        ("UnauthorizedOperation", "You are not authorized to perform this operation", "a right is missing"),
    ],
)
@pytest.mark.slow
def test_refused_start_is_one_line_and_leaves_nothing(
    code: str, message: str, what: str, aws: Options, storage: Storage, name: str, s3_endpoint: str
) -> None:
    prepared = launch.prepare(sweep(), "aws", aws, Limits(max_usd=50), storage)
    refusing = aws_server((code, message), action="RunInstances", forward=s3_endpoint)
    with refusing, pytest.raises(AwsError) as caught:
        launch.up(prepared, storage, "small.yaml")
    assert str(caught.value).startswith("ray up: ") and what in str(caught.value) and code in str(caught.value)
    assert not instances(name)
    assert deployments.load(storage, "small").state == "starting"
    assert launch.down("small", storage, keep=False)[0].state == "down"


def test_account_without_init_is_told_to_run_it(aws: Options, storage: Storage, name: str) -> None:
    ec2 = boto3.client("ec2")
    filters = [{"Name": "group-name", "Values": [name]}]
    (group,) = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    ec2.delete_security_group(GroupId=group["GroupId"])
    prepared = launch.prepare(sweep(), "aws", aws, Limits(max_usd=50), storage)
    with pytest.raises(CloudError, match=r"has no security group .* Run `trm cloud init aws`"):
        launch.up(prepared, storage, "small.yaml")


def test_cluster_of_another_deployment_is_not_taken(aws: Options, storage: Storage, name: str) -> None:
    specs = [{"ResourceType": "instance", "Tags": [{"Key": "trm-cluster", "Value": name}]}]
    boto3.client("ec2").run_instances(
        ImageId="ami-12c6146b", InstanceType="m7i.xlarge", MinCount=1, MaxCount=1, TagSpecifications=specs
    )
    other = Deployment(name="other", backend="aws", storage=storage.url, created_s=1.0, state="submitted")
    deployments.save(storage, other)
    prepared = launch.prepare(sweep(), "aws", aws, Limits(max_usd=50), storage)
    with pytest.raises(CloudError, match="is in use by deployment 'other'"):
        launch.up(prepared, storage, "small.yaml")


def test_machines_of_another_launch_on_the_cluster_are_not_taken(aws: Options, storage: Storage, name: str) -> None:
    prepared = launch.prepare(sweep(), "aws", aws, Limits(max_usd=50), storage)
    instance = rent_tagged(name, "worker")
    late = prepared.deployment.model_copy(update={"created_s": time.time() + 600})
    with pytest.raises(CloudError, match=rf"has machines of another launch: {instance}.* `trm cloud orphans`"):
        launch.up(prepared._replace(deployment=late), storage, "small.yaml")


def rent_tagged(cluster: str, kind: str) -> str:
    """Start a machine as Ray does for a cluster, and return its identifier."""
    tags = [{"Key": "trm-cluster", "Value": cluster}, {"Key": "ray-node-type", "Value": kind}]
    made = boto3.client("ec2").run_instances(
        ImageId="ami-12c6146b", MinCount=1, MaxCount=1, TagSpecifications=[{"ResourceType": "instance", "Tags": tags}]
    )
    return str(made["Instances"][0]["InstanceId"])


def test_head_ends_its_autoscaler_then_the_workers_then_itself(
    aws: Options, storage: Storage, name: str, tmp_path: Path
) -> None:
    """An autoscaler that is up starts a worker in the place of every one that ends."""
    ec2, replaced = boto3.client("ec2"), []
    head, worker = rent_tagged(name, "head"), rent_tagged(name, "worker")

    def end_workers() -> list[str]:
        assert autoscaler.poll() is not None and other.poll() is None and not (tmp_path / "off").exists()
        if not replaced:  # what the autoscaler had asked for just before its end
            replaced.append(rent_tagged(name, "worker"))
        return end_instances(ec2, {"trm-cluster": name}, but_head=True)

    program = tmp_path / "ray/autoscaler/v2/monitor.py"
    program.parent.mkdir(parents=True)
    program.write_text("import time; time.sleep(600)")
    autoscaler, other = (
        subprocess.Popen([sys.executable, program, f"--gcs-address=192.0.2.1:{port}"]) for port in (61111, 61112)
    )
    try:
        off = ["touch", str(tmp_path / "off")]
        end_cluster(end_workers, storage, "small", address="127.0.0.1:61111", shut_down=off)
    finally:
        for process in (autoscaler, other):
            process.kill()
            process.wait()
    assert [each["InstanceId"] for each in instances(name)] == [head] and worker and (tmp_path / "off").exists()


def test_workers_that_start_while_others_end_are_ended_too(
    aws: Options, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2 = boto3.client("ec2")
    first, later = rent_tagged(name, "worker"), []
    terminate = ec2.terminate_instances

    def replacing(**request: Any) -> Any:
        if not later:
            later.append(rent_tagged(name, "worker"))
        return terminate(**request)

    monkeypatch.setattr(ec2, "terminate_instances", replacing)
    assert end_instances(ec2, {"trm-cluster": name}) == [first, *later]
    assert not instances(name)


def test_head_ends_itself_even_if_its_workers_cannot_be_ended(s3_bucket: str, tmp_path: Path) -> None:
    def refused() -> list[str]:
        raise AwsError("no right")

    off = ["touch", str(tmp_path / "off")]
    end_cluster(refused, open_storage(s3_bucket), "small", address="127.0.0.1:0", shut_down=off)
    assert (tmp_path / "off").exists()


def test_machines_that_the_head_sees_reach_the_timer_and_the_record(
    aws: Options, storage: Storage, name: str, tmp_path: Path
) -> None:
    machine = rent_tagged(name, "worker")
    record = Deployment(name="small", backend="aws", storage=storage.url, created_s=time.time(), state="submitted")
    deployments.save(storage, record)
    launch_file.save(tmp_path, launch_file.LaunchFile.of(record.model_copy(update={"limits": Limits(max_usd=7)})))
    closing = threading.Thread(target=lambda: (wait_for_machine(storage), close(storage)))
    closing.start()
    keep_record(tmp_path, "us-east-1", name, storage.url, "small", poll_s=0.1)
    closing.join()
    told = launch_file.load(tmp_path)
    assert [each.name for each in told.machines] == [machine] and told.limits == Limits(max_usd=7)
    assert told.listed_s is not None
    assert [each.name for each in deployments.load(storage, "small").machines] == [machine]


def wait_for_machine(storage: Storage) -> None:
    while not deployments.load(storage, "small").machines:
        time.sleep(0.05)


def close(storage: Storage) -> None:
    deployments.change(storage, "small", lambda each: each.model_copy(update={"state": "ended"}))


def test_subnet_of_the_configuration_is_where_machines_and_their_group_are(
    aws: Options, name: str, tmp_path: Path
) -> None:
    ec2 = boto3.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    file = Path(str(aws.config))
    file.write_text(file.read_text().replace("[aws]\n", f'[aws]\nsubnet = "{subnet}"\n'))
    config = load_config(file)
    steps = {step.kind: step.state for step in set_up(config)}
    assert steps["security group"] == "created" and steps["bucket"] == "unchanged"
    group = security_group_id(config)
    [found] = ec2.describe_security_groups(GroupIds=[str(group)])["SecurityGroups"]
    assert found["VpcId"] == vpc
    kinds = yaml.safe_load(render_cluster(config))["available_node_types"].values()
    assert {tuple(kind["node_config"]["SubnetIds"]) for kind in kinds} == {(subnet,)}
    with pytest.raises(ConfigError, match="a subnet is in one zone"):
        parse_config(file.read_text().replace("[aws]\n", '[aws]\nzones = ["us-east-1a"]\n'))


def test_account_without_a_default_network_is_one_line(aws: Options, name: str, s3_endpoint: str) -> None:
    ec2 = boto3.client("ec2")
    ec2.delete_security_group(GroupName=name)
    refusing = aws_server(
        ("VPCIdNotSpecified", "No default VPC for this user"), action="CreateSecurityGroup", forward=s3_endpoint
    )
    with refusing, pytest.raises(AwsError, match=r"no default VPC in this region.*subnet = .*create-default-vpc"):
        list(set_up(load_config(Path(str(aws.config)))))


def test_head_that_cannot_shut_down_says_that_it_bills_on(s3_bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    for command in (["no-such-program"], ["false"]):
        assert not end_cluster(None, open_storage(s3_bucket), "small", address="127.0.0.1:0", shut_down=command)
    assert end_cluster(None, open_storage(s3_bucket), "small", address="127.0.0.1:0", shut_down=["true"])
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert caplog.text.count("could not be shut down and bills on") == 2


def test_machine_is_down_since_aws_ended_it_whatever_the_record_says(aws: Options, name: str) -> None:
    ec2 = boto3.client("ec2")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "trm-cluster", "Value": name}]}]
    started = ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, TagSpecifications=tags)["Instances"][0]
    (known,) = machines_of(ec2, name, (), time.time(), since_s=0.0)
    assert known.down_s is None
    early = known.model_copy(update={"down_s": known.up_s + 1000})  # the timer wrote its record first
    ec2.terminate_instances(InstanceIds=[started["InstanceId"]])
    (ended,) = machines_of(ec2, name, (early,), time.time(), since_s=0.0)
    assert ended.down_s == pytest.approx(time.time(), abs=60)
