"""What an attempt ran on and with: provenance for the record."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

DIFF_LEN = 32_000
"""Characters of a diff that a record keeps: it is in the record of every attempt."""
PACKAGES = ("trm-orchestrator", "torch", "ray", "optuna", "mlflow", "numpy", "pyarrow")


@cache
def versions() -> dict[str, str]:
    """Python and the packages that matter to a result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def git_state() -> dict[str, Any]:
    """commit and dirty of this code's checkout, and the diff if dirty; empty for an installed wheel."""
    folder = Path(__file__).parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    if not git("status", "--porcelain", "--untracked-files=no"):
        return {"commit": commit, "dirty": False}
    return {"commit": commit, "dirty": True, "diff": (git("diff", "HEAD") or "")[:DIFF_LEN]}


@cache
def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def describe(device: str) -> dict[str, Any]:
    """host, pid, device and processor of this process; for CUDA also the GPU's name and memory."""
    found: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": device,
        "processor": processor(),
        "cpu_count": os.cpu_count(),
        "versions": versions(),
        "git": git_state(),
    }
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return found
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu_name": properties.name, "gpu_memory_bytes": properties.total_memory}
    return found
