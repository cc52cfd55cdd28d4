"""Ray Tune's side of a sweep, with trials that only leave a file."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import tune
from ray.tune.experiment import Trial

from orchestrator.execution import tune as ray_tune
from orchestrator.execution.allocator import Expired
from orchestrator.execution.ray_cluster import SETTINGS, RayCluster
from orchestrator.execution.scratch import scratch_folder
from orchestrator.execution.tune import fit
from orchestrator.resources.placement import Bundle

TRIALS = 12


class Handout:
    """Hand out trials until there are none."""

    is_stopping = False

    def __init__(self, folder: Path) -> None:
        self._left = [{"trial_id": f"t{number}", "folder": str(folder)} for number in range(TRIALS)]
        self.over: list[str] = []

    @property
    def is_finished(self) -> bool:
        return not self._left

    def suggest(self) -> dict[str, Any] | None:
        return self._left.pop(0) | {"bundle": Bundle({"CPU": 1.0}, {})._asdict()} if self._left else None

    def result(self, trial_id: str, result: dict[str, Any]) -> bool:
        return True

    def expired(self, silence_limit_s: float) -> dict[str, Expired]:
        return {}

    def ended(self, trial_id: str, lost: bool, why: str = "") -> None:
        assert not lost, why
        self.over.append(trial_id)


def in_a_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Ray reads its settings once per process, and other tests have made some here."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@pytest.fixture(autouse=True)
def _settings_of_a_new_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)


@contextmanager
def private_ray() -> Iterator[RayCluster]:
    cluster = RayCluster(None)
    cluster.start()
    try:
        yield cluster
    finally:
        assert cluster.shutdown(300.0)


def fit_with_an_actor_that_comes_up_late(folder: Path) -> list[str]:
    """The ids of the trials that have ended; `folder` has a file per trial and per actor."""

    class Slot(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self.folder = Path(config["folder"])
            (self.folder / f"actor-{os.getpid()}").touch()
            try:
                (self.folder / "first").touch(exist_ok=False)
            except FileExistsError:
                self.wait_for("trial-*", TRIALS // 2)

        def wait_for(self, pattern: str, count: int) -> None:
            until = time.monotonic() + 600
            while len(list(self.folder.glob(pattern))) < count:
                assert time.monotonic() < until
                time.sleep(0.02)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            self.wait_for("actor-*", 2)  # no trial ends before the second actor is coming up
            (self.folder / f"trial-{self.config['trial_id']}").touch(exist_ok=False)
            return {"trial_step": 1, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return None

        def load_checkpoint(self, checkpoint: Any) -> None:
            return None

    driver = Handout(folder)
    with private_ray():
        fit(driver, slots=2, actor=Slot)
    return driver.over


def test_an_actor_that_comes_up_late_is_waited_for(tmp_path: Path) -> None:
    """Else Tune gives its trial to the actor that is there, and starts one more for every trial that follows."""
    over = in_a_fresh_process(fit_with_an_actor_that_comes_up_late, tmp_path)
    assert sorted(over) == sorted(f"t{number}" for number in range(TRIALS))
    assert len(list(tmp_path.glob("trial-*"))) == TRIALS
    assert len(list(tmp_path.glob("actor-*"))) == 2


def describe_a_private_ray() -> dict[str, Any]:
    """What a private Ray is made of, once it has run a task."""
    before = {name: os.environ.get(name) for name in (*SETTINGS, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    with private_ray() as cluster:
        name = ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote())
        living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
        everything = [psutil.Process(), *living, *(c for one in living for c in one.children(recursive=True))]
        found = {
            "commands": [" ".join(child.cmdline()) for child in living],
            "listening": sorted({address for process in everything for address in listening(process)}),
            "token": name,
            "arguments": " ".join(word for child in everything for word in child.cmdline()),
            "folder_mode": oct(scratch_folder().stat().st_mode & 0o777),
            "is_below": str(scratch_folder()) in ray.get_runtime_context().gcs_address
            or any(str(scratch_folder()) in " ".join(child.cmdline()) for child in living),
            "failure": cluster.failure(),
            "sigterm_is_handled": signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL,
        }
        folder = scratch_folder()
        raylet = next(child for child in living if child.name() == "raylet")
        raylet.kill()
        raylet.wait(120)
        found["failure_without_raylet"] = cluster.failure()
    after = {name: os.environ.get(name) for name in before}
    return found | {"is_left": folder.exists(), "environment_is_restored": after == before}


def listening(process: psutil.Process) -> list[str]:
    try:
        return [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []


def test_a_private_ray_is_private_and_its_death_is_noticed() -> None:
    found = in_a_fresh_process(describe_a_private_ray)
    assert any("raylet" in command for command in found["commands"])
    assert not any("ray/autoscaler" in command for command in found["commands"]), "it would delay ray.shutdown"
    assert set(found["listening"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"} and found["listening"]
    assert len(found["token"]) == 64 and found["token"] not in found["arguments"]
    assert found["folder_mode"] == "0o700" and found["is_below"]
    assert (found["failure"], found["failure_without_raylet"]) == ("", "Ray's raylet on this machine has died")
    assert not found["is_left"] and found["environment_is_restored"]
    assert not found["sigterm_is_handled"], "Ray's handler would end a driver that SIGTERM reaches while Ray starts"


def lose_two_actors(folder: Path) -> list[tuple[str, bool, str]]:
    """How the trials ended, one of which hangs in its first step, and one of which loses its process."""

    class Hanging(tune.Trainable):  # type: ignore[misc]
        def step(self) -> dict[str, Any]:
            done, lost = Path(self.config["folder"]) / "hung", Path(self.config["folder"]) / "lost"
            if self.config["trial_id"] == "t1" and not lost.exists():
                lost.touch()
                raise RuntimeError("the trial's process died with exit code -9")
            if not done.exists() and self.iteration == 1:
                done.touch()
                threading.Event().wait()
            return {"trial_step": 1, "done": self.iteration == 1}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._iteration = 0
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return None

        def load_checkpoint(self, checkpoint: Any) -> None:
            return None

    class Impatient(Handout):
        """Find the trial silent that hangs, and hand it out again."""

        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self._left = self._left[:2]
            self._folder = folder
            self._running: dict[str, dict[str, Any]] = {}
            self._reported: set[str] = set()
            self.ends: list[tuple[str, bool, str]] = []

        @property
        def is_finished(self) -> bool:
            return not self._left and not self._running

        def suggest(self) -> dict[str, Any] | None:
            config = super().suggest()
            if config is not None:
                self._running[config["trial_id"]] = config
            return config

        def expired(self, silence_limit_s: float) -> dict[str, Expired]:
            is_hung = (self._folder / "hung").exists() and not any(trial_id == "t0" for trial_id, _, _ in self.ends)
            if is_hung:
                return dict.fromkeys(self._running, Expired("it reports nothing", ends_running=True))
            # An actor that runs is left alone unless it is silent.
            return dict.fromkeys(self._reported & self._running.keys(), Expired("overdue", ends_running=False))

        def result(self, trial_id: str, result: dict[str, Any]) -> bool:
            self._reported.add(trial_id)
            return super().result(trial_id, result)

        def ended(self, trial_id: str, lost: bool, why: str = "") -> None:
            config = self._running.pop(trial_id)
            self.ends.append((trial_id, lost, why))
            if lost:
                config.pop("bundle")
                self._left.append(config)

    controller = Impatient(folder)
    with private_ray():
        fit(controller, slots=1, actor=Hanging)
    return controller.ends


def test_an_actor_that_reports_nothing_is_killed_and_its_trial_runs_again(tmp_path: Path) -> None:
    ends = in_a_fresh_process(lose_two_actors, tmp_path)
    why = {trial_id: why for trial_id, lost, why in ends if lost}
    assert why == {"t0": "it reports nothing", "t1": "RuntimeError: the trial's process died with exit code -9"}
    assert sorted(trial_id for trial_id, lost, _ in ends if not lost) == ["t0", "t1"]


def test_with_an_unknown_version_of_ray_tune_s_own_order_is_used_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_tune, "TESTED_VERSIONS", ("1.0.",))
    monkeypatch.setattr(ray_tune, "_warned", False)
    pending = Trial("trial", stub=True)

    class Rounds:
        """Tune's controller, without the private attributes of the tested version."""

        def get_trials(self) -> list[Trial]:
            return [pending]

        def get_live_trials(self) -> list[Trial]:
            return [pending]

    schedule = ray_tune._Schedule(ray_tune._Link(Handout(tmp_path)))
    assert [schedule.choose_trial_to_run(Rounds()) for _ in range(3)] == [pending] * 3
    assert [record.levelname for record in caplog.records if "own order" in record.getMessage()] == ["WARNING"]
