"""An S3 endpoint for tests: a moto server in its own process, which trial processes reach as they would AWS."""

from __future__ import annotations

import random
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

Server = TypeVar("Server", bound=socketserver.BaseServer)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on.

    It is below those that the kernel gives out (32768 and above), so that no connection of another process takes it in
    the seconds until a server listens there.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def in_a_thread(server: Server) -> Iterator[Server]:
    """Let a server answer from a thread while the block runs, and close it then."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def wait_until_ended(processes: Iterable[psutil.Process], timeout_s: float = 600) -> None:
    """Return when all have ended; those that the first process of a container does not collect stay as zombies."""
    deadline = time.monotonic() + timeout_s
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < deadline, f"{process} has not ended"
                time.sleep(0.02)


def wait_for_http(url: str, process: subprocess.Popen[bytes], timeout_s: float = 300) -> None:
    """Return when `url` answers; fail if its process ends or takes too long."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server for {url} ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=30):
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"{url} did not answer within {timeout_s} s")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a moto server, with made-up credentials in the environment, which child processes inherit."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(Path(__file__).with_name("moto_server.py")), "-H", "127.0.0.1", "-p", str(port)]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_REGION"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_http(f"{url}/moto-api/", process)
            yield url
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def s3_bucket(s3_endpoint: str) -> str:
    """The address of a new, empty bucket, as `open_storage` takes it."""
    import boto3

    name = f"test-{uuid.uuid4().hex}"
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket=name)
    client.close()
    return f"s3://{name}?endpoint_override={s3_endpoint}"
