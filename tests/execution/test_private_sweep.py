"""One real sweep with planted secrets: what it leaves behind, and what other users of the machine can see and reach."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import psutil
import pytest

from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status
from orchestrator.storage import open_storage
from orchestrator.tracking import optuna_dashboard
from tests.support import secrets
from tests.support.secrets import SECRETS
from tests.support.sweeps import TINY
from tests.support.tracking import MlflowServer
from trm_data.generators.sudoku import generate

TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
ONE_AFTER_ANOTHER = """
import json, os, sys
os.dup2(1, 2)
from orchestrator.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as ended:
        print("exit code", ended.code, flush=True)
    print("<END>", flush=True)
"""
END = "<END>\n"
COMMANDS = (
    "doctor --tracking {tracker} --storage {storage}",
    "track sync private --tracking {tracker} --storage {storage}",
    "track rebuild private --storage {storage}",
    "trial show {trial} --storage {storage}",
    "sweep status private --storage {storage}",
    "sweep status private --json --storage {storage}",
    "sweep logs private --storage {storage}",
    "sweep plan {sweep} --storage {storage}",
    "notify private --once --to 'false {notify}' --storage {storage}",
    "sweep export private --format csv --out {folder}/export.csv --storage {storage}",
    "sweep export private --format latex --out {folder}/export.latex --storage {storage}",
    "leaderboard --format csv --storage {storage}",
    "leaderboard --format latex --storage {storage}",
    "leaderboard --format markdown --storage {storage}",
    "leaderboard --html {folder}/page.html --storage {storage}",
)
PUZZLES = {"data.num_train": 32, "data.num_validation": 16, "data.num_test": 16}


@dataclass
class Seen:
    """What was seen of the processes of a running sweep."""

    commands: set[str] = field(default_factory=set)
    listening: set[tuple[str, int]] = field(default_factory=set)
    socket_files: set[str] = field(default_factory=set)
    abstract: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    modes: dict[str, str] = field(default_factory=dict)
    """Of the folders of the user's own that hold the sockets."""
    is_refused: bool | None = None
    """Whether Ray refused somebody without the token."""


@dataclass
class Ran:
    """A sweep that has ended."""

    folder: Path
    storage: Path
    tracker: str
    shown: dict[str, str]
    """What commands printed."""
    seen: Seen


class Observer(threading.Thread):
    """Look at the processes below one, again and again."""

    def __init__(self, pid: int, temporary: Path) -> None:
        super().__init__(daemon=True)
        self.seen = Seen()
        self._driver = psutil.Process(pid)
        self._temporary = temporary
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(1.0):
            with suppress(psutil.Error, OSError):
                self._look()

    def stop(self) -> Seen:
        self._over.set()
        self.join()
        return self.seen

    def _look(self) -> None:
        # A fork server has a session of its own, so its processes are found by the folder that is theirs alone.
        of_sweep = [one for one in psutil.process_iter() if _environment(one).get("TMPDIR") == str(self._temporary)]
        for process in of_sweep:
            with suppress(psutil.Error):
                # A child that was just forked still has the command line of the driver, which the user wrote.
                if (words := process.cmdline()) != self._driver.cmdline():
                    self.seen.commands.add(" ".join(words))
                self.seen.tokens |= {value for name, value in _environment(process).items() if name == "RAY_AUTH_TOKEN"}
                for one in process.net_connections("inet"):
                    if one.status == psutil.CONN_LISTEN or one.type == socket.SOCK_DGRAM:
                        self.seen.listening.add((one.laddr.ip, one.laddr.port))
                for one in process.net_connections("unix"):
                    if one.laddr.startswith("/"):
                        self._add_file(Path(one.laddr))
                    elif one.laddr:
                        self.seen.abstract.add(one.laddr)

    def _add_file(self, path: Path) -> None:
        if str(path) in self.seen.socket_files:
            return
        owns = [folder for folder in path.parents if folder.name == f"trm-{os.getuid()}"]
        with suppress(FileNotFoundError):  # the sweep has removed it at its end
            self.seen.modes |= {str(path): oct(stat.S_IMODE(folder.stat().st_mode)) for folder in owns}
            self.seen.socket_files.add(str(path))


def _environment(process: psutil.Process) -> dict[str, str]:
    with suppress(psutil.Error):
        found: dict[str, str] = process.environ()
        return found
    return {}


def puzzle_list() -> str:
    """Return 4x4 Sudoku, no two equivalent."""
    return "".join("".join(map(str, puzzle)).replace("0", ".") + "\n" for puzzle in generate(4, 64, 6, 0).puzzles)


@pytest.fixture(scope="module")
def webhook() -> Iterator[str]:
    """A server that refuses all messages, so that the sweep has something to say about it."""

    class Refuse(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{SECRETS['path of the webhook']}"
        server.shutdown()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str, webhook: str) -> Iterator[Ran]:
    """A search with a failing control, whose user has secrets everywhere, and what commands say about it."""
    folder = tmp_path_factory.mktemp("private")
    home, temporary, storage, tracked = (folder / name for name in ("home", "t", "runs", "mlflow"))
    for made in (home, temporary, tracked):
        made.mkdir()
    environment = {**os.environ, **secrets.environment(home), "TMPDIR": str(temporary), "TRM_NOTIFY": webhook}
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket="private-puzzles")
    client.put_object(Bucket="private-puzzles", Key="list.txt", Body=puzzle_list().encode())
    source = f"s3://private-puzzles/list.txt?endpoint_override={s3_endpoint}"
    settings = {k: v for k, v in TINY.items() if k not in ("data.blanks", "model.cycles")} | PUZZLES
    sweep = secrets.write_repository(folder / "repository", {**settings, "data.source": source, "data.blanks": None})
    server = MlflowServer(f"sqlite:///{tracked}/server.db", str(tracked / "artifacts"))
    server.start()
    tracker = server.url.replace("//", f"//me:{SECRETS['password of the tracker']}@")
    command = ["-vv", "sweep", "run", str(sweep), "--tracking", tracker, "--storage", str(storage)]
    try:
        with (
            (folder / "output").open("wb") as output,
            subprocess.Popen([*TRM, *command], env=environment, cwd=sweep.parent, stdout=output, stderr=output) as run,
        ):
            observer = Observer(run.pid, temporary)
            observer.start()
            run.wait()
            seen = observer.stop()
        found = read_trials(open_storage(str(storage)), "private")
        failed = next(one.trial_id for one in found if one.status is Status.FAILED)
        values = {"tracker": tracker, "storage": storage, "folder": folder, "trial": failed, "sweep": sweep}
        values["notify"] = SECRETS["argument of a notification command"]
        commands = [shlex.split(command.format(**values)) for command in COMMANDS]
        one_process = [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(commands)]
        done = subprocess.run(one_process, env=environment, cwd=sweep.parent, capture_output=True, text=True)
        shown = dict(zip(COMMANDS, (done.stdout + done.stderr).split(END)[:-1], strict=True))
        optuna_dashboard.sync(open_storage(str(storage)), "private", f"sqlite:///{folder}/optuna.db")
        yield Ran(folder, storage, tracker, shown, seen)
    finally:
        server.kill()


def test_no_artefact_of_a_sweep_holds_a_secret(ran: Ran) -> None:
    found = read_trials(open_storage(str(ran.storage)), "private")
    assert sorted(str(one.status) for one in found) == ["failed", *["finished"] * 3]
    for name in (
        "page.html",
        "optuna.db",
        "mlflow/server.db",
        "runs/mlflow.db",
        "export.csv",
        "export.latex",
        "output",
    ):
        assert (ran.folder / name).stat().st_size, name
    places = [leak for leak in secrets.leaks(ran.folder) if not leak.startswith(secrets.OWN_FILES)]
    assert not places


def test_no_command_prints_a_secret(ran: Ran) -> None:
    for command, text in ran.shown.items():
        if not command.startswith(("doctor", "notify")):  # a busy machine does not answer in time; `false` fails
            assert "exit code 0" in text, f"{command}: {text}"
        assert not secrets.found_in(text.encode()), f"{command}: {text}"


def test_no_process_shows_a_secret_in_its_command_line(ran: Ran) -> None:
    assert any("raylet" in command for command in ran.seen.commands)
    assert not secrets.found_in("\n".join(ran.seen.commands).encode())
    assert not [command for command in ran.seen.commands for token in ran.seen.tokens if token in command]


def test_no_process_of_a_sweep_listens_beyond_loopback(ran: Ran) -> None:
    assert len(ran.seen.listening) >= 3, "Ray's servers were not seen"
    assert {address for address, _ in ran.seen.listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_ray_has_one_token_of_its_own_which_is_in_no_file(ran: Ran) -> None:
    (token,) = ran.seen.tokens
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert not [path for path in ran.folder.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]


def test_sockets_lie_below_a_folder_that_only_the_user_can_enter(ran: Ran) -> None:
    assert ran.seen.socket_files and set(ran.seen.modes) == ran.seen.socket_files
    assert set(ran.seen.modes.values()) == {"0o700"}
