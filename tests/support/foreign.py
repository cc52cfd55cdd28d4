"""Write what other programs write into shared folders and buckets: names that are no keys of a storage."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.storage import LocalStorage, Storage
from orchestrator.storage.s3 import S3Storage

LATIN_1 = os.fsdecode(b"\xe9t\xe9.txt")


def put(storage: Storage, name: str, data: bytes = b"foreign") -> None:
    """Write a file whose name need not be a key; on S3 it may end with a slash, as consoles write for a folder."""
    if isinstance(storage, LocalStorage):
        path = Path(storage.root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return
    import boto3

    assert isinstance(storage, S3Storage)
    client = boto3.client("s3", endpoint_url=storage.endpoint)
    client.put_object(Bucket=storage.bucket, Key=f"{storage.prefix}/{name}".lstrip("/"), Body=data)
    client.close()


def names_of(storage: Storage) -> set[str]:
    """Return the names of all files, whether they are keys or not."""
    if isinstance(storage, LocalStorage):
        return {str(path.relative_to(storage.root)) for path in storage.root.rglob("*") if path.is_file()}
    import boto3

    assert isinstance(storage, S3Storage)
    client = boto3.client("s3", endpoint_url=storage.endpoint)
    found = client.list_objects_v2(Bucket=storage.bucket, Prefix=storage.prefix).get("Contents", [])
    client.close()
    return {item["Key"][len(storage.prefix) :].lstrip("/") for item in found}
