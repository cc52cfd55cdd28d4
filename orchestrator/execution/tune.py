"""Connect Ray Tune to a controller: Tune executes trials; the controller decides which ones, where and for how long."""

from __future__ import annotations

import logging
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ray
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.execution.allocator import Expired
from orchestrator.execution.scratch import scratch_folder
from orchestrator.resources.placement import Bundle
from orchestrator.worker.trial_actor import HEARTBEAT_S, TrialActor

logger = logging.getLogger(__name__)

SILENCE_S = 10 * HEARTBEAT_S
"""A running trial that has reported neither a rung nor progress for so long is lost: its node or its actor hangs."""
TESTED_VERSIONS = ("2.60.",)
"""Versions of Ray whose private attributes are known."""


class Decisions(Protocol):
    """Define what Tune asks of a controller: see `orchestrator.execution.controller.Controller`."""

    @property
    def is_finished(self) -> bool: ...
    @property
    def is_stopping(self) -> bool: ...
    def suggest(self) -> dict[str, Any] | None: ...
    def result(self, trial_id: str, result: dict[str, Any]) -> bool: ...
    def expired(self, silence_limit_s: float) -> dict[str, Expired]: ...
    def ended(self, trial_id: str, lost: bool, why: str = "") -> None: ...


class _Link:
    """Refer to the controller from objects that Tune pickles for its snapshots: a controller holds locks."""

    def __init__(self, controller: Decisions | None = None) -> None:
        self.controller = controller
        self.errors: dict[str, str] = {}
        """Why an actor failed, by Tune's id of the trial."""

    def __reduce__(self) -> tuple[type[_Link], tuple[()]]:
        return type(self), ()

    def get(self) -> Decisions:
        assert self.controller is not None, "a snapshot of Tune's is never run"
        return self.controller


class _Search(Searcher):  # type: ignore[misc]
    def __init__(self, link: _Link) -> None:
        super().__init__(metric="trial_step", mode="max")
        self._link = link
        self._ids: dict[str, str] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        controller = self._link.get()
        if controller.is_finished:
            return str(Searcher.FINISHED)
        config = controller.suggest()
        if config is not None:
            self._ids[trial_id] = config["trial_id"]
        return config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        # An error is the machine's: a trial reports its own failures as results. The controller decides what follows.
        own = self._ids.pop(trial_id, None)
        if own is not None:  # Tune calls this once more after an error of the first call
            self._link.get().ended(own, lost=error, why=self._link.errors.pop(trial_id, ""))

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the records hold the state of a sweep."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing: the records hold the state of a sweep."""


class _Schedule(FIFOScheduler):  # type: ignore[misc]
    def __init__(self, link: _Link) -> None:
        super().__init__()
        self._link = link

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Choose the first trial that waits for resources. Tune calls this in every round.

        A trial whose own actor is starting is not chosen: Tune would discard that actor, and ask for another one for
        the next trial, which the next free actor would take again. Where trials are shorter than the start of an
        actor, one actor ran them all while others started for nothing.
        """
        expired = self._link.get().expired(SILENCE_S)
        if expired:
            self._kill_silent(tune_controller, expired)
        private = _private_state(tune_controller)
        if private is None:
            return super().choose_trial_to_run(tune_controller)
        waiting = {trial for trial in tune_controller.get_live_trials() if _waits_for_resources(private, trial)}
        for trial in [trial for trial in waiting if trial.config["trial_id"] in expired]:
            self._link.errors[trial.trial_id] = expired[trial.config["trial_id"]].reason
            trial.init_local_path()  # else Tune fails when all trials have ended, and it lists where each was
            tune_controller.stop_trial(trial)
            if trial in private.staged_trials:
                # Tune would keep an actor, and its GPU, for a trial that was stopped before it began.
                private.unstage(trial)
            waiting.remove(trial)
        return next((trial for trial in tune_controller.get_trials() if trial in waiting), None) if waiting else None

    def _kill_silent(self, tune_controller: Any, expired: dict[str, Expired]) -> None:
        for trial in list(tune_controller.get_live_trials()):
            found, actor = expired.get(trial.config["trial_id"]), trial.temporary_state.ray_actor
            if found is not None and found.ends_running and trial.status == Trial.RUNNING and actor is not None:
                # Not `stop_trial`, which would wait for the actor, or keep it for the next trial.
                self._link.errors[trial.trial_id] = found.reason
                ray.kill(actor)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        continues = self._link.get().result(trial.config["trial_id"], result)
        return str(TrialScheduler.CONTINUE if continues else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_error(tune_controller, trial)
        self._link.errors.setdefault(trial.trial_id, _describe(_error_of(trial)))


class _Stop(tune.Stopper):  # type: ignore[misc]
    def __init__(self, link: _Link) -> None:
        self._link = link

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._link.controller is not None and self._link.controller.is_stopping


def _error_of(trial: Any) -> Exception | None:
    """Return why an actor failed. `get_pickled_error` looks for it where Tune would copy it to later."""
    file = trial.pickled_error_file
    if file is None or not Path(file).is_file():
        return None
    error: Exception = pickle.loads(Path(file).read_bytes())
    return error


def _describe(error: Exception | None) -> str:
    """Return one line of an error: the last one of a task's traceback, or the first one of a report on a lost actor."""
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return lines[-1 if isinstance(error, RayTaskError) else 0] if lines else ""


class _PrivateState(NamedTuple):
    """Hold private attributes of Tune's controller."""

    trial_to_actor: Any
    is_actor_started: Any
    staged_trials: Any
    unstage: Any


_warned = False


def _private_state(tune_controller: Any) -> _PrivateState | None:
    """Return the private attributes that the scheduler uses; None, with one warning, if Ray has changed them.

    Without them trials are started in Tune's own order, which is slower for trials of seconds, and trials that never
    get their resources are not requeued.
    """
    global _warned
    try:
        if not ray.__version__.startswith(TESTED_VERSIONS):
            raise AttributeError("it was not tested with this version")
        inner = tune_controller._tune_controller
        manager = inner._actor_manager
        return _PrivateState(
            inner._trial_to_actor,
            manager.is_actor_started,
            inner._staged_trials,
            inner._unstage_trial_with_resources,
        )
    except AttributeError as error:
        if not _warned:
            _warned = True
            logger.warning("trials start in Tune's own order with Ray %s: %s", ray.__version__, error)
        return None


def _waits_for_resources(private: _PrivateState, trial: Any) -> bool:
    """Return whether a trial has no actor yet, or one to which Ray has not given its resources yet."""
    actor = private.trial_to_actor.get(trial)
    is_coming_up = actor is not None and private.is_actor_started(actor)
    return trial.status == Trial.PENDING and not is_coming_up


def placement(config: dict[str, Any]) -> Any:
    """Return the placement group of one trial."""
    wanted = Bundle(**config["bundle"])
    return tune.PlacementGroupFactory(
        [wanted.resources], bundle_label_selector=[wanted.labels] if wanted.labels else None
    )


def fit(controller: Decisions, slots: int, actor: type[Any] = TrialActor) -> None:
    """Let Tune run the trials that a controller suggests, at most `slots` concurrently, until the controller is
    finished."""
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it names actors; what failed is in the records
    link = _Link(controller)
    scratch = tempfile.mkdtemp(prefix="tune-", dir=scratch_folder())
    tuner = tune.Tuner(
        tune.with_resources(actor, placement),
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
            failure_config=tune.FailureConfig(max_failures=0),  # the controller requeues a lost trial
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
