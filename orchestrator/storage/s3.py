"""A prefix of an S3 bucket, or of a server that speaks its protocol, as a storage. boto3 is imported on first use."""

from __future__ import annotations

import functools
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlencode

from orchestrator.storage.base import StorageError, Tagged, checked_key

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class S3Storage:
    """A prefix of a bucket. Clients are shared within a process and never cross into another one."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    attempts: int = 4

    @property
    def url(self) -> str:
        location = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        options = {"endpoint_override": self.endpoint, "region": self.region}
        query = urlencode({name: value for name, value in options.items() if value}, safe=":/")
        return f"{location}?{query}" if query else location

    def read(self, key: str) -> bytes:
        return self.read_tagged(key).data

    def read_tagged(self, key: str) -> Tagged:
        def get() -> Tagged:
            answer = self._client.get_object(**self._at(key))
            with answer["Body"] as body:
                return Tagged(body.read(), answer["ETag"])

        return self._found(key, get)

    def write(self, key: str, data: bytes) -> None:
        self._call(lambda: self._client.put_object(**self._at(key), Body=data))

    def create(self, key: str, data: bytes) -> bool:
        return self._put_if(key, data, IfNoneMatch="*") is not None

    def replace_if(self, key: str, data: bytes, etag: str) -> str | None:
        return self._put_if(key, data, IfMatch=etag)

    def exists(self, key: str) -> bool:
        try:
            self._head(key)
        except KeyError:
            return False
        return True

    def list(self, folder: str = "") -> list[str]:
        return sorted(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        top = self._key(folder) if folder else self.prefix
        cut = len(self.prefix) + 1 if self.prefix else 0

        def pages() -> dict[str, int]:
            pager = self._client.get_paginator("list_objects_v2")
            found = pager.paginate(Bucket=self.bucket, Prefix=f"{top}/" if top else "")
            return {item["Key"][cut:]: int(item["Size"]) for page in found for item in page.get("Contents", [])}

        return self._call(pages)

    def delete(self, key: str) -> None:
        self._call(lambda: self._client.delete_object(**self._at(key)))

    def modified_s(self, key: str) -> float:
        modified: float = self._head(key)["LastModified"].timestamp()
        return modified

    def sub(self, folder: str) -> S3Storage:
        return replace(self, prefix=self._key(folder))

    @property
    def _client(self) -> Any:
        return _s3_client(self.endpoint, self.region, self.attempts, os.getpid())

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{checked_key(key)}" if self.prefix else checked_key(key)

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._key(key)}

    def _head(self, key: str) -> dict[str, Any]:
        return self._found(key, lambda: self._client.head_object(**self._at(key)))

    def _put_if(self, key: str, data: bytes, **condition: str) -> str | None:
        """PUT under a condition: the new version, or None if the condition does not hold.

        A PUT that is repeated because its answer was lost meets its own result and is refused. A random mark in the
        metadata tells that case from a lost race.
        """
        writer = uuid.uuid4().hex

        def put() -> str | None:
            try:
                answer = self._client.put_object(**self._at(key), Body=data, Metadata={"writer": writer}, **condition)
            except self._client.exceptions.ClientError as error:
                if _code(error) not in _CONDITION_FAILED:
                    raise
                return None
            return str(answer["ETag"])

        etag = self._call(put)
        if etag is not None:
            return etag
        try:
            head = self._head(key)
        except KeyError:
            return None
        return str(head["ETag"]) if head["Metadata"].get("writer") == writer else None

    def _found(self, key: str, call: Callable[[], T]) -> T:
        def checked() -> T | None:
            try:
                return call()
            except self._client.exceptions.ClientError as error:
                if _code(error) not in _NO_SUCH_KEY:
                    raise
                return None

        value = self._call(checked)
        if value is None:
            raise KeyError(key)
        return value

    def _call(self, call: Callable[[], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call()
        except ClientError as error:
            raise StorageError(*self._explain(_code(error), str(error))) from error
        except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no address
            raise StorageError(*self._explain(type(error).__name__, str(error))) from error

    def _explain(self, code: str, message: str) -> tuple[str, str]:
        for codes, what, remedy in _S3_EXPLANATIONS:
            if code in codes:
                return f"storage {self.url}: {what}", remedy
        return f"storage {self.url}: {message}", ""


_NO_SUCH_KEY = {"NoSuchKey", "404", "NotFound"}
_CONDITION_FAILED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409"}
_S3_EXPLANATIONS: list[tuple[set[str], str, str]] = [
    ({"NoSuchBucket"}, "the bucket does not exist", "Create it (`aws s3 mb`) or correct its name"),
    (
        {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"},
        "no AWS credentials found",
        "Run `aws configure`, or use a machine role",
    ),
    (
        {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"},
        "the AWS credentials are wrong or have expired",
        "Renew them, and see that they are the ones of this bucket's account",
    ),
    (
        {"AccessDenied", "AllAccessDisabled", "403", "Forbidden"},
        "access denied",
        "Grant s3:GetObject, PutObject, DeleteObject and ListBucket (infra/aws/README.md has the policy)",
    ),
    (
        {
            "EndpointConnectionError",
            "ConnectTimeoutError",
            "ConnectionClosedError",
            "ReadTimeoutError",
            "ProxyConnectionError",
        },
        "cannot be reached",
        "Check the network and endpoint_override",
    ),
    (
        {"PermanentRedirect", "AuthorizationHeaderMalformed", "301"},
        "the bucket is in another region",
        "Add ?region=NAME",
    ),
    ({"ValueError", "InvalidEndpoint"}, "the endpoint is no address", "Write endpoint_override=http://HOST:PORT"),
]


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@functools.cache
def _s3_client(endpoint: str | None, region: str | None, attempts: int, pid: int) -> Any:
    """One client per process (`pid` keeps a forked child from using its parent's sockets) and set of options."""
    import boto3.session
    from botocore.config import Config

    own_endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": attempts},
        request_checksum_calculation="when_required",  # older MinIO and Ceph refuse the new default
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if own_endpoint else "auto"},  # such servers seldom have a DNS name per bucket
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)
