"""Put the project and its environment onto a machine."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from orchestrator.cloud.backend import CloudError, Deployment, Options
from orchestrator.cloud.progress import waiting_for
from orchestrator.cloud.ssh import project as uploads
from orchestrator.cloud.ssh.connection import Connection, by_hand, quoted, words
from orchestrator.cloud.ssh.inspection import Found
from orchestrator.cloud.torch_build import cpu_torch_script
from orchestrator.sweep.text import about
from orchestrator.worker.provenance import STATE_FILE, git_state
from trm_data.settings import canonical_json

logger = logging.getLogger(__name__)

MIN_FREE_BYTES = 2 * 10**9
"""Free space below which nothing is started: checkpoints and datasets need more than this."""
INSTALL_BYTES, CUDA_BYTES = 3 * 10**9, 5 * 10**9
"""Free space that a new environment takes, and what CUDA takes besides."""
INSTALL_S = 3600.0
MAX_CLOCK_S = 120.0
"""Difference of two clocks above which nothing is started: the timer counts from when this computer began."""


def require_usable(connection: Connection, found: Found, deployment: Deployment) -> None:
    """Raise CloudError if the disk of a machine is too full for a deployment, or its clock is wrong."""
    if abs(found.ahead_s) > MAX_CLOCK_S:
        way, when = ("ahead of", "early") if found.ahead_s > 0 else ("behind", "late")
        raise CloudError(
            f"the clock of {connection.host} is {about(abs(found.ahead_s))} {way} this computer's, so that the timer "
            f"there would end the launch too {when}",
            "Set the clock that is wrong: sudo timedatectl set-ntp true",
        )
    new = 0 if deployment.options.environment else INSTALL_BYTES + (CUDA_BYTES if found.num_gpus else 0)
    need = MIN_FREE_BYTES + new
    if found.free_bytes < need:
        free = f"{found.free_bytes / 1e9:.1f} GB free, and {need / 1e9:.0f} GB are needed"
        raise CloudError(
            f"the disk of {connection.host} has {free}",
            "Free some space there, rent a larger disk, or name an environment that it has: --environment",
        )


def claim_name(connection: Connection, place: str, deployment: Deployment) -> None:
    """Reserve a folder of the machine for a launch. Of several computers that do so at once, one succeeds.

    Raises:
        CloudError: it belongs to another launch.
    """
    file, own = quoted(f"{place}/claim"), repr(deployment.created_s)
    aside = f"{file}.$$"  # a link appears with its content
    script = (
        f"umask 077; mkdir -p {quoted(place)} && echo {own} > {aside} || exit 1; "
        f"ln {aside} {file} 2> /dev/null; rm -f {aside}; cat {file}"
    )
    if connection.run(script).out.strip() != own:
        remove = by_hand(connection.host, f"rm -r {quoted(place)}")
        raise CloudError(
            f"{connection.host} has a deployment {deployment.name!r} already",
            f"Look at it with `trm cloud status {deployment.name} {connection.host}`, end it, or rename the sweep. "
            f"If nothing of it runs, remove it: {remove}",
        )


def release_name(connection: Connection, place: str) -> None:
    """Let the next launch have the folder, whose environment was kept."""
    connection.run(f"rm -f {quoted(f'{place}/claim')}", check=False)


def _expanded(path: str, found: Found) -> str:
    """Return a path of the machine without `~/`."""
    return f"{found.home}/{path[2:]}" if path.startswith("~/") else path


def upload(connection: Connection, place: str) -> None:
    """Upload the tracked files of the project in place of what is there."""
    project = uploads.find_project()
    folder = quoted(place)
    top = quoted(place.partition("/deployments/")[0])
    connection.run(f"mkdir -p {folder} && chmod 700 {top} && rm -rf {folder}/project")
    with tempfile.TemporaryDirectory(prefix="trm-upload-") as aside:
        archive = Path(aside) / "project.tar"
        uploads.pack(project, archive)
        connection.send(archive, f"{place}/project")
    state = canonical_json(git_state()).encode()
    connection.run(f"cat > {quoted(f'{place}/project/{STATE_FILE}')}", state)


def install(connection: Connection, top: str, place: str, found: Found, options: Options) -> str:
    """Make the environment, unless one with the same requirements is there or the user has named one.

    Returns:
        The path of its interpreter.

    Raises:
        CloudError: the packages cannot be installed.
    """
    if options.environment:
        return f"{_expanded(options.environment, found)}/bin/python"
    project = uploads.find_project()
    name = uploads.environment_name(project, found.python, "" if found.num_gpus else " cpu")
    folder = f"{top}/environments/{name}"
    interpreter = f"{folder}/bin/python"
    if not connection.run(f"test -e {quoted(folder)}/complete", check=False).code:
        logger.info("using the environment %s of %s", folder, connection.host)
        return interpreter
    with waiting_for(f"packages are installed on {connection.host}:{folder}, which takes some minutes"):
        _install_new(connection, project, folder, place, found, options)
    return interpreter


def _install_new(
    connection: Connection, project: uploads.Project, folder: str, place: str, found: Found, options: Options
) -> None:
    """Make an environment with everything that the project requires."""
    interpreter = f"{folder}/bin/python"
    listed = "\n".join(uploads.requirements(project)) + "\n"
    file = f"{place}/requirements.txt"
    connection.run(f"cat > {quoted(file)}", listed.encode())
    made = connection.run(
        words([_expanded(options.python or "python3", found), "-m", "venv", folder]), check=False, limit_s=300
    )
    if made.code:
        if "ensurepip" in made.out + made.err:
            raise CloudError(
                f"Python on {connection.host} cannot make environments",
                "Install its venv there: apt install python3-venv",
            )
        raise CloudError(f"{connection.host}: no environment could be made: {(made.err or made.out).strip()[-200:]}")
    pip = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constraints = f"{place}/project/{project.constraints}"
    if not found.num_gpus:
        connection.run(cpu_torch_script(words(pip[:3]), quoted(constraints)), limit_s=INSTALL_S)
    command = words([*pip, "-r", file, "-c", constraints])
    connection.run(f"{command} && touch {quoted(folder)}/complete", limit_s=INSTALL_S)
