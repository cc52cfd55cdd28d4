"""The account of a deployment: machine hours, dollars, and the hours in which no trial ran."""

from __future__ import annotations

import pytest

from orchestrator.cloud.backend import Deployment, Machine
from orchestrator.cloud.receipt import receipt, spent_usd
from orchestrator.records.schema import Attempt, AttemptEnd, AttemptStart, DatasetInfo, Status, TrialRecord
from trm_model.config import TrialConfig

H = 3600.0
DATASET = DatasetInfo(fingerprint="0" * 16, benchmark="sudoku-4x4")


def attempt(number: int, start_s: float, end_s: float | None, host: str = "a") -> Attempt:
    end = None
    if end_s is not None:
        end = AttemptEnd(status=Status.FINISHED, step=1, ended_s=end_s, elapsed_s=end_s - start_s)
    return Attempt(number, AttemptStart(from_step=0, started_s=start_s, host=host, device="cpu"), end)


def trial(name: str, *attempts: Attempt) -> TrialRecord:
    return TrialRecord(name, "s", "study", "T=1", TrialConfig(), DATASET, Status.FINISHED, 1, [], list(attempts))


def deployment(*machines: Machine) -> Deployment:
    return Deployment(name="s", backend="ssh", storage="runs", created_s=0.0, machines=machines, planned_usd=(1, 2))


def test_hours_are_those_for_which_machines_were_up() -> None:
    found = receipt(
        deployment(
            Machine(name="a", up_s=0.0, down_s=2 * H, usd_per_hour=3.0),
            Machine(name="b", up_s=1 * H, usd_per_hour=1.0),
        ),
        [trial("x", attempt(1, 0.5 * H, 1.5 * H)), trial("y", attempt(1, 1.0 * H, 1.75 * H)),
         trial("z", attempt(1, 1.0 * H, 2.0 * H, "b"))],
        now_s=4 * H,
    )  # fmt: skip
    assert found.machine_hours == pytest.approx(2 + 3)
    assert found.usd == pytest.approx(2 * 3 + 3 * 1)
    assert found.busy_hours == pytest.approx(1.25 + 1)  # two trials at once on machine a count once
    assert found.idle_hours == pytest.approx(5 - 2.25)
    assert found.idle_usd == pytest.approx(9 * 2.75 / 5)
    assert found.trials == 3 and found.planned_usd == (1, 2) and found.unknown == ()


def test_billed_price_counts_before_the_assumed_one() -> None:
    launched = deployment(Machine(name="a", up_s=0.0, usd_per_hour=3.0, billed_usd_per_hour=4.0))
    assert receipt(launched, [], 2 * H).usd == pytest.approx(8.0)
    assert receipt(launched, [], 2 * H).assumed_usd_per_hour == 3.0
    assert spent_usd(launched.machines, 2 * H) == pytest.approx(8.0)


def test_unknown_price_makes_the_cost_unknown_and_not_zero() -> None:
    launched = deployment(Machine(name="a", up_s=0.0, usd_per_hour=3.0), Machine(name="b", up_s=0.0))
    found = receipt(launched, [], H)
    assert found.usd is None and found.idle_usd is None and spent_usd(launched.machines, H) is None
    assert found.unknown == ("price of b: unknown",)


def test_attempts_from_before_the_deployment_are_not_its_own() -> None:
    launched = deployment(Machine(name="a", up_s=10 * H, usd_per_hour=1.0))
    found = receipt(launched, [trial("x", attempt(1, 1 * H, 5 * H), attempt(2, 11 * H, 12 * H))], 14 * H)
    assert found.busy_hours == pytest.approx(1.0) and found.trials == 1


def test_the_account_of_machines_that_are_gone_does_not_change() -> None:
    """A trial that lost its driver has no end; without the machine it has not gone on."""
    launched = deployment(Machine(name="a", up_s=0.0, down_s=2 * H, usd_per_hour=3.0))
    records = [trial("x", attempt(1, 1.0 * H, None))]
    accounts = [receipt(launched, records, now_s) for now_s in (2 * H, 3 * H, 100 * H)]
    assert accounts[0] == accounts[1] == accounts[2] and accounts[0].busy_hours <= 1.0
