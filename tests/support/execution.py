"""A cluster that only says what it holds, and an executor that loses nodes as it is told: no Ray, no training."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from orchestrator.execution.controller import Controller
from orchestrator.execution.options import Callback, SweepOutcome, SweepSnapshot, TrialSnapshot
from orchestrator.records.index import trial_folder
from orchestrator.records.progress import SweepProgress
from orchestrator.records.schema import AttemptEnd, AttemptStart, Row, Status, TrialResult
from orchestrator.records.writer import TrialWriter
from orchestrator.storage import open_storage
from orchestrator.worker.job import Job

NODES = [("a", "L40S", 2), ("b", "H100", 1)]
Script = Callable[[str, int], str]
"""(trial id, times started) -> finish | fail [REASON] | diverge | lose | vanish | leave | interrupt REASON |
unrecorded REASON (interrupted, and unable to record it) | damage (its record cannot be read)."""


class StandIn:
    """Runs what the driver suggests, in an order of its own; every trial writes a record and no trial trains."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.allocations: dict[str, str] = {}
        self.most: dict[str, int] = {}
        self.order: list[tuple[str, str]] = []
        self.starts: Counter[str] = Counter()

    def fit(self, driver: Controller, slots: int) -> None:
        rng, running = random.Random(0), []
        idle = 0
        for _ in range(4000):
            while len(running) < slots and (config := driver.suggest()) is not None:
                running.append((Job.from_json(config["job"]), self._place(config)))
            if not running:
                if driver.is_finished or driver.is_stopping:
                    return
                idle += 1  # the sweep may pause for some hundredths of a second
                assert idle < 20_000, "nothing runs, nothing starts, and the sweep is not over"
                time.sleep(0.005)
                continue
            if driver.is_stopping:
                return
            self._play(driver, *running.pop(rng.randrange(len(running))))
        raise AssertionError("no end")

    def _place(self, config: dict[str, Any]) -> tuple[str, str | None]:
        rule = config["bundle"]["labels"].get("ray.io/accelerator-type", "")
        node = next((n for n, kind, _ in NODES if kind in rule or not rule), "a")
        kind = {n: k for n, k, _ in NODES}[node] if config["bundle"]["resources"].get("GPU") else None
        self.allocations[config["trial_id"]] = node
        self.most[node] = max(self.most.get(node, 0), list(self.allocations.values()).count(node))
        self.order.append((config["trial_id"], node))
        return node, kind

    def _play(self, driver: Controller, job: Job, place: tuple[str, str | None]) -> None:
        writer = TrialWriter(open_storage(job.storage_url), job.sweep, job.trial_id)
        self.starts[job.trial_id] += 1
        deed = self.script(job.trial_id, self.starts[job.trial_id])
        where = {"node_id": place[0], "gpu_type": place[1]}
        del self.allocations[job.trial_id]
        if deed == "vanish":  # its machine was gone before it began
            driver.ended(job.trial_id, lost=True, why="RuntimeError: exit code 1")
            return
        start = {"from_step": 0, "started_s": 1000.0, "gpu_type": place[1], "gpu_count": job.placement["gpu_count"]}
        writer.start(AttemptStart.parse({**start, "device": "cuda"}))
        writer.add(Row(4, 1010.0, "validation", {"exact_accuracy": 0.5, "raw_cell_accuracy": 0.5, "train_s": 0.5}))
        writer.flush()
        driver.result(job.trial_id, {**where, "kind": "progress", "trial_step": 4, "metrics": ()})
        end = {"step": 4, "train_s": 1.0, "ended_s": 1000.0 + 3600, "elapsed_s": 3600.0, "traceback": ""}
        if deed == "diverge":
            writer.end(AttemptEnd.parse({**end, "status": "diverged", "reason": "the loss is not finite"}))
        if deed == "finish":
            metrics = {"exact_accuracy": 0.5, "cell_accuracy": 0.5}
            result = {"split": "test", "items": 16, "metrics": metrics, "train_s": 1.0, "ended_s": 4600.0}
            writer.finish(TrialResult.parse({**result, "train_flops": 1.0, "per_item": "ff"}), {})
            writer.end(AttemptEnd.parse({**end, "status": "finished", "reason": ""}))
        elif deed.startswith("fail"):
            writer.end(AttemptEnd.parse({**end, "status": "failed", "reason": deed.partition(" ")[2] or "boom"}))
        elif deed.startswith("interrupt"):
            reason = deed.partition(" ")[2]
            writer.end(AttemptEnd.parse({**end, "status": "interrupted", "reason": reason}))
        elif deed.startswith("unrecorded"):
            report = {"kind": "end", "trial_step": 4, "metrics": (), "status": "interrupted"}
            driver.result(job.trial_id, {**where, **report, "reason": deed.partition(" ")[2]})
        elif deed == "damage":
            folder = trial_folder(open_storage(job.storage_url), job.sweep, job.trial_id)
            folder.write("result.json", b"{truncated")
        elif deed == "leave":
            writer.end(AttemptEnd.parse({**end, "status": "interrupted", "reason": "asked to stop"}))
        driver.ended(job.trial_id, lost=deed == "lose")


class FakeCluster:
    """A cluster of two nodes that only says what it holds."""

    address = None

    def __init__(self) -> None:
        self.failed = ""
        self.shutdowns: list[float] = []

    def start(self) -> None:
        pass

    def shutdown(self, limit_s: float, *, is_abandoned: bool = False) -> bool:
        self.shutdowns.append(limit_s)
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "NodeID": node,
                "Alive": True,
                "Labels": {"ray.io/accelerator-type": gpu},
                "Resources": {"CPU": 8, "GPU": count},
            }
            for node, gpu, count in NODES
        ]

    def resources(self) -> dict[str, float]:
        return {"CPU": 16, "GPU": 3}

    def scales(self) -> bool:
        return False

    def preloaded(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def failure(self) -> str:
        return self.failed

    def stopped(self) -> dict[int, str]:
        return {}


class Recorder(Callback):
    """Keep what was reported."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.events: list[str] = []
        self.ends: dict[str, Status] = {}
        self.threads: set[str] = set()

    def on_sweep_start(self, snapshot: SweepSnapshot) -> None:
        self._note("start")

    def on_trial_start(self, trial: TrialSnapshot) -> None:
        self._note("trial start")

    def on_trial_end(self, trial: TrialSnapshot, progress: SweepProgress) -> None:
        self._note(f"trial end {progress.done}/{progress.planned}")
        self.ends[trial.trial_id] = trial.status

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_sweep_end(self, outcome: SweepOutcome) -> None:
        self._note(f"end {outcome.status}")

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.threads.add(threading.current_thread().name)
