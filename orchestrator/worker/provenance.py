"""Describe the code and the machine of an attempt, as provenance for its record.

The commit and the diff are recorded only if this package is tracked by the repository that it lies in: a virtual
environment may lie inside a repository that has nothing to do with it. The diff covers this project's own packages
only, and `TRM_RECORD_DIFF=0` leaves it out.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from trm_data.files import load_json

DIFF_LEN = 32_000
"""Characters of a diff that a record keeps: it is in the record of every attempt."""
DIFF_VARIABLE = "TRM_RECORD_DIFF"
"""Environment variable: 0 leaves the diff of a changed checkout out of records."""
PACKAGES = ("trm-orchestrator", "torch", "ray", "optuna", "mlflow", "numpy", "pyarrow")
OWN_PACKAGES = ("orchestrator", "trm_model", "trm_data")
STATE_FILE = "git-state.json"
"""File in the folder of an uploaded copy of the project: the git state of the checkout that it was copied from."""


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter to a result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def git_state() -> dict[str, Any]:
    """Return commit and dirty of this project's checkout, and the diff if dirty; empty for an installed package.

    A copy of the files without the repository, as `trm cloud` uploads it, has the state of the checkout in a file.
    """
    found = checkout_state(Path(__file__), _own_folders(), has_diff=os.environ.get(DIFF_VARIABLE, "1") != "0")
    return found or read_state(Path(__file__).parents[2] / STATE_FILE)


def read_state(file: Path) -> dict[str, Any]:
    """Return the state of a checkout that was written to a file; empty if there is none that can be read."""
    try:
        found = load_json(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def checkout_state(file: Path, folders: list[Path], *, has_diff: bool = True) -> dict[str, Any]:
    """Return commit and dirty of the repository that tracks `file`, and the diff of `folders` in it if dirty.

    Empty if no repository tracks it. Changes outside the folders count neither as dirty nor for the diff.
    """

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(file.parent), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or git("ls-files", "--error-unmatch", "--", file.name) is None:
        return {}
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    own = [str(folder) for folder in folders if folder.resolve().is_relative_to(Path(top).resolve())]
    if not git("status", "--porcelain", "--untracked-files=no", "--", *own):
        return {"commit": commit, "dirty": False}
    state: dict[str, Any] = {"commit": commit, "dirty": True}
    return state | {"diff": (git("diff", "HEAD", "--", *own) or "")[:DIFF_LEN]} if has_diff else state


def _own_folders() -> list[Path]:
    specs = [importlib.util.find_spec(name) for name in OWN_PACKAGES]
    return [Path(folder) for spec in specs if spec for folder in spec.submodule_search_locations or ()]


@cache
def processor() -> str:
    """Return the name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def differences(start: Mapping[str, Any]) -> list[str]:
    """List what differs between the machine of an attempt and this one, and may explain another result: versions,
    processor, device.

    Args:
        start: how the attempt began, as its record or a bundle has it; what is missing or malformed is passed over.
    """
    known, device, now = start.get("versions"), start.get("device"), processor()
    known = known if isinstance(known, Mapping) else {}
    found = [
        f"{name} {known[name]} then, {version} now"
        for name, version in versions().items()
        if known.get(name) not in (None, version)
    ]
    if device not in (None, "cpu"):
        found.append(f"it ran on {start.get('gpu_name') or device}: GPUs do not repeat bit for bit")
    elif start.get("processor") not in (None, now):
        found.append(f"processor {start['processor']} then, {now} now")
    return found


def describe(device: str) -> dict[str, Any]:
    """Return host, pid, device and processor of this process; for CUDA also the GPU's name and memory."""
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
