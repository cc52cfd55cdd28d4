"""Run chaos and audit it: `python -m tests.chaos --seed N --minutes M`. Exit code 1 if anything is wrong."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.records.index import find_definition
from orchestrator.records.reader import read_sweep
from orchestrator.records.schema import TrialRecord
from orchestrator.storage import open_storage
from tests.chaos import auditor
from tests.chaos.auditor import Check
from tests.chaos.faults import Injector, run_repairs, wait_until
from tests.chaos.lanes import TRM, Lane, write_sweep
from tests.chaos.plan import Fault, plan
from tests.chaos.world import World, world
from trm_data.errors import UserError
from trm_data.files import private_folder

FINISH_S = 900.0
"""How long the last sweeps may take once nothing is broken any more."""
TRIES = 10
"""Seconds within which something has to be there that can be broken: a trial that runs, a driver."""
GONE_S = 150.0
"""How long processes may take to end. Ray's agents wait for a minute for a GCS that was killed with them."""


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def undisturbed(made: World) -> Mapping[str, TrialRecord]:
    """Run the trials of every sweep once, undisturbed, and return them by id."""
    file = write_sweep(made.folder / "undisturbed.py", "undisturbed", gpus=False)
    storage = made.folder / "undisturbed"
    lane = Lane(
        "undisturbed", made.folder, open_storage(str(storage)), (), made.environment("undisturbed"), has_gpus=False
    )
    lane.sweep = "undisturbed"
    code = lane.drive([*TRM, "sweep", "run", str(file), "--storage", str(storage), "--tracking", "none"])
    if code:
        raise SystemExit(f"the undisturbed run ended with {code}:\n{lane.tail()}")
    return {record.trial_id: record for record in read_sweep(lane.storage, "undisturbed").trials}


def lanes_of(made: World) -> list[Lane]:
    """Two lanes: on the cluster with records on S3 and a tracker, and on a private Ray with records on a small disk."""
    cluster = ["--storage", made.s3_url, "--address", made.nodes.cluster.address, "--tracking", made.tracker.url]
    private = ["--storage", made.local.url, "--tracking", "none"]
    return [
        Lane("s3", made.folder, made.s3, [*cluster, "--no-canary"], made.nodes.cluster.environment, has_gpus=True),
        Lane("disk", made.folder, made.local, private, made.environment("disk"), has_gpus=False),
    ]


def disturb(made: World, lanes: Sequence[Lane], seed: int, duration_s: float) -> Counter[Fault]:
    """Break things for so many seconds, repair everything, and return how often what was broken."""
    injector, done = Injector(made, lanes, seed), Counter[Fault]()
    repairs: list[tuple[float, Callable[[], object]]] = []
    began_s = time.monotonic()
    threads = []
    for planned in plan(seed, duration_s):
        threads += wait_until(began_s + planned.at_s, repairs)
        injected, now_s = None, time.monotonic()
        for again_s in range(TRIES):
            threads += wait_until(now_s + again_s, repairs)
            if injected := injector.inject(planned):
                break
        now_s = time.monotonic()
        done[planned.fault] += injected is not None
        what = injected.what if injected else "nothing there to break"
        say(f"{now_s - began_s:7.1f} s  {planned.fault}: {what}")
        if injected and injected.repair:
            repairs.append((now_s + injected.after_s, injected.repair))
    threads += wait_until(began_s + duration_s, repairs)
    threads += run_repairs(repairs, float("inf"))
    for thread in threads:
        thread.join()
    return done


def audit(made: World, lanes: Sequence[Lane], twins: Mapping[str, TrialRecord]) -> list[Check]:
    """Check records and tracker, end the servers, and look for what is left."""
    checks = []
    for lane in lanes:
        for sweep in [*lane.complete, *({lane.sweep} - {*lane.complete})]:
            if find_definition(lane.storage, sweep) is None:
                checks.append(Check("planned trials finished once", 1, [f"{sweep}: no definition was written"]))
                continue
            checks += auditor.audit_trials(lane.storage, sweep, twins)
            if lane.lane == "s3":
                checks.append(auditor.audit_tracker(TRM, sweep, lane.storage, made.tracker.url))
        has_failed = any(name.startswith("trial retried") for name in lane.repairs)
        checks.append(auditor.audit_ends(lane.exits, has_failed=has_failed))
    on_gpus = [record for sweep in lanes[0].complete for record in read_sweep(made.s3, sweep).trials]
    observed = auditor.observed_durations(made.endpoint.requests)
    checks.append(auditor.audit_cost(on_gpus, observed))
    made.tracker.kill()
    made.endpoint.kill()
    with made.nodes.lock:
        made.nodes.is_down = True
        for node in reversed(made.nodes.cluster.nodes):
            node.stop()
    left = _processes_left(made)
    pids = {pid for lane in lanes for pid in lane.driver_pids}
    checks += auditor.audit_leftovers([made.s3, made.local], _folders_of(made.folder, pids), left)
    return auditor.merged(checks)


def _processes_left(made: World) -> list[str]:
    """Return the processes of the run that do not end by themselves."""
    deadline_s = time.monotonic() + GONE_S
    while made.processes() and time.monotonic() < deadline_s:
        time.sleep(0.5)
    return made.end_processes()


def _folders_of(folder: Path, pids: set[int]) -> list[Path]:
    """Return the temporary folders that drivers have left."""
    roots = [private_folder("processes"), private_folder("p", Path("/tmp")), *folder.glob("*/tmp/trm-*/processes")]
    return [found for root in roots for found in root.iterdir() if found.name.partition("-")[0] in map(str, pids)]


def report(lanes: Sequence[Lane], done: Counter[Fault], requests: Path, checks: Sequence[Check]) -> None:
    """Print what was broken, how drivers ended, and what the auditor found."""
    say("\nbroken:")
    for fault, count in sorted(done.items()):
        say(f"  {count:3} times  {fault}")
    kinds = Counter(entry.get("kind") for entry in auditor.entries(requests))
    say(f"  {kinds['refused']} requests refused, {kinds['cut']} answers cut off")
    for lane in lanes:
        ends = ", ".join(f"{count} with {name}" for name, count in sorted(lane.exits.items()))
        say(f"{lane.lane}: {len(lane.complete)} sweeps complete; drivers ended {ends or 'never'}")
        for what, count in sorted(lane.repairs.items()):
            say(f"  {count:3} times  {what}")
    say("\naudit:" + " " * 56 + "compared")
    for check in checks:
        say(str(check))


def allow_mounting() -> None:
    """Continue in a namespace of this process's own where an ordinary user may mount only there."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    if os.getuid() == 0 or shutil.which(command[0]) is None:
        return
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
        os.execvp(command[0], [*command, sys.executable, "-m", "tests.chaos", *sys.argv[1:]])


def main() -> int:
    """Run, audit, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the faults and their targets")
    parser.add_argument("--minutes", type=float, default=15.0, help="for how long things are broken")
    parser.add_argument("--keep", type=Path, help="copy logs and records into this folder")
    chosen = parser.parse_args()
    allow_mounting()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say(f"chaos with seed {chosen.seed} for {chosen.minutes:g} minutes")
    with world(chosen.seed) as made:
        say(f"a cluster at {made.nodes.cluster.address}, S3 at {made.endpoint.url}, MLflow at {made.tracker.url}")
        if not made.disk.is_small:
            say("no small filesystem can be mounted here: the disk is not filled")
        twins = undisturbed(made)
        say(f"undisturbed: {len(twins)} trials")
        lanes = lanes_of(made)
        try:
            for lane in lanes:
                lane.start()
            done = disturb(made, lanes, chosen.seed, 60 * chosen.minutes)
            say("nothing more is broken; the last sweeps run to their end")
            late = [lane for lane in lanes if not lane.finish(FINISH_S)]
            for lane in late:
                say(f"{lane.sweep} was not complete after {FINISH_S:.0f} s:\n{lane.tail()}")
            checks = audit(made, lanes, twins)
            report(lanes, done, made.endpoint.requests, checks)
        finally:
            for lane in lanes:
                lane.abort()
            if chosen.keep is not None:
                keep(made, lanes, chosen.keep)
    wrong = sum(bool(check.problems) for check in checks) + len(late)
    say(f"\n{'passed' if not wrong else f'FAILED: {wrong} checks'} (seed {chosen.seed})")
    return 1 if wrong else 0


def keep(made: World, lanes: Sequence[Lane], folder: Path) -> None:
    """Copy the logs and the records, without checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*made.folder.glob("*.log"), made.endpoint.requests]:
        (folder / path.name).write_bytes(path.read_bytes())
    for lane in lanes:
        for key in lane.storage.list("sweeps"):
            if "/checkpoints/" not in key:
                target = folder / lane.lane / key
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(lane.storage.read(key))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
