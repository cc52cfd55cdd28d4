"""Secrets in every place where a user can put one, and a search for them in everything that a sweep leaves behind."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

OWN_FILES = ("home", "repository")
"""Folders of the user's own in which the secrets lie; they are not artefacts."""

SECRETS = {
    "AWS key": "PLANTED-aws-5d1c8e07",
    "MLflow token": "PLANTED-mlflow-token-77aa",
    "password of the tracker": "PLANTED-tracker-41f0",
    "path of the webhook": "PLANTED-webhook-9b2e",
    "argument of a notification command": "PLANTED-notify-0c66",
    "variable of a sweep file": "PLANTED-sweepfile-b1d9",
    "remote of the git repository around it": "PLANTED-remote-e3a4",
    "change in that repository": "PLANTED-diff-5a5f",
    "address in the error of a trial": "PLANTED-error-c8d2",
    "token of the hub": "PLANTED-hub-1f9a",
    "key of a language model": "PLANTED-llm-38e1",
    "database address in a variable": "PLANTED-database-6c0b",
}

RECURSION = """
import logging
import os

from trm_model.recursion import Recursion


class Failing(Recursion):
    def cycle(self, states, input_BLD, rotary, steps_without_gradient):
        text = f"cannot reach {os.environ['PLANTED_ADDRESS']} with {os.environ['AWS_SECRET_ACCESS_KEY']}"
        print(text)
        logging.getLogger("trm_model").warning("%s", text)
        raise RuntimeError(text)
"""

SWEEP = """
from orchestrator.sweep import Confirm, Stopping, Sweep, Variant, choice, configure
from trm_model.recipes import get_recipe

PASSWORD = "{password}"

sweep = Sweep(
    name="private",
    kind="search",
    trials=2,
    sampler="random",
    base=configure(get_recipe("sudoku-mini"), {settings!r}),
    space={{"T": choice(1, 2)}},
    stopping=Stopping(rule="none"),
    confirm=Confirm(seeds=1, controls=(Variant(name="failing", settings={{"model.recursion": "mine.py:Failing"}}),)),
)
"""


def environment(home: Path) -> dict[str, str]:
    """Return environment variables that hold secrets."""
    return {
        "HOME": str(home),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": SECRETS["AWS key"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_TRACKING_TOKEN": SECRETS["MLflow token"],
        "HF_TOKEN": SECRETS["token of the hub"],
        "OPENAI_API_KEY": SECRETS["key of a language model"],
        "DATABASE_URL": f"postgresql://me:{SECRETS['database address in a variable']}@db/x",
        "PLANTED_ADDRESS": f"https://me:{SECRETS['address in the error of a trial']}@host/x?a=1",
    }


def write_repository(folder: Path, settings: Mapping[str, object]) -> Path:
    """Write a git repository of the user's own, with secrets in its remote, its changes and its sweep file, which is
    returned."""
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing yet\n")
    remote = f"https://me:{SECRETS['remote of the git repository around it']}@github.com/me/private"
    for arguments in (
        ("init", "-q"),
        ("remote", "add", "origin", remote),
        ("add", "notes.txt"),
        ("-c", "user.name=me", "-c", "user.email=me@localhost", "commit", "-qm", "first"),
    ):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)
    (folder / "notes.txt").write_text(f"password: {SECRETS['change in that repository']}\n")
    (folder / "mine.py").write_text(RECURSION)
    sweep = folder / "sweep.py"
    sweep.write_text(SWEEP.format(password=SECRETS["variable of a sweep file"], settings=dict(settings)))
    return sweep


def found_in(data: bytes) -> list[str]:
    """Return which secrets are in some bytes, as they are or in base64 (as in an Authorization header)."""
    encoded = {name: base64.b64encode(f"me:{value}".encode()) for name, value in SECRETS.items()}
    return [name for name, value in SECRETS.items() if value.encode() in data or encoded[name] in data]


def leaks(folder: Path) -> Iterator[str]:
    """Yield every file below a folder that holds a secret in its name or its content."""
    for path in sorted(folder.rglob("*")):
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        for name in found_in(str(path).encode() + b"\n" + data):
            yield f"{path.relative_to(folder)}: {name}"
