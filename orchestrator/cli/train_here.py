"""One trial in this process, with a progress bar: the body of `trm train`."""

from __future__ import annotations

import json
import signal
import threading
from types import FrameType

from orchestrator.cli.quick_eval import in_proportion
from orchestrator.cli.views.console import BuildBar, bar, err, out
from orchestrator.records.datasets import provide
from orchestrator.records.index import SINGLE_RUNS, head_of, trial_folder, write_head
from orchestrator.records.reader import read_trial
from orchestrator.records.schema import Status
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.lease import Lease
from orchestrator.sweep.definition import Resources
from orchestrator.sweep.trials import PlannedTrial, trial_id
from orchestrator.worker.attempt import run_attempt
from orchestrator.worker.job import Job, TrialReport
from trm_model.config import TrialConfig
from trm_model.device import resolve_device
from trm_model.model.recursion import load_recursion


def train_here(config: TrialConfig, url: str, as_json: bool, processes: int = 1) -> int:
    """Train, show, record. Returns the exit code: 0 finished, 1 failed, 3 interrupted."""
    if config.model.recursion is not None:
        load_recursion(config.model.recursion)  # a file that fails is the user's mistake, and no result of a trial
    storage = open_storage(url)
    with BuildBar() as progress:
        dataset = provide(storage, config.data.request(), progress)
    if resolve_device(config.runtime.device).type == "cpu":
        config, words = in_proportion(config, dataset)
        if words:
            err.print(words)
    identity = trial_id(config, dataset.fingerprint)
    folder = trial_folder(storage, SINGLE_RUNS, identity)
    family = config.recipe or "train"
    trial = PlannedTrial(trial_id=identity, stage="explore", family=family, config=config, resources=Resources())
    write_head(folder, config, head_of(trial, dataset))
    if not folder.exists("result.json"):
        with Lease(folder, f"train/{identity}"):
            job = Job(storage.url, SINGLE_RUNS, identity, config.plain(), dataset.path.name, processes=processes)
            news = run_job(job, config.train.max_steps)
        if news.status != Status.FINISHED:
            word = "go on with the same command" if news.status == Status.INTERRUPTED else news.reason
            err.print(f"[yellow]{news.status}[/] at step {news.step}: {word}")
            return 3 if news.status == Status.INTERRUPTED else 1
    _show(storage, identity, as_json)
    return 0


def run_job(job: Job, max_steps: int) -> TrialReport:
    """One attempt in this process, with a progress bar; SIGINT and SIGTERM end it with a checkpoint."""
    stop = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with bar() as progress:
            task = progress.add_task("training", total=max_steps, note="")

            def listen(news: TrialReport) -> None:
                shown = {key: news.metrics[key] for key in ("loss", "exact_accuracy") if key in news.metrics}
                note = "  ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in shown.items())
                progress.update(task, completed=news.step)
                if note:
                    progress.update(task, note=note)
                if not err.is_terminal and news.kind == "rung":
                    err.print(f"step {news.step}/{max_steps}  {note}")

            return run_attempt(job, listen, stop.is_set)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(storage: Storage, identity: str, as_json: bool) -> None:
    record = read_trial(storage, SINGLE_RUNS, identity)
    assert record.result is not None
    if as_json:
        shown = {key: value for key, value in record.result.plain().items() if key != "per_item"}
        print(json.dumps({"trial_id": identity, **shown}, indent=1))
        return
    metrics = record.result.metrics
    exact, cell = 100 * metrics["exact_accuracy"], 100 * metrics["cell_accuracy"]
    items = record.result.items
    out.print(f"{exact:.1f} % of {items} {record.result.split} puzzles solved, {cell:.1f} % of cells right")
    out.print(f"record: {storage.url}/sweeps/{SINGLE_RUNS}/trials/{identity}")
