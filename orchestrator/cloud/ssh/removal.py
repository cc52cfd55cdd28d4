"""Remove a deployment from its machines. Only folders below `~/.trm-cloud/deployments` are removed."""

from __future__ import annotations

import re

from orchestrator.cloud.backend import FOLDER, CloudError, Deployment, Worker
from orchestrator.cloud.ssh.connection import Connection, by_hand, quoted
from orchestrator.cloud.ssh.site import DEPLOYMENTS, Site

Outcome = tuple[list[str], list[str]]
"""What was done, and what is left with the command that removes it."""


def require_own_places(deployment: Deployment) -> None:
    """Raise CloudError if the record, which others may write, names other folders than its own."""
    head = deployment.options.hosts[0] if deployment.options.hosts else "the head"
    name = re.escape(deployment.name)
    _require_own(head, deployment.place, name, deployment.name)
    for worker in deployment.workers:
        _require_own(worker.host, worker.place, rf"{name}/worker-\d+", deployment.name)


def _require_own(host: str, place: str, pattern: str, name: str) -> None:
    top, _, below = place.partition(DEPLOYMENTS)
    is_own = top.endswith(f"/{FOLDER}") and re.fullmatch(pattern, below) is not None
    if not is_own or ".." in place.split("/"):
        raise CloudError(
            f"the record of {name!r} names {place!r} as its folder on {host}, and only a folder below "
            f"~/{FOLDER}/deployments is removed",
            "Look at the machine; --forget closes the record alone",
        )


def end_worker(deployment: Deployment, worker: Worker, ssh_config: str | None, keep: bool) -> Outcome:
    """End Ray on a machine beside the head, and remove the deployment from it. A failure is told, not raised."""
    with Connection(worker.host, ssh_config) as connection:
        site = Site.of_worker(connection, deployment, worker)
        try:
            ended = []
            if site.was_used():
                site.head("end-ray")
                ended.append(f"Ray has ended on {worker.host}")
            removed, left = remove(connection, worker.place, keep)
            return [*ended, *removed], left
        except CloudError as error:
            end = site.script(worker.interpreter, "-m", "orchestrator.cloud.head", "end-ray", *site.about())
            script = (
                f"({end}); rm -rf {quoted(worker.place)}" if worker.interpreter else f"rm -rf {quoted(worker.place)}"
            )
            return [], [f"{worker.host}:{worker.place} ({error.what}); end it with: {by_hand(worker.host, script)}"]


def remove(connection: Connection, place: str, keep: bool) -> Outcome:
    """Remove a folder of a deployment, and with the last one everything that was put onto the machine."""
    top, _, name = place.partition(DEPLOYMENTS)
    if keep:
        return [], [f"{connection.host}:{top}; remove it with: {by_hand(connection.host, f'rm -r {quoted(top)}')}"]
    # Environments are shared by deployments: the last one takes them along. The folder of a worker lies in that of the
    # head where machines have a common home folder.
    script = (
        f"rm -rf {quoted(place)}; cd {quoted(f'{top}/deployments')} 2>/dev/null || exit 0; "
        f'rmdir {quoted(name.partition("/")[0])} 2>/dev/null; [ -n "$(ls -A)" ] || rm -rf {quoted(top)}'
    )
    connection.run(script, limit_s=900)
    left = []
    if not connection.run(f"test -e {quoted(top)}", check=False).code:
        left.append(f"{connection.host}:{top}: other deployments use it")
    whole = "" if left else ", with the environment that was installed (--keep leaves it)"
    return [f"removed {connection.host}:{place}{whole}"], left
