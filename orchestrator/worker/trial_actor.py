"""Run each trial in a fresh process, from a reused Ray Tune actor.

The actors of a machine share a fork server that has already imported torch, so a trial starts in milliseconds. The
process of the next trial is always forked in advance.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace
from typing import Any

from ray import tune

from orchestrator.resources.nodes import GPU_LABEL, MARKET_LABEL
from orchestrator.worker.job import Job, TrialReport
from orchestrator.worker.processes import ChildProcess, next_process
from orchestrator.worker.spot import is_leaving

logger = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
"""Longest time that a step of the actor takes, so that Tune can stop a trial soon."""
GRACE_S = 20.0
"""Shortest time that a trial gets to write its last checkpoint."""
LONGEST_GRACE_S = 300.0
LEAVING_GRACE_S = 100.0
"""Longest time to write it on a machine that will be terminated: AWS gives 120 s from the notice."""
ENTRY_POINT = "orchestrator.worker.attempt:child_main"
"""By name: importing it here would load torch into every actor."""


class TrialProcess:
    """Manage the process of one attempt for its actor."""

    def __init__(self, process: ChildProcess, job: Job) -> None:
        """Give a waiting process its work. Raises OSError if it has died."""
        self._process = process
        self._trial_id = job.trial_id
        # An actor without GPUs may still see all of the machine's, and its trial would take one that is not its own.
        hidden = {} if job.placement.get("gpu_ids") else {"CUDA_VISIBLE_DEVICES": ""}
        process.run(ENTRY_POINT, job.to_json(), environment=hidden)
        self._last: TrialReport | None = None
        """The last report; None before the first."""
        self._stop_s = 0.0

    @property
    def grace_s(self) -> float:
        """Return the seconds to wait for a last checkpoint, from measured times of a step and of a write."""
        return min(LONGEST_GRACE_S, max(GRACE_S, 10 + 2 * self._stop_s))

    def wait(self, timeout_s: float) -> TrialReport | None:
        """Let a trial that waits at a rung continue, and return the next rung or end, or the newest progress, or None.

        Raises:
            RuntimeError: the process died: it was killed, or the machine is out of memory.
        """
        if self._last is not None and self._last.kind == "rung":
            self._send("continue")
        self._last = None
        until_s = time.monotonic() + timeout_s
        while (left_s := until_s - time.monotonic()) > 0 and self._process.poll(left_s):
            if self._receive().kind != "progress":
                break
        return self._last

    def end(self, graceful: bool, limit_s: float = LONGEST_GRACE_S) -> TrialReport | None:
        """End the process if it still runs, and return its last report.

        Gracefully, it gets time to write a last checkpoint, at most `limit_s`. A process that has reported its end is
        left to exit. Any other one is killed.
        """
        limit_s = min(self.grace_s, limit_s)
        if graceful or (self._last is not None and self._last.kind == "end"):
            self._send("stop")
            until_s = time.monotonic() + limit_s
            with contextlib.suppress(RuntimeError):  # raised once it has ended
                while (left_s := until_s - time.monotonic()) > 0 and self._process.poll(left_s):
                    self._receive()
            if not self._process.join(0):
                logger.warning("trial %s: killed, it did not stop within %.0f s", self._trial_id, limit_s)
        self._process.kill()
        self._process.close()
        return self._last

    def _receive(self) -> TrialReport:
        try:
            report: TrialReport = self._process.receive()
        except ChildProcessError as error:
            raise RuntimeError(f"the trial's process {error}") from None
        self._last = report
        self._stop_s = report.stop_s or self._stop_s
        return report

    def _send(self, message: str) -> None:
        with contextlib.suppress(OSError):  # it has just died, which the next `receive` reports
            self._process.send(message)


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """Run trials one after the other on the resources of one actor. `config["job"]` is a `Job` as JSON."""

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare the actor. Called once.

        The first trial begins with the first step and not here: Tune may ask for an actor, give the trial another one
        that has become free, and then use the new one for a later trial, which it announces by `reset_config`.
        """
        self._placement = _placement()
        self._next = next_process()  # torch is imported while Tune brings the first trial
        self._process: TrialProcess | None = None
        self._config = config
        self._has_announced = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next trial. A trial that still runs was stopped early: it is killed.

        A process that has reported its end exits while Tune takes note of it (10 ms), and is waited for here.

        Raises:
            RuntimeError: the machine will be terminated soon; the driver requeues the trial.
        """
        self._end(graceful=False)
        if self._is_leaving():
            raise RuntimeError("the machine will be terminated soon")
        self._config = new_config
        self._process = self._begin()  # now and not with the first step: it starts while Tune handles other trials
        return True

    def step(self) -> dict[str, Any]:
        """Run until the next rung or end, or for `HEARTBEAT_S` seconds.

        Raises:
            RuntimeError: the trial's process died, which Tune reports as a failure of the actor: the machine's.
        """
        if self._is_leaving():
            if self._process is not None and not self._has_announced:
                # The controller has to know before this actor stops sending heartbeats.
                self._has_announced = True
                grace_s = min(self._process.grace_s, LEAVING_GRACE_S)
                leaving = {"silence_s": grace_s, "grace_s": grace_s, "kind": "progress"}
                return {**self._where(), **leaving, "trial_step": None, "metrics": (), "done": False}
            report = self._end(graceful=True)  # the trial resumes on another machine
            has_ended = report is not None and report.kind == "end"
            reason = report.reason if report and has_ended else "killed before its last checkpoint: the machine ends"
            status = report.status if report and has_ended else ""
            ended = {"kind": "end", "status": status, "reason": reason, "trial_step": None, "metrics": ()}
            return {**self._where(), **ended, "grace_s": 0.0, "done": True}
        self._process = self._process or self._begin()
        report = self._process.wait(HEARTBEAT_S)
        result = {**self._where(), "grace_s": self._process.grace_s}
        if report is None:
            return {**result, "kind": "progress", "trial_step": None, "metrics": (), "done": False}
        return {
            **result,
            "kind": report.kind,
            "trial_step": report.step,
            "metrics": tuple(report.metrics.items()),  # Tune would flatten a dict
            "status": report.status,
            "reason": report.reason,
            "done": report.kind == "end",
        }

    def cleanup(self) -> None:
        """End the trial with a last checkpoint: the sweep stops, or the actor is no longer needed."""
        self._end(graceful=True)
        self._next.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write nothing: the record holds the checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Read nothing: an attempt finds its newest checkpoint in the record."""

    def _begin(self) -> TrialProcess:
        job = Job.from_json(self._config["job"])
        processes = max(1, len(self._placement["gpu_ids"]))
        job = replace(job, placement={**job.placement, **self._placement}, processes=processes)
        try:
            process = TrialProcess(self._next, job)
        except OSError as error:
            logger.warning("trial %s: its process was gone (%s), another one is started", job.trial_id, error)
            self._next.close()
            process = TrialProcess(next_process(), job)
        self._next = next_process()
        logger.info("trial %s: started", job.trial_id)
        return process

    def _where(self) -> dict[str, Any]:
        return {"node_id": self._placement["node_id"], "gpu_type": self._placement["gpu_type"]}

    def _is_leaving(self) -> bool:
        return is_leaving(self._placement["node_id"])

    def _end(self, graceful: bool) -> TrialReport | None:
        if self._process is None:
            return None
        limit_s = LEAVING_GRACE_S if self._is_leaving() else LONGEST_GRACE_S
        report = self._process.end(graceful, limit_s)
        self._process = None
        return report


def _placement() -> dict[str, Any]:
    """Return where Ray placed this actor: node, GPU type and market by the node's labels, GPUs by index."""
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
