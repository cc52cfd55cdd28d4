"""Run one training in several processes of this machine, and yield the events of the first process, in order.

The processes are children of the caller, which does not take part in the computation, so it can always end them. If
one of them fails or dies, all end. If the caller dies, their pipes close and they end immediately.

    caller -> process    its `Task`, then GO after every event; STOP requests a last checkpoint
    process -> caller    events (the first process only), then `_Ended` or `_Failed`
"""

from __future__ import annotations

import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.distributed as dist

from trm_data import open_dataset
from trm_data.errors import ConfigError, UserError, causes
from trm_data.files import private_folder, remove_abandoned, temporary_name, usable_cores
from trm_data.own_code import accept, sources_in
from trm_model.checkpoints.store import CheckpointStore
from trm_model.config import TrialConfig
from trm_model.device import resolve_device
from trm_model.evaluation.evaluate import never
from trm_model.training.events import Event, Run, handle
from trm_model.training.loop import train

if TYPE_CHECKING:
    from trm_data import Dataset

GO, PUT_OFF, STOP = "go", "put off", "stop"
_POLL_S = 0.2
"""Seconds until a stop that is requested between two events is noticed."""
_ERROR_GRACE_S = 2.0
"""Seconds, once a process has failed, in which the others may report their own errors."""
_EXIT_S = 30.0


class ProcessLostError(UserError):
    """Raised if a process of the run died without an error: it was killed, or the machine is out of memory."""


@dataclass(frozen=True, slots=True)
class Task:
    """Describe the work of one process."""

    config: TrialConfig
    dataset: Path
    checkpoints: CheckpointStore
    rank: int
    world_size: int
    rendezvous: str
    """Path of the file by which the processes find each other."""
    code: dict[str, str]
    """Sources of the files whose classes the configuration names, by address."""
    start: CheckpointStore | None


@dataclass(frozen=True, slots=True)
class _Ended:
    """Mark the end of a process's messages."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """Report that a process raised an error."""

    errors: list[Exception]
    """The error, and what it came from: an exception that is pickled loses that."""
    at_s: float

    def error(self) -> Exception:
        """Return the error with what it came from, by which its kind is decided."""
        for error, cause in itertools.pairwise(self.errors):
            error.__cause__ = cause
        return self.errors[0]


def train_in_processes(
    config: TrialConfig,
    dataset: Dataset,
    *,
    processes: int,
    checkpoints: CheckpointStore,
    start: CheckpointStore | None = None,
    should_stop: Callable[[], bool] = never,
) -> Run:
    """Run `train` in `processes` processes, each with its share of every batch and on CUDA with its own GPU.

    The run waits while an event is looked at, as it does with `train`. `checkpoints` and `start` must survive pickling.

    Raises:
        ConfigError: the batch cannot be shared evenly, or there are too few GPUs.
        ProcessLostError: a process was killed. Started again, the run resumes from its last checkpoint.
        Exception: what a process raised, with its traceback as a note.
    """
    check_processes(config, processes)
    if processes == 1:
        yield from train(config, dataset, checkpoints=checkpoints, start=start, should_stop=should_stop)
        return
    with _ProcessGroup(config, dataset.path, checkpoints, start, processes) as group:
        yield from group.events(should_stop)


def check_processes(config: TrialConfig, processes: int) -> None:
    """Raise ConfigError if a run cannot be shared by that many processes, or this machine has too few GPUs for them."""
    if processes < 1:
        raise ConfigError(f"processes={processes} is not a number of processes", "Take 1 or more")
    if processes == 1:
        return
    if config.train.batch_size % processes:
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} cannot be shared evenly by {processes} processes",
            "Take a number of processes that divides it",
        )
    if resolve_device(config.runtime.device).type == "cuda" and torch.cuda.device_count() < processes:
        raise ConfigError(
            f"{processes} processes need as many GPUs, {torch.cuda.device_count()} are there",
            "Take fewer processes, or set runtime.device to cpu",
        )


class _ProcessGroup:
    """Manage the processes of a run. Leaving the context ends those that still run."""

    def __init__(
        self,
        config: TrialConfig,
        dataset: Path,
        checkpoints: CheckpointStore,
        start: CheckpointStore | None,
        processes: int,
    ) -> None:
        # The processes find each other by a file in a folder of mode 0700. A `TCPStore` listens on all interfaces of
        # the machine, without authentication.
        self._rendezvous = private_folder("ranks") / temporary_name()
        remove_abandoned(self._rendezvous.parent)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pipes: list[Connection] = []
        self._is_stopping = False
        code = sources_in(config.plain())
        for rank in range(processes):
            self._start(Task(config, dataset, checkpoints, rank, processes, str(self._rendezvous), code, start))

    def _start(self, task: Task) -> None:
        ours, theirs = Pipe()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            # All are on this machine: no other one may connect, and a host name that does not resolve is no obstacle.
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
        }
        program = f"from trm_model.training.launch import rank_main; rank_main({theirs.fileno()})"
        command = [sys.executable, "-c", program]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, pass_fds=[theirs.fileno()])
        self._processes.append(process)
        self._pipes.append(ours)
        theirs.close()
        ours.send(task)

    def events(self, should_stop: Callable[[], bool]) -> Run:
        """Yield the events of the first process, until all have ended."""
        first, running = self._pipes[0], set(self._pipes)
        while running:
            self._forward_stop(should_stop)
            for pipe in wait(list(running), _POLL_S):
                assert isinstance(pipe, Connection)
                message = _receive(pipe)
                if message is None or isinstance(message, _Failed):
                    raise self._cause(pipe, message)
                if isinstance(message, _Ended):
                    running.remove(pipe)
                    continue
                answer = yield message
                self._forward_stop(should_stop)
                _send(first, PUT_OFF if answer is False else GO)

    def _forward_stop(self, should_stop: Callable[[], bool]) -> None:
        """Tell the first process to stop, once; the others learn of it from there, all before the same step."""
        if not self._is_stopping and should_stop():
            self._is_stopping = True
            _send(self._pipes[0], STOP)

    def _cause(self, pipe: Connection, message: _Failed | None) -> Exception:
        """Return why a process failed: the death of one of them, or the error that came first."""
        endings = {pipe: message}
        until = time.monotonic() + _ERROR_GRACE_S
        while (left := until - time.monotonic()) > 0 and len(endings) < len(self._pipes):
            for other in wait([pipe for pipe in self._pipes if pipe not in endings], left):
                assert isinstance(other, Connection)
                message = _receive(other)
                if not isinstance(message, Event):
                    endings[other] = message if isinstance(message, _Failed) else None
        silent = [rank for rank, pipe in enumerate(self._pipes) if pipe in endings and endings[pipe] is None]
        for rank in silent:
            if (code := self._processes[rank].wait(_EXIT_S)) != 0:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                what = f"process {rank} of {len(self._processes)} died with {how}"
                return ProcessLostError(what, "Start the run again: it resumes from its last checkpoint")
        return min(
            (failed for failed in endings.values() if failed is not None), key=lambda failed: failed.at_s
        ).error()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for process in self._processes:
            if kind is not None:
                process.kill()
            try:
                process.wait(_EXIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in self._pipes:
            pipe.close()
        self._rendezvous.unlink(missing_ok=True)


def _send(pipe: Connection, message: str) -> None:
    with suppress(OSError):  # a dead process is noticed when its pipe closes
        pipe.send(message)


def _receive(pipe: Connection) -> Any:
    """Receive the next message; None if its process has exited."""
    with suppress(EOFError, OSError):
        return pipe.recv()
    return None


class _Caller:
    """Connect a process to its caller. A thread listens, so that the caller's death is noticed during the longest
    step."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._stop = threading.Event()
        threading.Thread(target=self._listen, name="caller", daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                message = self._pipe.recv()
            except BaseException:  # the caller is gone, or its messages can no longer be received
                os._exit(1)
            self._stop.set() if message == STOP else self._answers.put(message != PUT_OFF)

    def report(self, event: Event) -> bool:
        """Report an event and return the answer, once the caller has processed it."""
        self._pipe.send(event)
        return self._answers.get()

    def should_stop(self) -> bool:
        return self._stop.is_set()


def rank_main(descriptor: int) -> None:
    """Run a process of the run; `descriptor` is its end of the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a terminal signals all processes, and the caller decides
    pipe = Connection(descriptor)
    task: Task = pipe.recv()
    caller = _Caller(pipe)
    try:
        _train(task, caller)
        pipe.send(_Ended())
    except Exception as error:
        errors = [_portable(each) for each in causes(error) if isinstance(each, Exception)]
        errors[0].add_note(traceback.format_exc())
        pipe.send(_Failed(errors, time.monotonic()))
    # Without the usual end of the interpreter: if another process failed, tearing down the group could wait for it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _train(task: Task, caller: _Caller) -> None:
    config = task.config
    for address, source in task.code.items():
        accept(address, source)
    device = resolve_device(config.runtime.device)
    if device.type == "cuda":
        torch.cuda.set_device(task.rank)
    elif config.runtime.num_threads is None:
        torch.set_num_threads(max(1, usable_cores() // task.world_size))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.FileStore(task.rendezvous, task.world_size),  # type: ignore[attr-defined]
        rank=task.rank,
        world_size=task.world_size,
    )
    dataset = open_dataset(task.dataset)
    run = train(config, dataset, checkpoints=task.checkpoints, start=task.start, should_stop=caller.should_stop)
    handle(run, caller.report if task.rank == 0 else lambda _: None)
    dist.barrier()
    dist.destroy_process_group()


def _portable(error: Exception) -> Exception:
    """Return the exception as it arrives at the caller, or one with the same text if it cannot be pickled."""
    try:
        found: Exception = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return found
