"""Measure the overhead of running a trial: the same empty trials through four systems, in one run.

    python benchmarks/overhead.py                                   # 2 slots: 200 and 1,000 trials
    python benchmarks/overhead.py --slots 32 --gpus                 # 32 stand-in GPUs
    python benchmarks/overhead.py --system ours --trials 200        # one system, in this process

ours: this project's driver with its records, locks and planner. A fresh process per trial, with torch imported.
tune: Ray Tune as it comes. A fresh actor (a process) per trial, which imports torch.
tune_reuse: Ray Tune with reuse_actors=True. One process per slot serves all trials: globals leak from one to the next.
optuna: study.optimize(n_jobs=slots) in memory. Threads of one process: no isolation, one interpreter lock.

A trial does nothing but need torch. Each system runs in a process of its own; `driver_mib` is the peak of that process.
Tune's default takes seconds per trial, so it is given fewer trials (--slow-trials), on which its 2 s of
start and end weigh more: 3 % of its rate at 24.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SYSTEMS = ("ours", "tune", "tune_reuse", "optuna")


def empty_trial(text: str, pipe: Any) -> None:
    """Write a record as a trial does, and train nothing: instead of `orchestrator.worker.attempt.child_main`."""
    import torch

    from orchestrator.records.schema import AttemptEnd, AttemptStart, Status, TrialResult
    from orchestrator.records.writer import TrialWriter
    from orchestrator.storage import open_storage
    from orchestrator.worker.job import Job, TrialReport

    job = Job.from_json(text)
    writer = TrialWriter(open_storage(job.storage_url), job.sweep, job.trial_id)
    writer.start(AttemptStart(from_step=0, started_s=time.time(), pid=os.getpid()))
    metrics = {"exact_accuracy": float(torch.zeros(1)), "cell_accuracy": 0.0}
    writer.finish(TrialResult(split="test", items=1, metrics=metrics, train_flops=0.0, train_s=0.0), {})
    writer.end(AttemptEnd(status=Status.FINISHED, step=1, ended_s=time.time()))
    pipe.send(TrialReport(1, metrics, "end", "finished"))
    pipe.close()


def run_ours(trials: int, slots: int, gpus: bool, folder: Path) -> dict[str, Any]:
    import orchestrator.worker.trial_actor
    from orchestrator.execution import ray_cluster, tune
    from orchestrator.execution.run import run_sweep
    from orchestrator.records.reader import read_trials
    from orchestrator.storage import open_storage
    from orchestrator.sweep import Resources, Sweep, configure
    from orchestrator.worker import fork_server
    from trm_model.recipes import get_recipe

    class EmptySlot(orchestrator.worker.trial_actor.TrialActor):
        """Run an empty trial instead of a real one in the processes of a real actor."""

        def setup(self, config: dict[str, Any]) -> None:
            orchestrator.worker.trial_actor.ENTRY_POINT = "overhead:empty_trial"
            super().setup(config)

    fork_server.PRELOAD.append("overhead")  # as what it replaces is
    started = 0.0

    class TimedCluster(ray_cluster.RayCluster):
        """Start Ray before the clock."""

        def start(self) -> None:
            nonlocal started
            super().start()
            started = time.perf_counter()

    def execute(controller: Any, slots: int) -> None:
        tune.fit(controller, slots, EmptySlot)

    ray_cluster.LOCAL.update(_machine(slots, gpus))
    small = {"data.benchmark": "sudoku-4x4", "data.num_train": 32, "data.num_validation": 0, "data.num_test": 16}
    resources = Resources(cpus=0.01, gpus=1) if gpus else Resources()
    base = configure(get_recipe("sudoku-mini"), {**small, "data.blanks": 6, "train.max_steps": 1})
    sweep = Sweep(name="empty", base=base, seeds=trials, resources=resources, max_concurrent=slots)
    storage = open_storage(str(folder))
    run_sweep(sweep, storage, cluster=TimedCluster(None), execute=execute)
    ended_at = time.time()
    seconds = time.perf_counter() - started
    records = read_trials(storage, sweep.name)
    assert [str(record.status) for record in records] == ["finished"] * trials
    attempts = [record.attempts[0] for record in records]
    first = min(attempt.start.started_s for attempt in attempts)
    last = max(attempt.end.ended_s if attempt.end else 0.0 for attempt in attempts)
    return {
        "seconds": seconds,
        "processes": len({attempt.start.pid for attempt in attempts}),
        "until_first_s": round(first - (ended_at - seconds), 2),
        "after_last_s": round(ended_at - last, 2),
    }


def run_tune(trials: int, slots: int, gpus: bool, folder: Path, reuse: bool = False) -> dict[str, Any]:
    import ray
    from ray import tune

    class Empty(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            import torch

            self._zero = float(torch.zeros(1))

        def step(self) -> dict[str, Any]:
            return {"exact_accuracy": self._zero, "pid": os.getpid(), "done": True}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return None

        def load_checkpoint(self, checkpoint: Any) -> None:
            return None

    ray.init("local", **_machine(slots, gpus), include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    started = time.perf_counter()
    resources = {"cpu": 0.01, "gpu": 1} if gpus else {"cpu": 1}
    found = tune.Tuner(
        tune.with_resources(Empty, resources),
        param_space={"seed": tune.randint(0, 10**9)},
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=slots, reuse_actors=reuse),
        run_config=tune.RunConfig(name="empty", storage_path=str(folder), verbose=0),
    ).fit()
    ray.shutdown()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "processes": len({result.metrics["pid"] for result in found})}


def run_optuna(trials: int, slots: int, gpus: bool, folder: Path) -> dict[str, Any]:
    import optuna
    import torch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    started = time.perf_counter()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + float(torch.zeros(1)), trials, n_jobs=slots)
    return {"seconds": time.perf_counter() - started, "processes": 1}


def _machine(slots: int, gpus: bool) -> dict[str, Any]:
    return {"num_cpus": max(2, slots if not gpus else 2), "num_gpus": slots if gpus else 0,
            "object_store_memory": 128 * 2**20}  # fmt: skip


def measure(system: str, trials: int, slots: int, gpus: bool) -> dict[str, Any]:
    """Measure one system in this process. `trials_per_s` counts from a running Ray until it is shut down, the start
    of actors included; for ours, also the time before its first trial and after its last."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if system == "ours":
            found = run_ours(trials, slots, gpus, folder)
        elif system == "optuna":
            found = run_optuna(trials, slots, gpus, folder)
        else:
            found = run_tune(trials, slots, gpus, folder, reuse=system == "tune_reuse")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "system": system,
        "trials": trials,
        "slots": slots,
        "seconds": round(found["seconds"], 2),
        "trials_per_s": round(trials / found["seconds"], 3),
        "processes": found["processes"],
        "driver_mib": round(peak),
        **{name: found[name] for name in ("until_first_s", "after_last_s") if name in found},
        "load": os.getloadavg()[0],
    }


def in_its_own_process(system: str, trials: int, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--system", system, "--trials", str(trials), "--slots", str(options.slots)]
    done = subprocess.run(
        [*command, *(["--gpus"] if options.gpus else [])], stdout=subprocess.PIPE, check=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=SYSTEMS)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 200, 1000])
    parser.add_argument("--slow-trials", type=int, default=24)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--gpus", action="store_true", help="stand-in GPUs: labels and counts, no device")
    options = parser.parse_args()
    if options.system:
        print(json.dumps(measure(options.system, options.trials[0], options.slots, options.gpus)))
        return
    found = {
        (system, trials): in_its_own_process(system, trials, options)
        for system in SYSTEMS
        for trials in ([options.slow_trials] if system == "tune" else options.trials)
    }
    most, fewest = max(options.trials), min(options.trials)
    ours = {trials: found["ours", trials]["trials_per_s"] for trials in options.trials}
    default = found["tune", options.slow_trials]["trials_per_s"]
    print(json.dumps({
        "slots": options.slots,
        "ours_per_tune_default": {n: round(rate / default, 1) for n, rate in ours.items()},
        "ours_per_tune_reuse": {n: round(rate / found["tune_reuse", n]["trials_per_s"], 2) for n, rate in ours.items()},
        "memory_ratio": round(found["ours", most]["driver_mib"] / found["ours", fewest]["driver_mib"], 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
