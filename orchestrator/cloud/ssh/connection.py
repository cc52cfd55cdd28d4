"""Run commands on a machine with the system's `ssh`, and explain in one line why one failed.

The user's own `~/.ssh/config`, agent and known hosts count. Nothing is ever asked (BatchMode), an unknown host key is
an error, and the commands of a process share one connection, whose socket lies in a folder that only this user can
enter.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from orchestrator.cloud.backend import CloudError
from trm_data.errors import is_out_of_space
from trm_data.files import private_folder

CONNECT_S = 15
LONGEST_SOCKET = 100
"""Bytes that the path of a socket may have: the system's limit is 104 to 108, and ssh adds 17 for a moment."""
PERSIST_S = 60
"""Seconds for which a shared connection stays open after the death of this process."""
BEGIN = "trm-output-begins"
"""Line before the output of a script: a login shell may print a greeting first."""
FAILED = 255
"""Exit status of `ssh` for its own failures."""
_HOST = re.compile(r"(?:(?P<user>[\w.][\w.+-]*)@)?(?P<host>[\w:][\w.:-]*|\[[0-9a-fA-F:]+\])")


class Result(NamedTuple):
    """Hold what a remote command returned."""

    code: int
    out: str
    err: str


class Connection:
    """Reach one machine. Use it as a context manager, or call `close`.

    Args:
        host: `user@host`, `host` or `user@host:port`.
        config: configuration file of ssh instead of the user's own.

    Raises:
        CloudError: it is no such address, or there is no `ssh`.
    """

    def __init__(self, host: str, config: str | None = None) -> None:
        name, port = _split(host)
        if shutil.which("ssh") is None:
            raise CloudError("`ssh` is not installed on this machine", "Install OpenSSH's client")
        self.host = host
        self._sockets: Path | None = None
        self._options = [
            *(["-F", config] if config else []),
            *(["-p", port] if port else []),
            *_settings(BatchMode="yes", StrictHostKeyChecking="yes", ConnectTimeout=str(CONNECT_S)),
            *_settings(ServerAliveInterval="15", ServerAliveCountMax="4", ForwardAgent="no", ForwardX11="no"),
        ]
        self._name = name

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the shared connection and remove its socket."""
        if self._sockets is None:
            return
        with suppress(OSError, subprocess.TimeoutExpired):
            command = ["ssh", *self._shared(), "-O", "exit", self._name]
            subprocess.run(command, capture_output=True, timeout=CONNECT_S, check=False)
        shutil.rmtree(self._sockets, ignore_errors=True)
        self._sockets = None

    def run(
        self, script: str, data: bytes | None = None, *, check: bool = True, limit_s: float | None = 120.0
    ) -> Result:
        """Run a script of `sh` on the machine and return its result.

        Args:
            data: standard input of the script.
            check: raise an error unless the script succeeds.

        Raises:
            CloudError: the machine cannot be reached, or the script failed.
        """
        try:
            done = subprocess.run(
                self.command(_marked(script)), input=data or b"", capture_output=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise CloudError(
                f"{self.host} has not answered for {limit_s:.0f} s", "Try again, or look at the machine"
            ) from None
        before, mark, out = done.stdout.decode(errors="replace").partition(f"{BEGIN}\n")
        result = Result(done.returncode, out if mark else before, done.stderr.decode(errors="replace"))
        if result.code == FAILED:
            raise unreachable(self.host, result.err)
        if check and result.code:
            raise failed(self.host, result)
        return result

    def stream(self, script: str) -> int:
        """Run a script whose output goes to this terminal. Return its exit status.

        It ends with this process, whatever ends that, and with Ctrl-C: on the machine, the end of the standard input
        says so.
        """
        with subprocess.Popen(self.command(_until_input_ends(script)), stdin=subprocess.PIPE) as process:
            try:
                return process.wait()
            except KeyboardInterrupt:
                process.terminate()
                return 0

    def send(self, archive: Path, folder: str) -> None:
        """Unpack a tar file into a folder of the machine, which is made if it does not exist.

        Raises:
            CloudError: the machine cannot be reached, has no `tar`, or its disk is full.
        """
        script = f"mkdir -p {quoted(folder)} && tar -xf - -C {quoted(folder)}"
        with archive.open("rb") as file:
            done = subprocess.run(self.command(script), stdin=file, capture_output=True, check=False)
        result = Result(done.returncode, "", done.stderr.decode(errors="replace"))
        if result.code == FAILED:
            raise unreachable(self.host, result.err)
        if result.code:
            raise failed(self.host, result)

    def receive(self, script: str, file: Path) -> None:
        """Write the standard output of a script to a file."""
        try:
            with (
                file.open("wb") as target,
                tempfile.TemporaryFile() as errors,
                subprocess.Popen(
                    self.command(_marked(script)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
                ) as process,
            ):
                assert process.stdout is not None
                while (line := process.stdout.readline()) and line != f"{BEGIN}\n".encode():
                    pass
                shutil.copyfileobj(process.stdout, target)
                code = process.wait()
                errors.seek(0)
                said = errors.read().decode(errors="replace")
        except OSError as error:
            if is_out_of_space(error):
                raise CloudError(f"no space is left for {file}", "Free some, or set TMPDIR") from None
            raise
        result = Result(code, "", said)
        if result.code == FAILED:
            raise unreachable(self.host, result.err)
        if result.code:
            raise failed(self.host, result)

    def command(self, script: str) -> list[str]:
        """Return the local command that runs a script on the machine, whatever the login shell there is."""
        return ["ssh", *self._shared(), "-T", "--", self._name, f"exec sh -c {shlex.quote(script)}"]

    def _shared(self) -> list[str]:
        """Return the options of ssh, with a shared connection where the path of its socket is short enough."""
        if self._sockets is None:
            self._sockets = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=private_folder("ssh")))
        socket = self._sockets / "s"
        if len(str(socket)) + 17 > LONGEST_SOCKET:
            return self._options
        return [
            *self._options,
            *_settings(ControlMaster="auto", ControlPath=str(socket), ControlPersist=str(PERSIST_S)),
        ]


def _marked(script: str) -> str:
    """Return a script that says where its output begins."""
    return f"printf '\\n%s\\n' {BEGIN}; {script}"


def _until_input_ends(script: str) -> str:
    """Return a script that runs another one and ends it when the standard input ends."""
    return (
        f"exec 3<&0; ({script}) < /dev/null 3<&- & child=$!; "  # a shell gives background commands no input of its own
        "(cat <&3 > /dev/null; kill $child) > /dev/null 2>&1 & watch=$!; exec 3<&-; "
        "wait $child; code=$?; kill $watch 2> /dev/null; exit $code"
    )


def _settings(**values: str) -> list[str]:
    return [word for name, value in values.items() for word in ("-o", f"{name}={value}")]


def _split(host: str) -> tuple[str, str]:
    """Return the destination for ssh and the port; an empty port is the default one."""
    text, port = host, ""
    head, colon, tail = host.rpartition(":")
    if colon and tail.isdecimal() and (":" not in head or head.endswith("]")):
        text, port = head, tail
    if not (found := _HOST.fullmatch(text)) or (port and not 0 < int(port) < 65536):
        raise CloudError(f"{host!r} is no machine that ssh can reach", "Write user@host or user@host:port")
    name = found["host"].strip("[]")
    return (f"{found['user']}@{name}" if found["user"] else name), port


def by_hand(host: str, *script: str) -> str:
    """Return a command for a shell of this machine that connects with another one, and runs a script there if given."""
    name, port = _split(host)
    return shlex.join(["ssh", *(["-p", port] if port else []), name, *script])


def quoted(path: str) -> str:
    """Quote a path for a script; a leading `~/` stays the home folder of the machine."""
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)


def unreachable(host: str, errors: str) -> CloudError:
    """Explain why ssh itself failed."""
    for pattern, what, remedy in _FAILURES:
        if re.search(pattern, errors, re.IGNORECASE):
            return CloudError(what.format(host=host), remedy.format(host=host, ssh=by_hand(host)))
    return CloudError(f"ssh to {host} failed: {_last_line(errors)}", f"Try it by hand: {by_hand(host)}")


_FAILURES = (
    (
        "identification has changed",
        "the host key of {host} is another one than before",
        "If the machine was replaced, remove the old key with ssh-keygen -R; otherwise do not connect",
    ),
    (
        "host key verification failed|host key is known for",
        "the host key of {host} is not known here",
        "Connect once by hand, compare the fingerprint with the provider's, and accept it: {ssh}",
    ),
    (
        "permission denied|too many authentication failures",
        "{host} accepts none of your keys",
        "Add your key there with ssh-copy-id, name it in ~/.ssh/config (IdentityFile), or load it: ssh-add",
    ),
    (
        "could not resolve",
        "there is no machine {host}: its name cannot be resolved",
        "Check the name, or use the address that the provider shows",
    ),
    (
        "connection refused|no route to host|network is unreachable|timed out|timeout",
        "{host} cannot be reached",
        "Check that the machine runs, and its address, port (user@host:port) and firewall",
    ),
    (
        "can't open user config file|bad configuration option|no such file or directory",
        "ssh cannot read its configuration for {host}",
        "Check --ssh-config and ~/.ssh/config",
    ),
)
"""Patterns in what ssh prints, what they mean, and what to do."""


def failed(host: str, result: Result) -> CloudError:
    """Explain why a script failed on the machine."""
    text = result.err + result.out
    if re.search("no space left on device|disk quota exceeded", text, re.IGNORECASE):
        return CloudError(f"the disk of {host} is full", "Free some space there, or rent a larger disk")
    if re.search(r"tar: (command )?not found", text):
        return CloudError(f"{host} has no `tar`", "Install it there")
    if "permission denied" in text.lower():
        return CloudError(f"{host}: {_last_line(text)}", "The user of the machine may not write there")
    return CloudError(f"{host}: {_last_line(text) or f'the command ended with {result.code}'}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.lower().startswith("error")), lines[-1] if lines else "")
    return last.removeprefix("error: ")


def words(parts: Sequence[str]) -> str:
    """Join words for a script."""
    return shlex.join(parts)
