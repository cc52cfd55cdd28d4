"""Measure the cost of reading the records of finished trials, from 100 to 10,000 of them: CPU seconds and peak
memory.

    python benchmarks/records.py
    python benchmarks/records.py --trials 100 1000 --rows 15
    python benchmarks/records.py --trials --long

The old way reads every file of every trial into dictionaries, as versions until a9a5703 did; the new way reads the
index, compares it with the times of folders and files, and does not read rows until they are used. `pass` is what a
tracker does every five seconds when nothing is new. Each measurement runs in a process of its own. `status`,
`leaderboard` and `resume` run the commands themselves on the same storage.

`--long` measures what the end of a trial of twelve hours, with a row every two seconds, costs its driver on S3 (a local
moto server): a trial that ended, and one that was killed before it folded its last files.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from orchestrator.records import finished_index
from orchestrator.records.index import new_head
from orchestrator.records.rows import dump_rows
from orchestrator.records.schema import AttemptEnd, AttemptStart, DatasetInfo, Row, Status, TrialResult
from orchestrator.records.writer import TrialWriter
from orchestrator.storage import LocalStorage, Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep import Sweep, choice
from orchestrator.sweep.trials import study_trials
from orchestrator.worker.provenance import processor
from trm_data.config import DataConfig
from trm_model.config import TrialConfig

OLD = """
import json, pathlib, sys
from trm_model.config import TrialConfig
found = []
for trial in sorted(pathlib.Path(sys.argv[1], "sweeps/large/trials").iterdir()):
    head = json.loads((trial / "trial.json").read_bytes())
    rows = [json.loads(line) for path in sorted(trial.glob("attempts/*/rows-*")) for line in path.open()]
    parts = [json.loads(path.read_bytes()) for path in sorted(trial.glob("attempts/*/*.json"))]
    result = json.loads((trial / "result.json").read_bytes())
    found.append((TrialConfig.parse(head["config"]), head, parts, rows, result))
print(len(found))
"""
NEW = """
import sys
from orchestrator.records.reader import read_trials
from orchestrator.storage import open_storage
print(len(read_trials(open_storage(sys.argv[1]), "large")))
"""
PASS = """
import sys, time
from orchestrator.records.reader import SweepReader
from orchestrator.storage import open_storage
reader = SweepReader(open_storage(sys.argv[1]), "large")
reader.read()
began_s = time.process_time()
for _ in range(5):
    reader.read()
print((time.process_time() - began_s) / 5)
"""
LONG = """
import sys, time
from orchestrator.records.reader import SweepReader
from orchestrator.storage import open_storage
storage = open_storage(sys.argv[1])
storage.exists("sweeps")  # loads boto3
began_s, wall_s = time.process_time(), time.monotonic()
record = SweepReader(storage, "long", only=sys.argv[2]).read().trials[0]
assert len(record.rows) == 21_600
print(time.process_time() - began_s, time.monotonic() - wall_s)
"""
LONG_ROWS = 21_600
CALL = "import sys; from orchestrator.cli import main; main(sys.argv[2:])"
COMMANDS = {
    "status": ["sweep", "status", "large"],
    "leaderboard": ["leaderboard"],
    "resume": ["sweep", "resume", "large", "--tracking", "none"],
}
SETTINGS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def write(folder: Path, trials: int, rows: int) -> None:
    """Write a study of finished trials, each with its rows folded into one file, and its index."""
    from trm_data import build

    storage = LocalStorage(folder)
    base = TrialConfig(recipe="sudoku-mini", data=DataConfig(benchmark="sudoku-4x4", num_train=20, num_test=4))
    sweep = Sweep(name="large", base=base, space={"T": choice(1, 2), "n": choice(1, 2)}, seeds=max(1, trials // 4))
    storage.write("sweeps/large/sweep.json", to_json_bytes(sweep.plain()))
    # The dataset of the sweep itself: under another fingerprint `resume` would find other trials than these, and train.
    dataset = build(base.data.request(), storage.root / "datasets")
    facts = DatasetInfo.parse({**dataset.describe(), "name": dataset.path.name})
    for number, trial in enumerate(study_trials(sweep, lambda _: dataset.fingerprint)):
        place = storage.root / "sweeps/large/trials" / trial.trial_id
        (place / "attempts/001").mkdir(parents=True)
        score = 0.5 + number % 100 / 400
        start = AttemptStart(from_step=0, started_s=1.0, host="node", device="cpu", versions={"torch": "2.13.0"})
        end = AttemptEnd(status=Status.FINISHED, step=1000, ended_s=99.0, elapsed_s=98.0, train_s=90.0)
        result = TrialResult(
            split="test", items=500, metrics={"exact_accuracy": score, "cell_accuracy": 0.9}, num_parameters=1_000,
            train_flops=1e12, train_s=90.0, ended_s=99.0, puzzles_presented=1e5, per_item="ff" * 62,
        )  # fmt: skip
        curve = [
            Row(1000 * i // rows, 1.0 + i, "validation", {"exact_accuracy": score * i / rows, "loss": 1 / i})
            for i in range(1, rows + 1)
        ]
        files = {
            "trial.json": new_head(trial.stage, trial.family, trial.config, facts, trial_id=trial.trial_id).encode(),
            "attempts/001/start.json": start.encode(),
            "attempts/001/rows-000001.jsonl": dump_rows(curve),
            "attempts/001/end.json": end.encode(),
            "result.json": result.encode(),
        }
        for name, data in files.items():
            (place / name).write_bytes(data)  # not durable, and so a hundred times as fast
    finished_index.update(storage.sub("sweeps/large"))


def measured(code: str, folder: Path, *arguments: str) -> tuple[float, float]:
    """Return CPU seconds and peak MB of a fresh process."""
    script = f"{code}\n"
    command = [sys.executable, "-c", script, str(folder), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **SETTINGS}, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{arguments or 'reading'} ended with {process.returncode}"
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def printed(code: str, *arguments: str) -> list[float]:
    """Return the numbers that a fresh process prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, **SETTINGS}, text=True)
    return [float(word) for word in done.stdout.split()]


def write_long(storage: Storage, trial_id: str, *, ends: bool) -> int:
    """Write a trial of twelve hours with a row every two seconds; return the number of files with rows."""
    base = TrialConfig(recipe="sudoku-mini")
    head = new_head("study", "long", base, DatasetInfo(benchmark="sudoku-4x4", fingerprint="f"))
    folder = storage.sub(f"sweeps/long/trials/{trial_id}")
    folder.write("trial.json", head.encode())
    now_s = 0.0
    writer = TrialWriter(storage, "long", trial_id, clock=lambda: now_s)
    writer.start(AttemptStart(from_step=0, started_s=1.0))
    rows = [
        Row(step, 2.0 * step, "train", {"loss": 1 / step, "train_s": 2.0 * step}) for step in range(1, LONG_ROWS + 1)
    ]
    for row in rows:
        now_s = row.time_s
        writer.add(row)
    writer.flush()
    if ends:
        writer.end(AttemptEnd(status=Status.FAILED, step=LONG_ROWS, ended_s=2.0 * LONG_ROWS))
    return len([key for key in folder.list("attempts") if "/rows-" in key])


def measure_long() -> dict[str, list[float]]:
    """Print and return CPU and wall seconds of reading the trial of twelve hours on S3."""
    import boto3
    from moto.server import ThreadedMotoServer

    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="bench")
        storage = open_storage(f"s3://bench/runs?endpoint_override={endpoint}")
        found = {}
        for name, ends in (("ended", True), ("killed", False)):
            trial_id = ("e" if ends else "d") * 12
            files = write_long(storage, trial_id, ends=ends)
            found[name] = printed(LONG, storage.url, trial_id)
            cpu_s, wall_s = found[name]
            print(
                f"12 h on S3, {name}: {files} files of rows, read in {cpu_s:.2f} s of CPU, {wall_s:.1f} s of wall time"
            )
    finally:
        server.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="*", default=[100, 1_000, 10_000])
    parser.add_argument("--rows", type=int, default=15)
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--long", action="store_true", help="measure the end of a trial of twelve hours on S3")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    print(f"{processor()}, Python {platform.python_version()}; {options.rows} rows per trial")
    found: list[dict[str, Any]] = []
    for trials in options.trials:
        with tempfile.TemporaryDirectory() as place:
            # In a process of its own: the peak of a child counts from that of the process that starts it.
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                pool.submit(write, Path(place), trials, options.rows).result()
            old, new = measured(OLD, Path(place)), measured(NEW, Path(place))
            line = f"{trials:6d} trials: old {old[0]:5.2f} s {old[1]:4.0f} MB, new {new[0]:5.2f} s {new[1]:4.0f} MB"
            print(f"{line}; time x {new[0] / old[0]:.2f}, memory x {new[1] / old[1]:.2f}", flush=True)
            (pass_s,) = printed(PASS, place)
            print(f"{'':14s} pass over nothing new: {pass_s:.3f} s of CPU", flush=True)
            commands = {}
            for name in options.commands:
                commands[name] = measured(CALL, Path(place), *COMMANDS[name], "--storage", place)
                print(f"{'':14s} {name}: {commands[name][0]:.2f} s of CPU, {commands[name][1]:.0f} MB", flush=True)
            found.append({"trials": trials, "old": old, "new": new, "pass": pass_s, "commands": commands})
    long = measure_long() if options.long else None
    if options.json:
        figures = {"processor": processor(), "rows": options.rows, "found": found, "long": long}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
