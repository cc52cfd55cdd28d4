"""Fork the processes of all trials from one server per machine and sweep that has already imported torch.

Importing torch takes seconds. Without a fork server every trial would pay that, which matters for trials of seconds,
but not for trials of hours. Each trial still has its own process: it can be killed, its memory (including GPU memory)
is released, and no global variable leaks from one trial into the next.

A trial actor connects, and the server immediately forks a process for that connection. The process sends
`Message("started")` with a file descriptor that refers to itself (a pidfd), then waits for its work. When it has ended,
the server sends `Message("exited")` on the same connection and closes it. The server itself only forks and reaps; it
exits when it has no process left.

The address is a name in Linux's abstract socket namespace, bound by the first actor and released when the listening
process ends: nothing is left behind if a process is killed. Both ends check that the peer belongs to the same user.
"""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import pkgutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any, Literal, NoReturn

from trm_data.errors import first_line

logger = logging.getLogger(__name__)

PRELOAD = ["orchestrator.worker.preload"]
"""Modules that import torch and numpy."""
LINGER_S = 5.0
"""Seconds that a new server waits for the actor that started it."""
BACKLOG = 1024
LISTEN_S = 10.0
"""Seconds within which an address that another actor has bound must accept connections."""
START_S = 300.0
"""Seconds within which a process must have started; on a busy machine the imports of a new server take minutes."""
REAP_S = 10.0
"""Seconds within which the server must have reported how a dead process ended."""
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from orchestrator.worker.fork_server import main; main()"
)
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Message:
    """Describe the state of a process. Any other message on its connection was sent by the entry point that it runs."""

    kind: Literal["started", "failed", "exited"]
    detail: str = ""
    """Why it failed, or its exit code (a negative number is the signal that ended it)."""


class ForkedProcess:
    """Hold a handle to a forked process, which waits until it is given its work."""

    def __init__(self, name: str, preload: Sequence[str], *, is_quiet: bool = False) -> None:
        """Request a process from the fork server of that name, and start the server if there is none.

        Does not wait for the process: a new server imports `preload` before its first fork. A quiet server writes
        nothing to the output of this process.
        """
        self._pipe = _connect(name, preload, is_quiet)
        self._start_until_s = time.monotonic() + START_S
        self._pidfd: int | None = None
        self._received: deque[Any] = deque()
        self._is_gone = False

    def run(self, entry_point: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Call `entry_point` ("module:function") in the process, with the arguments and its end of the connection.

        It gets this process's environment, changed by `environment`, its `sys.path` and its working directory.

        Raises:
            OSError: the process has exited, with its server or alone; a ChildProcessError if it is known why.
        """
        changed = {**_environment(), **(environment or {})}
        try:
            self._pipe.send((changed, sys.path, str(Path.cwd()), entry_point, arguments))
        except OSError:
            if self.poll(REAP_S) and self._received and isinstance(self._received[0], Message):
                raise error_of(self._received[0]) from None
            raise

    def send(self, message: Any) -> None:
        """Send a message to the entry point. Raises OSError if the process has exited."""
        self._pipe.send(message)

    def poll(self, timeout_s: float) -> bool:
        """Return whether `receive` has a message, or the process has ended, within `timeout_s` seconds."""
        until_s = time.monotonic() + timeout_s
        while not self._received and not self._is_gone:
            if not self._listen(max(0.0, until_s - time.monotonic())):
                return False
        return True

    def receive(self) -> Any:
        """Return the next message of the entry point, waiting for it.

        Raises:
            ChildProcessError: the process has failed or ended; says how.
        """
        while not self._received and not self._is_gone:
            self._listen(START_S)
        received = self._received.popleft() if self._received else Message("failed", "its fork server has exited")
        if not isinstance(received, Message):
            return received
        raise error_of(received)

    def join(self, timeout_s: float) -> bool:
        """Return whether the process has ended, waiting at most `timeout_s` seconds."""
        until_s = time.monotonic() + timeout_s
        while self._pidfd is None and not self._is_gone:
            if not self._listen(max(0.0, until_s - time.monotonic())):
                return False
        return self._pidfd is None or bool(wait([self._pidfd], max(0.0, until_s - time.monotonic())))

    def kill(self) -> None:
        """Kill the process and wait until it has ended. One that has not started ends when its connection is closed."""
        while self._pidfd is None and not self._is_gone and self._listen(0.0):
            pass
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            wait([self._pidfd], REAP_S)

    def close(self) -> None:
        """Close the connection. A process that still waits for its work then ends."""
        self._pipe.close()
        self._is_gone = True
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _listen(self, timeout_s: float) -> bool:
        """Process the next message or the end of the process. Return whether there was one in time."""
        if self._pidfd is None:
            timeout_s = min(timeout_s, max(0.0, self._start_until_s - time.monotonic()))
        ready = wait([self._pipe] if self._pidfd is None else [self._pipe, self._pidfd], timeout_s)
        if not ready and self._pidfd is None and time.monotonic() >= self._start_until_s:
            self._end(Message("failed", f"it has not started within {START_S:.0f} s"))
            return True
        if self._pipe not in ready and ready and not self._pipe.poll(REAP_S):
            # The process is dead, and a server that does not report it is dead or stopped as well.
            self._end(Message("failed", "it was killed, and its fork server does not answer"))
            return True
        if not ready:
            return False
        try:
            message = self._pipe.recv()
            if isinstance(message, Message) and message.kind == "started":
                self._pidfd = recv_handle(self._pipe)
            else:
                self._received.append(message)
        except (EOFError, OSError):
            self._is_gone = True
        return True

    def _end(self, message: Message) -> None:
        self._received.append(message)
        self._is_gone = True


def error_of(message: Message) -> ChildProcessError:
    """Return the error that says how a process ended."""
    what = "died with exit code" if message.kind == "exited" else "failed:"
    return ChildProcessError(f"{what} {message.detail}")


def _environment() -> dict[str, str]:
    """Return this process's environment, with the variables that torch and the allocator read when they are loaded.

    Huge pages: a fork copies 46,000 fewer entries (5 instead of 10 ms, and the same again at the end), and training
    meets a quarter of the page faults. Spinning threads cost 10x when another process takes a core.
    """
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", **os.environ, "OMP_WAIT_POLICY": "PASSIVE"}


def _connect(name: str, preload: Sequence[str], is_quiet: bool) -> Connection:
    """Return a connection to the server of that name, which is started if there is none."""
    address, until_s = f"\0{name}", time.monotonic() + LISTEN_S
    while True:
        with socket.socket(socket.AF_UNIX) as client, suppress(ConnectionRefusedError):
            client.connect(address)
            _check_user(client)
            return Connection(client.detach())
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                listener.bind(address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > until_s:
                    raise
                time.sleep(0.01)  # another actor has just bound it, and does not listen yet
                continue
            listener.listen(BACKLOG)
            _start(listener.fileno(), preload, is_quiet)
            logger.info("fork server %s: started", name)


def _start(listener: int, preload: Sequence[str], is_quiet: bool) -> None:
    """Start a server. The first process forks it and exits, because Ray kills the children of an actor with it."""
    command = [sys.executable, "-c", _PROGRAM, str(listener), json.dumps(sys.path), *preload]
    # A trial sets its own number of threads; here it must not be that of the actor which came first.
    environment = _environment() | {"OMP_NUM_THREADS": "1"}
    output = subprocess.DEVNULL if is_quiet else None
    subprocess.run(
        command, env=environment, pass_fds=[listener], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        start_new_session=True, check=True,
    )  # fmt: skip


def _check_user(peer: socket.socket) -> None:
    """Raise PermissionError unless the peer belongs to this user: what it sends is unpickled."""
    _, user, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if user != os.getuid():
        raise PermissionError(f"another user ({user}) is at the other end")


def main() -> None:
    """Run the server: `python -c _PROGRAM LISTENER PATH PRELOAD ...`."""
    if os.fork():
        os._exit(0)
    listener, _, *preload = sys.argv[1:]
    with socket.socket(fileno=int(listener)) as listening:
        try:
            for name in preload:
                importlib.import_module(name)
        except Exception as error:
            _refuse(listening, f"{type(error).__name__}: {first_line(error)}")
        else:
            _serve(listening)


def _refuse(listener: socket.socket, reason: str) -> None:
    """Answer all connections with the reason why there is no process for them."""
    while wait([listener], LINGER_S):
        with Connection(listener.accept()[0].detach()) as pipe, suppress(OSError):
            pipe.send(Message("failed", reason))


def _serve(listener: socket.socket) -> None:
    """Fork a process for every connection and report how each ended, until none is left."""
    pipes: dict[int, Connection] = {}
    wakeup_r, wakeup_w = os.pipe()
    for end in (wakeup_r, wakeup_w):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler the descriptor below would not be written to
    signal.set_wakeup_fd(wakeup_w)
    has_served = False
    while ready := wait([listener, wakeup_r], None if pipes else 0 if has_served else LINGER_S):
        if wakeup_r in ready:
            os.read(wakeup_r, BACKLOG)
            _reap(pipes)
        if listener in ready and (pipe := _accept(listener)) is not None:
            try:
                pid = os.fork()
            except OSError as error:  # too many processes, or too little memory for another one
                with pipe, suppress(OSError):
                    pipe.send(Message("failed", f"cannot fork: {error.strerror}"))
                continue
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                for end in (wakeup_r, wakeup_w):
                    os.close(end)
                for other in pipes.values():
                    other.close()
                run_child(pipe)
            pipes[pid] = pipe
            has_served = True


def _accept(listener: socket.socket) -> Connection | None:
    """Return the next connection; None if another user made it."""
    client, _ = listener.accept()
    try:
        _check_user(client)
    except PermissionError:
        client.close()
        return None
    return Connection(client.detach())


def _reap(pipes: dict[int, Connection]) -> None:
    """Report how each terminated process ended."""
    while pipes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with pipes.pop(pid) as pipe, suppress(OSError):  # its actor may have exited first
            pipe.send(Message("exited", str(os.waitstatus_to_exitcode(status))))


def run_child(pipe: Connection, *, is_forked: bool = True) -> NoReturn:
    """Wait for work, do it, and exit without the interpreter's usual shutdown, as `multiprocessing` does.

    A forked process first sends a descriptor of itself.
    """
    code = 0
    try:
        work = _receive_work(pipe, is_forked)
        if work is not None:
            entry_point, arguments = work
            pkgutil.resolve_name(entry_point)(*arguments, pipe)
    except BaseException as error:
        traceback.print_exc()
        with suppress(OSError):
            pipe.send(Message("failed", f"{type(error).__name__}: {first_line(error)}"))
        code = 1
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _receive_work(pipe: Connection, is_forked: bool) -> tuple[str, tuple[str, ...]] | None:
    """Return the entry point and its arguments, and adopt the actor's environment; None if the actor has exited."""
    try:
        if is_forked:
            pipe.send(Message("started"))
            # A descriptor, not a number: by the time that the actor uses a number, it may be another process's.
            pidfd = os.pidfd_open(os.getpid())
            send_handle(pipe, pidfd, os.getppid())
            os.close(pidfd)
        environment, path, folder, entry_point, arguments = pipe.recv()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return None
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = path
    os.chdir(folder)
    return entry_point, arguments
