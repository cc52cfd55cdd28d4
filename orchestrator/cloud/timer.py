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
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.lease import LOCK, driver_of
from trm_data.errors import UserError

logger = logging.getLogger(__name__)

POLL_S = 10.0
END_ATTEMPTS = 30
"""Times that the command that ends the machine is tried."""
END_AGAIN_S = 60.0


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
    _last: Deployment | None = field(default=None, init=False)
    """The record as it was last read."""

    def run(self) -> str:
        """Watch until the deployment is over, then end it. Return why."""
        self._driven_s = self.clock()
        while True:
            deployment = self._read()
            if deployment is not None and deployment.state == "ended":
                return "the deployment has been ended before"
            if deployment is not None and (why := self.reason(deployment)):
                return self.end(deployment, why)
            self.sleep(self.poll_s)

    def _read(self) -> Deployment | None:
        """Return the record. While it cannot be read, the last one counts: its limits hold during an outage too."""
        try:
            found = deployments.find(self.storage, self.name)
        except UserError as error:  # an outage, or a record that is damaged or of a newer version
            logger.warning("the record cannot be read: %s", error)
            return self._last
        if found is None and self._last is not None:
            return self._last.model_copy(update={"state": "down"})  # somebody has removed it
        self._last = found
        return found

    def reason(self, deployment: Deployment) -> str:
        """Return why the deployment must end now; an empty string while it may go on."""
        now_s, limits = self.clock(), deployment.limits
        if deployment.state == "down":
            return "closed: its record says that its machines are gone"
        usd = spent_usd(deployment, now_s)
        if limits.max_usd is not None and usd is not None and usd >= limits.max_usd:
            return f"budget: ${usd:.2f} of ${limits.max_usd:.2f} of machine hours are spent"
        up_s = min((machine.up_s for machine in deployment.machines), default=deployment.created_s)
        if limits.max_hours is not None and now_s - up_s >= limits.max_hours * 3600:
            return f"lifetime: the machines have been up for {limits.max_hours:g} h"
        try:
            if processes.is_alive(self.folder, processes.DRIVER) or self._has_driver():
                self._driven_s = now_s
                return ""
            # A driver that ends by itself releases its lease.
            is_held = sweep_folder(self.storage, self.name).exists(LOCK)
        except UserError:  # whether a driver on another machine runs is not known during an outage
            return ""
        if processes.find(self.folder, processes.DRIVER) is not None and is_held:
            return "lost driver: its process is gone and has not released the sweep"
        if now_s - self._driven_s >= limits.idle_minutes * 60:
            return f"idle: no driver for {limits.idle_minutes:g} min"
        return ""

    def _has_driver(self) -> bool:
        return driver_of(sweep_folder(self.storage, self.name)) is not None

    def end(self, deployment: Deployment, why: str) -> str:
        """End the driver and the machine, and close the record, whatever fails before. Return what was done."""
        logger.info("%s", why)
        try:
            done = processes.end_driver(self.storage, self.name, self.folder, why, self.grace_s)
        except UserError as error:
            done = f"the driver was not ended cleanly: {error}"
            processes.end(self.folder, processes.DRIVER, self.grace_s / 4)
        # Those of workers see that the record is closed.
        processes.end(self.folder, processes.RAY, processes.RAY_GRACE_S)
        self._close(why, is_gone=self.end_command is not None)
        if self.end_command:
            self._end_machine(self.end_command, why)
        return f"{why}; {done}"

    def _close(self, why: str, *, is_gone: bool) -> None:
        now_s = self.clock()

        def closed(current: Deployment) -> Deployment:
            if current.state == "down":
                return current
            if is_gone:
                return deployments.ended(current, why, now_s)
            # The machine bills until it is returned, so that its hours go on.
            machines = tuple(machine.model_copy(update={"down_s": None}) for machine in current.machines)
            ended = {"state": "ended", "ended_s": current.ended_s or now_s, "ended_why": why, "machines": machines}
            return current.model_copy(update=ended)

        try:
            deployments.change(self.storage, self.name, closed)
        except UserError as error:  # the meter is stopped whether or not it can be written down
            logger.warning("the record could not be closed: %s", error)

    def _end_machine(self, command: str, why: str) -> None:
        """Run the command that ends the machine, again and again if it fails: the machine bills until it works."""
        for attempt in range(END_ATTEMPTS):
            if processes.run_command(command, self.folder):
                return
            if attempt == 0:
                self._close(
                    f"{why}; the command that ends the machine fails, so that it is still billed", is_gone=False
                )
            self.sleep(END_AGAIN_S)


def main(arguments: Sequence[str]) -> int:
    """Run the timer of the deployment that the arguments name."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder, url, name, *command = arguments
    own = next(iter(command), None) or processes.end_command(Path(folder))
    logger.info("%s", Timer(Path(folder), open_storage(url), name, end_command=own).run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
