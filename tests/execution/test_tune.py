"""Ray Tune's side of a sweep, with trials that only leave a file."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import tune

from orchestrator.execution import tune as ray_tune
from orchestrator.execution.ray_cluster import connect
from orchestrator.resources.placement import Bundle

TRIALS = 12


class Handout:
    """A driver that hands out trials until there are none, and believes all that it is told."""

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

    def is_overdue(self, trial_id: str) -> bool:
        return False

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
            until = time.monotonic() + 60
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

    ray_tune.Slot = Slot  # type: ignore[misc]
    driver = Handout(folder)
    connect(None)
    try:
        ray_tune.fit(driver, slots=2)
    finally:
        ray.shutdown()
    return driver.over


def test_an_actor_that_comes_up_late_is_waited_for(tmp_path: Path) -> None:
    """Else Tune gives its trial to the actor that is there, and starts one more for every trial that follows."""
    over = in_a_fresh_process(fit_with_an_actor_that_comes_up_late, tmp_path)
    assert sorted(over) == sorted(f"t{number}" for number in range(TRIALS))
    assert len(list(tmp_path.glob("trial-*"))) == TRIALS
    assert len(list(tmp_path.glob("actor-*"))) == 2


def commands_of_a_private_ray() -> list[str]:
    """Of its living processes, once it has run a task."""
    connect(None)
    try:
        assert ray.get(ray.remote(lambda: 7).remote()) == 7
        living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
        return [" ".join(child.cmdline()) for child in living]
    finally:
        ray.shutdown()


def test_a_private_ray_leaves_out_what_only_scales_a_cluster() -> None:
    """Its autoscaler would keep `ray.shutdown` waiting; all else of Ray works without it."""
    commands = in_a_fresh_process(commands_of_a_private_ray)
    assert any("raylet" in command for command in commands)
    assert not any("ray/autoscaler" in command for command in commands)
