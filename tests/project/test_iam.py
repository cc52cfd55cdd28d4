"""The IAM policies allow what a sweep on AWS needs, and little else: a table of requests, evaluated without AWS."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.iam import Request, is_allowed

POLICIES = Path(__file__).parents[2] / "infra" / "aws"
INSTANCE = "arn:aws:ec2:us-east-1:111122223333:instance/i-1"
OWN = {"ec2:ResourceTag/ray-cluster-name": "trm-sweeps"}
OTHERS = {"ec2:ResourceTag/ray-cluster-name": "payroll"}
TO_EC2 = {"iam:PassedToService": "ec2.amazonaws.com"}
ROLE = "arn:aws:iam::111122223333:role"
BUCKET = "arn:aws:s3:::sweeps"

TABLE = [
    # policy, request, is allowed
    ("head", Request("ec2:DescribeInstances", "*"), True),
    ("head", Request("ec2:TerminateInstances", INSTANCE, OWN), True),
    ("head", Request("ec2:TerminateInstances", INSTANCE, OTHERS), False),
    ("head", Request("ec2:TerminateInstances", INSTANCE), False),
    ("head", Request("iam:PassRole", f"{ROLE}/trm-sweeps-worker", TO_EC2), True),
    ("head", Request("iam:PassRole", f"{ROLE}/admin", TO_EC2), False),
    ("head", Request("iam:CreateUser", "arn:aws:iam::111122223333:user/x"), False),
    ("head", Request("s3:PutObject", f"{BUCKET}/trm/sweeps/x"), True),
    ("head", Request("s3:GetObject", "arn:aws:s3:::another/x"), False),
    ("worker", Request("s3:PutObject", f"{BUCKET}/trm/sweeps/x"), True),
    ("worker", Request("s3:DeleteBucket", BUCKET), False),
    ("worker", Request("ec2:RunInstances", INSTANCE), False),
    ("worker", Request("ec2:TerminateInstances", INSTANCE, OWN), False),
]

GAPS = [
    # what the policies allow today, and should not: an entry that is closed moves into the table above
    ("head", Request("ec2:CreateTags", INSTANCE, OTHERS)),  # tags another machine as its own, and may then end it
    (
        "head",
        Request("ec2:RunInstances", INSTANCE, {"ec2:InstanceType": "p5.48xlarge"}),
    ),  # of any type, without its tag
    ("head", Request("iam:PassRole", f"{ROLE}/trm-sweeps-worker", {"iam:PassedToService": "lambda.amazonaws.com"})),
    ("worker", Request("s3:DeleteObject", f"{BUCKET}/backups/x")),  # outside the prefix of the sweeps
]


@pytest.mark.parametrize(("name", "request_", "is_right"), TABLE)
def test_policy_decides_as_the_table_says(name: str, request_: Request, is_right: bool) -> None:
    assert is_allowed(POLICIES / f"iam-{name}.json", request_, "sweeps") == is_right


@pytest.mark.parametrize(("name", "request_"), GAPS)
def test_known_gaps_are_those_that_are_listed(name: str, request_: Request) -> None:
    assert is_allowed(POLICIES / f"iam-{name}.json", request_, "sweeps"), "closed: move it into the table as denied"


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
def test_evaluation_follows_the_rules_of_aws(statement: dict[str, object], is_right: bool, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    always = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{BUCKET}/a"}
    statements = [statement, always] if statement["Effect"] == "Deny" else [statement]
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": statements}))
    assert is_allowed(policy, Request("s3:GetObject", f"{BUCKET}/a", {"t": "trm"}), "sweeps") == is_right


def test_policy_with_what_the_evaluation_does_not_know_is_not_judged(tmp_path: Path) -> None:
    for extra in ({"NotAction": "s3:*"}, {"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}):
        policy = tmp_path / "policy.json"
        statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*", **extra}
        policy.write_text(json.dumps({"Statement": [statement]}))
        with pytest.raises(NotImplementedError):
            is_allowed(policy, Request("s3:GetObject", BUCKET), "sweeps")
