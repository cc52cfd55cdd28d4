"""Sweeps one after the other, whose driver is started again whenever it ends: what a user, or a service manager, does.

A lane also does what messages and documentation ask of an operator: it restores the files of records that are damaged,
and runs `trm sweep retry` for trials that were marked failed.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.records.index import find_definition
from orchestrator.records.progress import sweep_progress
from orchestrator.records.reader import read_sweep
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.storage import Storage
from tests.chaos.auditor import AWAY
from trm_data.errors import UserError

logger = logging.getLogger(__name__)

TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
SWEEP_FILE = """
from orchestrator.sweep import ResourceRule, Resources, Sweep, choice
from tests.support.sweeps import tiny_config

base = tiny_config(**{
    "train.max_steps": 160, "runtime.evaluate_every": 20, "runtime.num_threads": 1, "runtime.checkpoint_every_s": 0.5,
})
rules = (
    ResourceRule(when={"T": 1}, resources=Resources(gpus=0.5, gpu_type="L40S")),
    ResourceRule(when={"T": 2}, resources=Resources(gpus=1, gpu_type="H100")),
)
sweep = Sweep(
    name=NAME, base=base, space={"T": choice(1, 2)}, seeds=2, max_concurrent=2, resource_rules=rules if GPUS else (),
)
"""
RESTART_S = 1.0
LOG_TAIL = 4000


def write_sweep(file: Path, name: str, gpus: bool) -> Path:
    """Write the definition of a sweep of four trials; on stand-in GPUs, or on cores."""
    file.write_text(SWEEP_FILE.replace("NAME", repr(name)).replace("GPUS", repr(gpus)))
    return file


class Lane(threading.Thread):
    """Run sweeps until `finish` is called, and then the last one to its end.

    Args:
        storage: as an undisturbed process sees it.
        options: of `trm sweep run`: the storage as the drivers see it, the tracker, the cluster.
        has_gpus: whether trials ask for stand-in GPUs.
    """

    def __init__(
        self, name: str, folder: Path, storage: Storage, options: Sequence[str], environment: Mapping[str, str],
        has_gpus: bool,
    ) -> None:  # fmt: skip
        super().__init__(name=f"lane-{name}", daemon=True)
        self.lane = name
        self.storage = storage
        self.driver: subprocess.Popen[bytes] | None = None
        self.sweep = ""
        """The one that runs."""
        self.complete: list[str] = []
        self.exits: Counter[str] = Counter()
        self.repairs: Counter[str] = Counter()
        self.driver_pids: list[int] = []
        self.damaged: dict[str, bytes] = {}
        """Keys of records that were corrupted, with what they held."""
        self.lock = threading.Lock()
        """Held while a record is corrupted or restored."""
        self.log = folder / f"{name}.log"
        self._folder, self._options, self._environment = folder, options, environment
        self._has_gpus = has_gpus
        self._last = threading.Event()
        self._abort = threading.Event()

    def finish(self, limit_s: float) -> bool:
        """Start no further sweep, wait for the one that runs, and return whether it was completed in time."""
        self._last.set()
        self.join(limit_s)
        is_late = self.is_alive()
        self.abort()
        self.join()
        return not is_late

    def abort(self) -> None:
        """Kill the driver, and start none any more."""
        self._last.set()
        self._abort.set()
        if (driver := self.driver) is not None:
            driver.kill()

    def run(self) -> None:
        """Run one sweep after the other."""
        while not self._last.is_set() and not self._abort.is_set():
            self.sweep = f"{self.lane}-{len(self.complete) + 1}"
            file = write_sweep(self._folder / f"{self.sweep}.py", self.sweep, self._has_gpus)
            command = [*TRM, "sweep", "run", str(file), *self._options]
            while not self._abort.is_set():
                code = self.drive(command)
                self.exits[AWAY if code == 2 and self._head_was_away() else _name_of(code)] += 1
                self._repair()
                if code == 0 and self._is_complete():
                    self.complete.append(self.sweep)
                    break
                self._abort.wait(RESTART_S)

    def running(self) -> list[TrialRecord]:
        """The trials of the sweep that runs which have begun and not ended, as far as records say."""
        with suppress(UserError):
            if self.sweep and find_definition(self.storage, self.sweep):
                found = read_sweep(self.storage, self.sweep).trials
                return [record for record in found if record.status is Status.RUNNING]
        return []

    def tail(self) -> str:
        """The end of what the drivers have printed."""
        return self.log.read_text(errors="replace")[-LOG_TAIL:] if self.log.exists() else ""

    def drive(self, command: Sequence[str]) -> int:
        """Run one command to its end, and return its exit code."""
        with self.log.open("ab") as log:
            log.write(f"--- {self.sweep} at {time.time():.1f}\n".encode())
            log.flush()
            self.driver = subprocess.Popen(
                command, env=dict(self._environment), stdout=log, stderr=log, start_new_session=True
            )
            self.driver_pids.append(self.driver.pid)
            code = self.driver.wait()
            self.driver = None
            log.write(f"--- ended with {code}\n".encode())
        return code

    def _head_was_away(self) -> bool:
        """Return whether the last driver was started while the head of the cluster was down."""
        return any("no Ray cluster answers at" in line for line in self.tail().splitlines()[-2:])

    def _is_complete(self) -> bool:
        definition = find_definition(self.storage, self.sweep)
        return definition is not None and not sweep_progress(definition, self._records()).left

    def _records(self) -> list[TrialRecord]:
        return read_sweep(self.storage, self.sweep).trials

    def _repair(self) -> None:
        """Do what an operator is asked to do."""
        try:
            with self.lock:
                for key in list(self.damaged):
                    self.storage.write(key, self.damaged[key])
                    del self.damaged[key]
                    self.repairs["record restored"] += 1
            if find_definition(self.storage, self.sweep) is None:
                return
            failed = [record for record in self._records() if record.status.is_failure]
        except UserError as error:  # the disk is full
            logger.info("%s: not repaired yet: %s", self.lane, error)
            return
        for record in failed:
            self.repairs[f"trial retried: {record.reason[:90]}"] += 1
        if failed:
            command = [*TRM, "sweep", "retry", self.sweep, "--storage", self.storage.url]
            subprocess.run(command, env=dict(self._environment), capture_output=True, check=False)


def _name_of(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit {code}"
