"""The IAM policies allow what a sweep on AWS needs, and little else: a table of requests, evaluated without AWS."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.cloud.aws.iam import ROLES, Role, policy
from orchestrator.cloud.config import CloudConfig, parse_config
from tests.support.iam import Request, is_allowed

ACCOUNT = "111122223333"
CONFIG: CloudConfig = parse_config(
    """
name = "trm-sweeps"
[aws]
region = "us-east-1"
bucket = "sweeps"
ssh_from = ["203.0.113.7/32"]
[[aws.workers]]
instance = "g6e.2xlarge"
[[aws.workers]]
instance = "p5.48xlarge"
"""
)
POLICIES: dict[str, dict[str, Any]] = {role: policy(CONFIG, role, ACCOUNT) for role in ROLES}
EC2 = f"arn:aws:ec2:us-east-1:{ACCOUNT}"
INSTANCE, VOLUME, SPOT = f"{EC2}:instance/i-1", f"{EC2}:volume/vol-1", f"{EC2}:spot-instances-request/sir-1"
OWN = {"aws:ResourceTag/ray-cluster-name": "trm-sweeps", "aws:ResourceTag/trm-cluster": "trm-sweeps"}
OTHERS = {"aws:ResourceTag/ray-cluster-name": "payroll"}
RAYS_ALONE = {"aws:ResourceTag/ray-cluster-name": "trm-sweeps"}  # somebody else's cluster of the same name
STATUS = {"aws:TagKeys": ["ray-node-status", "ray-runtime-config"]}
TO_EC2 = {"iam:PassedToService": "ec2.amazonaws.com"}
ROLE = f"arn:aws:iam::{ACCOUNT}:role"
BUCKET = "arn:aws:s3:::sweeps"
TAGGED = {"aws:RequestTag/ray-cluster-name": "trm-sweeps", "aws:RequestTag/trm-cluster": "trm-sweeps"}
STARTED = {"ec2:CreateAction": "RunInstances"}


def machine(instance: str, **changed: str) -> dict[str, str]:
    """The condition keys of a request that starts a machine of a type, as the rendered file asks for it."""
    return {**TAGGED, "ec2:InstanceType": instance, "ec2:MetadataHttpTokens": "required", **changed}


TABLE: list[tuple[Role, Request, bool]] = [
    # policy, request, is allowed
    ("head", Request("ec2:DescribeInstances", "*"), True),
    ("head", Request("ec2:TerminateInstances", INSTANCE, OWN), True),
    ("head", Request("ec2:TerminateInstances", INSTANCE, OTHERS), False),
    ("head", Request("ec2:TerminateInstances", INSTANCE, RAYS_ALONE), False),
    ("head", Request("ec2:TerminateInstances", INSTANCE), False),
    ("head", Request("iam:PassRole", f"{ROLE}/trm-sweeps-worker", TO_EC2), True),
    ("head", Request("iam:PassRole", f"{ROLE}/trm-sweeps-head", TO_EC2), False),
    ("head", Request("iam:PassRole", f"{ROLE}/admin", TO_EC2), False),
    (
        "head",
        Request("iam:PassRole", f"{ROLE}/trm-sweeps-worker", {"iam:PassedToService": "lambda.amazonaws.com"}),
        False,
    ),
    ("head", Request("iam:CreateUser", f"arn:aws:iam::{ACCOUNT}:user/x"), False),
    # machines: of the listed types, tagged, with tokens for metadata and encrypted disks
    ("head", Request("ec2:RunInstances", INSTANCE, machine("g6e.2xlarge")), True),
    ("head", Request("ec2:RunInstances", INSTANCE, machine("p5.48xlarge")), True),
    ("head", Request("ec2:RunInstances", INSTANCE, machine("p5.4xlarge")), False),
    ("head", Request("ec2:RunInstances", INSTANCE, {"ec2:InstanceType": "p5.48xlarge"}), False),
    (
        "head",
        Request("ec2:RunInstances", INSTANCE, machine("g6e.2xlarge", **{"aws:RequestTag/trm-cluster": "x"})),
        False,
    ),
    (
        "head",
        Request("ec2:RunInstances", INSTANCE, machine("g6e.2xlarge", **{"ec2:MetadataHttpTokens": "optional"})),
        False,
    ),
    ("head", Request("ec2:RunInstances", INSTANCE.replace("us-east-1", "eu-west-1"), machine("g6e.2xlarge")), False),
    ("head", Request("ec2:RunInstances", VOLUME, {**TAGGED, "ec2:Encrypted": "true"}), True),
    ("head", Request("ec2:RunInstances", VOLUME, {**TAGGED, "ec2:Encrypted": "false"}), False),
    ("head", Request("ec2:RunInstances", VOLUME, {"ec2:Encrypted": "true"}), False),
    ("head", Request("ec2:RunInstances", SPOT, TAGGED), True),
    ("head", Request("ec2:RunInstances", SPOT), False),
    ("head", Request("ec2:RunInstances", f"{EC2}:network-interface/eni-1", TAGGED), True),
    ("head", Request("ec2:RunInstances", f"{EC2}:network-interface/eni-1"), False),
    ("head", Request("ec2:RunInstances", f"{EC2}:subnet/subnet-1"), True),
    ("head", Request("ec2:RunInstances", "arn:aws:ec2:us-east-1::image/ami-1"), True),
    ("head", Request("ec2:RequestSpotInstances", SPOT, TAGGED), False),
    # tags: whatever a start sets, and Ray's own state later, on its own machines
    ("head", Request("ec2:CreateTags", INSTANCE, {**TAGGED, **STARTED}), True),
    ("head", Request("ec2:CreateTags", INSTANCE, {**OWN, **STATUS}), True),
    ("head", Request("ec2:CreateTags", INSTANCE, {**OTHERS, **STATUS}), False),
    ("head", Request("ec2:CreateTags", INSTANCE, OTHERS), False),
    (
        "head",
        Request("ec2:CreateTags", INSTANCE, {**TAGGED, "aws:TagKeys": ["ray-cluster-name", "trm-cluster"]}),
        False,
    ),
    ("head", Request("ec2:CreateTags", INSTANCE, {**OWN, "aws:TagKeys": ["trm-cluster"]}), False),
    ("head", Request("ec2:DeleteTags", INSTANCE, OWN), False),
    ("head", Request("s3:PutObject", f"{BUCKET}/trm/sweeps/x"), True),
    ("head", Request("s3:PutObject", f"{BUCKET}/backups/x"), False),
    ("head", Request("s3:GetObject", "arn:aws:s3:::another/x"), False),
    ("worker", Request("s3:PutObject", f"{BUCKET}/trm/sweeps/x"), True),
    ("worker", Request("s3:DeleteObject", f"{BUCKET}/backups/x"), False),
    ("worker", Request("s3:DeleteObject", f"{BUCKET}/trm-old/x"), False),
    ("worker", Request("s3:ListBucket", BUCKET, {"s3:prefix": "trm/sweeps/"}), True),
    ("worker", Request("s3:ListBucket", BUCKET, {"s3:prefix": "backups/"}), False),
    ("worker", Request("s3:ListBucket", BUCKET), False),
    ("worker", Request("s3:DeleteBucket", BUCKET), False),
    ("worker", Request("ec2:RunInstances", INSTANCE, machine("g6e.2xlarge")), False),
    ("worker", Request("ec2:TerminateInstances", INSTANCE, OWN), False),
    ("worker", Request("ec2:CreateTags", INSTANCE, {**OWN, **STATUS}), False),
    ("worker", Request("iam:PassRole", f"{ROLE}/trm-sweeps-worker", TO_EC2), False),
    # the user who launches starts heads, and ends what was left in any region
    ("launch", Request("ec2:RunInstances", INSTANCE, machine("m7i.xlarge")), True),
    ("launch", Request("ec2:RunInstances", INSTANCE, machine("g6e.2xlarge")), True),  # of --single
    ("launch", Request("ec2:RunInstances", INSTANCE, machine("p5.48xlarge")), False),
    ("launch", Request("iam:PassRole", f"{ROLE}/trm-sweeps-head", TO_EC2), True),
    ("launch", Request("iam:PassRole", f"{ROLE}/admin", TO_EC2), False),
    ("launch", Request("ec2:TerminateInstances", INSTANCE, OWN), True),
    ("launch", Request("ec2:TerminateInstances", INSTANCE, OTHERS), False),
    ("launch", Request("ec2:DeleteVolume", VOLUME.replace("us-east-1", "eu-west-1"), OWN), True),
    ("launch", Request("ec2:DeleteVolume", VOLUME, OTHERS), False),
    ("launch", Request("ec2:ReleaseAddress", f"{EC2}:elastic-ip/eipalloc-1"), False),
    ("launch", Request("ec2:CreateKeyPair", f"{EC2}:key-pair/ray-autoscaler_us-east-1"), True),
    ("launch", Request("ec2:CreateSecurityGroup", f"{EC2}:security-group/sg-1"), False),
    ("launch", Request("iam:PutRolePolicy", f"{ROLE}/trm-sweeps-head"), False),
]


@pytest.mark.parametrize(("role", "request_", "is_right"), TABLE)
def test_policy_decides_as_the_table_says(role: Role, request_: Request, is_right: bool) -> None:
    assert is_allowed(POLICIES[role], request_) == is_right


@pytest.mark.parametrize("role", ROLES)
def test_policy_fits_and_names_every_action(role: Role) -> None:
    document = POLICIES[role]
    assert len(json.dumps(document, separators=(",", ":"))) < 6144, "the limit of a managed policy"
    assert not any("*" in action for statement in document["Statement"] for action in statement["Action"])
    assert len({statement["Sid"] for statement in document["Statement"]}) == len(document["Statement"])


STATEMENTS = [
    ({"Effect": "Allow", "Action": "s3:Get*", "Resource": "*"}, True),
    ({"Effect": "Allow", "Action": "s3:GetObjec?", "Resource": f"{BUCKET}/*"}, True),
    ({"Effect": "Allow", "Action": "S3:GETOBJECT", "Resource": f"{BUCKET}/a"}, True),
    ({"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{BUCKET}"}, False),
    ({"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*", "Condition": {"StringLike": {"t": "tr*"}}}, True),
    (
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*", "Condition": {"StringEquals": {"t": "tr*"}}},
        False,
    ),
    ({"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*", "Condition": {"StringEquals": {"u": "x"}}}, False),
    ({"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"StringEqualsIfExists": {"u": "x"}}}, True),
    ({"Effect": "Deny", "Action": "*", "Resource": "*"}, False),
]


@pytest.mark.parametrize(("statement", "is_right"), STATEMENTS)
def test_evaluation_follows_the_rules_of_aws(statement: dict[str, object], is_right: bool) -> None:
    always = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{BUCKET}/a"}
    statements = [statement, always] if statement["Effect"] == "Deny" else [statement]
    document = {"Version": "2012-10-17", "Statement": statements}
    assert is_allowed(document, Request("s3:GetObject", f"{BUCKET}/a", {"t": "trm"})) == is_right


def test_policy_with_what_the_evaluation_does_not_know_is_not_judged() -> None:
    for extra in ({"NotAction": "s3:*"}, {"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}):
        statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*", **extra}
        with pytest.raises(NotImplementedError):
            is_allowed({"Statement": [statement]}, Request("s3:GetObject", BUCKET))
