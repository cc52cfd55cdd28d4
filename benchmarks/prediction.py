"""Measure how well a plan predicts: calibrated on half of the cells of a small CPU sweep, compared on the other
half.

    python benchmarks/prediction.py                        # runs 16 short trials, a few minutes
    python benchmarks/prediction.py --storage runs --sweep demo   # on the finished trials of a sweep

Time is what a trial takes from its start to its score, evaluation included; memory is the peak of its process. The
halves are drawn at random from the cells, `--draws` times; figures are medians over the draws. On a machine that others
use, `--cpu-time` takes the CPU seconds of a trial's process instead of the clock.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import socket
import statistics
import tempfile
import time
from typing import Any, TypeVar

from orchestrator.records.datasets import provide
from orchestrator.records.index import head_of, trial_folder
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.resources.memory import measured_overhead_bytes, memory_bytes
from orchestrator.resources.runtime import Observation, fit, work_of
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep import Sweep, choice, configure
from orchestrator.sweep.trials import study_trials
from orchestrator.worker.job import Job
from trm_data import fingerprint
from trm_model.recipes import get_recipe

Item = TypeVar("Item")
SMALL = {"data.num_train": 500, "data.num_validation": 100, "data.num_test": 200, "runtime.num_threads": 1}


def sweep_of(steps: int) -> Sweep:
    """Return a sweep over shapes that differ in depth, batch and width by factors of 2 to 4."""
    space = {
        "T": choice(1, 2),
        "n": choice(1, 3),
        "train.batch_size": choice(32, 128),
        "model.hidden_size": choice(32, 96),
    }
    base = configure(get_recipe("sudoku-mini"), {**SMALL, "train.max_steps": steps})
    return Sweep(name="prediction", base=base, space=space, equal="steps")


def attempt(job: Job) -> None:
    """Run an attempt in a trial's process."""
    from orchestrator.worker.attempt import run_attempt

    started = time.process_time()
    run_attempt(job, lambda report: None, lambda: False)
    spent = {"cpu_s": time.process_time() - started}
    trial_folder(open_storage(job.storage_url), job.sweep, job.trial_id).write("cpu.json", to_json_bytes(spent))


def run_cells(sweep: Sweep, storage: Storage) -> None:
    """Run one trial after the other without Ray, each in a fresh process with torch imported, as a slot runs them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["orchestrator.worker.attempt"])
    for trial in study_trials(sweep, fingerprint):
        dataset = provide(storage, trial.config.data.request())
        trial_folder(storage, sweep.name, trial.trial_id).write("trial.json", head_of(trial, dataset).encode())
        job = Job(storage.url, sweep.name, trial.trial_id, trial.config.plain(), dataset.path.name)
        process = context.Process(target=attempt, args=(job,))
        process.start()
        process.join()


def seconds_of(record: TrialRecord, cpu_of: Storage | None = None) -> float:
    """Return the time from start to score, by wall clock or (`cpu_of`: where the records are) in CPU seconds."""
    assert record.result is not None
    if cpu_of is not None:
        return float(json.loads(trial_folder(cpu_of, record.sweep, record.trial_id).read("cpu.json"))["cpu_s"])
    return record.result.ended_s - record.attempts[0].start.started_s


def halves(items: list[Item], seed: int) -> tuple[list[Item], list[Item]]:
    """Split items at random into a calibration and a prediction half."""
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    half = len(shuffled) // 2
    return shuffled[:half], shuffled[half:]


def judge(observations: list[Observation], seed: int) -> dict[str, float]:
    """Return the errors on the half that was not used for calibration."""
    seen, unseen = halves(observations, seed)
    speed = fit(seen)
    predicted = [speed.seconds(each.work) for each in unseen]
    measured = [each.seconds for each in unseen]
    each = [abs(a / b - 1) for a, b in zip(predicted, measured, strict=True)]
    return {"total": sum(predicted) / sum(measured) - 1, "cell_median": statistics.median(each), "said": speed.spread}


def memory_errors(records: list[TrialRecord], seed: int) -> list[float]:
    """Return predicted over measured peak, minus one, on the half that was not used for calibration."""
    seen, unseen = halves(records, seed)
    overhead_bytes = measured_overhead_bytes(seen, "cpu", socket.gethostname())
    peaks = [(record, record.attempts[0].end and record.attempts[0].end.peak_bytes) for record in unseen]
    return [memory_bytes(record.config, "cpu", overhead_bytes) / peak - 1 for record, peak in peaks if peak]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage")
    parser.add_argument("--sweep", default="prediction")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--draws", type=int, default=21)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(options.storage or folder)
        if options.storage is None:
            run_cells(sweep_of(options.steps), storage)
        found = [record for record in read_trials(storage, options.sweep) if record.status is Status.FINISHED]
        whole = [record for record in found if len(record.attempts) == 1]
        clock = storage if options.cpu_time else None
        observed = [Observation(work_of(record.config), seconds_of(record, clock)) for record in whole]
    draws = [judge(observed, seed) for seed in range(options.draws)]
    memory = [error for seed in range(options.draws) for error in memory_errors(whole, seed)]
    result: dict[str, Any] = {
        "trials": len(whole),
        "seconds": [round(each.seconds, 1) for each in observed],
        "time_total_error_median": round(statistics.median(abs(draw["total"]) for draw in draws), 3),
        "time_total_error_worst": round(max(abs(draw["total"]) for draw in draws), 3),
        "time_cell_error_median": round(statistics.median(draw["cell_median"] for draw in draws), 3),
        "spread_said_median": round(statistics.median(draw["said"] for draw in draws), 3),
        "memory_error_worst": round(max(map(abs, memory)), 3) if memory else None,
        "memory_error_mean": round(statistics.fmean(memory), 3) if memory else None,
        "load": [round(load_before, 1), round(os.getloadavg()[0], 1)],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
