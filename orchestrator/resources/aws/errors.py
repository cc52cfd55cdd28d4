"""Explain refusals of AWS: one line with the remedy, from an exception of boto3 or from the output of `ray up`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from orchestrator.errors import project_file
from trm_data.errors import UserError

T = TypeVar("T")


class AwsError(UserError):
    """Raised if AWS cannot be reached or refuses a request."""


class _Refusal(NamedTuple):
    """Describe a group of error codes."""

    codes: str
    """Regular expression for the code, or for a message that has none."""
    what: str
    remedy: str


REFUSALS = (
    _Refusal(
        "InsufficientInstanceCapacity|InsufficientHostCapacity|InsufficientCapacity",
        "AWS has no capacity for this machine now",
        "Try other zones, the other market, another instance type or another region in cloud.toml; or wait",
    ),
    _Refusal(
        "VcpuLimitExceeded|MaxSpotInstanceCountExceeded|InstanceLimitExceeded",
        "the account's quota is too small for this machine",
        "Ask for more in the Service Quotas console (`trm sweep plan --region` names the code), or rent less",
    ),
    _Refusal(
        "ExpiredToken(Exception)?|RequestExpired|TokenRefreshRequired|SSOTokenLoadError|UnauthorizedSSOTokenError",
        "the credentials have expired",
        "Sign in again (`aws sso login`, or new keys with `aws configure`) and repeat the command",
    ),
    _Refusal(
        "InvalidClientTokenId|UnrecognizedClientException|AuthFailure|SignatureDoesNotMatch|InvalidAccessKeyId",
        "AWS does not know these credentials, or the region is not enabled for the account",
        "Check `aws sts get-caller-identity`, the clock of this machine, and the region in cloud.toml",
    ),
    _Refusal(
        "NoCredentialsError|Unable to locate credentials|PartialCredentialsError|ProfileNotFound|CredentialRetrieval",
        "there are no AWS credentials",
        "Run `aws configure` or `aws sso login`, or set AWS_PROFILE",
    ),
    _Refusal(
        "UnauthorizedOperation|AccessDenied(Exception)?|AuthorizationError|UnauthorizedException",
        "a right is missing",
        "Ask for the policy `launch` of `trm cloud init aws --dry-run`; `init` itself takes an administrator",
    ),
    _Refusal(
        "OptInRequired|EndpointConnectionError|Could not connect to the endpoint|Invalid ?[Rr]egion|NameResolution",
        "the region cannot be reached",
        "Check the spelling of the region in cloud.toml, that the account has it enabled, and the network",
    ),
    _Refusal(
        "BucketAlreadyExists",
        "another account has a bucket of this name",
        "Choose another `bucket` in cloud.toml: names are unique in the whole world",
    ),
    _Refusal(
        "PermanentRedirect|IllegalLocationConstraintException|AuthorizationHeaderMalformed",
        "the bucket is in another region",
        "Set `region` in cloud.toml to that of the bucket, or choose another: traffic between regions costs money",
    ),
    _Refusal(
        r"InvalidGroup(Id)?\.(Malformed|NotFound)|InvalidGroup\.NotFound|InvalidParameterValue.*iamInstanceProfile|NoSuchEntity",
        "what `trm cloud init aws` makes is missing",
        "Run `trm cloud init aws`, once per account and region",
    ),
    _Refusal(
        r"InvalidInstanceType|InstanceTypeNotSupported|\(Unsupported\)|^Unsupported$|InvalidParameterCombination",
        "this region or zone does not have the instance type",
        "Change `zones`, `region` or the instance type in cloud.toml",
    ),
    _Refusal(
        "VPCIdNotSpecified|DefaultVpcDoesNotExist|No default VPC|No usable subnets found",
        "the account has no default VPC in this region",
        'Name a subnet with public addresses in cloud.toml, [aws] subnet = "subnet-...", or make one: '
        "aws ec2 create-default-vpc",
    ),
    _Refusal(
        r"InvalidSubnetI[Dd]\.\w+",
        "there is no such subnet in this region",
        "Change `subnet` in cloud.toml: `aws ec2 describe-subnets` lists those of the account",
    ),
    _Refusal(
        "NoRegionError",
        "no region of AWS is named",
        "Set AWS_REGION, for example AWS_REGION=us-east-1, or `region` in ~/.aws/config or cloud.toml",
    ),
    _Refusal(
        "RequestLimitExceeded|Throttling(Exception)?|SlowDown",
        "AWS limits the rate of requests",
        "Wait a minute and repeat the command",
    ),
)


def explain(code: str, message: str, doing: str = "") -> AwsError:
    """Return the error for a code of AWS; an unknown code keeps AWS's own message.

    Args:
        doing: what was refused: `start g6e.2xlarge`.
    """
    before = f"{doing}: " if doing else ""
    for refusal in REFUSALS:
        if re.search(refusal.codes, code) or re.search(refusal.codes, message):
            return AwsError(f"{before}{refusal.what} ({code}{_action(message)})", refusal.remedy)
    shown = " ".join(message.split())[:300]
    return AwsError(
        f"{before}AWS: {shown} ({code})", f"{project_file('infra/aws/README.md')} describes what each step needs"
    )


def explain_output(text: str, doing: str) -> AwsError | None:
    """Return the error that the output of a program contains, the last one; None if none is recognised."""
    found = re.findall(r"An error occurred \(([\w.]+)\)([^\n]*)", text)
    if found:
        code, message = found[-1]
        return explain(code, message, doing)
    for refusal in REFUSALS:
        if match := re.search(refusal.codes, text):
            return AwsError(f"{doing}: {refusal.what} ({match.group()})", refusal.remedy)
    return None


def asked(call: Callable[[], T], doing: str = "") -> T:
    """Call AWS and return its answer.

    Raises:
        AwsError: refused, no credentials, no network; one line with the remedy.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call()
    except ClientError as error:
        found = error.response.get("Error", {})
        raise explain(str(found.get("Code", "unknown")), str(found.get("Message") or error), doing) from error
    except BotoCoreError as error:
        raise explain(type(error).__name__, str(error), doing) from error


def code_of(error: AwsError) -> str:
    """Return AWS's own code of an error that `asked` raised; empty if there is none."""
    response = getattr(error.__cause__, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _action(message: str) -> str:
    """Return the action that a message about a missing right names."""
    named = re.search(r"perform: ([\w-]+:\w+)|operation: .*?\b(\w+:\w+)\b", message)
    return f": {named[1] or named[2]}" if named else ""
