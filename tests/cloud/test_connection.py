"""The connection to a machine: what it runs, what it sends, and one line with the remedy where it fails."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.cloud.backend import CloudError, Deployment
from orchestrator.cloud.ssh.connection import Connection, quoted
from orchestrator.cloud.ssh.inspection import home_of, inspect
from orchestrator.cloud.ssh.setup import MAX_CLOCK_S, claim_name, require_usable
from tests.cloud.conftest import Box
from trm_data.files import private_folder


def test_scripts_run_whatever_they_contain(box: Box) -> None:
    with Connection("box", box.config) as connection:
        assert connection.run("printf '%s' \"$HOME\"").out == str(box.home)
        assert connection.run("cat", b"a 'b' \"c\" $d").out == "a 'b' \"c\" $d"
        assert connection.run(f"printf %s {quoted('/a b/$c')}").out == "/a b/$c"
        assert connection.run("exit 3", check=False).code == 3


def test_commands_share_a_connection_and_leave_no_socket(box: Box) -> None:
    sockets = private_folder("ssh")
    before = set(sockets.iterdir())
    with Connection("box", box.config) as connection:
        connection.run("true")
        new = set(sockets.iterdir()) - before
        own = {folder for folder in new if folder.name.startswith(f"{os.getpid()}-")}  # not those of other test workers
        assert [[file.name for file in folder.iterdir()] for folder in own] == [["s"]]
        assert all(folder.stat().st_mode & 0o077 == 0 for folder in own)
    assert not own & set(sockets.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_is_shown_ends_on_the_machine_with_its_viewer(number: signal.Signals, box: Box, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = (
        "import sys; from orchestrator.cloud.ssh.connection import Connection\n"
        "with Connection('box', sys.argv[1]) as connection:\n"
        "    connection.stream(sys.argv[2])"
    )
    script = f"echo $$ > {file}.new && mv {file}.new {file}; exec sleep 600"
    viewer = subprocess.Popen([sys.executable, "-c", code, box.config, script], start_new_session=True)
    try:
        while not file.exists():
            assert viewer.poll() is None
            time.sleep(0.05)
        remote = psutil.Process(int(file.read_text()))
        assert remote.is_running()
    finally:
        os.killpg(viewer.pid, number)
        viewer.wait()
    psutil.wait_procs([remote], timeout=60)
    assert not remote.is_running()


def test_stream_returns_what_the_script_returns(box: Box, capfd: pytest.CaptureFixture[str]) -> None:
    with Connection("box", box.config) as connection:
        assert connection.stream("echo shown; exit 3") == 3
    assert capfd.readouterr().out == "shown\n"


def test_an_archive_is_unpacked(box: Box, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("content")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "x", "deep/x")
    with Connection("box", box.config) as connection:
        connection.send(tmp_path / "x.tar", f"{tmp_path}/there it is")
    assert (tmp_path / "there it is/deep/x").read_text() == "content"


def test_an_unknown_host_key_is_refused(box: Box) -> None:
    config = box.with_settings("unknown", UserKnownHostsFile="/dev/null")
    with (
        Connection("box", config) as connection,
        pytest.raises(CloudError, match="host key of box is not known") as found,
    ):
        connection.run("true")
    assert "fingerprint" in found.value.remedy


def test_another_host_key_than_before_is_refused(box: Box) -> None:
    other = (box.folder / "other.pub").read_text()
    (box.folder / "changed").write_text(f"[127.0.0.1]:{box.port} {other}")
    config = box.with_settings("other-host", UserKnownHostsFile=str(box.folder / "changed"))
    with Connection("box", config) as connection, pytest.raises(CloudError, match="another one than before"):
        connection.run("true")


def test_a_key_that_is_not_accepted_is_named(box: Box) -> None:
    config = box.with_settings("wrong-key", IdentityFile=str(box.folder / "other"))
    with Connection("box", config) as connection, pytest.raises(CloudError, match="accepts none of your keys"):
        connection.run("true")


def test_a_machine_that_does_not_answer_is_named(box: Box) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        config = box.with_settings("closed", Port=str(free.getsockname()[1]))
    with Connection("box", config) as connection, pytest.raises(CloudError, match="box cannot be reached"):
        connection.run("true")


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a b", "", "u@-h", "host:99999", "a;b", "u@"])
def test_no_address_becomes_an_option_or_a_command(host: str) -> None:
    with pytest.raises(CloudError, match="no machine that ssh can reach"):
        Connection(host)


def test_a_machine_without_python_is_named(box: Box) -> None:
    with Connection("box", box.config) as connection:
        found = inspect(connection, "python3")
        assert found.home == str(box.home) and found.cores >= 1 and found.free_bytes > 0
        with pytest.raises(CloudError, match="box has no python9"):
            inspect(connection, "python9")


def test_a_full_disk_is_one_line(box: Box) -> None:
    with Connection("box", box.config) as connection, pytest.raises(CloudError, match="disk of box is full"):
        connection.run("cat > /dev/full", b"data")


@pytest.fixture
def greeting(box: Box) -> Iterator[None]:
    """The machine's login prints a text, as images of providers do, before it runs what is asked."""
    login, keys = box.folder / "login", box.folder / "authorized"
    before = keys.read_text()
    login.write_text('#!/bin/sh\nprintf "Welcome home=/evil\\ngpu=H100"\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    login.chmod(0o755)
    keys.write_text(f'command="{login}" {before}')
    yield
    keys.write_text(before)


@pytest.mark.usefixtures("greeting")
def test_greeting_of_a_login_is_no_part_of_an_answer(box: Box, tmp_path: Path) -> None:
    deployment = Deployment(name="s", backend="ssh", storage="/x", created_s=1.0)
    place = f"{box.home}/.trm-cloud/deployments/s"
    with Connection("box", box.config) as connection:
        assert connection.run("cat", b"data").out == "data"
        found = inspect(connection, "python3")
        assert found.home == home_of(connection) == str(box.home) and found.num_gpus == 0
        claim_name(connection, place, deployment)
        claim_name(connection, place, deployment)
        connection.receive("printf 'bytes\\0'; echo said >&2", tmp_path / "file")
        with pytest.raises(CloudError, match="box: said"):
            connection.receive("echo said >&2; exit 3", tmp_path / "other")
    assert (tmp_path / "file").read_bytes() == b"bytes\0"
    shutil.rmtree(box.home / ".trm-cloud")


def test_machine_whose_clock_is_wrong_is_not_used(box: Box) -> None:
    deployment = Deployment(name="s", backend="ssh", storage="/x", created_s=1.0)
    with Connection("box", box.config) as connection:
        found = inspect(connection, "python3")._replace(free_bytes=10**12)
        assert abs(found.ahead_s) < MAX_CLOCK_S
        require_usable(connection, found, deployment)
        with pytest.raises(CloudError, match=r"clock of box is 2 h ahead of this computer's.* too early"):
            require_usable(connection, found._replace(ahead_s=7200), deployment)
        with pytest.raises(CloudError, match=r"clock of box is 2 h behind this computer's.* too late"):
            require_usable(connection, found._replace(ahead_s=-7200), deployment)


def test_error_of_a_program_of_the_machine_is_told_once(box: Box) -> None:
    with Connection("box", box.config) as connection, pytest.raises(CloudError) as found:
        connection.run("echo 'error: the driver is running' >&2; exit 2")
    assert found.value.what == "box: the driver is running"
