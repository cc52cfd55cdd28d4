"""Find out what a machine has: its home folder, cores, free space, Python and GPUs. Changes nothing there."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from orchestrator.cloud.backend import CloudError
from orchestrator.cloud.ssh.connection import Connection, quoted
from orchestrator.resources.catalogue import ray_label

OLDEST = (3, 11)

_SCRIPT = """\
echo "home=$HOME"
echo "time=$(date +%s)"
echo "machine=$(hostname 2>/dev/null) $(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"
echo "cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)"
echo "free=$(df -Pk "$HOME" | awk 'NR == 2 {{ print $4 }}')"
for tool in tar mkdir; do command -v $tool >/dev/null 2>&1 || echo "lacks=$tool"; done
{python} -c 'import sys; print("python=%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | sed 's/^/gpu=/'
exit 0
"""


class Found(NamedTuple):
    """Hold what a machine has."""

    home: str
    cores: float
    free_bytes: int
    python: str
    """Version of the interpreter."""
    gpu: str | None
    """Ray's label of its GPUs; None without any."""
    num_gpus: int
    machine: str = ""
    """Its name, and what identifies its last start."""
    ahead_s: float = 0.0
    """Seconds by which its clock is ahead of this computer's."""


def home_of(connection: Connection) -> str:
    """Return the home folder of a machine. Raises CloudError if it does not say."""
    home = connection.run('echo "$HOME"').out.strip()
    if not home.startswith("/") or not home.isprintable():
        raise CloudError(f"{connection.host} does not say where its home folder is", "Look at the machine")
    return home


def is_missing(connection: Connection, folder: str) -> bool:
    """Return whether a machine has no such folder."""
    return connection.run(f"test -d {quoted(folder)}", check=False).code == 1


def _number(text: str | None) -> int:
    """Return a number that a machine has printed; 0 if it is none."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 19 else 0


def inspect(connection: Connection, python: str) -> Found:
    """Return what a machine has.

    Raises:
        CloudError: it cannot be reached, or lacks a usable Python or a tool.
    """
    out = connection.run(_SCRIPT.format(python=quoted(python))).out
    pairs = [line.split("=", 1) for line in out.splitlines() if "=" in line]
    values = {name: value.strip() for name, value in pairs}
    gpus = [value.strip() for name, value in pairs if name == "gpu"]
    if "lacks" in values:
        raise CloudError(f"{connection.host} has no `{values['lacks']}`", "Install it there")
    if "python" not in values:
        raise CloudError(
            f"{connection.host} has no {python}", "Install Python 3.11 or newer there, or name one: --python"
        )
    if "home" not in values or not re.fullmatch(r"\d+\.\d+\.\d+", values["python"]):
        raise CloudError(
            f"{connection.host} has not answered as a shell does", f"Try it by hand: ssh {connection.host}"
        )
    if tuple(map(int, values["python"].split(".")[:2])) < OLDEST:
        raise CloudError(
            f"{python} on {connection.host} is Python {values['python']}, and 3.11 or newer is needed",
            "Install one there and name it: --python python3.11",
        )
    return Found(
        home=values["home"],
        cores=float(_number(values.get("cores")) or 1),
        free_bytes=1024 * _number(values.get("free")),
        python=values["python"],
        gpu=ray_label(gpus[0]) if gpus else None,
        num_gpus=len(gpus),
        machine=values.get("machine", ""),
        ahead_s=_number(values["time"]) - time.time() if values.get("time") else 0.0,
    )
