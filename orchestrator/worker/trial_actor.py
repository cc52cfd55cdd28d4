"""A reused Ray Tune actor that runs each trial in a fresh process.

The slots of a machine share a zygote that has already imported torch, so a trial starts in milliseconds, and yet in a
process of its own: it can be killed, its memory (the GPU's too) comes back, and no global leaks from one trial into the
next. The process of the next trial always waits already.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import Any

from ray import tune

from orchestrator.resources.nodes import GPU_LABEL, MARKET_LABEL
from orchestrator.worker.fork_server import ForkedProcess, next_process
from orchestrator.worker.job import Job, TrialReport, child_main
from orchestrator.worker.spot import is_leaving

HEARTBEAT_S = 2.0
"""Longest time that a step of the actor takes, so that a stop is heard soon."""
GRACE_S = 20.0
LONGEST_GRACE_S = 100.0
"""Shortest and longest time that a trial gets to write its last checkpoint; in between, twice what it has taken so far.
A spot machine is announced to go 120 s ahead."""


class TrialProcess:
    """The process of one attempt, seen from its slot."""

    def __init__(self, child: ForkedProcess, job: Job) -> None:
        """Give a process that waits its work. Raises OSError if it has died meanwhile."""
        self._child = child
        child.run(child_main, job)
        self.grace_s = GRACE_S
        """Time that the trial gets to write its last checkpoint."""
        self._told = ""
        """`rung` while it waits for a word, `end` when it only has to leave."""

    def wait(self, timeout_s: float) -> TrialReport | None:
        """Let a waiting trial go on; the next rung or end, or the newest progress, or None if there is no news.

        Raises:
            RuntimeError: the process died without a word: killed, or out of the machine's memory.
        """
        if self._told == "rung":
            self._child.send("go")
            self._told = ""
        latest: TrialReport | None = None
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0:
            if not self._child.poll(left):
                break
            latest = self._receive()
            if latest.kind != "progress":
                self._told = latest.kind
                break
        return latest

    def _receive(self) -> TrialReport:
        try:
            news: TrialReport = self._child.receive()
        except ChildProcessError as error:
            raise RuntimeError(f"the trial's process {error}") from None
        self.grace_s = min(max(self.grace_s, 2 * news.grace_s), LONGEST_GRACE_S)
        return news

    def end(self, graceful: bool) -> None:
        """Stop it if it still runs: gracefully with a last checkpoint, else at once unless it has ended by itself."""
        if graceful or self._told == "end":
            with contextlib.suppress(OSError):  # it has just ended
                self._child.send("stop")
            self._child.join(self.grace_s)
        self._child.kill()
        self._child.join()
        self._child.close()


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """One place where trials run one after the other. `config["job"]` is a `Job` as JSON."""

    def setup(self, config: dict[str, Any]) -> None:
        """Called once per actor.

        The first trial begins with the first step and not here: Tune may ask for an actor, give the trial another one
        that has become free, and then take the asked-for one for a later trial, which it tells by `reset_config`.
        """
        self._where = _placement()
        self._next = next_process()  # torch is imported while Tune brings the first trial
        self._process: TrialProcess | None = None
        self._config = config
        self._has_announced = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called for every further trial. What still runs was stopped early: it is ended at once.

        A process that told its end leaves while Tune takes note of it (10 ms), and is waited for here.
        """
        self._end(graceful=False)
        if self._is_leaving():
            raise RuntimeError("the machine is about to be taken away")  # the trial is placed anew, on another
        self._config = new_config
        self._process = self._begin()  # now and not with the first step: it comes up while Tune takes its turn
        return True

    def step(self) -> dict[str, Any]:
        """Until the next rung or end, or for `HEARTBEAT_S`."""
        seat: dict[str, Any] = {"node_id": self._where["node_id"], "gpu_type": self._where["gpu_type"]}
        if self._process is not None and self._is_leaving() and not self._has_announced:
            # Whoever counts heartbeats has to know before this actor falls silent.
            self._has_announced = True
            seat |= {"silence_s": self._process.grace_s, "grace_s": self._process.grace_s}
            return {**seat, "kind": "progress", "trial_step": None, "metrics": (), "done": False}
        if self._is_leaving():
            self._end(graceful=True)  # a last checkpoint; the trial goes on elsewhere
            return {**seat, "kind": "end", "trial_step": None, "metrics": (), "done": True}
        self._process = self._process or self._begin()
        news = self._process.wait(HEARTBEAT_S)
        seat["grace_s"] = self._process.grace_s
        if news is None:
            return {**seat, "kind": "progress", "trial_step": None, "metrics": (), "done": False}
        return {
            **seat,
            "kind": news.kind,
            "trial_step": news.step,
            "metrics": tuple(news.metrics.items()),  # Tune would flatten a dict
            "status": news.status,
            "reason": news.reason,
            "done": news.kind == "end",
        }

    def cleanup(self) -> None:
        """The sweep stops or the actor is not needed any more."""
        self._end(graceful=True)
        self._next.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the record holds the checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: an attempt finds its newest checkpoint in the record."""

    def _begin(self) -> TrialProcess:
        job = Job.from_json(self._config["job"])
        processes = max(1, len(self._where["gpu_ids"]))
        job = replace(job, placement={**job.placement, **self._where}, processes=processes)
        try:
            process = TrialProcess(self._next, job)
        except OSError:  # the zygote was killed
            self._next.close()
            process = TrialProcess(next_process(), job)
        self._next = next_process()
        return process

    def _is_leaving(self) -> bool:
        return is_leaving(self._where["node_id"])

    def _end(self, graceful: bool) -> None:
        if self._process is not None:
            self._process.end(graceful)
            self._process = None


def _placement() -> dict[str, Any]:
    """Where Ray put this actor: node, GPU type by the node's label, GPUs by index."""
    import ray

    context = ray.get_runtime_context()
    labels = context.get_node_labels()
    gpus = context.get_accelerator_ids().get("GPU", [])
    return {
        "node_id": context.get_node_id(),
        "gpu_type": labels.get(GPU_LABEL) if gpus else None,
        "gpu_ids": gpus,
        "market": labels.get(MARKET_LABEL),
    }
