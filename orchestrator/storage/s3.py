"""Use a prefix of an S3 bucket, or of a compatible server, as a storage. boto3 is imported on first use."""

from __future__ import annotations

import errno
import functools
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

from orchestrator.errors import project_file
from orchestrator.storage.base import BRIEF_S, Keys, Snapshot, StorageError, Tagged
from orchestrator.storage.keys import checked_key, is_key, is_unusable, unusable_names
from orchestrator.storage.patience import FIRST_CONTACT_S, PATIENCE_S, TransientError, retry_transient

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class S3Storage:
    """Store values below a prefix of a bucket. Clients are shared within a process and never passed to another one."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    attempts: int = 4
    """How often botocore tries one request by itself, with pauses of seconds."""
    answer_s: float = 60.0
    patience_s: float = field(default=PATIENCE_S, compare=False)
    """For how long a request is repeated after faults that pass, once the bucket has answered this process."""

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
            with closing(answer["Body"]) as body:  # its own context is the connection's, which does not know the length
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

    def folders(self, folder: str = "") -> Keys:
        names = (name[:-1] for name in self._names(folder, Delimiter="/") if name.endswith("/"))
        return sorted(filter(is_key, names))

    def unusable(self, folder: str = "", *, is_deep: bool = False) -> Keys:
        return unusable_names(self._names(folder) if is_deep else self._names(folder, Delimiter="/"))

    def list(self, folder: str = "") -> list[str]:
        return sorted(self._listed(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        return {key: int(item["Size"]) for key, item in self._listed(folder).items()}

    def versions(self, folder: str = "") -> dict[str, str]:
        return {key: str(item["ETag"]) for key, item in self._listed(folder).items()}

    def snapshot(self, folder: str, names: Sequence[str]) -> Snapshot:
        cut = len(folder) + 1
        found = {key[cut:]: version for key, version in self.versions(folder).items()}
        return Snapshot.of({name: version for name, version in found.items() if _is_wanted(name, names)})

    def snapshots(self, folder: str, names: Sequence[str], known: Mapping[str, Snapshot]) -> dict[str, Snapshot]:
        cut = len(folder) + 1
        found: dict[str, dict[str, str]] = {}
        for key, version in self.versions(folder).items():
            top, _, name = key[cut:].partition("/")
            if name:
                mine = found.setdefault(top, {})
                if _is_wanted(name, names):
                    mine[name] = version
        return {top: Snapshot.of(versions) for top, versions in found.items()}

    def read_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        def get(key: str) -> bytes | None:
            try:
                return self.read(key)
            except KeyError:
                return None

        return {key: data for key, data in zip(keys, in_parallel(get, keys), strict=True) if data is not None}

    def copy_many(self, keys: Mapping[str, str]) -> None:
        from boto3.s3.transfer import TransferConfig

        parts = TransferConfig(multipart_threshold=COPIED_AT_ONCE, multipart_chunksize=COPIED_AT_ONCE)

        def copy(key: str) -> bool:
            self._client.copy(self._at(key), **self._at(keys[key]), Config=parts)
            return True

        in_parallel(lambda key: self._found(key, lambda: copy(key)), list(keys))

    def is_blocked(self, key: str) -> bool:
        return False

    def remove_leftovers(self, folder: str) -> None:
        top = self._top(folder)
        for name in self._names(folder):
            if name.endswith("/") or is_unusable(name):
                self._call(functools.partial(self._client.delete_object, Bucket=self.bucket, Key=top + name))

    def delete(self, key: str) -> None:
        self._call(lambda: self._client.delete_object(**self._at(key)))

    def delete_many(self, keys: Sequence[str]) -> None:
        in_parallel(self.delete, keys)

    def delete_if(self, key: str, etag: str) -> bool:
        try:
            if self._head(key)["ETag"] != etag:
                return False
        except KeyError:
            return False

        def delete() -> bool:
            self._client.delete_object(**self._at(key), IfMatch=etag)  # some servers ignore the condition
            return True

        return self._call(self._unless_changed(delete)) is not None

    def modified_s(self, key: str) -> float:
        modified: float = self._head(key)["LastModified"].timestamp()
        return modified

    def age_s(self, key: str) -> float:
        head = self._head(key)
        now = head["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
        now_s = parsedate_to_datetime(now).timestamp() if now else time.time()
        return float(now_s - head["LastModified"].timestamp())

    def remove_abandoned(self) -> None:
        pass  # a PUT that is cut off leaves nothing

    def sub(self, folder: str) -> S3Storage:
        return replace(self, prefix=self._key(folder))

    def patient(self, patience_s: float) -> S3Storage:
        return replace(self, patience_s=patience_s)

    def brief(self) -> S3Storage:
        return replace(self, attempts=1, answer_s=BRIEF_S, patience_s=0.0)

    def _top(self, folder: str) -> str:
        top = self._key(folder) if folder else self.prefix
        return f"{top}/" if top else ""

    def _listed(self, folder: str) -> dict[str, Any]:
        """Return the listing entry of every key below `folder`."""
        cut = len(self.prefix) + 1 if self.prefix else 0
        found = {item["Key"][cut:]: item for page in self._pages(folder) for item in page.get("Contents", [])}
        return {key: item for key, item in found.items() if is_key(key)}

    def _names(self, folder: str, **options: str) -> Keys:
        """Return the names of all objects below `folder`, whether they are keys or not."""
        cut = len(self._top(folder))
        pages = self._pages(folder, **options)
        items = (item for page in pages for item in [*page.get("CommonPrefixes", []), *page.get("Contents", [])])
        return [(item.get("Prefix") or item["Key"])[cut:] for item in items]

    def _pages(self, folder: str, **options: str) -> Sequence[Any]:
        pager = self._client.get_paginator("list_objects_v2")
        return self._call(lambda: [*pager.paginate(Bucket=self.bucket, Prefix=self._top(folder), **options)])

    @property
    def _client(self) -> Any:
        return _s3_client(self.endpoint, self.region, self.attempts, self.answer_s, os.getpid())

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{checked_key(key)}" if self.prefix else checked_key(key)

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._key(key)}

    def _head(self, key: str) -> dict[str, Any]:
        return self._found(key, lambda: self._client.head_object(**self._at(key)))

    def _put_if(self, key: str, data: bytes, **condition: str) -> str | None:
        """Send a conditional PUT. Return the new version, or None if the condition does not hold.

        A PUT that is repeated because its answer was lost meets its own result and is refused. A random mark in the
        metadata distinguishes that case from a lost race.
        """
        writer = uuid.uuid4().hex

        def put() -> str:
            answer = self._client.put_object(**self._at(key), Body=data, Metadata={"writer": writer}, **condition)
            return str(answer["ETag"])

        etag = self._call(self._unless_changed(put))
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

    def _unless_changed(self, call: Callable[[], T]) -> Callable[[], T | None]:
        """Return `call`, changed to return None if its condition does not hold."""

        def checked() -> T | None:
            try:
                return call()
            except self._client.exceptions.ClientError as error:
                if _code(error) in _CONDITION_FAILED:
                    return None
                raise  # also ConditionalRequestConflict: two requests conflicted, and neither returns the current value

        return checked

    def _call(self, call: Callable[[], T]) -> T:
        def attempt() -> T:
            from botocore.exceptions import BotoCoreError, ClientError
            from urllib3.exceptions import HTTPError

            try:
                value = call()
            except ClientError as error:
                told = self._explain(_code(error), str(error))
                if _code(error) in _FULL:
                    raise StorageError(*told) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                raise (TransientError if _is_transient(error) else StorageError)(*told) from error
            except (BotoCoreError, HTTPError, OSError, ValueError) as error:
                name = type(error).__name__  # ValueError: an endpoint that is not an address
                kind = StorageError if isinstance(error, ValueError) or name in _LASTING else TransientError
                raise kind(*self._explain(name, str(error))) from error
            _answered.add((self.endpoint, self.region, self.bucket, os.getpid()))
            return value

        is_known = (self.endpoint, self.region, self.bucket, os.getpid()) in _answered
        return retry_transient(attempt, self.patience_s if is_known else min(FIRST_CONTACT_S, self.patience_s))

    def _explain(self, code: str, message: str) -> tuple[str, str]:
        for codes, what, remedy in _S3_EXPLANATIONS:
            if code in codes:
                return f"storage {self.url}: {what}", remedy
        return f"storage {self.url}: {message}", ""


_answered: set[tuple[str | None, str | None, str, int]] = set()
"""Buckets that have answered this process."""
_TRANSIENT_CODES = {
    "InternalError",
    "ServiceUnavailable",
    "SlowDown",
    "RequestTimeout",
    "OperationAborted",
    "ConditionalRequestConflict",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
}
_LASTING = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ParamValidationError",
    "ProfileNotFound",
    "NoRegionError",
    "InvalidRegionError",
    "UnknownServiceError",
    "InvalidEndpoint",
    "ConfigParseError",
}
"""botocore's errors that another attempt does not change."""
_NO_SUCH_KEY = {"NoSuchKey", "404", "NotFound"}
_CONDITION_FAILED = {"PreconditionFailed", "NoSuchKey", "412", "404"}
_FULL = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage", "507"}
"""Codes of MinIO, Ceph and others. S3 itself is never full."""
_S3_EXPLANATIONS: list[tuple[set[str], str, str]] = [
    (_FULL, "no space left on the server", "Free some space, or name another storage"),
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
        "Grant s3:GetObject, PutObject, DeleteObject and ListBucket "
        f"({project_file('infra/aws/README.md')} has the policy)",
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
    ({"PermanentRedirect", "AuthorizationHeaderMalformed", "301"}, "the bucket has another region", "Add ?region=NAME"),
    ({"ValueError", "InvalidEndpoint"}, "the endpoint is not an address", "Write endpoint_override=http://HOST:PORT"),
]


def _is_wanted(name: str, names: Sequence[str]) -> bool:
    """Return whether a file belongs to a snapshot of `names`."""
    first, slash, _ = name.partition("/")
    return first + slash in names


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_transient(error: Any) -> bool:
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return status >= 500 or status in (408, 409, 429) or _code(error) in _TRANSIENT_CODES


PARALLEL_REQUESTS = 16
COPIED_AT_ONCE = 2**28
"""Bytes that one request copies. S3 refuses more than 5 GiB."""


def in_parallel(call: Callable[[str], T], keys: Sequence[str]) -> Sequence[T]:
    """Return the results of `call` for all keys, in their order, using a few threads."""
    if len(keys) < 2:
        return [call(key) for key in keys]
    with ThreadPoolExecutor(min(PARALLEL_REQUESTS, len(keys)), thread_name_prefix="s3") as pool:
        return list(pool.map(call, keys))


@functools.cache
def _s3_client(endpoint: str | None, region: str | None, attempts: int, answer_s: float, pid: int) -> Any:
    """Return one client per set of options and process (`pid` keeps a forked child from using its parent's sockets)."""
    import boto3.session
    from botocore.config import Config

    own_endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        max_pool_connections=PARALLEL_REQUESTS,
        connect_timeout=min(5.0, answer_s),
        read_timeout=answer_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
        request_checksum_calculation="when_required",  # older MinIO and Ceph refuse the new default
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if own_endpoint else "auto"},  # such servers seldom have a DNS name per bucket
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)
