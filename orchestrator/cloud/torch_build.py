"""Choose the build of torch for a machine: the one with CUDA takes 4 GB that a machine without a GPU has no use for."""

from __future__ import annotations

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def cpu_torch_script(pip: str, constraints: str) -> str:
    """Return a script of `sh` that installs the CPU build, and succeeds if it cannot: the default build works too.

    Args:
        pip: command that runs pip, quoted for a shell.
        constraints: path of the file with the pinned versions, quoted for a shell.
    """
    pinned = f"\"$(grep '^torch==' {constraints})\""
    return f"PIP_TIMEOUT=10 PIP_RETRIES=0 {pip} install -q --no-deps --index-url {CPU_INDEX} {pinned} || true"
