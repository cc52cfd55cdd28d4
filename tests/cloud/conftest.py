"""A machine that ssh reaches: Debian's OpenSSH server on loopback, with keys and a home folder of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support.infra import free_port

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@dataclass(frozen=True)
class Box:
    """A machine that a host name of the configuration file reaches, `box` for the first."""

    folder: Path
    port: int
    name: str = "box"
    user: str = getpass.getuser()
    environment: str = sys.prefix
    """Environment with the requirements, which the user of the machine can read."""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def config(self) -> str:
        return str(self.folder / "ssh_config")

    def with_settings(self, name: str, **changed: str) -> str:
        """Write a configuration file with other settings, and return its path."""
        settings = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": self.user,
            "IdentityFile": str(self.folder / "user"),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.folder / "known"),
            "GlobalKnownHostsFile": "/dev/null",
        } | changed
        file = self.folder / name
        file.write_text(f"Host {self.name}\n" + "".join(f"  {key} {value}\n" for key, value in settings.items()))
        return str(file)

    def left(self) -> list[str]:
        """What lies in the home folder."""
        return [str(path) for path in self.home.rglob("*")]


def new_key(file: Path) -> str:
    """Make a key pair and return its public part."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return Path(f"{file}.pub").read_text()


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with started(tmp_path_factory.mktemp("box"), "box") as found:
        yield found


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Another machine, with a home folder of its own."""
    with started(tmp_path_factory.mktemp("other"), "other") as found:
        yield found


@pytest.fixture
def strangers_box() -> Iterator[Box]:
    """A machine on which we are another user than here, who can read nothing of this user's."""
    if os.getuid() != 0 or shutil.which("useradd") is None:
        pytest.skip("only root can make another user")
    python = Path("/usr/bin", f"python3.{sys.version_info.minor}")
    if not python.exists():
        pytest.skip(f"another user needs {python}")
    folder, user = Path(tempfile.mkdtemp(prefix="trm-box-", dir="/tmp")), f"trm-{uuid.uuid4().hex[:8]}"
    folder.chmod(0o755)
    packages = [path for path in sys.path if path.endswith("site-packages")]
    subprocess.run([python, "-m", "venv", "--without-pip", folder / "environment"], check=True)
    site = folder / "environment" / "lib" / python.name / "site-packages"
    (site / "ours.pth").write_text("\n".join(packages))
    # A password that nobody has; an account with none would be locked.
    subprocess.run(["useradd", "--no-create-home", "--shell", "/bin/sh", "--password", "*", user], check=True)
    try:
        with started(folder, "box", user) as found:
            shutil.chown(found.home, user)
            found.home.chmod(0o700)
            yield replace(found, environment=str(folder / "environment"))
    finally:
        subprocess.run(["userdel", user], check=True)
        shutil.rmtree(folder)


@contextmanager
def started(folder: Path, name: str, user: str = getpass.getuser()) -> Iterator[Box]:
    """A machine with a server, keys and a home folder of its own, until the block ends."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("no OpenSSH server on this machine: apt-get install -y openssh-server")
    (folder / "home").mkdir()
    host_key = new_key(folder / "host")
    (folder / "authorized").write_text(new_key(folder / "user"))
    new_key(folder / "other")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where the server separates privileges; Debian's service makes it
    port = free_port()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PasswordAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\nSetEnv HOME={folder}/home\n"
        "PermitRootLogin prohibit-password\nMaxStartups 100\n"
    )
    server = subprocess.Popen([SSHD, "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "sshd.log")])
    try:
        for _ in range(2400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (folder / "sshd.log").read_text()
            time.sleep(0.05)
        found = Box(folder, port, name, user)
        found.with_settings("ssh_config")
        yield found
    finally:
        server.terminate()
        server.wait()
