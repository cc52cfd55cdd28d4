"""Make boto3 clients with short time limits. boto3 is imported on use."""

from __future__ import annotations

from typing import Any

from orchestrator.resources.aws.errors import asked


def new_session() -> Any:
    """Return a session of boto3: clients that are made from one session share its models and credentials."""
    import boto3.session

    return asked(boto3.session.Session)


def client(service: str, region: str | None, session: Any = None) -> Any:
    """Return a client of a service. Clients may be used by several threads, but not made by them at the same time.

    Args:
        region: None where the environment names it.
        session: from `new_session`; a new one if left out.

    Raises:
        AwsError: no such region or profile.
    """
    from botocore.config import Config

    config = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})
    make = (session or new_session()).client
    return asked(lambda: make(service, region_name=region, config=config))
