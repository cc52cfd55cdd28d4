"""Choose how the process of a trial starts: forked by a server on Linux, spawned elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol

from orchestrator.worker.fork_server import PRELOAD, ForkedProcess
from orchestrator.worker.spawned import SpawnedProcess


class ChildProcess(Protocol):
    """Describe a process that waits until it is given its work: a `ForkedProcess`, or a `SpawnedProcess`."""

    def run(self, entry_point: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None: ...
    def send(self, message: Any) -> None: ...
    def poll(self, timeout_s: float) -> bool: ...
    def receive(self) -> Any: ...
    def join(self, timeout_s: float) -> bool: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


def next_process(*, is_quiet: bool = False) -> ChildProcess:
    """Return a process for the next trial of this driver's sweep on this machine. `is_quiet`: see `ForkedProcess`."""
    if sys.platform != "linux":
        return SpawnedProcess()
    import ray

    context = ray.get_runtime_context()
    return ForkedProcess(f"trm-{context.get_node_id()}-{context.get_job_id()}", PRELOAD, is_quiet=is_quiet)
