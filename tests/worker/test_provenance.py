"""What a record says about the code: only what this project's own checkout holds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator.worker import provenance
from orchestrator.worker.provenance import checkout_state


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a package of this project's and a private file."""
    for name in ("orchestrator/worker/provenance.py", "trm_model/loop.py", "private/secrets.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "orchestrator", "private", "trm_model")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def state(checkout: Path, *, has_diff: bool = True) -> dict[str, object]:
    own = [checkout / "orchestrator", checkout / "trm_model", Path("/elsewhere/trm_data")]
    return checkout_state(checkout / "orchestrator/worker/provenance.py", own, has_diff=has_diff)


def test_diff_holds_own_packages_only(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "private/secrets.py").write_text("password\n")
    assert state(checkout) == {"commit": commit, "dirty": False}
    (checkout / "trm_model/loop.py").write_text("two\n")
    found = state(checkout)
    assert found["dirty"] and "+two" in str(found["diff"]) and "password" not in str(found["diff"])
    assert state(checkout, has_diff=False) == {"commit": commit, "dirty": True}


def test_repository_that_does_not_track_the_package_is_not_recorded(checkout: Path) -> None:
    """A virtual environment inside somebody's private project."""
    installed = checkout / ".venv/lib/orchestrator/worker/provenance.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("installed\n")
    (checkout / "private/secrets.py").write_text("password\n")
    assert checkout_state(installed, [installed.parents[1]]) == {}


def test_file_outside_any_repository_has_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "provenance.py").write_text("installed\n")
    assert checkout_state(tmp_path / "provenance.py", [tmp_path]) == {}


def test_environment_variable_leaves_the_diff_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(provenance, "checkout_state", lambda file, own, has_diff: asked.append(has_diff) or {})
    for value in ("0", "1"):
        monkeypatch.setenv(provenance.DIFF_VARIABLE, value)
        provenance.git_state.__wrapped__()
    assert asked == [False, True]


def test_differences_name_versions_processor_and_gpu() -> None:
    here = {"versions": provenance.versions(), "processor": provenance.processor(), "device": "cpu"}
    assert provenance.differences(here) == provenance.differences({}) == []
    older = {**here, "versions": {**provenance.versions(), "numpy": "1.0"}, "processor": "Other CPU"}
    assert provenance.differences(older) == [
        f"numpy 1.0 then, {provenance.versions()['numpy']} now",
        f"processor Other CPU then, {provenance.processor()} now",
    ]
    on_gpu = {**older, "versions": ["malformed"], "device": "cuda", "gpu_name": "NVIDIA L40S"}
    assert provenance.differences(on_gpu) == ["it ran on NVIDIA L40S: GPUs do not repeat bit for bit"]
