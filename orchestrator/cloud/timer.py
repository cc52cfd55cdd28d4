"""End a deployment from its head: at its budget, at its longest time, when it is idle, when its driver was lost.

    python -m orchestrator.cloud.timer FOLDER STORAGE NAME

The client may be gone, so nothing here needs it. The driver is ended first, cleanly, then Ray, then the record is
closed, which ends the Ray of other machines, and last the command runs that ends the machine itself, where the user has
named one.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.cloud import deployments, processes
from orchestrator.cloud.backend import Deployment
from orchestrator.cloud.receipt import spent_usd
from orchestrator.records.index import sweep_folder
from orchestrator.storage import Storage, StorageError, open_storage
from orchestrator.storage.lease import LOCK, driver_of

logger = logging.getLogger(__name__)

POLL_S = 10.0


@dataclass(slots=True)
class Timer:
    """Watch one deployment. `folder` is its folder on this machine; `clock` and `sleep` use seconds."""

    folder: Path
    storage: Storage
    name: str
    end_command: str | None = None
    """Run last, to end the machine. It never comes from the record, which others may write."""
    poll_s: float = POLL_S
    grace_s: float = processes.GRACE_S
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    _driven_s: float = field(default=0.0, init=False)
    """When a driver was last seen."""

    def run(self) -> str:
        """Watch until the deployment is over, then end it. Return why."""
        self._driven_s = self.clock()
        while True:
            try:
                deployment = deployments.find(self.storage, self.name)
                if deployment is None or deployment.state in ("ended", "down"):
                    return "the deployment was ended by somebody else"
                if why := self.reason(deployment):
                    return self.end(deployment, why)
            except StorageError as error:  # an outage says nothing about the deployment
                logger.warning("storage is unavailable: %s", error)
            self.sleep(self.poll_s)

    def reason(self, deployment: Deployment) -> str:
        """Return why the deployment must end now; an empty string while it may go on."""
        now_s, limits = self.clock(), deployment.limits
        usd = spent_usd(deployment, now_s)
        if limits.max_usd is not None and usd is not None and usd >= limits.max_usd:
            return f"budget: ${usd:.2f} of ${limits.max_usd:.2f} of machine hours are spent"
        up_s = min((machine.up_s for machine in deployment.machines), default=deployment.created_s)
        if limits.max_hours is not None and now_s - up_s >= limits.max_hours * 3600:
            return f"lifetime: the machines have been up for {limits.max_hours:g} h"
        folder = sweep_folder(self.storage, self.name)
        if processes.is_alive(self.folder, processes.DRIVER) or driver_of(folder) is not None:
            self._driven_s = now_s
            return ""
        # A driver that ends by itself releases its lease.
        if processes.find(self.folder, processes.DRIVER) is not None and folder.exists(LOCK):
            return "lost driver: its process is gone and has not released the sweep"
        if now_s - self._driven_s >= limits.idle_minutes * 60:
            return f"idle: no driver for {limits.idle_minutes:g} min"
        return ""

    def end(self, deployment: Deployment, why: str) -> str:
        """End the driver and the machine, and close the record. Return what was done."""
        logger.info("%s", why)
        done = processes.end_driver(self.storage, self.name, self.folder, why, self.grace_s)
        processes.end(
            self.folder, processes.RAY, processes.RAY_GRACE_S
        )  # those of workers see that the record is closed
        command = self.end_command
        now_s = self.clock()

        def closed(current: Deployment) -> Deployment:
            if command:
                return deployments.ended(current, why, now_s)
            # The machine is the user's: it bills until it is returned, so that its hours go on.
            return current.model_copy(update={"state": "ended", "ended_s": now_s, "ended_why": why})

        try:
            deployments.change(self.storage, self.name, closed)
        except StorageError as error:  # the meter is stopped whether or not it can be written down
            logger.warning("the record could not be closed: %s", error)
        if command:
            processes.run_command(command, self.folder)
        return f"{why}; {done}"


def main(arguments: Sequence[str]) -> int:
    """Run the timer of the deployment that the arguments name."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder, url, name, *command = arguments
    own = next(iter(command), None) or processes.end_command(Path(folder))
    logger.info("%s", Timer(Path(folder), open_storage(url), name, end_command=own).run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
