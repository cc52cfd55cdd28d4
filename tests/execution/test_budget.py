"""Budgets: what a sweep has used, AWS quotas, and the watchdog that ends it."""

from __future__ import annotations

import dataclasses
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from orchestrator.execution.budget import BudgetTracker
from orchestrator.execution.watchdog import Watchdog, open_driver
from orchestrator.records.schema import Attempt, AttemptEnd, AttemptStart, DatasetInfo, Row, Status, TrialRecord
from orchestrator.resources.aws.errors import AwsError
from orchestrator.resources.aws.instances import terminate_workers
from orchestrator.resources.aws.quotas import Need, quota_of, shortfalls
from orchestrator.resources.catalogue import CatalogueError
from orchestrator.resources.runtime import TrialCost
from orchestrator.resources.usage import SILENT_S, Budget, exceeded, spending, trial_cost
from orchestrator.results.dataframe import frame_of
from orchestrator.storage import Storage, StorageError, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import DriverHours, driver_of
from orchestrator.sweep.trials import study_trials
from tests.records.test_extend import ran
from tests.support.commands import call
from tests.support.sweeps import fingerprint, record_of, study
from trm_data.config import DataConfig
from trm_data.errors import ConfigError
from trm_data.files import machine_id, start_of
from trm_model.config import TrialConfig

HOUR = 3600.0


def attempt(start_h: float, end_h: float | None, **start: Any) -> Attempt:
    begun = {"started_s": start_h * HOUR, "gpu_type": "L40S", "gpu_count": 1.0, "market": "on-demand", **start}
    end = None if end_h is None else AttemptEnd(status=Status.FINISHED, step=0, ended_s=end_h * HOUR)
    return Attempt(1, AttemptStart.parse({"from_step": 0, **begun}), end)


def trial(*attempts: Attempt, status: Status = Status.FINISHED, rows: list[Row] | None = None) -> TrialRecord:
    return TrialRecord(
        trial_id="t",
        sweep="demo",
        stage="study",
        family="",
        config=TrialConfig(recipe="sudoku-mini", data=DataConfig()),
        dataset=DatasetInfo(benchmark="sudoku-6x6", fingerprint="f"),
        status=status,
        step=0,
        rows=rows or [],
        attempts=list(attempts),
    )


class TestSpending:
    def test_shares_types_and_markets_have_their_own_price(self) -> None:
        spent = spending(
            [
                trial(attempt(0, 2)),
                trial(attempt(0, 2, gpu_count=0.5)),
                trial(attempt(1, 2, gpu_type="H100", gpu_count=2)),
                trial(attempt(1, 2, gpu_type="H100", market="spot")),
                trial(attempt(1, 4, gpu_type=None, gpu_count=0)),
            ],
            now_s=4 * HOUR,
        )
        assert spent.trials == 5
        assert spent.gpu_hours == pytest.approx(2 + 1 + 2 + 1)
        assert spent.usd == pytest.approx(3 * 1.861 + 2 * 6.88 + 2.54)

    def test_a_type_without_a_price_is_counted_apart(self) -> None:
        spent = spending([trial(attempt(0, 3, gpu_type="B300"))], now_s=3 * HOUR)
        assert (spent.gpu_hours, spent.usd, spent.unpriced_gpu_hours) == (3, 0, 3)

    def test_a_lost_attempt_lasts_until_its_last_sign_of_life(self) -> None:
        rows = [Row(1, 0.5 * HOUR, "train", {})]
        assert spending([trial(attempt(0, None), attempt(2, 3), rows=rows)], now_s=9 * HOUR).gpu_hours == 1.5

    def test_a_running_attempt_counts_until_now_unless_it_fell_silent(self) -> None:
        row = Row(1, HOUR, "train", {})
        running = trial(attempt(0, None), status=Status.RUNNING, rows=[row])
        assert spending([running], now_s=HOUR + SILENT_S - 1).gpu_hours == pytest.approx((HOUR + SILENT_S - 1) / HOUR)
        assert spending([running], now_s=50 * HOUR).gpu_hours == 1

    def test_an_attempt_of_a_dead_driver_counts_to_its_last_sign_of_life_by_every_account(self) -> None:
        killed_s = time.time() - 600
        begun = attempt((killed_s - HOUR) / HOUR, None)
        killed = trial(begun, status=Status.RUNNING, rows=[Row(1, killed_s, "train", {})])
        for spent in (spending([killed]), spending([killed], time.time(), since_s=killed_s + 300)):
            assert spent.gpu_hours == pytest.approx(1)
        cost = trial_cost(killed)
        assert cost and cost.gpu_hours == pytest.approx(1) == frame_of([killed]).gpu_hours[0]
        tracker = BudgetTracker(Budget(gpu_hours=1.1), [killed])
        assert tracker.exceeded() is None and tracker.check("t", TrialCost(0.05, 0.05, 0)) is None

    def test_nothing_is_spent_before_the_first_trial(self) -> None:
        spent = spending([trial(status=Status.PENDING)], now_s=9 * HOUR)
        assert (spent.trials, spent.gpu_hours, spent.usd, spent.wall_hours) == (0, 0, 0, 0)

    @pytest.mark.parametrize(
        ("budget", "words"),
        [
            (Budget(trials=2), "2 of 2 trials used"),
            (Budget(gpu_hours=3), "4 of 3 GPU-hours used"),
            (Budget(usd=5), "7.444 of 5 USD used"),
            (Budget(wall_hours=1.5), "2 of 1.5 hours used"),
            (Budget(trials=3, gpu_hours=5, usd=10, wall_hours=3), None),
            (Budget(), None),
        ],
    )
    def test_the_limit_that_is_reached_is_named(self, budget: Budget, words: str | None) -> None:
        spent = spending([trial(attempt(0, 2)), trial(attempt(0, 2))], wall_hours=2)
        assert exceeded(spent, budget) == words

    def test_a_budget_of_nothing_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="usd"):
            Budget.parse({"usd": 0})


class TestQuotas:
    @pytest.fixture
    def quotas(self) -> Iterator[tuple[Any, Stubber]]:
        client = boto3.client(
            "service-quotas", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
        )
        with Stubber(client) as stub:
            yield client, stub
            stub.assert_no_pending_responses()
        client.close()

    def expect(self, stub: Stubber, code: str, value: float, method: str = "get_service_quota") -> None:
        where = {"ServiceCode": "ec2", "QuotaCode": code}
        stub.add_response(method, {"Quota": {"QuotaCode": code, "Value": value}}, where)

    def test_machines_of_one_family_and_market_share_a_quota(self, quotas: tuple[Any, Stubber]) -> None:
        client, stub = quotas
        self.expect(stub, "L-3819A6DF", 64.0)
        self.expect(stub, "L-417A185B", 224.0)
        needs = [Need("g6e.2xlarge", "spot", 8), Need("g6e.xlarge", "spot", 1), Need("p5.48xlarge", "on-demand", 1)]
        (line,) = shortfalls(needs, client=client)
        assert line.startswith("spot g machines: 68 vCPUs needed, quota 64 (L-3819A6DF)")

    def test_an_account_without_an_own_value_has_the_default(self, quotas: tuple[Any, Stubber]) -> None:
        client, stub = quotas
        stub.add_client_error("get_service_quota", "NoSuchResourceException")
        self.expect(stub, "L-C4BD4855", 0.0, "get_aws_default_service_quota")
        (line,) = shortfalls([Need("p5.4xlarge", "spot", 2)], client=client)
        assert "32 vCPUs needed, quota 0" in line

    def test_no_right_to_ask_is_one_line(self, quotas: tuple[Any, Stubber]) -> None:
        client, stub = quotas
        stub.add_client_error("get_service_quota", "AccessDeniedException", "not authorised")
        with pytest.raises(AwsError, match=r"ask for quotas: a right is missing.*cloud init aws") as caught:
            shortfalls([Need("p5.4xlarge", "spot", 2)], client=client)
        assert "\n" not in str(caught.value)

    def test_an_unknown_machine_names_the_nearest(self) -> None:
        with pytest.raises(CatalogueError, match=r"g6e\.3xlarge.*Did you mean 'g6e\.\d*xlarge'"):
            quota_of("g6e.3xlarge", "spot")

    def test_needing_nothing_asks_nobody(self) -> None:
        assert shortfalls([]) == []


def test_only_the_workers_of_the_named_cluster_are_ended(s3_endpoint: str) -> None:
    ec2 = boto3.client("ec2", endpoint_url=s3_endpoint, region_name="us-west-1")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    ids = {}
    for cluster, kind in (("mine", "head"), ("mine", "worker"), ("other", "worker")):
        tags = [{"Key": "ray-cluster-name", "Value": cluster}, {"Key": "ray-node-type", "Value": kind}]
        tagged = [{"ResourceType": "instance", "Tags": tags}]
        made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=tagged)
        ids[cluster, kind] = made["Instances"][0]["InstanceId"]
    assert terminate_workers("mine", client=ec2) == [ids["mine", "worker"]]
    assert terminate_workers("mine", client=ec2) == []
    ec2.close()


STARTS: list[dict[str, Any]] = [{"process_start": start} for start in (0, None, True, 1, "1", -1)]
"""Of a lease that does not say when its process started, or says it wrong."""
DRIVER = """
import signal, sys, time
from orchestrator.records.index import stop_requested
from orchestrator.storage import open_storage
from orchestrator.storage.lease import Lease
folder, manners = open_storage(sys.argv[1]), sys.argv[2]
if manners != "obeys signals":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with Lease(folder, "demo"):
    print("running", flush=True)
    while not (manners == "obeys requests" and stop_requested(folder)):
        time.sleep(0.05)
"""


class TestWatchdog:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Storage:
        return open_storage(str(tmp_path))

    @pytest.fixture
    def driver(self, folder: Storage) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
        started: list[subprocess.Popen[str]] = []

        def start(manners: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", DRIVER, folder.url, manners]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            started.append(process)
            assert process.stdout and process.stdout.readline() == "running\n"
            return process

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def dog(self, folder: Storage, **changes: Any) -> Watchdog:
        over = [trial(attempt(0, 2))]
        made = Watchdog(folder, study(), Budget(gpu_hours=1), lambda: over, grace_s=2.0, poll_s=0.01)
        return dataclasses.replace(made, **changes)

    @pytest.mark.parametrize(
        ("manners", "words", "code", "heard_s"),
        [
            ("obeys requests", "the driver stopped cleanly", 0, 0.2),
            ("obeys signals", "the driver ended after SIGTERM", -15, 0.05),
            ("obeys nothing", "the driver was killed; 3 worker nodes terminated", -9, None),
        ],
    )
    def test_it_asks_then_insists_then_ends_machines(
        self,
        folder: Storage,
        driver: Callable[[str], subprocess.Popen[str]],
        manners: str,
        words: str,
        code: int,
        heard_s: float | None,
    ) -> None:
        """`heard_s` is the pause between two looks while the driver ends, which may take long on a busy machine."""
        process = driver(manners)

        # The driver is our child: until it is waited for, its number stays taken and it looks alive.
        def sleep(seconds: float) -> None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(120 if seconds == heard_s else seconds)

        dog = self.dog(folder, end_machines=lambda: ["i-1", "i-2", "i-3"], sleep=sleep)
        assert dog.run() == f"2 of 1 GPU-hours used: {words}"
        assert process.wait(timeout=120) == code
        assert driver_of(folder) is None

    def test_without_a_driver_only_machines_are_left_to_end(self, folder: Storage) -> None:
        assert (
            self.dog(folder).run().endswith("the driver has exited; no node was terminated (--terminate CLUSTER does)")
        )
        assert self.dog(folder, end_machines=lambda: ["i-1"]).run().endswith("1 worker nodes terminated")

    def test_a_driver_elsewhere_that_does_not_listen_is_not_signalled(
        self, folder: Storage, driver: Callable[[str], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process = driver("obeys signals")
        monkeypatch.setattr("socket.gethostname", lambda: "another-machine")
        assert "does not react" in self.dog(folder, grace_s=0.2).run()
        assert process.poll() is None

    def test_a_sweep_that_is_resumed_has_its_hours_again(
        self, folder: Storage, driver: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        driver("obeys requests")
        looks: list[int] = []

        def read() -> list[TrialRecord]:
            looks.append(1)
            return [trial(attempt(0, 2))] if len(looks) < 3 else [trial(attempt(0, 2)), trial(attempt(0, 2))]

        dog = self.dog(folder, read=read, budget=Budget(wall_hours=5, trials=2), clock=time.time)
        assert dog.run().startswith("2 of 2 trials used"), "its first trial, in 1970, began more than 5 hours ago"
        looks.clear()
        dog = dataclasses.replace(dog, clock=lambda: time.time() + 9 * HOUR, hours=DriverHours())
        assert dog.run().startswith("2 of 2 trials used"), "the clock of this machine is not that of the driver"

    @pytest.mark.parametrize("is_resumed", [False, True], ids=["not resumed", "resumed"])
    def test_what_died_with_an_earlier_driver_is_not_charged_until_now(
        self, folder: Storage, driver: Callable[[str], subprocess.Popen[str]], is_resumed: bool
    ) -> None:
        if is_resumed:
            driver("obeys requests")
        killed = trial(attempt(0, None), status=Status.RUNNING, rows=[Row(1, HOUR, "train", {})])
        looks: list[int] = []

        def read() -> list[TrialRecord]:
            looks.append(1)
            return [killed] if len(looks) < 3 else [killed, trial(attempt(0, 1, gpu_count=0))]

        dog = self.dog(folder, read=read, budget=Budget(gpu_hours=1.2, trials=2), clock=lambda: HOUR + 800)
        assert dog.run().startswith("2 of 2 trials used")

    def test_a_trial_of_a_living_driver_is_charged_until_now(
        self, folder: Storage, driver: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        driver("obeys requests")
        begun_h = time.time() / HOUR + 1
        runs = trial(attempt(begun_h, None), status=Status.RUNNING, rows=[Row(1, (begun_h + 1) * HOUR, "train", {})])
        dog = self.dog(folder, read=lambda: [runs], clock=lambda: (begun_h + 1.1) * HOUR, budget=Budget(gpu_hours=1.05))
        assert dog.run().startswith("1.1 of 1.05 GPU-hours used")

    def test_it_waits_below_the_limit_through_outages_until_the_plan_is_complete(self, folder: Storage) -> None:
        looks: list[int] = []
        planned = list(study_trials(study(), fingerprint))

        def read() -> list[TrialRecord]:
            looks.append(1)
            if len(looks) == 2:
                raise StorageError("the bucket is away")
            return [record_of(one, Status.FINISHED) for one in planned[: len(looks) + 4]]

        dog = self.dog(folder, read=read, budget=Budget(gpu_hours=5), clock=lambda: HOUR, sleep=lambda _: None)
        assert dog.run() == "the sweep is complete: 8 of 8 trials done"
        assert len(looks) == 4, "seven finished trials of eight are not all of them"

    @pytest.mark.parametrize(
        "changes", [{"pid": 0}, {"pid": -1}, {"pid": "PID"}, {"started_s": 0.0}, {"pid": True}, *STARTS]
    )
    def test_only_a_process_that_can_have_taken_the_lease_is_signalled(
        self, folder: Storage, driver: Callable[[str], subprocess.Popen[str]], changes: dict[str, Any]
    ) -> None:
        process = driver("obeys signals")
        holder = {**json.loads(folder.read("lock.json")), **changes}
        with open_driver(holder) as send:
            assert send is None
        with open_driver(json.loads(folder.read("lock.json"))) as send:
            assert send is not None
            send(signal.SIGTERM)
        assert process.wait(timeout=120) == -signal.SIGTERM

    def test_another_program_with_the_pid_of_the_lease_is_left_alone(self, folder: Storage) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
            claim = {
                "host": socket.gethostname(),
                "pid": bystander.pid,
                "started_s": time.time(),
                "beat_s": time.time(),
            }
            folder.write("lock.json", to_json_bytes(claim))
            stopped = self.dog(folder, grace_s=0.2).run()
            assert "is not the driver and was not signalled" in stopped and bystander.poll() is None
            bystander.communicate(b"\n")

    def test_a_script_that_imports_this_package_may_be_a_driver(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text("from orchestrator import Sweep\nprint()\ninput()\n")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-u", "mine.py"], cwd=tmp_path, **pipes) as process:
            assert process.stdout is not None and process.stdout.readline()  # its command line can be read
            holder = {"pid": process.pid, "started_s": time.time(), "process_start": start_of(process.pid)}
            with open_driver(holder) as send:
                assert send is not None
            process.kill()

    @pytest.mark.parametrize("start", ["own", 0, None, True, "own text", -1])
    @pytest.mark.parametrize(
        "command",
        [
            ["tail", "-f", "notes-about-orchestrator.txt"],
            [sys.executable, "-c", "input()", "orchestrator", "sweep", "run"],
            [sys.executable, "-m", "timeit", "-s", "orchestrator", "input()"],
            [sys.executable, "-X", "dev", "orchestrator-notes.py"],
            [sys.executable, "trm", "ui"],
        ],
        ids=range(5),
    )
    def test_a_lease_that_names_another_program_signals_nothing(
        self, folder: Storage, command: list[str], start: Any, tmp_path: Path
    ) -> None:
        for name in ("notes-about-orchestrator.txt", "orchestrator-notes.py", "trm"):
            (tmp_path / name).write_text("input()\n")
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        with subprocess.Popen(command, cwd=tmp_path, **streams) as bystander:  # type: ignore[call-overload]
            starts = {"own": start_of(bystander.pid), "own text": str(start_of(bystander.pid))}
            held = {"machine": machine_id(), "process_start": starts.get(start, start)}
            holder = {"host": socket.gethostname(), "pid": bystander.pid, "started_s": time.time(), **held}
            try:
                with open_driver(holder) as send:
                    assert send is None
            finally:
                bystander.kill()

    def test_a_limit_and_an_existing_sweep_are_needed(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments, words in (([], "needs a limit"), (["--max-usd", "5"], "no sweep 'demo' in")):
            code, _, err = call(capsys, "sweep", "watchdog", "demo", *arguments, "--storage", str(tmp_path))
            assert code == 2 and words in err and err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_the_command_ends_with_the_sweep(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        storage = open_storage(str(tmp_path))
        storage.write("sweeps/study/sweep.json", to_json_bytes(study().plain()))
        for planned in study_trials(study(), fingerprint):
            ran(storage, study(), planned, Status.FINISHED)
        code, out, _ = call(capsys, "sweep", "watchdog", "study", "--max-usd", "5", "--storage", str(tmp_path))
        assert code == 0 and out == "the sweep is complete: 8 of 8 trials done\n"

    def test_damaged_records_are_named_since_their_usage_is_not_counted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        storage = open_storage(str(tmp_path))
        storage.write("sweeps/study/sweep.json", to_json_bytes(study().plain()))
        first, *others = study_trials(study(), fingerprint)
        for planned in (first, *others):
            ran(storage, study(), planned, Status.FINISHED)
        end = f"sweeps/study/trials/{first.trial_id}/attempts/001/end.json"
        storage.write(end, b"{")
        arguments = ["sweep", "watchdog", "study", "--max-trials", "1", "--storage", str(tmp_path)]
        code, out, err = call(capsys, *arguments)
        assert code == 0 and "1 damaged file skipped, so usage may be higher than counted" in " ".join(out.split())
        assert err.count(end) == 1
