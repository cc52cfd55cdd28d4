"""Make boto3 clients with short time limits. boto3 is imported on use."""

from __future__ import annotations

from typing import Any

from orchestrator.cloud.aws.errors import asked


def client(service: str, region: str | None, endpoint: str | None = None) -> Any:
    """Return a client of a service.

    Args:
        region: None where the environment names it.
        endpoint: address of another server than AWS.

    Raises:
        AwsError: no such region or profile.
    """
    import boto3.session
    from botocore.config import Config

    config = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})
    make = boto3.session.Session().client
    return asked(lambda: make(service, region_name=region, endpoint_url=endpoint, config=config))
