"""`trm cloud init aws`, `orphans` and `prices` against moto and a server with AWS's prices and refusals."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest

from orchestrator.cloud.aws.iam import policy
from orchestrator.cloud.aws.orphans import find_orphans
from orchestrator.cloud.aws.price_update import update_prices
from orchestrator.cloud.aws.setup import described, security_group_id, set_up
from orchestrator.cloud.config import CloudConfig, parse_config
from orchestrator.resources import catalogue
from orchestrator.resources.aws.errors import AwsError, explain_output
from tests.support.aws import aws_server
from tests.support.commands import call


def configured(name: str, region: str = "us-east-1", ssh_from: str = "203.0.113.7/32") -> CloudConfig:
    """A configuration whose bucket and cluster have the same name."""
    text = f'name = "{name}"\n[aws]\nregion = "{region}"\nbucket = "{name}"\nssh_from = ["{ssh_from}"]\n'
    return parse_config(text)


class Shown(NamedTuple):
    """What a command has printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def trm(capsys: pytest.CaptureFixture[str]) -> Callable[..., Shown]:
    """Run a command in this process."""
    return lambda *arguments: Shown(*call(capsys, *arguments))


@pytest.fixture
def moto(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the moto server, which every client finds."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    return s3_endpoint


@pytest.fixture
def name(moto: str) -> str:
    """A name that no other test uses."""
    return f"trm-{uuid.uuid4().hex[:12]}"


class TestInit:
    def test_everything_is_made_and_a_second_call_changes_nothing(self, name: str) -> None:
        config = configured(name)
        made = list(set_up(config))
        assert [(step.kind, step.state) for step in made] == [(step.kind, "created") for step in described(config)]
        assert {step.state for step in set_up(config)} == {"unchanged"}

        s3 = boto3.client("s3")
        blocked = s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
        assert set(blocked.values()) == {True}
        (rule,) = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
        assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
        (rule,) = s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
        assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}

        iam = boto3.client("iam")
        account = boto3.client("sts").get_caller_identity()["Account"]
        for role in ("head", "worker"):
            stored = iam.get_role_policy(RoleName=f"{name}-{role}", PolicyName=name)["PolicyDocument"]
            assert stored == policy(config, role, account)  # type: ignore[arg-type]
            profile = iam.get_instance_profile(InstanceProfileName=f"{name}-{role}")["InstanceProfile"]
            assert [each["RoleName"] for each in profile["Roles"]] == [f"{name}-{role}"]
        group = security_group_id(config)
        (found,) = boto3.client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"]
        rules = {(rule["IpProtocol"], rule.get("FromPort")): rule for rule in found["IpPermissions"]}
        assert [each["CidrIp"] for each in rules["tcp", 22]["IpRanges"]] == ["203.0.113.7/32"]
        assert [each["GroupId"] for each in rules["-1", None]["UserIdGroupPairs"]] == [group]
        assert set(rules) == {("tcp", 22), ("-1", None)}

    def test_changed_configuration_changes_what_it_is_about(self, name: str) -> None:
        list(set_up(configured(name)))
        moved = configured(name, ssh_from="198.51.100.0/24")
        changed = {step.kind for step in set_up(moved) if step.state == "changed"}
        assert changed == {"security group"}
        (found,) = boto3.client("ec2").describe_security_groups(GroupIds=[security_group_id(moved)])["SecurityGroups"]
        assert [
            each["CidrIp"] for rule in found["IpPermissions"] for each in rule["IpRanges"] if rule.get("FromPort") == 22
        ] == ["198.51.100.0/24"]
        more = parse_config(
            f'name = "{name}"\n[aws]\nregion = "us-east-1"\nbucket = "{name}"\nssh_from = ["198.51.100.0/24"]\n'
            '[[aws.workers]]\ninstance = "g6e.xlarge"\n'
        )
        assert {step.name for step in set_up(more) if step.state == "changed"} == {f"{name}-head"}

    def test_rules_and_encryption_that_a_bucket_has_stay(self, name: str) -> None:
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=name)
        rule = {"ID": "own", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 3}}
        s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [rule]})
        (first, *_) = set_up(configured(name))
        assert first.state == "changed"
        rules = {each["ID"] for each in s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]}
        assert rules == {"own", "trm-incomplete-uploads"}

    def test_bucket_of_another_region_is_refused(self, name: str) -> None:
        where = {"LocationConstraint": "eu-west-1"}
        boto3.client("s3", region_name="eu-west-1").create_bucket(Bucket=name, CreateBucketConfiguration=where)
        with pytest.raises(AwsError, match=r"is in eu-west-1, not us-east-1\. Set region = \"eu-west-1\""):
            list(set_up(configured(name)))

    def test_dry_run_prints_bucket_and_policies_and_asks_nothing(
        self, trm: Callable[..., Shown], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens
        file = tmp_path / "cloud.toml"
        file.write_text('[aws]\nregion = "us-east-1"\nbucket = "sweeps"\nssh_from = ["203.0.113.7/32"]\n')
        shown = trm("cloud", "init", "aws", "--dry-run", "--json", "--config", str(file))
        found = json.loads(shown.out)
        assert set(found["policies"]) == {"head", "worker", "launch"}
        assert ["bucket", "sweeps"] in [[step["kind"], step["name"]] for step in found["steps"]]


REFUSALS = [
    ("ExpiredToken", "The security token included in the request is expired", "have expired", "aws sso login"),
    ("InvalidClientTokenId", "The security token is invalid", "does not know these credentials", "get-caller-identity"),
    ("AccessDenied", "User x is not authorized to perform: sts:GetCallerIdentity", "a right is missing", "dry-run"),
    ("OptInRequired", "You are not subscribed to this service", "the region cannot be reached", "enabled"),
    ("Unheard", "something new", "AWS: something new", "describes what each step needs"),
]


@pytest.mark.parametrize(("code", "message", "what", "remedy"), REFUSALS)
def test_refusal_is_one_line_with_the_remedy(code: str, message: str, what: str, remedy: str) -> None:
    with aws_server((code, message)), pytest.raises(AwsError) as caught:
        list(set_up(configured("trm-x")))
    text = str(caught.value)
    assert what in text and remedy in text and code in text and "\n" not in text


@pytest.mark.parametrize(
    ("output", "what"),
    [
        (
            "create_instances: Attempt failed with An error occurred (InsufficientInstanceCapacity) when calling the "
            "RunInstances operation (reached max retries: 0): We currently do not have sufficient p5.4xlarge capacity",
            "no capacity",
        ),
        ("botocore.errorfactory: An error occurred (VcpuLimitExceeded) when calling the RunInstances", "quota"),
        ("An error occurred (UnauthorizedOperation) when calling the RunInstances operation: You are not", "a right"),
        ("An error occurred (RequestExpired) when calling the DescribeKeyPairs operation: Request has", "have expired"),
        ('Could not connect to the endpoint URL: "https://ec2.us-est-1.amazonaws.com/"', "region cannot be reached"),
        ('An error occurred (InvalidGroupId.Malformed) when calling: Invalid id: "sg-made-by"', "is missing"),
        (
            "An error occurred (Unsupported) when calling the RunInstances operation: not supported in us-east-1e",
            "zone",
        ),
        ("An error occurred (BucketAlreadyExists) when calling the CreateBucket operation", "another account"),
    ],
)
def test_output_of_ray_up_is_explained(output: str, what: str) -> None:
    found = explain_output(f"Cluster: x\n{output}\nFailed!", "start the head")
    assert found is not None and str(found).startswith("start the head: ") and what in str(found)
    assert explain_output("all is well", "start the head") is None


def tags(cluster: str) -> list[dict[str, str]]:
    """The tags of a resource that we have rented."""
    return [{"Key": "trm-cluster", "Value": cluster}]


class TestOrphans:
    @pytest.fixture
    def rented(self, name: str) -> Iterator[dict[str, str]]:
        """One of each kind in one region, a machine in another one, and some that are not ours."""
        ec2, west = boto3.client("ec2"), boto3.client("ec2", region_name="us-west-2")

        def start(client: Any, kind: str, **more: Any) -> str:
            specs = [{"ResourceType": "instance", "Tags": tags(name)}] if more.pop("ours", True) else []
            answer = client.run_instances(
                ImageId="ami-12c6146b", InstanceType=kind, MinCount=1, MaxCount=1, TagSpecifications=specs, **more
            )
            return str(answer["Instances"][0]["InstanceId"])

        found = {
            "instance": start(ec2, "g6e.2xlarge"),
            "stopped": start(ec2, "g6e.2xlarge"),
            "west": start(west, "m7i.xlarge"),
            "other": start(ec2, "g6e.2xlarge", ours=False),
            "gone": start(ec2, "g6e.2xlarge"),
        }
        ec2.stop_instances(InstanceIds=[found["stopped"]])
        ec2.terminate_instances(InstanceIds=[found["gone"]])
        disk = [{"ResourceType": "volume", "Tags": tags(name)}]
        made = ec2.create_volume(Size=150, AvailabilityZone="us-east-1a", VolumeType="gp3", TagSpecifications=disk)
        address = [{"ResourceType": "elastic-ip", "Tags": tags(name)}]
        found |= {
            "volume": made["VolumeId"],
            "address": ec2.allocate_address(Domain="vpc", TagSpecifications=address)["AllocationId"],
        }
        yield found
        ec2.terminate_instances(InstanceIds=[found[each] for each in ("instance", "stopped", "other")])
        west.terminate_instances(InstanceIds=[found["west"]])
        ec2.delete_volume(VolumeId=found["volume"])
        ec2.release_address(AllocationId=found["address"])

    def test_all_kinds_in_all_regions_are_found_with_price_and_command(self, name: str, rented: dict[str, str]) -> None:
        now_s = time.time() + 3600
        ours = {each.name: each for each in find_orphans(now_s) if each.cluster == name}
        assert set(ours) == {rented[kind] for kind in ("instance", "stopped", "west", "volume", "address")}
        machine = ours[rented["instance"]]
        assert machine.usd_per_hour == 2.24208 and machine.age_s is not None and 3500 < machine.age_s < 3900
        assert machine.command == f"aws ec2 terminate-instances --region us-east-1 --instance-ids {machine.name}"
        assert ours[rented["west"]].region == "us-west-2"
        assert ours[rented["west"]].usd_per_hour is None  # the catalogue knows that type in us-east-1 only
        assert ours[rented["stopped"]].usd_per_hour is None
        assert ours[rented["volume"]].what == "150 GB gp3, available"
        assert ours[rented["address"]].age_s is None

    def test_exit_code_says_whether_something_is_billed(
        self, trm: Callable[..., Shown], rented: dict[str, str]
    ) -> None:
        shown = trm("cloud", "orphans", "--json", "--region", "us-east-1")
        assert shown.code == 1
        assert rented["instance"] in {each["name"] for each in json.loads(shown.out)}
        listed = trm("cloud", "orphans", "--region", "us-west-2")
        assert listed.code == 1 and "unknown" in listed.out and "aws ec2 terminate-instances" in listed.out
        assert trm("cloud", "orphans", "--region", "eu-north-1").code == 0

    def test_region_that_refuses_hides_no_other(
        self, trm: Callable[..., Shown], rented: dict[str, str], moto: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refusal = ("UnauthorizedOperation", "You are not authorized to perform this operation")
        with aws_server(refusal, region="eu-west-3", forward=moto):
            shown = trm("cloud", "orphans", "--region", "eu-west-3", "--region", "us-east-1")
            assert shown.code == 2 and rented["instance"] in shown.out
            assert "not looked at: describe instances in eu-west-3: a right is missing" in shown.err
            shown = trm("cloud", "orphans", "--region", "eu-west-3", "--region", "eu-north-1")
            assert shown.code == 2 and "in the other regions nothing with the tag trm-cluster is billed" in shown.out
            shown = trm("cloud", "orphans", "--region", "eu-west-3")
            assert shown.code == 2 and shown.out == "" and shown.err.startswith("error: describe instances in")

    def test_a_user_without_a_region_is_told_where_to_name_one(
        self, trm: Callable[..., Shown], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for variable in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        shown = trm("cloud", "orphans")
        assert shown.code == 2 and "AWS_REGION=" in shown.err and shown.err.count("\n") == 1


class TestPrices:
    @pytest.fixture(autouse=True)
    def own_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """A folder of the user's for each test; what was read is forgotten afterwards."""
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        caches = (catalogue.prices, catalogue.host_prices)
        for cached in caches:
            cached.cache_clear()
        yield
        for cached in caches:
            cached.cache_clear()

    def test_update_reads_both_markets_and_plans_use_it(self, tmp_path: Path) -> None:
        at = datetime(2026, 11, 3, tzinfo=UTC)
        shipped = catalogue.usd_per_gpu_hour("L40S")
        with aws_server():
            updated = update_prices(["us-east-1"], at)
        assert updated.path == tmp_path / "trm" / "prices.csv" and updated.path.is_file()
        found = {(price.instance, price.market): price for price in updated.prices}
        assert found["g6e.2xlarge", "on-demand"].usd_per_hour == 2.5
        assert found["g6e.2xlarge", "spot"].usd_per_hour == 1.1  # the newest of each zone, then the median
        assert found["g6e.2xlarge", "spot"].source == "AWS spot price history, median of 3 zones"
        assert {price.date for price in updated.prices} == {"2026-11-03"}
        assert "g6e.xlarge in us-east-1" in updated.not_offered
        assert catalogue.usd_per_gpu_hour("H100") == 6.88  # eight in one machine: the shipped price, still cheaper
        assert catalogue.usd_per_gpu_hour("L40S") == shipped
        assert next(price.usd_per_hour for price in catalogue.host_prices()) == 0.21
        listed = [
            price for price in catalogue.prices() if (price.instance, price.market) == ("p5.4xlarge", "on-demand")
        ]
        assert [price.usd_per_hour for price in listed] == [7.0]
        with aws_server():  # a second region is added, the first replaced
            update_prices(["us-east-2"], at)
            update_prices(["us-east-1"], at)
        regions = [price.region for price in catalogue.prices() if price.source == "AWS Price List API"]
        assert sorted(regions) == ["us-east-1"] * 2 + ["us-east-2"] * 2

    def test_command_shows_dates_and_updates(self, trm: Callable[..., Shown], tmp_path: Path) -> None:
        shown = trm("cloud", "prices", "--gpu", "H100", "--provider", "lambda")
        assert shown.code == 0 and "2026-09-25" in shown.out and "4.29" in shown.out
        for words in (("--provider", "lambada"), ("--region", "us-eest-1")):
            shown = trm("cloud", "prices", *words)
            assert shown.code == 2 and shown.out == "" and "has no such price. Providers: aws, " in shown.err
        with aws_server():
            updated = trm("cloud", "prices", "--update", "--gpu", "L40S", "--json")
        assert str(tmp_path / "trm" / "prices.csv") in updated.err
        assert {"AWS Price List API"} < {price["source"] for price in json.loads(updated.out)}

    def test_broken_file_of_the_user_is_named(self, trm: Callable[..., Shown], tmp_path: Path) -> None:
        (tmp_path / "trm").mkdir()
        (tmp_path / "trm" / "prices.csv").write_text("provider,instance\naws,g6e.xlarge\n")
        shown = trm("cloud", "prices")
        assert shown.code == 2 and "prices.csv line 2" in shown.err
