"""End a deployment from its head: at its budget, at its longest time, when it is idle, when its driver was lost.

    python -m orchestrator.cloud.timer FOLDER STORAGE NAME

The client may be gone, so nothing here needs it. Limits, prices and the command that ends the machine come from a file
of this machine (`orchestrator.cloud.launch_file`); the record, which others may write, can only end a deployment early.
The driver is ended first, cleanly, then Ray, then the record is closed, which ends the Ray of other machines, and last
the command runs that ends the machine itself, where there is one.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orchestrator.cloud import deployments, launch_file, processes
from orchestrator.cloud.backend import Deployment
from orchestrator.cloud.receipt import spent_usd
from orchestrator.records.index import sweep_folder
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.lease import LOCK, driver_of
from trm_data.errors import UserError

logger = logging.getLogger(__name__)

CLOSED = "closed: its record says that its machines are gone"
POLL_S = 10.0
END_ATTEMPTS = 30
"""Times that the command that ends the machine is tried."""
END_AGAIN_S = 60.0
UNLISTED_S = 180.0
"""Time without a list of the machines after which the timer gives no sign of life."""
BEAT_S = 60.0
"""Seconds between the signs of life that `trm cloud status` looks for."""


@dataclass(slots=True)
class Timer:
    """Watch one deployment. `folder` is its folder on this machine; `clock` and `sleep` use seconds."""

    folder: Path
    storage: Storage
    name: str
    poll_s: float = POLL_S
    grace_s: float = processes.GRACE_S
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    _driven_s: float = field(default=0.0, init=False)
    """When a driver was last seen."""
    _beat_s: float = field(default=float("-inf"), init=False)
    """When the last sign of life was written."""
    _last: Deployment | None = field(default=None, init=False)
    """The record as it was last read."""
    _told: launch_file.LaunchFile = field(init=False)
    """What the user has said, as it was last read."""

    def run(self) -> str:
        """Watch until the deployment is over, then end it. Return why.

        Raises:
            CloudError: the folder has no launch file.
        """
        self._driven_s = self.clock()
        self._told = launch_file.load(self.folder)
        while not (why := self.reason()):
            self._beat()
            self.sleep(self.poll_s)
        return self.end(why)

    def _beat(self) -> None:
        """Write a sign of life from time to time, unless new machines would not be counted."""
        if self.clock() - self._beat_s < BEAT_S:
            return
        listed_s = self._told.listed_s
        if listed_s is not None and self.clock() - listed_s > UNLISTED_S:
            logger.error("machines have not been listed for %.0f s: new ones are not counted", self.clock() - listed_s)
            return
        self._beat_s = self.clock()
        try:
            deployments.beat(self.storage, self.name, self._beat_s)
        except UserError as error:
            logger.warning("no sign of life could be written: %s", error)

    def _reread(self) -> None:
        """Read the launch file again: machines come and go. A damaged one changes nothing."""
        try:
            self._told = launch_file.load(self.folder)
        except UserError as error:
            logger.warning("%s", error)

    def _is_closed(self) -> bool:
        """Return whether somebody has closed or removed the record. While it cannot be read, nobody has."""
        try:
            found = deployments.find(self.storage, self.name)
        except UserError as error:  # an outage, or a record that is damaged or of a newer version
            logger.warning("the record cannot be read: %s", error)
            return False
        if found is None:
            return self._last is not None
        self._last = found
        return found.state in deployments.OVER

    def reason(self) -> str:
        """Return why the deployment must end now; an empty string while it may go on."""
        self._reread()
        now_s, limits, machines = self.clock(), self._told.limits, self._told.machines
        if self._is_closed():
            return CLOSED
        usd = spent_usd(machines, now_s)
        if limits.max_usd is not None and usd is not None and usd >= limits.max_usd:
            return f"budget: ${usd:.2f} of ${limits.max_usd:.2f} of machine hours are spent"
        up_s = min((machine.up_s for machine in machines), default=self._told.created_s)
        if limits.max_hours is not None and now_s - up_s >= limits.max_hours * 3600:
            return f"lifetime: the machines have been up for {limits.max_hours:g} h"
        try:
            if processes.is_alive(self.folder, processes.DRIVER) or self._has_driver():
                self._driven_s = now_s
                return ""
            # A driver that ends by itself releases its lease.
            is_held = sweep_folder(self.storage, self.name).exists(LOCK)
            reason = ""
            if processes.find(self.folder, processes.DRIVER) is not None and is_held:
                reason = "lost driver: its process is gone and has not released the sweep"
            elif now_s - self._driven_s >= limits.idle_minutes * 60:
                reason = f"idle: no driver for {limits.idle_minutes:g} min"
            if reason and self._has_driver(if_silent="watch"):
                self._driven_s = now_s
                return ""
        except UserError:  # whether a driver on another machine runs is not known during an outage
            return ""
        return reason

    def _has_driver(self, if_silent: Literal["dead", "watch"] = "dead") -> bool:
        return driver_of(sweep_folder(self.storage, self.name), if_silent=if_silent) is not None

    def end(self, why: str) -> str:
        """End the driver and the machine, and close the record, whatever fails before. Return what was done."""
        logger.info("%s", why)
        try:
            done = processes.end_driver(self.storage, self.name, self.folder, why, self.grace_s)
        except UserError as error:
            done = f"the driver was not ended cleanly: {error}"
            processes.end(self.folder, processes.DRIVER, self.grace_s / 4)
        # Those of workers see that the record is closed.
        processes.end(self.folder, processes.RAY, processes.RAY_GRACE_S)
        command = self._told.end_command
        self._close(why, is_gone=command is not None)
        # Whoever starts a driver looks at the record afterwards: one that was started meanwhile ends here or there.
        processes.end(self.folder, processes.DRIVER, self.grace_s / 4)
        if command:
            self._end_machine(command, why)
        return f"{why}; {done}"

    def _close(self, why: str, *, is_gone: bool) -> None:
        now_s = self.clock()

        def closed(current: Deployment) -> Deployment:
            if current.state == "down":
                return current
            # The launch file may be older than the record, which then has machines that it lacks.
            told = {machine.name: machine for machine in self._told.machines}
            merged = {machine.name: machine for machine in current.machines} | told
            current = current.model_copy(update={"machines": tuple(merged.values())})
            if is_gone:
                return deployments.ended(current, why, now_s)
            # The machine bills until it is returned, so that its hours go on.
            machines = tuple(machine.model_copy(update={"down_s": None}) for machine in current.machines)
            first = current.ended_why if why == CLOSED else ""  # whoever has closed it knows why
            ended = {"ended_s": current.ended_s or now_s, "ended_why": first or why, "machines": machines}
            return current.model_copy(update={"state": "ended", **ended})

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
    folder, url, name = arguments
    logger.info("%s", Timer(Path(folder), open_storage(url), name).run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
