"""Machines where the home folder cannot be written or does not exist, and where the program's folder is read-only."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.records.datasets import CacheError, ensure_local, provide
from orchestrator.storage import open_storage
from tests.records.test_datasets import REQUEST
from tests.support.commands import call


def test_home_that_cannot_be_written_is_one_line_that_names_the_variable(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRM_CACHE", str(tmp_path / "cache"))
    storage = open_storage(s3_bucket)
    name = provide(storage, REQUEST).path.name
    monkeypatch.delenv("TRM_CACHE")
    (tmp_path / "home").write_text("no folder can be made below a file")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for words in (["data", "show", name], ["data", "build", "sudoku-4x4", "--num-train", "8", "--num-test", "4"]):
        code, _, err = call(capsys, *words, "--storage", s3_bucket)
        assert code == 2 and err.count("\n") == 1 and "cannot write to the cache" in err and "TRM_CACHE" in err
    with pytest.raises(CacheError, match="TRM_CACHE"):
        ensure_local(storage, name)


def test_user_without_a_home_folder_needs_the_variable_alone(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A container that runs under a number without an entry in its list of users."""

    def unknown(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    code, _, err = call(capsys, "data", "list", "--storage", s3_bucket)
    assert code == 2 and err.count("\n") == 1 and "no home folder" in err and "TRM_CACHE" in err
    code, _, err = call(capsys, "sweep", "status", "--storage", "~/runs")
    assert code == 2 and err.count("\n") == 1 and "no such home folder" in err
    monkeypatch.setenv("TRM_CACHE", str(tmp_path / "cache"))
    assert call(capsys, "data", "list", "--storage", s3_bucket)[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "status", "--storage", "~no-such-user/runs"],
        ["train", "--max-steps", "1", "--set", "data.source=~no-such-user/list.txt"],
        ["train", "--max-steps", "1", "--set", "model.recursion=~no-such-user/mine.py:Mine"],
    ],
    ids=["storage", "source", "recursion"],
)
def test_home_folder_of_nobody_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, *words)
    assert code == 2 and err.count("\n") == 1 and "no such home folder" in err


READ_ONLY = """
import sys
from numba.core import caching

for each in list(vars(caching).values()):
    if isinstance(each, type) and "ensure_cache_path" in vars(each):
        def ensure(self, before=each.ensure_cache_path):
            if not self.get_cache_path().startswith(sys.argv[1]):
                raise PermissionError(13, "Permission denied")
            before(self)
        each.ensure_cache_path = ensure
from trm_data.jit import mix

print(mix(1, 2))
"""


def test_compiled_code_is_kept_in_the_private_folder_where_no_other_can_be_written(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-c", READ_ONLY, str(tmp_path)]
    done = subprocess.run(command, env={**environment, "TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"trm-{os.getuid()}" and folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.rglob("*.nbc"))
