"""Ray Tune's side of a sweep, with trials that only leave a file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import tune

from orchestrator import tuning
from orchestrator.cluster.connect import connect
from orchestrator.placement import Bundle

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


def test_an_actor_that_comes_up_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else Tune gives its trial to the actor that is there, and starts one more for every trial that follows."""

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

    monkeypatch.setattr(tuning, "Slot", Slot)
    driver = Handout(tmp_path)
    connect(None)
    try:
        tuning.fit(driver, slots=2)
    finally:
        ray.shutdown()
    assert sorted(driver.over) == sorted(f"t{number}" for number in range(TRIALS))
    assert len(list(tmp_path.glob("trial-*"))) == TRIALS
    assert len(list(tmp_path.glob("actor-*"))) == 2


def test_a_private_ray_leaves_out_what_only_scales_a_cluster() -> None:
    """Its autoscaler would keep `ray.shutdown` waiting; all else of Ray works without it."""
    connect(None)
    try:
        living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
        commands = [" ".join(child.cmdline()) for child in living]
        assert any("raylet" in command for command in commands)
        assert not any("ray/autoscaler" in command for command in commands)
        assert ray.get(ray.remote(lambda: 7).remote()) == 7
    finally:
        ray.shutdown()
