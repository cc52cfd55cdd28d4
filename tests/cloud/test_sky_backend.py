"""Launches through SkyPilot: what is called, with a stand-in for `sky` that keeps clusters in a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.cli.views.cloud import show_quote
from orchestrator.cloud import launch
from orchestrator.cloud.backend import CloudError, Limits, Options
from orchestrator.storage import Storage, open_storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import configure
from trm_model.recipes import get_recipe

SKY = """#!/bin/bash
printf '%s\\n' "sky $* secret=${#TRM_RAY_TOKEN}" >> "$LOG"
case "$1" in
  launch) [ -n "$REFUSED" ] && { echo "ResourcesUnavailableError: no L40S in any region" >&2; exit 1; }
    echo trm-sweeps > "$CLUSTER" ;;
  down) rm -f "$CLUSTER" ;;
  status) [ -e "$CLUSTER" ] && echo '[{"name": "trm-sweeps", "status": "UP"}]' || echo '[]' ;;
esac
"""


def sweep() -> Sweep:
    return Sweep(name="small", base=configure(get_recipe("sudoku-mini"), {"train.max_steps": 2}), seeds=1)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sky").write_text(SKY)
    (programs / "sky").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("CLUSTER", str(tmp_path / "cluster"))
    monkeypatch.setenv("REFUSED", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = tmp_path / "cloud.toml"
    file.write_text('[sky]\ngpu = "L40S"\nstorage = "s3://bucket/trm"\nnum_gpus = 2\n')
    return Options(config=str(file))


@pytest.fixture
def storage(s3_bucket: str) -> Storage:
    return open_storage(s3_bucket)


def test_a_launch_goes_through_sky_and_ends_with_its_cluster(
    options: Options, storage: Storage, tmp_path: Path
) -> None:
    prepared = launch.prepare(sweep(), "sky", options, Limits(max_usd=5, max_hours=2), storage)
    (offer,) = prepared.quote.offers
    assert (offer.gpu, offer.num_gpus, offer.market) == ("L40S", 2, "spot") and offer.price_date
    launch.up(prepared, storage, "small.yaml")
    submitted = launch.submit(prepared, storage, ["--max-concurrent", "2"])
    assert submitted.state == "submitted" and submitted.machines[0].usd_per_hour is None

    log = (tmp_path / "log").read_text()
    assert "launch --yes --detach-run --cluster trm-sweeps --use-spot --down" in log
    assert "--secret TRM_RAY_TOKEN" in log and "secret=64" in log
    task = yaml.safe_load((tmp_path / "state/trm/sky/small/sky.yaml").read_text())
    assert (
        "sweep run plan.jsonl --gpu any --max-concurrent 2 --max-usd 5 --address" in task["run"]
        and storage.url in task["run"]
    )
    assert "7200" in task["run"]
    workdir = Path(task["workdir"])
    assert (workdir / "plan.jsonl").is_file() and (workdir / "pyproject.toml").is_file()

    assert [machine.down_s for machine in launch.reopen("small", storage)[1].machines] == [None]
    ended, closing = launch.down("small", storage, keep=False)
    assert ended.state == "down" and not closing.left and not (tmp_path / "cluster").exists()


def test_cluster_that_skypilot_ended_is_down(options: Options, storage: Storage, tmp_path: Path) -> None:
    prepared = launch.prepare(sweep(), "sky", options, Limits(max_usd=5), storage)
    launch.up(prepared, storage, "small.yaml")
    launch.submit(prepared, storage, [])
    (tmp_path / "cluster").unlink()
    _, deployment = launch.reopen("small", storage)
    assert deployment.state == "ended" and deployment.machines[0].down_s is not None


def test_refused_launch_shows_the_reason(options: Options, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = launch.prepare(sweep(), "sky", options, Limits(max_usd=5), storage)
    launch.up(prepared, storage, "small.yaml")
    monkeypatch.setenv("REFUSED", "yes")
    with pytest.raises(CloudError, match=r"`sky launch` ended with 1: ResourcesUnavailableError: no L40S"):
        launch.submit(prepared, storage, [])


def test_missing_program_and_local_storage_are_explained(
    options: Options, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CloudError, match="records in a folder cannot be read from machines of SkyPilot"):
        launch.prepare(sweep(), "sky", options, Limits(max_usd=5), open_storage(str(tmp_path / "runs")))
    prepared = launch.prepare(sweep(), "sky", options, Limits(max_usd=5), storage)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CloudError, match="SkyPilot is not installed"):
        prepared.backend.up(prepared.deployment)


def test_skypilot_is_never_imported() -> None:
    import orchestrator.cloud.sky  # noqa: F401

    assert "sky" not in sys.modules


def test_plan_says_that_no_timer_counts_machine_hours(
    options: Options, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    quote = launch.prepare(sweep(), "sky", options, Limits(max_usd=5, max_hours=2), storage).quote
    show_quote(quote)
    shown = capsys.readouterr().out
    assert "no timer counts machine hours there" in shown and "at most $5.00, at most 2 h" in shown
    assert "the timer on the head" not in shown
