"""Watch for the announced termination of a spot machine, two minutes ahead, and notify Ray and the trials on it.

    python -m orchestrator.worker.spot 10.0.0.5:6379        # on every worker; ends by itself where there is no EC2

AWS announces it on the machine only. Draining the node makes Ray place nothing more there and count what is lost as
preempted instead of failed. A file notifies the trials of this node (`is_leaving`), so that they write a last
checkpoint and resume elsewhere at once instead of after the loss. It lies in a folder that only this user can write:
anyone who can make that file stops all trials of the node.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from orchestrator.errors import ClusterError
from orchestrator.resources.nodes import describe_cluster, parse_address, require_answer
from trm_data.errors import UserError
from trm_data.files import age_s, load_json, private_folder, write_atomic

logger = logging.getLogger(__name__)

METADATA_URL = "http://169.254.169.254"
POLL_S = 5.0
"""AWS recommends every 5 s; the notice comes 120 s ahead."""
MAX_ANSWER_BYTES = 65536
"""Most bytes that are read of an answer; a notice has about 60."""
TOKEN_S = 21600
DRAIN_S = 10.0
"""For so long the trials are not notified while Ray has not answered."""
STALE_S = 86400.0
"""Age at which the file of a node that left is removed."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Describe what AWS will do to this machine, and when (seconds since the epoch)."""

    action: str
    at_s: float


@dataclass(slots=True)
class Metadata:
    """Query the instance metadata service, version 2: every request carries a token, which is requested first."""

    url: str = METADATA_URL
    timeout_s: float = 2.0
    _token: str = field(default="", repr=False)

    def notice(self) -> Notice | None:
        """Return the announced termination of this machine, or None.

        Raises:
            OSError: the service does not answer, or not with a notice: this is not EC2, or it is busy.
        """
        try:
            return _parse(self._get("/latest/meta-data/spot/instance-action"))
        except urllib.error.HTTPError as error:
            if error.code == 401:
                self._token = ""  # expired: the next call requests a new one
            elif error.code != 404:
                raise
            return None
        except http.client.HTTPException as error:
            raise OSError(f"{self.url} does not speak HTTP: {type(error).__name__}") from error

    def _get(self, path: str) -> bytes:
        if not self._token:
            lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
            request = urllib.request.Request(f"{self.url}/latest/api/token", method="PUT", headers=lifetime)
            self._token = self._read(request).decode()
        return self._read(urllib.request.Request(self.url + path, headers={"X-aws-ec2-metadata-token": self._token}))

    def _read(self, request: urllib.request.Request) -> bytes:
        with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
            data: bytes = answer.read(MAX_ANSWER_BYTES)
            return data


def _parse(answer: bytes) -> Notice:
    """Return the notice in an answer of the service. Raises OSError if there is none in it."""
    try:
        found = load_json(answer)
        at = datetime.fromisoformat(found["time"].replace("Z", "+00:00"))
        return Notice(str(found["action"]), at.timestamp())
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise OSError(f"its answer is not a spot notice: {answer[:80]!r}") from error


def watch(metadata: Metadata, leave: Callable[[Notice], None], sleep: Callable[[float], None] = time.sleep) -> Notice:
    """Poll until a notice arrives, then call `leave` until it succeeds, and return the notice.

    Raises:
        OSError: the service never answered: this is not an EC2 machine.
    """
    has_answered = False
    while True:
        try:
            notice = metadata.notice()
            has_answered = True
        except OSError as error:
            if not has_answered:
                raise
            logger.warning("the metadata service does not answer as expected: %s", error)
            notice = None
        if notice:
            break
        sleep(POLL_S)
    while True:
        try:
            leave(notice)
        except (UserError, OSError) as error:
            logger.warning("cannot announce the end of this node yet: %s", error)
            sleep(1.0)  # the head may be busy: there is time for many tries in two minutes
        else:
            return notice


def leave_node(address: str, node_id: str, notice: Notice) -> None:
    """Notify Ray, then the trials of a node, that the machine will be terminated.

    Ray first: it would place a trial that has just left on this node again, where it would wait for the node's end.
    Where the head takes long to answer, the trials are notified meanwhile.

    Raises:
        UserError: the head does not answer or refuses (the trials are notified all the same), or the file for the
            trials cannot be written.
    """
    _remove_stale_files()
    path, content = _leaving_file(node_id), json.dumps({"action": notice.action, "at_s": notice.at_s}).encode()
    patience = threading.Timer(DRAIN_S, write_atomic, (path, content))
    patience.daemon = True
    patience.start()
    try:
        drain(address, node_id, f"spot {notice.action}", notice.at_s)
    finally:
        patience.cancel()
        write_atomic(path, content)


def is_leaving(node_id: str) -> bool:
    """Return whether the machine of this node, which must be the caller's own, will be terminated soon."""
    try:
        return _leaving_file(node_id).exists()
    except (UserError, OSError):
        return False  # without a folder that only this user can write, no notice is trusted


def drain(address: str, node_id: str, reason: str, deadline_s: float) -> None:
    """Make Ray place nothing more on a node and count its loss as a preemption. Running work continues.

    Raises:
        ClusterError: the head does not answer, or refuses.
    """
    require_answer(address)
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, without stubs
    from ray.core.generated import autoscaler_pb2

    preemption = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    try:
        client = GcsClient(address=address)
        accepted, why_not = client.drain_node(node_id, preemption, reason, round(deadline_s * 1000))
    except Exception as error:  # Ray's core raises RuntimeError, its own errors and ValueError here
        raise ClusterError(f"cannot drain node {node_id[:8]} at {address}: {' '.join(str(error).split())}") from error
    if not accepted:
        raise ClusterError(f"the cluster refuses to drain node {node_id[:8]}: {why_not}")


def own_node(address: str) -> str:
    """Return the id of the worker node on this machine.

    Raises:
        ClusterError: there is none, or more than one.
    """
    with socket.create_connection(parse_address(address), timeout=5) as connection:
        host = connection.getsockname()[0]
    found = [node for node in describe_cluster(address).nodes if node.host == host and not node.is_head]
    if len(found) != 1:
        raise ClusterError(f"{len(found)} worker nodes of {address} are on this machine ({host})", "Give --node-id")
    return found[0].node_id


def _leaving_file(node_id: str) -> Path:
    return private_folder("leaving") / f"{node_id}.json"


def _remove_stale_files() -> None:
    for path in private_folder("leaving").glob("*.json"):
        if (age_s(path) or 0.0) > STALE_S:
            path.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.worker.spot", description=__doc__.split("\n\n")[0])
    parser.add_argument("address", help="HOST:PORT of the Ray head")
    parser.add_argument("--node-id", help="the node that goes with this machine; found by its address if left out")
    parser.add_argument(
        "--metadata-url", default=METADATA_URL, help="where EC2 announces the end (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        node_id = options.node_id or own_node(options.address)
        notice = watch(Metadata(options.metadata_url), lambda notice: leave_node(options.address, node_id, notice))
    except UserError as error:
        parser.exit(2, f"{error}\n")
    except OSError as error:
        parser.exit(0, f"no EC2 metadata service here ({error}): nothing to watch\n")
    print(f"{notice.action} announced: node {node_id[:8]} is drained and its trials are notified", flush=True)


if __name__ == "__main__":
    main()
