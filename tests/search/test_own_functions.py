"""A stopping rule and a sampler of the user's own: functions of a file that a search names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Confirm, Stopping, Sweep, choice, configure, get_recipe, log_uniform, run
from orchestrator.search.early_stopping import Rung, decide
from orchestrator.search.sampler import Sampler
from orchestrator.sweep.loader import load_sweep
from tests.support.own_process import run_sweep
from tests.support.sweeps import TINY
from trm_data.errors import ConfigError, UserError
from trm_data.own_code import distrust_all

CODE = """
import optuna


def below_half(trial, others, max_steps):
    if trial[-1].exact_accuracy < 0.5 and others:
        return f"{trial[-1].exact_accuracy} after {trial[-1].step} of {max_steps}"


def broken(trial, others, max_steps):
    return 1 / 0


def wrong(trial, others, max_steps):
    return True


def empty(trial, others, max_steps):
    return ""


def ends(trial, others, max_steps):
    raise SystemExit(0)


def empties(trial, others, max_steps):
    others["other"].clear()
    others.clear()
    trial.clear()


def sampler(seed):
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=2)


class Fails(optuna.samplers.RandomSampler):
    def sample_independent(self, study, trial, name, distribution):
        raise RuntimeError(f"no {name}")


def fails(seed):
    return Fails(seed)


class Outside(optuna.samplers.RandomSampler):
    def sample_independent(self, study, trial, name, distribution):
        return 1e9 if name == "optimizer.lr" else super().sample_independent(study, trial, name, distribution)


def outside(seed):
    return Outside(seed)


class Refuses(optuna.samplers.RandomSampler):
    def before_trial(self, study, trial):
        raise RuntimeError("not now")


def refuses(seed):
    return Refuses(seed)


def none(seed):
    return seed


def leaves(seed):
    raise SystemExit(0)


class Kind:
    pass
"""
SHA256 = hashlib.sha256(CODE.encode()).hexdigest()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the file; nothing is trusted before."""
    distrust_all()
    (tmp_path / "own.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def search(**changes: Any) -> Sweep:
    short = {**TINY, "train.max_steps": 10, "runtime.evaluate_every": 5}
    fields = {"trials": 3, "space": {"T": choice(1, 2, 3)}, "confirm": Confirm(top=0)}
    base = configure(get_recipe("sudoku-mini"), short)
    return Sweep(name="own", kind="search", base=base, **{**fields, **changes})


def asked(rule: str) -> Any:
    return decide(Stopping(rule=rule, grace=0.1), 100, [Rung(20, 0.2, 0.5)], {"other": [Rung(20, 0.9, 0.9)]})


def test_a_rule_of_a_file_gets_the_curves_and_says_why_a_trial_is_stopped() -> None:
    assert asked("own.py:below_half") == (True, "0.2 after 20 of 100")
    rule = Stopping(rule="own.py:below_half", grace=0.3)
    assert not decide(rule, 100, [Rung(20, 0.2, 0.5)], {"other": []}).stop, "nothing is stopped before the grace period"
    assert decide(rule, 100, [Rung(30, 0.6, 0.5)], {"other": []}) == (False, "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", "ZeroDivisionError: division by zero"),
        ("wrong", "it returned True, which is neither a reason nor None"),
        ("empty", "it returned '', which is neither a reason nor None"),
        ("ends", "SystemExit: 0"),
    ],
)
def test_a_rule_that_fails_is_named_with_its_error(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"stopping rule {name}@{SHA256[:8]} fails: .*{words}"):
        asked(f"own.py:{name}")


def test_a_rule_gets_copies_so_that_it_changes_no_curve() -> None:
    curve, others = [Rung(20, 0.2, 0.5)], {"other": [Rung(20, 0.9, 0.9)]}
    assert not decide(Stopping(rule="own.py:empties", grace=0), 100, curve, others).stop
    assert len(curve) == len(others["other"]) == 1


def test_a_sampler_of_a_file_chooses() -> None:
    sweep = search(sampler="own.py:sampler")
    sampler = Sampler(sweep, lambda request: "f", ())
    chosen = [trial.config.model.cycles for trial in iter(sampler.suggest, None)]
    assert sorted(chosen) == [1, 2, 3]
    with pytest.raises(ConfigError, match=r"sampler none@\w{8} fails: .*no optuna.samplers.BaseSampler"):
        Sampler(search(sampler="own.py:none"), lambda request: "f", ())
    with pytest.raises(ConfigError, match=r"sampler leaves@\w{8} fails: SystemExit: 0"):
        Sampler(search(sampler="own.py:leaves"), lambda request: "f", ())


def test_a_value_outside_of_the_space_is_refused_before_a_trial_runs_with_it() -> None:
    space = {"T": choice(1, 2), "lr": log_uniform(1e-3, 1e-2)}
    sampler = Sampler(search(sampler="own.py:outside", space=space), lambda request: "f", ())
    with pytest.raises(ConfigError, match=r"sampler outside@\w{8} fails: .*optimizer.lr=1000000000.0, .* outside"):
        sampler.suggest()


def test_a_sampler_that_fails_when_a_search_is_resumed_is_named_with_its_error() -> None:
    trial = Sampler(search(sampler="random"), lambda request: "f", ()).suggest()
    assert trial is not None
    with pytest.raises(ConfigError, match=r"sampler refuses@\w{8} fails: RuntimeError: not now"):
        Sampler(search(sampler="own.py:refuses"), lambda request: "f", ()).adopt(trial)


def test_a_file_that_wants_to_end_the_process_is_named(folder: Path) -> None:
    (folder / "ends.py").write_text("import sys\nsys.exit(0)\ndef rule(trial, others, max_steps): ...\n")
    with pytest.raises(ConfigError, match=r"ends\.py fails: SystemExit: 0"):
        decide(Stopping(rule="ends.py:rule", grace=0), 100, [Rung(20, 0.2, 0.5)], {})


def test_a_sampler_that_fails_while_it_chooses_is_named_with_its_error() -> None:
    with pytest.raises(ConfigError, match=r"sampler fails@\w{8} fails: RuntimeError: no model.cycles"):
        Sampler(search(sampler="own.py:fails"), lambda request: "f", ()).suggest()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("halvin", "should be 'none', 'halving', 'median', 'patience' or path/to/file.py:function"),
        ("own.py:belo_half", "defines no function 'belo_half'. Did you mean 'below_half'"),
        ("own.py:Kind", "defines no function 'Kind'"),
        ("absent.py:rule", "no Python file"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_runs(value: str, words: str) -> None:
    with pytest.raises(Exception, match=words):
        Stopping(rule=value)


def test_a_sweep_is_identified_by_the_content_of_its_functions_and_not_by_their_folder(folder: Path) -> None:
    sweep = search(stopping=Stopping(rule="own.py:below_half"), sampler="own.py:sampler")
    assert sweep.stopping.rule == f"{folder}/own.py:below_half#sha256={SHA256}"
    (folder / "moved").mkdir()
    (folder / "moved" / "own.py").write_text(CODE)
    moved = search(stopping=Stopping(rule="moved/own.py:below_half"), sampler="moved/own.py:sampler")
    assert moved.definition() == sweep.definition()
    (folder / "own.py").write_text(CODE.replace("0.5", "0.4"))
    changed = search(stopping=Stopping(rule="own.py:below_half"), sampler="own.py:sampler")
    assert changed.definition() != sweep.definition()


def test_recorded_functions_run_only_if_they_are_trusted(folder: Path) -> None:
    code = f"from pathlib import Path\nPath('executed').touch()\n{CODE}"
    (folder / "own.py").write_text(code)
    plain = search(sampler="own.py:sampler", stopping=Stopping(rule="own.py:below_half", grace=0)).plain()
    recorded = Sweep.from_record(json.loads(json.dumps(plain)))
    distrust_all()
    with pytest.raises(UserError, match="which this command does not trust") as found:
        run(recorded, "runs", tracking="none", callbacks=())
    assert "--trust" in found.value.remedy and not (folder / "executed").exists()
    assert run_sweep(recorded, folder / "own.py") == ("complete", "") and (folder / "executed").exists()
    unpinned = json.dumps(plain).replace(f"#sha256={hashlib.sha256(code.encode()).hexdigest()}", "")
    with pytest.raises(ConfigError, match="has no hash"):
        Sweep.from_record(json.loads(unpinned))


def test_a_yaml_file_is_data_and_trusts_no_function(folder: Path) -> None:
    text = """
name: own
recipe: sudoku-mini
method: random
run_cap: 2
parameters: {T: {values: [1, 2]}}
sampler: own.py:sampler
stopping: {rule: own.py:below_half}
"""
    (folder / "sub").mkdir()
    (folder / "sub" / "own.py").write_text(CODE)
    (folder / "sub" / "own.yaml").write_text(text)
    sweep = load_sweep(folder / "sub" / "own.yaml")
    assert sweep.sampler == f"{folder}/sub/own.py:sampler#sha256={SHA256}"
    assert sweep.stopping.rule.endswith(f"own.py:below_half#sha256={SHA256}")
    with pytest.raises(ConfigError, match="does not trust"):
        Sampler(sweep, lambda request: "f", ())


def test_a_rule_that_fails_ends_the_sweep_with_one_line(folder: Path) -> None:
    sweep = search(stopping=Stopping(rule="own.py:broken", grace=0))
    status, error = run_sweep(sweep, folder / "own.py")
    assert not status and error.count("\n") <= 1 and "stopping rule broken@" in error
