"""Ray Tune's seams, each a thin adapter to the driver."""

from __future__ import annotations

import logging
import shutil
import tempfile
from typing import Any, Protocol

from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.resources.placement import Bundle
from orchestrator.worker.trial_actor import TrialActor


class Driver(Protocol):
    """What Tune asks of the driver."""

    @property
    def is_finished(self) -> bool: ...
    @property
    def is_stopping(self) -> bool: ...
    def suggest(self) -> dict[str, Any] | None: ...
    def result(self, trial_id: str, result: dict[str, Any]) -> bool: ...
    def is_overdue(self, trial_id: str) -> bool: ...
    def ended(self, trial_id: str, lost: bool, why: str = "") -> None: ...


class _Link:
    """A reference to the driver that Tune may pickle: it snapshots its parts, and a driver holds threads."""

    def __init__(self, driver: Driver | None = None) -> None:
        self.driver = driver
        self.errors: dict[str, str] = {}
        """By Tune's id of the trial: why its actor failed."""

    def __reduce__(self) -> tuple[type[_Link], tuple[()]]:
        return type(self), ()

    def get(self) -> Driver:
        assert self.driver is not None, "a snapshot of Tune's is never run"
        return self.driver


class _Search(Searcher):  # type: ignore[misc]
    def __init__(self, link: _Link) -> None:
        super().__init__(metric="trial_step", mode="max")
        self._link = link
        self._ids: dict[str, str] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        driver = self._link.get()
        if driver.is_finished:
            return str(Searcher.FINISHED)
        config = driver.suggest()
        if config is not None:
            self._ids[trial_id] = config["trial_id"]
        return config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        # An error is the machine's: what a trial does wrong is a result. The driver decides whether it goes again.
        self._link.get().ended(self._ids.pop(trial_id), lost=error, why=self._link.errors.pop(trial_id, ""))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: records are the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: records are the truth."""


class _Schedule(FIFOScheduler):  # type: ignore[misc]
    def __init__(self, link: _Link) -> None:
        super().__init__()
        self._link = link

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Called in every round of Tune's: the first trial that waits for a seat; it gets a free actor if there is one.

        Not one whose own actor is coming up: Tune would throw that away, and ask for another for the next trial, which
        the next free actor would take again. Where trials are shorter than the start of an actor, one actor ran them
        all while others started for nothing. A trial that waits in vain is taken back.
        """
        waiting = {trial for trial in tune_controller.get_live_trials() if _waits_for_seat(tune_controller, trial)}
        for trial in list(waiting):
            if self._link.get().is_overdue(trial.config["trial_id"]):
                tune_controller.stop_trial(trial)
                _unstage(tune_controller, trial)
                waiting.remove(trial)
        return next((trial for trial in tune_controller.get_trials() if trial in waiting), None) if waiting else None

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        goes_on = self._link.get().result(trial.config["trial_id"], result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_error(tune_controller, trial)
        self._link.errors[trial.trial_id] = _words(trial.get_pickled_error())


class _Stop(tune.Stopper):  # type: ignore[misc]
    def __init__(self, link: _Link) -> None:
        self._link = link

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._link.driver is not None and self._link.driver.is_stopping


def _words(error: Exception | None) -> str:
    """An error in one line: the last one of a task's traceback, the first one of what is said of a lost actor."""
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return lines[-1 if isinstance(error, RayTaskError) else 0] if lines else ""


def _waits_for_seat(tune_controller: Any, trial: Any) -> bool:
    """Whether a trial has no actor yet, or one to which Ray has not given its resources yet."""
    controller = tune_controller._tune_controller
    actor = controller._trial_to_actor.get(trial)
    is_coming_up = actor is not None and controller._actor_manager.is_actor_started(actor)
    return trial.status == Trial.PENDING and not is_coming_up


def _unstage(tune_controller: Any, trial: Any) -> None:
    """Tune forgets to: it would keep an actor, and its GPU, for a trial that was stopped before it began."""
    controller = tune_controller._tune_controller
    if trial in controller._staged_trials:
        controller._unstage_trial_with_resources(trial)


def placement(config: dict[str, Any]) -> Any:
    """The placement group of one trial."""
    wanted = Bundle(**config["bundle"])
    return tune.PlacementGroupFactory(
        [wanted.resources], bundle_label_selector=[wanted.labels] if wanted.labels else None
    )


def fit(driver: Driver, slots: int) -> None:
    """Let Tune run trials until the driver is finished."""
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it names slots; what failed is in the records
    link = _Link(driver)
    scratch = tempfile.mkdtemp(prefix="trm-tune-")
    tuner = tune.Tuner(
        tune.with_resources(TrialActor, placement),
        tune_config=tune.TuneConfig(
            search_alg=_Search(link),
            scheduler=_Schedule(link),
            num_samples=-1,
            max_concurrent_trials=slots,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=scratch,
            verbose=0,
            stop=_Stop(link),
            failure_config=tune.FailureConfig(max_failures=0),  # a lost trial is placed anew, by the driver
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
