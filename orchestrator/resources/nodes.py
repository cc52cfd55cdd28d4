"""Describe a running Ray cluster by asking its head, without joining it as a driver."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.errors import ClusterError

GPU_LABEL = "ray.io/accelerator-type"
MARKET_LABEL = "ray.io/market-type"

SETTINGS_FRAME = 4
HTTP2_START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, SETTINGS_FRAME, 0, 0, 0, 0, 0))
"""What a client of HTTP/2 sends first: the preface and an empty frame of settings (RFC 9113, section 3.4)."""


@dataclass(frozen=True, slots=True)
class Node:
    """Describe a node of a cluster that is alive."""

    node_id: str
    host: str
    is_head: bool
    num_cpus: float
    num_gpus: float
    gpu_type: str | None
    """Its label `ray.io/accelerator-type`, which Ray sets by itself where it finds a known GPU."""
    market: str | None
    name: str = ""
    """What `ray start --node-name` gave it, else its address."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Hold the nodes that are alive, the head first, and the versions that a driver must match."""

    nodes: list[Node]
    ray_version: str
    python_version: str

    def summary(self) -> str:
        """Format the cluster as `3 nodes, 8 CPUs, 4 L40S, 2 H100`."""
        gpus: dict[str, float] = {}
        for node in self.nodes:
            if node.num_gpus:
                kind = node.gpu_type or "GPUs without a type label"
                gpus[kind] = gpus.get(kind, 0) + node.num_gpus
        parts = [f"{len(self.nodes)} node{'s' * (len(self.nodes) != 1)}"]
        parts += [f"{sum(node.num_cpus for node in self.nodes):g} CPUs"]
        return ", ".join(parts + [f"{count:g} {kind}" for kind, count in sorted(gpus.items())])


def describe_cluster(address: str, timeout_s: float = 2.0) -> Cluster:
    """Describe the cluster whose head answers at HOST:PORT. The token comes from where Ray looks for it.

    Raises:
        ClusterError: nothing answers, another server does, or it refuses (token, another version of Ray).
    """
    require_answer(address, timeout_s)
    _require_grpc(address, timeout_s)
    try:
        with _silent_core():
            return _ask(address, timeout_s)
    except Exception as error:  # Ray's core raises RuntimeError, ValueError, KeyError and its own errors here
        text = " ".join(str(error).split())
        remedy = "Give this process the cluster's token: RAY_AUTH_MODE=token and ~/.ray/auth_token"
        raise ClusterError(f"{address} does not answer as a Ray head: {text[:200]}", remedy) from error


def require_answer(address: str, timeout_s: float = 2.0) -> None:
    """Raise ClusterError unless something listens at HOST:PORT. Ray's own client would try for 40 s."""
    try:
        socket.create_connection(parse_address(address), timeout=timeout_s).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error.strerror or error})",
            "Start one with `ray start --head --port 6379`, or leave --address out to run on this machine",
        ) from error


def _require_grpc(address: str, timeout_s: float) -> None:
    """Raise ClusterError if another server than gRPC answers, such as Ray's dashboard, which Ray asks for 40 s.

    A server that is silent or hangs up may be a busy head, or the tunnel to one.
    """
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # an unencrypted question says nothing then
    try:
        with socket.create_connection(parse_address(address), timeout=timeout_s) as connection:
            connection.sendall(HTTP2_START)
            answer = connection.recv(9)
    except OSError:
        return
    if answer and answer[3:4] != bytes((SETTINGS_FRAME,)):  # the type follows the length, of three bytes
        raise ClusterError(
            f"{address} is not the port of a Ray head: another server answers there",
            "Give the port of `ray start --head`: 6379, unless --port was given. The dashboard's (8265) is another",
        )


def scales() -> bool:
    """Return whether the cluster that this process has joined has an autoscaler that starts nodes."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, without stubs
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    reply = GetClusterStatusReply.FromString(client.get_cluster_status(timeout_s=5))
    return bool(reply.HasField("autoscaling_state"))


@contextmanager
def _silent_core() -> Iterator[None]:
    """Hide what Ray's core prints to the terminal before its log level can be set."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _ask(address: str, timeout_s: float) -> Cluster:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, without stubs

    client = GcsClient(address=address)
    alive = [info for info in client.get_all_node_info(timeout=timeout_s).values() if info.state == 0]
    metadata = json.loads(client.internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=timeout_s) or b"{}")
    nodes = [
        Node(
            node_id=info.node_id.hex(),
            host=info.node_manager_address,
            is_head=info.is_head_node,
            num_cpus=info.resources_total.get("CPU", 0.0),
            num_gpus=info.resources_total.get("GPU", 0.0),
            gpu_type=info.labels.get(GPU_LABEL),
            market=info.labels.get(MARKET_LABEL),
            name=info.node_name,
        )
        for info in alive
    ]
    nodes.sort(key=lambda node: (not node.is_head, node.node_id))
    return Cluster(nodes, metadata.get("ray_version", ""), metadata.get("python_version", ""))


def parse_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT. Raises ClusterError if it is not of that form."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ClusterError(f"--address {address!r} is not HOST:PORT", "Example: --address 10.0.0.5:6379")
    return host, int(port)
