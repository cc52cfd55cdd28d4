"""Runs and sweeps that start from a checkpoint: its content is their identity, and the storage keeps a copy."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator import Status, Sweep, Variant, choice, configure, plan, train
from orchestrator.cli.configs import make_sweep
from orchestrator.execution.options import Callback
from orchestrator.records.reader import read_trials
from orchestrator.storage import open_storage
from orchestrator.sweep.identity import trial_id
from orchestrator.sweep.loader import load_sweep
from orchestrator.sweep.matching import training_flops
from orchestrator.sweep.trials import cells
from orchestrator.worker.job import TrialReport
from tests.support.commands import call
from tests.support.hub import HubHandler, HubServer
from tests.support.infra import in_a_thread
from tests.support.llm import TRM
from tests.support.sweeps import TINY, set_options, tiny_config
from trm_data.errors import ConfigError, UserError
from trm_model.checkpoints.store import LocalCheckpoints, newest_checkpoint, pack, unpack
from trm_model.checkpoints.table_deltas import TABLE

TRAIN = ["train", "--recipe", "sudoku-mini", *set_options(TINY), "--max-steps", "4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    train(tiny_config(), folder / "runs", callbacks=())
    return folder / "runs"


@pytest.fixture
def start(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in the working directory."""
    (found,) = trained.glob("sweeps/train/trials/*/checkpoints/step-00000012.safetensors")
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(found, tmp_path / "start.safetensors"))


@pytest.fixture
def hub(start: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[HubServer, str]]:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(start.parent / "cache"))
    handler = functools.partial(HubHandler, directory=str(start.parent))
    with in_a_thread(HubServer(("127.0.0.1", 0), handler)) as running:
        running.etags = {}
        yield running, f"hf://owner/model@main/start.safetensors?endpoint=http://127.0.0.1:{running.server_port}"


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_identities_and_names_from_before_these_settings_stay() -> None:
    """Records of earlier versions are found again: the values were written by one."""
    assert trial_id(tiny_config(), "data") == "b26558f159bc"
    options: dict[str, Any] = {"seeds": 2, "trials": None, "max_steps": 5, "name": None, "gpu": None, "cpus": None}
    sweep = make_sweep(None, "runs", recipe="sudoku-mini", vary=["T=1,2"], settings=None, **options)
    assert sweep.name == "sudoku-mini-932399"


def test_content_is_the_identity_and_not_the_path(start: Path) -> None:
    first = configure(tiny_config(), {"train.start_from": "start.safetensors"})
    assert first.train.start_from == f"{start}#sha256={digest_of(start)}"
    start.rename(start.with_name("moved.safetensors"))
    moved = configure(tiny_config(), {"train.start_from": "moved.safetensors"})
    assert moved != first and trial_id(moved, "data") == trial_id(first, "data")
    others: list[dict[str, Any]] = [{"train.start_from": None}, {"train.freeze": "network"}]
    others.append({"train.new_embeddings": "fresh"})
    ids = {trial_id(first, "data"), *(trial_id(configure(first, each), "data") for each in others)}
    assert len(ids) == 4
    ignored = {"train.start_from": None, "train.new_embeddings": "fresh"}
    assert trial_id(configure(first, ignored), "data") == trial_id(tiny_config(), "data")


def test_train_from_a_file_a_trial_and_the_same_content_elsewhere(
    start: Path, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*TRAIN, "--freeze", "network", "--storage", "runs"]
    code, _, err = call(capfd, *words, "--from", "start.safetensors")
    assert code == 0 and f"starting from the EMA weights of step 12 of {start} (sha256 {digest_of(start)[:12]})" in err
    (record,) = read_trials(open_storage("runs"), "train")
    assert record.config.train.start_from == f"{start}#sha256={digest_of(start)}"
    assert record.attempts[0].start.started_from.startswith("EMA weights of step 12 of ")
    assert (tmp_path / f"runs/weights/{digest_of(start)}/checkpoint.safetensors").is_file()
    code, out, _ = call(capfd, "trial", "show", f"train/{record.trial_id}", "--storage", "runs")
    assert code == 0 and "started from" in out and "EMA weights of step 12" in out
    start.unlink()
    code, _, err = call(capfd, *words, "--from", "start.safetensors")
    assert code == 2 and "start.safetensors" in err and err.count("\n") == 1
    shutil.copytree(trained, "runs", dirs_exist_ok=True)
    newest = record.trial_id
    for trial in read_trials(open_storage(str(trained)), "train"):
        code, _, err = call(capfd, *words, "--from", f"train/{trial.trial_id}")
        assert code == 0 and "nothing was run" in err, "the checkpoint of the trial has the content of the file"
    assert newest in {trial.trial_id for trial in read_trials(open_storage("runs"), "train")}


def test_last_is_the_same_run_when_a_command_is_repeated(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`last` passes over the runs that the command itself began, and over runs without a checkpoint."""
    storage = open_storage(str(shutil.copytree(trained, trained.parent / "repeated")))
    (first,) = read_trials(storage, "train")
    words = [*TRAIN, "--storage", storage.url, "--from"]
    bare = train(tiny_config(**{"train.max_steps": 2}), storage, callbacks=())
    shutil.rmtree(Path(bare.location) / "checkpoints")
    assert call(capfd, *words, "train/last")[0] == 0
    (warm,) = [each for each in read_trials(storage, "train") if each.config.train.start_from]
    assert f"trials/{first.trial_id}/" in (warm.config.train.start_from or "")
    code, _, err = call(capfd, *words, "train/last")
    assert code == 0 and "nothing was run" in err and len(read_trials(storage, "train")) == 3
    assert call(capfd, *words, "train/last", "--seed", "5")[0] == 0, "another command takes the new run"
    ids = {each.trial_id: each.config.train.start_from for each in read_trials(storage, "train")}
    assert len(ids) == 4 and any(f"trials/{warm.trial_id}/" in (start or "") for start in ids.values())
    for identity in ids.keys() - {warm.trial_id}:
        shutil.rmtree(Path(storage.url) / f"sweeps/train/trials/{identity}")
    code, _, err = call(capfd, *words, "train/last")
    assert code == 2 and "this command began every run of 'train' that has a checkpoint" in err


def test_interrupted_run_resumes_after_its_file_is_gone(start: Path, tmp_path: Path) -> None:
    config = configure(tiny_config(), {"train.start_from": "start.safetensors"})

    class Stop(Callback):
        def on_train_report(self, report: TrialReport, max_steps: int) -> None:
            if report.kind == "rung" and report.step < max_steps:
                signal.raise_signal(signal.SIGTERM)

    assert train(config, "cut", callbacks=[Stop()]).status is Status.INTERRUPTED
    whole = train(config, "whole", callbacks=())
    start.unlink()
    resumed = train(config, "cut", callbacks=())
    assert resumed.status is Status.FINISHED and len(resumed.record.attempts) == 2
    assert [attempt.start.started_from != "" for attempt in resumed.record.attempts] == [True, False]
    one, two = (newest_checkpoint(LocalCheckpoints(Path(each.location) / "checkpoints")) for each in (whole, resumed))
    assert one is not None and two is not None
    assert all(torch.equal(value, two.tensors[name]) for name, value in one.tensors.items())


def test_sweep_that_starts_from_files_keeps_them_for_every_machine(
    start: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its second half runs from the record alone, as on another machine."""
    axes = {"train.start_from": choice(None, "start.safetensors")}
    sweep = Sweep(name="warm", base=tiny_config(**{"train.max_steps": 4}), space=axes)
    assert plan(sweep, "runs").num_trials == 2
    (tmp_path / "warm.py").write_text(
        "from orchestrator import Sweep, choice\nfrom tests.support.sweeps import tiny_config\n"
        "axes = {'train.start_from': choice(None, 'start.safetensors')}\n"
        "sweep = Sweep(name='warm', base=tiny_config(**{'train.max_steps': 4}), space=axes)\n"
    )
    assert _sweep("run", "warm.py", "--max-concurrent", "2").returncode == 0
    start.unlink()
    assert call(capfd, "sweep", "extend", "warm", "--seeds", "2", "--storage", "runs")[0] == 0
    assert _sweep("resume", "warm", "--max-concurrent", "2").returncode == 0
    records = read_trials(open_storage("runs"), "warm")
    assert len(records) == 4 and all(record.status is Status.FINISHED for record in records)
    begun = [record.attempts[0].start.started_from for record in records if record.config.train.start_from]
    assert len(begun) == 2 and all(text.startswith("EMA weights of step 12") for text in begun)
    shutil.rmtree(tmp_path / "runs/weights")
    assert call(capfd, "sweep", "extend", "warm", "--seeds", "3", "--storage", "runs")[0] == 0
    refused = _sweep("resume", "warm")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert re.search(r"no copy of .*start.safetensors .*which only a record names", refused.stderr)


def _sweep(verb: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a sweep by the command: Ray in the process of the tests could end it later."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [*TRM, "sweep", verb, *words, "--tracking", "none", "--storage", "runs"]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


YAML = "name: warm\nrecipe: sudoku-mini\nbase: {train.start_from: start.safetensors, train.freeze: network}\n"
PYTHON = """
from orchestrator import Sweep, Variant, configure
from trm_model import get_recipe
base = configure(get_recipe("sudoku-mini"), {"train.freeze": "network"})
named = {"train.start_from": "start.safetensors"}
sweep = Sweep(name="warm", base=base, variants=(Variant(name="warm", settings=named),))
"""


def test_every_kind_of_sweep_takes_the_setting_relative_to_its_file(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = f"{start}#sha256={digest_of(start)}"
    (tmp_path / "warm.yaml").write_text(YAML)
    (tmp_path / "warm.py").write_text(PYTHON)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    written = load_sweep(Path("../warm.yaml"))
    assert (written.base.train.start_from, written.base.train.freeze) == (pinned, "network")
    assert load_sweep(Path("../warm.py")).variants[0].settings == {"train.start_from": pinned}
    options: dict[str, Any] = {"seeds": 1, "trials": None, "max_steps": 5, "name": None, "gpu": None, "cpus": None}
    settings, axes = ["train.freeze=network"], ["train.start_from=none,../start.safetensors"]
    typed = make_sweep(None, "runs", recipe="sudoku-mini", vary=axes, settings=settings, **options)
    assert typed.space["train.start_from"].spread() == [None, pinned]
    labels = [name for name, _ in cells(typed)]
    assert labels == ["start_from=None", f"start_from=start@{digest_of(start)[:8]}"]
    assert Variant(name="it", settings={"train.start_from": str(start)}).settings == {"train.start_from": pinned}
    start.rename(tmp_path / "other.safetensors")
    (tmp_path / "warm.yaml").write_text(YAML.replace("start.safetensors", "other.safetensors"))
    assert load_sweep(Path("../warm.yaml")).definition() == written.definition()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --from none.safetensors --freeze network", "none.safetensors"),
        ("train --from text.txt", "is not a checkpoint of this program"),
        ("train --from hf://owner/name/x?endpoint=http://name.invalid", "cannot reach the hub for hf://owner/name/x"),
        ("train --from http://127.0.0.1:9/x", "cannot read http://127.0.0.1:9/x"),
        ("train --freeze netwrk", "train.freeze"),
        ("train --freeze network --set train.freeze=none", "given twice"),
        ("train --from start.safetensors --set train.start_from=start.safetensors", "given twice"),
        ("train --from start.safetensors", "--set model.hidden_size=16"),
        ("sweep plan --recipe sudoku-mini --vary T=1,2 --set train.start_from=none.safetensors", "is not there"),
        ("sweep plan --recipe sudoku-mini --vary T=1,2 --set train.start_from=text.txt", "is not a checkpoint"),
        ("sweep plan --recipe sudoku-mini --vary T=1,2 --set train.start_from=start.safetensors", "hidden_size=16 and"),
        ("sweep run --recipe sudoku-mini --vary T=1,2 --set train.start_from=start.safetensors", "hidden_size=16 and"),
        ("sweep plan warm.yaml", "warm.yaml: train.start_from='gone.safetensors'"),
    ],
)
def test_mistake_is_one_line_before_anything_runs(
    words: str, message: str, start: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("no checkpoint")
    (tmp_path / "warm.yaml").write_text(YAML.replace("start.safetensors", "gone.safetensors"))
    code, out, err = call(capfd, *words.split(), "--storage", "runs")
    lines = [line for line in err.splitlines() if not line.startswith("starting ")]
    assert code == 2 and not out, out + err
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], err
    assert not list((tmp_path / "runs").glob("sweeps/*/*"))


def test_frozen_network_without_weights_is_warned_of(start: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [*TRAIN[:-1], "1", "--storage", "runs", "--freeze", "network"]
    for more, count in (([], 1), (["--from", "start.safetensors"], 0)):
        code, _, err = call(capfd, *words, *more)
        assert code == 0 and err.count("train.freeze=network without train.start_from") == count, err


def changed(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> bytes:
    """A checkpoint file with other tensors."""
    found = unpack(file.read_bytes())
    tensors = dict(found.tensors)
    change(tensors)
    return pack(tensors, found.header)


def _without_head(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model/halt_head"]


def _without_rows(tensors: dict[str, torch.Tensor]) -> None:
    tensors[TABLE] = tensors[TABLE][:0]


def _narrow(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        if name.endswith("/answer_head"):
            tensors[name] = tensors[name][:, :1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.read_bytes()[:-1], "is damaged: its tensors have "),
        (lambda file: file.read_bytes()[:100], "is not a checkpoint of this program"),
        (lambda file: file.read_bytes() + b"x", "is damaged: its tensors have "),
        (lambda file: file.read_bytes()[:-1] + b"x", "is damaged: its tensors do not match their checksum"),
        (lambda file: changed(file, _without_head), "has no tensor halt_head"),
        (lambda file: changed(file, _without_rows), "has a tensor of shape (0, 16) as puzzle_embedding.weight"),
        (lambda file: changed(file, _narrow), "has a tensor of shape (6, 1) as answer_head"),
    ],
)
def test_damaged_file_is_one_line_before_anything_is_written(
    damage: Callable[[Path], bytes], message: str, start: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start.write_bytes(damage(start))
    code, out, err = call(capfd, *TRAIN, "--storage", "runs", "--from", "start.safetensors")
    lines = [line for line in err.splitlines() if not line.startswith("starting ")]
    assert code == 2 and not out and len(lines) == 1 and message in lines[0], err
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_weights_come_from_the_hub_once_and_then_from_the_storage(
    hub: tuple[HubServer, str], start: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server, address = hub
    config = configure(tiny_config(), {"train.start_from": address})
    assert config.train.start_from == f"{address}#sha256={digest_of(start)}"
    local = configure(tiny_config(), {"train.start_from": str(start)})
    assert trial_id(config, "data") == trial_id(local, "data"), "the content counts, wherever it lies"
    missing = address.replace("start.safetensors", "none.safetensors")
    with pytest.raises(UserError, match=r"none.safetensors does not exist on the hub"):
        configure(tiny_config(), {"train.start_from": missing})
    code, _, err = call(capfd, *TRAIN, "--storage", "runs", "--from", address)
    assert code == 0 and "starting from the EMA weights of step 12 of hf://owner/model@main/start.safetensors" in err
    server.shutdown()
    shutil.rmtree(start.parent / "cache")
    assert train(config, "runs", callbacks=()).status is Status.FINISHED


def test_weights_on_s3_start_a_run_whose_records_are_there(start: Path, s3_bucket: str) -> None:
    storage = open_storage(s3_bucket)
    storage.write("models/start.safetensors", start.read_bytes())
    location, mark, options = s3_bucket.partition("?")
    config = configure(tiny_config(), {"train.start_from": f"{location}/models/start.safetensors{mark}{options}"})
    outcome = train(config, s3_bucket, callbacks=())
    assert outcome.status is Status.FINISHED
    assert f"weights/{digest_of(start)}/checkpoint.safetensors" in storage.list("weights")


def test_estimate_of_a_frozen_network_counts_no_gradient_of_weights() -> None:
    frozen = tiny_config(**{"train.freeze": "network"})
    assert 0.6 < training_flops(frozen) / training_flops(tiny_config()) < 0.9


def test_setting_without_a_hash_is_refused_in_a_record(start: Path) -> None:
    plain = Sweep(name="warm", base=tiny_config()).plain()
    plain["base"]["train"]["start_from"] = str(start)
    with pytest.raises(ConfigError, match="has no hash of the file's content"):
        Sweep.from_record(plain)
