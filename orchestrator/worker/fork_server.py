"""One warm process per machine that forks the trials of all its slots: torch is imported once there, not once per slot.

A slot connects, and a process is forked for that connection at once: it says its pid and waits for its work. The zygote
itself only forks and reaps. When a process has ended it says how on the same connection and closes it, so that the
slot's `EOFError` means the end. It leaves when no process is left: a slot has always one, if only the next.

Its address is a name in Linux's abstract namespace, which the first slot takes and which is gone with the process that
listens: nothing is left behind, whoever is killed. Only processes of the same user are served.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from trm_data.errors import first_line

PRELOAD = ["orchestrator.worker.preload"]
"""Imports torch and numpy."""
LINGER_S = 5.0
"""How long the zygote waits for the slot that has started it."""
BACKLOG = 1024
START_S = 10.0
"""Within which an address that another slot has just taken must answer."""
_MAIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from orchestrator.worker.fork_server import main; main()"
)
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Forked:
    """The first word of a process."""

    pid: int


@dataclass(frozen=True, slots=True)
class Raised:
    """The last word of a process that has failed, or of a zygote whose imports have."""

    why: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The last word on a process: its exit code, or the negative number of the signal that ended it."""

    code: int


def next_process(*, is_quiet: bool = False) -> ForkedProcess:
    """A process for the next trial of this driver's sweep on this machine. `is_quiet`: see `ForkedProcess`."""
    import ray

    context = ray.get_runtime_context()
    return ForkedProcess(f"trm-{context.get_node_id()}-{context.get_job_id()}", PRELOAD, is_quiet=is_quiet)


class ForkedProcess:
    """A process that waits for its work, seen from the slot that asked for it."""

    def __init__(self, name: str, preload: Sequence[str], *, is_quiet: bool = False) -> None:
        """If a zygote has to be started, it imports `preload` before its first fork; a quiet one writes nothing where
        this process does."""
        self._pipe = _dial(name, preload, is_quiet)
        self._is_met = False
        self._pidfd: int | None = None
        self._refusal: Raised | None = None

    def run(self, target: Callable[..., None], *arguments: Any) -> None:
        """Have it call `target(*arguments, pipe)` in this process's environment.

        Raises:
            OSError: the zygote has died, and this process with it.
        """
        self._pipe.send((_environment(), sys.path, str(Path.cwd())))
        self._pipe.send((target, arguments))

    def send(self, word: Any) -> None:
        """To the other end of `pipe`. Raises OSError if it is gone."""
        self._pipe.send(word)

    def poll(self, timeout_s: float) -> bool:
        """Whether there is something to `receive` within so long."""
        until = time.monotonic() + timeout_s
        if not self._is_met and self._pipe.poll(timeout_s):
            self._meet()
        return self._pipe.poll(max(0.0, until - time.monotonic()))

    def receive(self) -> Any:
        """The next thing that it says. Raises ChildProcessError, with how it ended, when it has died."""
        self._meet()
        try:
            word = self._refusal or self._pipe.recv()
        except (EOFError, OSError):
            raise ChildProcessError("died with the process that forks it") from None
        if isinstance(word, Exited):
            raise ChildProcessError(f"died with exit code {word.code}")
        if isinstance(word, Raised):
            raise ChildProcessError(f"failed: {word.why}")
        return word

    def join(self, timeout_s: float | None = None) -> bool:
        """Whether it has ended, at the latest after so long."""
        self._meet()
        return self._pidfd is None or bool(select.select([self._pidfd], [], [], timeout_s)[0])

    def kill(self) -> None:
        """At once."""
        self._meet()
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of it. One that still waits for its work ends by that."""
        self._pipe.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _meet(self) -> None:
        """Hear its pid; waits for a zygote that is still importing."""
        if self._is_met:
            return
        self._is_met = True
        with suppress(EOFError, OSError):  # it is gone already: nobody to wait for
            word = self._pipe.recv()
            if isinstance(word, Forked):
                self._pidfd = os.pidfd_open(word.pid)
            else:
                self._refusal = word


def _environment() -> dict[str, str]:
    """This process's, and what torch and the allocator read when they are loaded.

    Huge pages: a fork copies 46,000 fewer entries (5 instead of 10 ms, and the same again at the end), and training
    meets a quarter of the page faults. Spinning threads cost 10x when another process takes a core.
    """
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", **os.environ, "OMP_WAIT_POLICY": "PASSIVE"}


def _dial(name: str, preload: Sequence[str], is_quiet: bool) -> Connection:
    """A connection to the zygote of that name, which is started if there is none."""
    address, until = f"\0{name}", time.monotonic() + START_S
    while True:
        with socket.socket(socket.AF_UNIX) as dialled, suppress(ConnectionRefusedError):
            dialled.connect(address)
            _check_user(dialled)
            return Connection(dialled.detach())
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                listener.bind(address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                    raise
                time.sleep(0.01)  # another slot has just taken it, and does not listen yet
                continue
            listener.listen(BACKLOG)
            _start(listener.fileno(), preload, is_quiet)


def _start(listener: int, preload: Sequence[str], is_quiet: bool) -> None:
    """The first process forks the zygote and ends: Ray kills the children of an actor with it."""
    command = [sys.executable, "-c", _MAIN, str(listener), json.dumps(sys.path), *preload]
    # A trial sets its own number of threads; here it must not be that of the slot which came first.
    environment = _environment() | {"OMP_NUM_THREADS": "1"}
    where = subprocess.DEVNULL if is_quiet else None
    subprocess.run(
        command, env=environment, pass_fds=[listener], stdin=subprocess.DEVNULL, stdout=where, stderr=where,
        start_new_session=True, check=True,
    )  # fmt: skip


def _check_user(peer: socket.socket) -> None:
    """Raises PermissionError unless the other end is this user's: what it says is unpickled."""
    _, user, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if user != os.getuid():
        raise PermissionError(f"another user ({user}) is at the other end")


def main() -> None:
    """The zygote: `python -c _MAIN LISTENER PATH PRELOAD ...`."""
    if os.fork():
        os._exit(0)
    listener, _, *preload = sys.argv[1:]
    with socket.socket(fileno=int(listener)) as waiting:
        try:
            for name in preload:
                importlib.import_module(name)
        except Exception as error:
            _refuse(waiting, f"{type(error).__name__}: {first_line(error)}")
        else:
            _serve(waiting)


def _refuse(listener: socket.socket, why: str) -> None:
    """Tell those who ask why there is nothing for them."""
    while wait([listener], LINGER_S):
        with Connection(listener.accept()[0].detach()) as pipe, suppress(OSError):
            pipe.send(Raised(why))


def _serve(listener: socket.socket) -> None:
    """Fork for every connection, say how each process ended, until none is left."""
    pipes: dict[int, Connection] = {}
    bell, rope = os.pipe()
    for end in (bell, rope):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # it only has to ring
    signal.set_wakeup_fd(rope)
    has_served = False
    while ready := wait([listener, bell], None if pipes else 0 if has_served else LINGER_S):
        if bell in ready:
            os.read(bell, BACKLOG)
            _reap(pipes)
        if listener in ready:
            caller, _ = listener.accept()
            try:
                _check_user(caller)
            except PermissionError:
                caller.close()
                continue
            pipe = Connection(caller.detach())
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                for end in (bell, rope):
                    os.close(end)
                for other in pipes.values():
                    other.close()
                _live(pipe)
            pipes[pid] = pipe
            has_served = True


def _reap(pipes: dict[int, Connection]) -> None:
    while pipes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with pipes.pop(pid) as pipe, suppress(OSError):  # its slot may have gone before it
            pipe.send(Exited(os.waitstatus_to_exitcode(status)))


def _live(pipe: Connection) -> NoReturn:
    """A forked process: wait for work, do it, leave without the end of the interpreter, as `multiprocessing` does."""
    code = 0
    try:
        work = _work(pipe)
        if work is not None:
            target, arguments = work
            target(*arguments, pipe)
    except BaseException as error:
        traceback.print_exc()
        with suppress(OSError):
            pipe.send(Raised(f"{type(error).__name__}: {first_line(error)}"))
        code = 1
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _work(pipe: Connection) -> tuple[Callable[..., None], tuple[Any, ...]] | None:
    """What the slot sends, whose environment this process takes on first; None if it sends nothing any more."""
    try:
        pipe.send(Forked(os.getpid()))
        environment, path, folder = pipe.recv()
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        os.chdir(folder)
        target, arguments = pipe.recv()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return None
    return target, arguments
