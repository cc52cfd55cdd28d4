"""Render the IAM policies of the head, of the workers, and of the user who launches, from `cloud.toml`.

The head may start, tag and end machines of its own cluster and of the listed types only. Ownership is a pair of tags
that a machine gets in the request that starts it and that nobody may set later: without that rule a head could tag
somebody else's machine and then end it. Workers reach their prefix of the bucket and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from orchestrator.cloud.config import Aws, CloudConfig
from orchestrator.resources.aws.instances import CLUSTER_TAG, RAY_TAG

Role = Literal["head", "worker", "launch"]
ROLES: tuple[Role, ...] = ("head", "worker", "launch")
ANY_ACCOUNT = "*"
_CHANGING_TAGS = ["Name", "ray-node-status", "ray-launch-config", "ray-runtime-config", "ray-file-mounts-contents"]
"""Tags that Ray sets on machines after their start; the two of ownership are not among them."""
_LOOK_AROUND = (
    *("Addresses", "AvailabilityZones", "Images", "Instances", "InstanceTypes", "KeyPairs", "Regions"),
    *("SecurityGroups", "SpotInstanceRequests", "SpotPriceHistory", "Subnets", "Volumes"),
)
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}
"""Who may take the roles: EC2, for a machine that is started with the role's instance profile."""


def policy(config: CloudConfig, role: Role, account: str = ANY_ACCOUNT) -> dict[str, Any]:
    """Return a policy document.

    Args:
        role: `head` and `worker` are the machines' roles, `launch` is for the user who runs `trm cloud up`.
        account: number of the account, which narrows the roles and machines to those of that account.
    """
    aws = config.aws_settings()
    statements = _storage(aws)
    if role == "head":
        types = [worker.instance for worker in aws.workers]
        statements = [*_look_around(), *_machines(config, types, account), *_pass(config, ["worker"], account)]
        statements += [_first_spot_request(), *_storage(aws)]
    if role == "launch":
        types = [aws.head.instance, *([aws.single.instance] if aws.single.instance != aws.head.instance else [])]
        statements = [*_look_around(), *_machines(config, types, account), *_pass(config, ["head", "worker"], account)]
        statements += [_first_spot_request(), _keys(aws, account), *_cleaning(config, account), *_storage(aws)]
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(sid: str, actions: Sequence[str], resources: Sequence[str] | str, **conditions: Mapping[str, Any]) -> Any:
    statement: dict[str, Any] = {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resources}
    return statement | ({"Condition": conditions} if conditions else {})


def _look_around() -> list[Any]:
    return [
        _allow("LookAround", [f"ec2:Describe{kind}" for kind in _LOOK_AROUND], "*"),
        _allow("Quotas", ["servicequotas:GetServiceQuota", "servicequotas:GetAWSDefaultServiceQuota"], "*"),
        _allow("Prices", ["pricing:GetProducts"], "*"),
        _allow("PublicImages", ["ssm:GetParameters"], "arn:aws:ssm:*::parameter/aws/service/*"),
    ]


def _machines(config: CloudConfig, types: Sequence[str], account: str) -> list[Any]:
    where = f"arn:aws:ec2:{config.aws_settings().region}"
    own = f"{where}:{account}"
    requested = {f"aws:RequestTag/{CLUSTER_TAG}": config.name}
    owned = {f"aws:ResourceTag/{RAY_TAG}": config.name, f"aws:ResourceTag/{CLUSTER_TAG}": config.name}
    created = [f"{own}:{kind}/*" for kind in ("instance", "volume", "network-interface", "spot-instances-request")]
    return [
        _allow(
            "StartTaggedMachinesOfTheListedTypes",
            ["ec2:RunInstances"],
            f"{own}:instance/*",
            StringEquals={
                **requested,
                f"aws:RequestTag/{RAY_TAG}": config.name,
                "ec2:InstanceType": list(types),
                "ec2:MetadataHttpTokens": "required",
            },
        ),
        _allow(
            "WithEncryptedDisks",
            ["ec2:RunInstances"],
            f"{own}:volume/*",
            StringEquals=requested,
            Bool={"ec2:Encrypted": "true"},
        ),
        _allow("WithTaggedParts", ["ec2:RunInstances"], created[2:], StringEquals=requested),
        _allow(
            "FromWhatExists",
            ["ec2:RunInstances"],
            [
                f"{where}::image/*",
                *(f"{own}:{kind}/*" for kind in ("key-pair", "security-group", "subnet")),
            ],
        ),
        _allow("TagWhatIsStarted", ["ec2:CreateTags"], created, StringEquals={"ec2:CreateAction": "RunInstances"}),
        _allow(
            "TagOwnMachines",
            ["ec2:CreateTags"],
            created[:1],
            StringEquals=owned,
            **{"ForAllValues:StringEquals": {"aws:TagKeys": _CHANGING_TAGS}},
        ),
        _allow("EndOwnMachinesOnly", ["ec2:TerminateInstances"], created[:1], StringEquals=owned),
    ]


def _pass(config: CloudConfig, roles: Sequence[str], account: str) -> list[Any]:
    arns = [f"arn:aws:iam::{account}:role/{config.name}-{role}" for role in roles]
    to_ec2 = {"iam:PassedToService": "ec2.amazonaws.com"}
    return [_allow("GiveMachinesTheirRole", ["iam:PassRole"], arns, StringEquals=to_ec2)]


def _first_spot_request() -> Any:
    return _allow(
        "FirstSpotRequestOfAnAccount",
        ["iam:CreateServiceLinkedRole"],
        "arn:aws:iam::*:role/aws-service-role/spot.amazonaws.com/*",
        StringEquals={"iam:AWSServiceName": "spot.amazonaws.com"},
    )


def _keys(aws: Aws, account: str) -> Any:
    """Allow Ray's own key pairs, which `ray up` makes for SSH."""
    return _allow("KeyOfRay", ["ec2:CreateKeyPair"], f"arn:aws:ec2:{aws.region}:{account}:key-pair/ray-autoscaler_*")


def _cleaning(config: CloudConfig, account: str) -> list[Any]:
    """Allow the commands that `trm cloud orphans` prints, in every region."""
    owned = {f"aws:ResourceTag/{CLUSTER_TAG}": config.name}
    kinds = {
        "ec2:TerminateInstances": "instance",
        "ec2:DeleteVolume": "volume",
        "ec2:ReleaseAddress": "elastic-ip",
        "ec2:CancelSpotInstanceRequests": "spot-instances-request",
    }
    arns = [f"arn:aws:ec2:*:{account}:{kind}/*" for kind in kinds.values()]
    return [_allow("EndWhatWasLeft", [*kinds], arns, StringEquals=owned)]


def _storage(aws: Aws) -> list[Any]:
    bucket = f"arn:aws:s3:::{aws.bucket}"
    objects = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    return [
        _allow("RecordsAndCheckpoints", objects, f"{bucket}/{aws.prefix}/*"),
        _allow("ListRecords", ["s3:ListBucket"], bucket, StringLike={"s3:prefix": [aws.prefix, f"{aws.prefix}/*"]}),
    ]
