"""Make what launches on AWS need once: bucket, roles, policies, a security group. Every step can be repeated.

A step first looks at what exists and changes only what differs, so that a second call reports `unchanged` throughout.
Rules and tags of other people's making stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from orchestrator.cloud.aws.iam import TRUST, Role, policy
from orchestrator.cloud.config import Aws, CloudConfig
from orchestrator.cloud.render.ray_cluster import tags_of
from orchestrator.resources.aws.clients import client, new_session
from orchestrator.resources.aws.errors import AwsError, asked, code_of

UPLOAD_DAYS = 7
"""Days after which the parts of an upload that was never completed are deleted; they are billed and not listed."""
RULE = "trm-incomplete-uploads"
State = Literal["created", "changed", "unchanged"]


class Step(NamedTuple):
    """Report one resource: its kind, its name and what was done about it."""

    kind: str
    name: str
    state: State
    note: str = ""


def set_up(config: CloudConfig) -> Iterator[Step]:
    """Make everything, and yield each step when it is done.

    Raises:
        AwsError: refused, no credentials, no network, or the bucket's name is taken.
    """
    aws = config.aws_settings()
    session = new_session()
    account = str(asked(client("sts", aws.region, session).get_caller_identity, "ask who calls")["Account"])
    yield _bucket(client("s3", aws.region, session), config, aws)
    iam = client("iam", aws.region, session)
    for role in ("head", "worker"):
        yield _role(iam, config, role, account)
        yield _profile(iam, config, role)
    yield _launch_policy(iam, config, account)
    yield _security_group(client("ec2", aws.region, session), config, aws)


def _bucket(s3: Any, config: CloudConfig, aws: Aws) -> Step:
    state: State = "unchanged"
    if not _bucket_exists(s3, aws):
        state = "created"
        where = {} if aws.region == "us-east-1" else {"LocationConstraint": aws.region}
        more = {"CreateBucketConfiguration": where} if where else {}
        asked(lambda: s3.create_bucket(Bucket=aws.bucket, **more), f"create bucket {aws.bucket}")
        tagging = {"TagSet": [{"Key": key, "Value": value} for key, value in tags_of(config).items()]}
        asked(lambda: s3.put_bucket_tagging(Bucket=aws.bucket, Tagging=tagging), f"tag bucket {aws.bucket}")
    changed = [setting for setting, change in _settings(s3, aws).items() if change()]
    if changed and state == "unchanged":
        return Step("bucket", aws.bucket, "changed", ", ".join(changed))
    return Step("bucket", aws.bucket, state, "private, encrypted, incomplete uploads deleted after 7 days")


def _bucket_exists(s3: Any, aws: Aws) -> bool:
    try:
        found = asked(lambda: s3.head_bucket(Bucket=aws.bucket), f"look at bucket {aws.bucket}")
    except AwsError as error:
        if code_of(error) == "404":
            return False
        if code_of(error) == "403":
            remedy = "Choose another `bucket` in cloud.toml: names are unique in the whole world"
            raise AwsError(f"bucket {aws.bucket} is not this account's (403)", remedy) from error
        if code_of(error) in ("301", "400"):
            raise AwsError(f"bucket {aws.bucket} is in another region than {aws.region}", "Set its `region`") from error
        raise
    region = found.get("BucketRegion") or aws.region
    if region != aws.region:
        raise AwsError(
            f"bucket {aws.bucket} is in {region}, not {aws.region}", f'Set region = "{region}" in cloud.toml'
        )
    return True


def _settings(s3: Any, aws: Aws) -> dict[str, Callable[[], bool]]:
    """Return a function for each setting of the bucket, which corrects it if necessary and says whether it did."""
    bucket = aws.bucket
    closed = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    encrypted = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}

    def block_public_access() -> bool:
        found = _or_none(lambda: s3.get_public_access_block(Bucket=bucket))
        if found and found["PublicAccessBlockConfiguration"] == closed:
            return False
        asked(lambda: s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=closed))
        return True

    def encrypt() -> bool:  # whatever encryption there is, stays: it may use a key of the user
        if _or_none(lambda: s3.get_bucket_encryption(Bucket=bucket)):
            return False
        asked(lambda: s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=encrypted))
        return True

    def end_uploads() -> bool:
        found = _or_none(lambda: s3.get_bucket_lifecycle_configuration(Bucket=bucket))
        rules = found["Rules"] if found else []
        if any("AbortIncompleteMultipartUpload" in rule and rule["Status"] == "Enabled" for rule in rules):
            return False
        aborting = {"DaysAfterInitiation": UPLOAD_DAYS}
        own = {"ID": RULE, "Status": "Enabled", "Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload": aborting}
        lifecycle = {"Rules": [*rules, own]}
        asked(lambda: s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=lifecycle))
        return True

    return {"public access blocked": block_public_access, "encryption": encrypt, "incomplete uploads": end_uploads}


def _role(iam: Any, config: CloudConfig, role: Role, account: str) -> Step:
    name = f"{config.name}-{role}"
    wanted = policy(config, role, account)
    state: State = "unchanged"
    if not _or_none(lambda: iam.get_role(RoleName=name)):
        state = "created"
        asked(
            lambda: iam.create_role(
                RoleName=name,
                AssumeRolePolicyDocument=json.dumps(TRUST),
                Tags=[{"Key": key, "Value": value} for key, value in tags_of(config).items()],
                Description="Machines of training sweeps",
            ),
            f"create role {name}",
        )
    found = _or_none(lambda: iam.get_role_policy(RoleName=name, PolicyName=config.name))
    if not found or _document(found["PolicyDocument"]) != wanted:
        state = "changed" if state == "unchanged" else state
        text = json.dumps(wanted)
        asked(
            lambda: iam.put_role_policy(RoleName=name, PolicyName=config.name, PolicyDocument=text),
            f"write the policy of role {name}",
        )
    return Step("role", name, state)


def _profile(iam: Any, config: CloudConfig, role: Role) -> Step:
    name = f"{config.name}-{role}"
    found = _or_none(lambda: iam.get_instance_profile(InstanceProfileName=name))
    if found and any(each["RoleName"] == name for each in found["InstanceProfile"]["Roles"]):
        return Step("instance profile", name, "unchanged")
    if not found:
        asked(lambda: iam.create_instance_profile(InstanceProfileName=name), f"create instance profile {name}")
    asked(
        lambda: iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name),
        f"put role {name} into its instance profile",
    )
    return Step("instance profile", name, "changed" if found else "created")


def _launch_policy(iam: Any, config: CloudConfig, account: str) -> Step:
    """Make the policy of the user who launches; whom to give it to is the administrator's decision."""
    name = f"{config.name}-launch"
    arn = f"arn:aws:iam::{account}:policy/{name}"
    wanted = policy(config, "launch", account)
    note = f"aws iam attach-user-policy --policy-arn {arn} --user-name NAME"
    found = _or_none(lambda: iam.get_policy(PolicyArn=arn))
    if not found:
        text = json.dumps(wanted)
        asked(lambda: iam.create_policy(PolicyName=name, PolicyDocument=text), f"create policy {name}")
        return Step("policy", name, "created", note)
    version = found["Policy"]["DefaultVersionId"]
    current = asked(lambda: iam.get_policy_version(PolicyArn=arn, VersionId=version))
    if _document(current["PolicyVersion"]["Document"]) == wanted:
        return Step("policy", name, "unchanged", note)
    versions = asked(lambda: iam.list_policy_versions(PolicyArn=arn))["Versions"]
    if len(versions) >= 5:  # AWS keeps at most five
        oldest = min((each for each in versions if not each["IsDefaultVersion"]), key=lambda each: each["CreateDate"])
        asked(lambda: iam.delete_policy_version(PolicyArn=arn, VersionId=oldest["VersionId"]))
    text = json.dumps(wanted)
    asked(
        lambda: iam.create_policy_version(PolicyArn=arn, PolicyDocument=text, SetAsDefault=True),
        f"change policy {name}",
    )
    return Step("policy", name, "changed", note)


def security_group_id(config: CloudConfig) -> str | None:
    """Return the identifier of the security group that `set_up` made in the region; None if there is none."""
    found = _find_group(client("ec2", config.aws_settings().region), config)
    return None if found is None else str(found["GroupId"])


def _vpc(ec2: Any, aws: Aws) -> dict[str, str]:
    """Return the network of the subnet that the configuration names; empty for the account's default one."""
    if aws.subnet is None:
        return {}
    found = asked(lambda: ec2.describe_subnets(SubnetIds=[aws.subnet]), f"look at {aws.subnet}")
    return {"VpcId": str(found["Subnets"][0]["VpcId"])}


def _find_group(ec2: Any, config: CloudConfig) -> Any:
    filters = [{"Name": "group-name", "Values": [config.name]}]
    filters += [{"Name": "vpc-id", "Values": [vpc]} for vpc in _vpc(ec2, config.aws_settings()).values()]
    groups = asked(lambda: ec2.describe_security_groups(Filters=filters), "look for the security group")
    return next(iter(groups["SecurityGroups"]), None)


def _security_group(ec2: Any, config: CloudConfig, aws: Aws) -> Step:
    found = _find_group(ec2, config)
    state: State = "unchanged"
    if found is None:
        state = "created"
        tags = [{"Key": key, "Value": value} for key, value in tags_of(config).items()]
        made = asked(
            lambda: ec2.create_security_group(
                GroupName=config.name,
                Description="Machines of training sweeps",
                **_vpc(ec2, aws),
                TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
            ),
            f"create security group {config.name}",
        )
        found = {"GroupId": made["GroupId"], "IpPermissions": []}
    group = str(found["GroupId"])
    if _correct_rules(ec2, group, found["IpPermissions"], aws):
        state = "changed" if state == "unchanged" else state
    return Step("security group", f"{config.name} ({group})", state, f"SSH from {', '.join(aws.ssh_from)} only")


def _correct_rules(ec2: Any, group: str, rules: list[Any], aws: Aws) -> bool:
    """Let machines of the group reach each other, and SSH in from the networks of the configuration only."""
    wanted = {network: "CidrIpv6" if ":" in network else "CidrIp" for network in aws.ssh_from}
    open_now = {
        entry[key]
        for rule in rules
        if rule.get("FromPort") == 22
        for kind, key in (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6"))
        for entry in rule.get(kind, [])
    }
    inside = any(pair["GroupId"] == group for rule in rules for pair in rule.get("UserIdGroupPairs", []))
    missing = [_ssh(network) for network in wanted if network not in open_now]
    if not inside:
        missing.append({"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]})
    surplus = [_ssh(network) for network in sorted(open_now - set(wanted))]
    if missing:
        asked(
            lambda: ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=missing),
            f"open security group {group}",
        )
    if surplus:
        asked(
            lambda: ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=surplus),
            f"close security group {group}",
        )
    return bool(missing or surplus)


def _ssh(network: str) -> dict[str, Any]:
    ranges = {"Ipv6Ranges": [{"CidrIpv6": network}]} if ":" in network else {"IpRanges": [{"CidrIp": network}]}
    return {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, **ranges}


def _or_none(call: Callable[[], Any]) -> Any:
    """Return AWS's answer; None where it says that there is no such thing."""
    try:
        return asked(call)
    except AwsError as error:
        if code_of(error).startswith(("NoSuch", "404", "ServerSideEncryptionConfigurationNotFound")):
            return None
        raise


def _document(found: Any) -> Any:
    """Return a policy document, which AWS may send URL-encoded."""
    return json.loads(unquote(found)) if isinstance(found, str) else found


def described(config: CloudConfig) -> list[Step]:
    """Return what `set_up` would make, without asking AWS."""
    aws = config.aws_settings()
    rights = {"head": "starts, tags and ends its own machines", "worker": "reads and writes the prefix"}
    roles = [Step("role", f"{config.name}-{role}", "created", rights[role]) for role in rights]
    profiles = [Step("instance profile", f"{config.name}-{role}", "created") for role in rights]
    return [
        Step("bucket", aws.bucket, "created", f"private, encrypted; {UPLOAD_DAYS} days for incomplete uploads"),
        *(step for pair in zip(roles, profiles, strict=True) for step in pair),
        Step("policy", f"{config.name}-launch", "created", "for the user who launches"),
        Step("security group", config.name, "created", f"SSH from {', '.join(aws.ssh_from)} only"),
    ]
