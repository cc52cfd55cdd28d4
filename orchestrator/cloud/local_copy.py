"""Copy what is uploaded into a folder of this machine, from which other tools upload it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from orchestrator.cloud.backend import CloudError
from orchestrator.cloud.ssh.project import find_project
from orchestrator.worker.provenance import STATE_FILE, git_state
from trm_data.settings import canonical_json


def state_folder(backend: str, name: str) -> Path:
    """Return the folder of a deployment on this machine, for its user only."""
    top = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = top / "trm"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # the mode is that of the last folder alone
    for part in (backend, name):
        folder /= part
        folder.mkdir(exist_ok=True, mode=0o700)
    return folder


def copy_project(folder: Path) -> Path:
    """Copy the tracked files of the project in place of what is there, with the commit that they are from.

    Raises:
        CloudError: this program was installed from a wheel, or which files belong to it is not known.
    """
    project = find_project()
    if project.installed:  # machines that are rendered install the project with pip, from its source
        raise CloudError(
            "this program was installed from a wheel, and these machines install it from its source",
            "Run `trm` from a clone of the repository; --on ssh takes an installed program too",
        )
    shutil.rmtree(folder, ignore_errors=True)
    for name in project.files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(project.root / name, target)
    (folder / STATE_FILE).write_text(canonical_json(git_state()))
    return folder


def gpu_words_of(gpus: float | None) -> list[str]:
    """Return the option with which a driver uses the GPUs of a cluster, where the sweep leaves that open.

    On a cluster the default is trials on CPUs, which is not what machines with GPUs are rented for.

    Args:
        gpus: that the sweep asks for, per trial.
    """
    return ["--gpu", "any"] if gpus is None else []


def gpu_words(plan: Path) -> list[str]:
    """Return the same for the sweep of a plan file."""
    with plan.open(encoding="utf-8") as file:
        resources = json.loads(file.readline())["sweep"].get("resources", {})
    return gpu_words_of(resources.get("gpus"))
