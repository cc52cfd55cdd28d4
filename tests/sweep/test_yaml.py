"""Sweeps without Python: YAML files with W&B's keys and our own, which are never executed."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli import main
from orchestrator.errors import SweepError
from orchestrator.execution.run import run_sweep
from orchestrator.search.sampler import Sampler
from orchestrator.storage import open_storage
from orchestrator.sweep import (
    Confirm,
    ResourceRule,
    Resources,
    Stopping,
    Sweep,
    Variant,
    choice,
    configure,
    integers,
    log_uniform,
    uniform,
)
from orchestrator.sweep.budget import Budget
from orchestrator.sweep.domains import Uniform
from orchestrator.sweep.loader import load_sweep
from orchestrator.sweep.packaged import packaged_sweeps
from orchestrator.sweep.plan_file import known_trials
from tests.support.sweeps import fingerprint
from trm_data.errors import ConfigError
from trm_data.own_code import distrust_all
from trm_data.yaml_text import parse_yaml
from trm_model.recipes import get_recipe

BASE = get_recipe("sudoku-mini")


def load(folder: Path, text: str, name: str = "sw.yaml") -> Sweep:
    """The sweep that a YAML file with this text describes."""
    path = folder / name
    path.write_text(text)
    return load_sweep(path)


def ids(sweep: Sweep) -> list[str]:
    """The ids of the trials that are known beforehand, then those of the first explored ones."""
    found = [trial.trial_id for trial in known_trials(sweep, fingerprint)]
    if sweep.kind == "search":
        sampler = Sampler(sweep, fingerprint, ())
        found += [trial.trial_id for _ in range(4) if (trial := sampler.suggest())]
    return found


EQUIVALENT = [
    (
        "method: grid\nparameters: {T: {values: [1, 2]}, model.latent_steps: {min: 1, max: 3}, lr: {value: 2e-3}}",
        Sweep(name="sw", base=configure(BASE, {"lr": 2e-3}), space={"T": choice(1, 2), "n": choice(1, 2, 3)}),
    ),
    (
        "method: random\nrun_cap: 6\nparameters: {T: {min: 1, max: 3}, wd: {min: 0, max: 1}}",
        Sweep(name="sw", kind="search", trials=6, base=BASE, sampler="random", stopping=Stopping(rule="none"),
              space={"T": integers(1, 3), "wd": uniform(0, 1)}),
    ),
    (
        "method: bayes\nmetric: {name: cell_accuracy, goal: maximize}\nrun_cap: 9\nname: mine\nparameters:\n"
        "  optimizer:\n    parameters:\n     lr: {max: 1e-2, min: 1e-4, distribution: log_uniform_values}\n"
        "early_terminate: {type: hyperband, min_iter: 3, eta: 2}",
        Sweep(name="mine", kind="search", trials=9, base=BASE, metric="cell_accuracy",
              space={"lr": log_uniform(1e-4, 1e-2)}, stopping=Stopping(rule="halving", grace=0.5, keep=0.5)),
    ),
    (
        "method: bayes\nsampler: gp\nrun_cap: 9\nearly_terminate: {type: hyperband, s: 2, max_iter: 4, eta: 2}\n"
        "parameters: {optimizer.warmup_steps: {distribution: q_uniform, q: 5, min: 7, max: 31},\n"
        "             wd: {distribution: log_uniform, min: -2, max: 0},\n"
        "             N_sup: {distribution: q_log_uniform_values, min: 1, max: 8},\n"
        "             ema: {distribution: q_uniform, q: 0.1, min: 0.05, max: 0.95}}",
        Sweep(name="sw", kind="search", trials=9, base=BASE, sampler="gp",
              stopping=Stopping(rule="halving", grace=0.166666, keep=0.5),
              space={"optimizer.warmup_steps": integers(10, 30, step=5), "wd": log_uniform(0.1353352832366127, 1.0),
                     "N_sup": integers(1, 8, log=True), "ema": uniform(0.1, 0.9, step=0.1)}),
    ),
    (
        "kind: search\ntrials: 8\nsampler: qmc\nsampler_seed: 3\nminimize: [train_flops]\n"
        "set: {data: {num_train: 40}}\n"
        "stopping: {rule: none}\nparameters: {T: {values: [1, 2, 3]}, n: {values: [1, 2]}}\n"
        "only_if: {n: {T: [1, 2]}}\nforbidden: [{T: 2, n: 1}]\nwarm_start: [other]\nmax_concurrent: 2\n"
        "confirm: {top: 2, seeds: 4, train_splits: [train, validation],\n"
        "          controls: [{name: plain, settings: {model.variant: direct, optimizer.betas: [0.9, 0.99]}}]}\n"
        "resources: {cpus: 2}\nresource_rules: [{when: {T: 3}, resources: {gpus: 1, gpu_type: L40S}}]\n"
        "max_usd: 5\nmax_hours: 2",
        Sweep(name="sw", kind="search", trials=8, sampler="qmc", sampler_seed=3, minimise=("train_flops",),
              base=configure(BASE, {"data.num_train": 40}), stopping=Stopping(rule="none"),
              space={"T": choice(1, 2, 3), "n": choice(1, 2)}, only_if={"n": {"T": (1, 2)}},
              forbidden=({"T": 2, "n": 1},), warm_start=("other",), max_concurrent=2,
              confirm=Confirm(top=2, seeds=4, train_splits=("train", "validation"), controls=(
                  Variant(name="plain", settings={"model.variant": "direct", "optimizer.betas": (0.9, 0.99)}),)),
              resources=Resources(cpus=2),
              resource_rules=(ResourceRule(when={"T": 3}, resources=Resources(gpus=1, gpu_type="L40S")),),
              budget=Budget(usd=5, wall_hours=2)),
    ),
    (
        "method: grid\nrun_cap: 4\nseeds: 2\nequal: flops\nset: {betas: [0.8, 0.9]}\n"
        "parameters: {data.train_splits: {values: [[train], [train, validation]]}}\n"
        "variants: [{name: deep, settings: {T: 3}}]",
        Sweep(name="sw", base=configure(BASE, {"optimizer.betas": (0.8, 0.9)}), seeds=2, equal="flops",
              space={"data.train_splits": choice(("train",), ("train", "validation"))},
              variants=(Variant(name="deep", settings={"T": 3}),), budget=Budget(trials=4)),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), EQUIVALENT)
def test_file_is_the_same_sweep_as_the_python_object(text: str, expected: Sweep, tmp_path: Path) -> None:
    found = load(tmp_path, f"recipe: sudoku-mini\n{text}")
    assert found == expected
    assert ids(found) == ids(expected) and ids(found)


@pytest.mark.parametrize("name", ["demo", "table1", "recursion_depth", "augmentation/maze", "reproduce/maze_mlp"])
def test_every_field_of_a_packaged_sweep_can_be_said_in_yaml(name: str, tmp_path: Path) -> None:
    expected = load_sweep(packaged_sweeps()[name])
    found = load(tmp_path, yaml.safe_dump(expected.plain(), sort_keys=False))
    assert found == expected and ids(found) == ids(expected)


WRONG = [
    ("methd: grid", "the top level: unknown key 'methd'. Did you mean 'method'?"),
    ("paramters: {}", "unknown key 'paramters'. Did you mean 'parameters'?"),
    ("method: grd", "unknown method 'grd'. Did you mean 'grid'?"),
    ("method: [grid]", "unknown method ['grid']"),
    ("method: grid\nkind: search", "exclude each other. Delete kind"),
    ("method: random\nsampler: tpe\nrun_cap: 2", "Samplers of random: random, qmc"),
    (
        "method: grid\nsampler: tpe",
        "method='grid' runs every cell, so that sampler='tpe' has no effect. Delete sampler",
    ),
    ("method: random\nparameters: {T: {values: [1, 2]}}", "has no number of trials. Add run_cap: 20"),
    ("method: random\nrun_cap: 2\ntrials: 3\nparameters: {T: {values: [1, 2]}}", "run_cap and trials are both given"),
    ("run_cap: many", "run_cap='many' is not a number of trials. Write run_cap: 20"),
    ("max_usd: -1", "max_usd=-1 is not a number above 0"),
    ("max_gpus: 3", "It is an option of `trm sweep run`: --max-gpus"),
    ("seeds: three", "seeds='three': input should be a valid integer"),
    ("parameters: [T]", "parameters=['T'] is not a mapping"),
    ("parameters: {T: [1, 2]}", "parameters.T is a list. Write T: {values: [1, 2]}"),
    ("parameters: {T: 3}", "Write T: {value: 3}"),
    ("parameters: {T: {}}", "parameters.T: it has neither value, values, nor min and max"),
    ("parameters: {T: {min: 1, mx: 3}}", "parameters.T: unknown key 'mx'. Did you mean 'max'?"),
    ("parameters: {T: {min: 1}}", "parameters.T: distribution int_uniform or uniform needs 'max'. Add max:"),
    ("parameters: {T: {value: 1, values: [1]}}", "'value' does not belong to distribution categorical"),
    ("parameters: {T: {values: 3}}", "values=3 is not a list. Write values: [3]"),
    ("parameters: {T: {values: [1, x]}}", "parameters.T: model.cycles='x': input should be a valid integer"),
    ("parameters: {T: {values: [{a: 1}]}}", "is not a value of a setting"),
    ("parameters: {lrr: {values: [1, 2]}}", "parameters.lrr: unknown setting 'lrr'. Did you mean 'optimizer.lr'?"),
    ("parameters: {T: {value: 1}, model.cycles: {value: 1}}", "model.cycles is given twice"),
    ("parameters: {lr: {distribution: normal, mu: 1}}", "distribution='normal' is not supported. Use one of constant"),
    ("parameters: {lr: {distribution: log_unifrm, min: 1, max: 2}}", "Did you mean 'log_uniform'?"),
    ("parameters: {lr: {distribution: uniform, min: low, max: 2}}", "min='low' is not a number"),
    ("parameters: {lr: {distribution: uniform, min: 0.1, max: 2}}", "of which only a search can draw"),
    ("parameters: {T: {distribution: uniform, min: 1, max: 2}}", "takes whole numbers only. Use distribution: int_un"),
    ("parameters: {model.mixer: {min: 1, max: 2}}", "model.mixer takes no numbers"),
    ("parameters: {T: {values: []}}", "parameters.T: values is empty"),
    ("run_cap:", "run_cap is empty"),
    ("metric: {name: exact_acuracy}", "metric='exact_acuracy' is not measured. Did you mean 'exact_accuracy'?"),
    ("metric: {name: exact_accuracy, goal: minimize}", "Write goal: maximize"),
    ("method: grid\nearly_terminate: {type: hyperband, min_iter: 1}", "early_terminate is for a search"),
    ("metric: {nam: exact_accuracy}", "metric: unknown key 'nam'. Did you mean 'name'?"),
    ("metric: {name: exact_accuracy, target: 1}", "metric.target is not supported. Delete it"),
    ("early_terminate: {type: envelope}", "Write type: hyperband, or stopping: {rule: halving|median|patience|none}"),
    ("early_terminate: {type: hyperband, min_iters: 3}", "unknown key 'min_iters'. Did you mean 'min_iter'?"),
    ("early_terminate: {type: hyperband, min_iter: 100}", "the first bracket is evaluation 100, and a trial has 6"),
    ("early_terminate: {type: hyperband, max_iter: 27}", "needs both max_iter and s, or min_iter"),
    ("early_terminate: {type: hyperband, strict: true}", "strict is not supported. Leave it out"),
    ("early_terminate: {type: hyperband}\nstopping: {}", "early_terminate and stopping are both given"),
    ("stopping: {rul: none}", "unknown setting 'stopping.rul'. Did you mean 'rule'?"),
    ("program: train.py", "program: names what W&B's agent starts"),
    ("command: [python, train.py]", "Delete command; recipe: and set: say what is trained"),
    ("set: {lr: fast}", "optimizer.lr='fast': input should be a valid number"),
    ("set: {T: 1, model: {cycles: 2}}", "set gives model.cycles twice"),
    ("recipe: sudoku-mni", "line 2: 'recipe' is given twice"),
    ("name: 2026-11-29 10:00:00", "must be letters, digits"),
    ("1: 2", "the key 1 is not text. Put it in quotes"),
    ("a: [", "line 2, column"),
    ("a: !!python/object/apply:os.system [echo]", "could not determine a constructor for the tag"),
    ("a: &a [*a]", "more than 50,000 values or 30 levels"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_mistake_names_the_file_the_key_and_the_remedy(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SweepError) as caught:
        load(tmp_path, f"recipe: sudoku-mini\n{text}")
    assert str(caught.value).startswith(f"{tmp_path / 'sw.yaml'}: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty. Write recipe:"),
        (b"- a", "the document=['a'] is not a mapping"),
        (b"method: grid", "it names no recipe. Add recipe: sudoku-mini"),
        (b"recipe: sudoku-mni", "unknown recipe 'sudoku-mni'. Did you mean 'sudoku-mini'?"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"recipe: \x00", "special characters are not allowed"),
        (b"[" * 5000, "it is nested deeper than 30 levels"),
    ],
)
def test_command_ends_with_one_line_and_exit_code_2(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sw.yml").write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "plan", str(tmp_path / "sw.yml"), "--storage", str(tmp_path / "runs")])
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(lines) == 1
    assert "sw.yml" in lines[0] and message in lines[0]


@given(st.text(max_size=60) | st.text(alphabet="{}[]:,-&*!|>'\"# \nab1", max_size=60))
def test_any_text_is_a_value_or_a_clear_error(text: str) -> None:
    try:
        parse_yaml(text)
    except ConfigError as error:
        assert "\n" not in str(error)


def test_example_of_the_documentation_is_a_sweep(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/sweeps.md").read_text()
    found = load(tmp_path, page.partition("```yaml\n")[2].partition("```")[0])
    assert found.trials == 20 and found.sampler == "tpe" and found.budget.usd == 20 and ids(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name: x\nseeds: !!int ""', "line 2: '' is no int"),
        ("seeds: !!bool x", "line 1: 'x' is no bool"),
        ("seeds: !!float x", "line 1: 'x' is no float"),
        ("seeds: !!timestamp x", "line 1, column 8: could not determine a constructor"),
        ("seeds: !!binary x", "could not determine a constructor"),
        ("!!map [a]", "expected a mapping"),
        ("a: !!omap [b: 1]", "could not determine a constructor"),
        ("a: " + "9" * 5000, "is no int"),
        ("a: " + "1:" * 5000 + "1", "is no int"),
        ("{" * 5000, "nested deeper than 30 levels"),
        ("[{" * 5000, "nested deeper than 30 levels"),
        ("- " * 5000, "nested deeper than 30 levels"),
        ("a" * 2**21, "more than 1,048,576 characters"),
        (
            "a: &a {x: 1}\n"
            + "".join(f"{b}: &{b}\n  <<: [{f'*{a}, ' * 10}]\n" for a, b in itertools.pairwise("abcdefghijk")),
            "keys are merged",
        ),
    ],
    ids=range(14),
)
def test_value_that_python_refuses_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_numbers_and_names_are_what_they_look_like() -> None:
    found = parse_yaml("{a: 1e-4, b: 2.5E+3, n: 1, day: 2026-11-29, x: 1e, yes: .5}")
    assert found == {"a": 1e-4, "b": 2500.0, "n": 1, "day": "2026-11-29", "x": "1e", True: 0.5}


def test_keys_of_the_wandb_server_are_said_to_have_no_effect(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "recipe: sudoku-mini\nproject: p\nentity: e\nmethod: grid\nparameters: {T: {values: [1, 2]}}"
    assert len(ids(load(tmp_path, text))) == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'sw.yaml'}: entity, project: about W&B's server, so without effect here"
    ]


def test_yaml_is_data_and_code_that_it_names_is_not_trusted(tmp_path: Path) -> None:
    distrust_all()
    code = (
        "import pathlib\nfrom trm_model import Recursion\n\nclass Mine(Recursion):\n    pathlib.Path('ran').touch()\n"
    )
    (tmp_path / "mine.py").write_text(code)
    found = load(
        tmp_path, "recipe: sudoku-mini\nset: {model.recursion: 'mine.py:Mine'}\nvariants: [{name: a, settings: {T: 1}}]"
    )
    assert str(found.base.model.recursion).startswith(f"{tmp_path / 'mine.py'}:Mine#sha256=")
    with pytest.raises(ConfigError, match=r"does not trust.*--trust"):
        run_sweep(found, open_storage(str(tmp_path / "runs")))
    assert not Path("ran").exists()
    # What would be Python is not executed either, whatever the suffix says.
    with pytest.raises(SweepError):
        load(tmp_path, "__import__('pathlib').Path('ran').touch()", "code.yml")
    assert not Path("ran").exists()


def test_relative_paths_begin_at_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.sep)
    (tmp_path / "mine.csv").write_text("x")
    found = load(
        tmp_path,
        "recipe: sudoku-mini\nset: {data.source: mine.csv, data.blanks: null}\nvariants: [{name: a, settings: {T: 1}}]",
    )
    assert found.base.data.source == str(tmp_path / "mine.csv")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low": 0, "high": 1, "step": 0.3}, "not a whole number of steps"),
        ({"low": 1, "high": 9, "step": 2, "log": True}, "step and log=True exclude each other"),
        ({"low": 1, "high": 9, "step": 0.5, "integer": True}, "step=0.5 must be a whole number"),
        ({"low": 0, "high": 1e300, "step": 1e-5}, "more than 1,000,000 values"),
    ],
)
def test_impossible_steps_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Uniform(**values)


def test_steps_are_exact_wherever_they_are_used() -> None:
    axis = uniform(0.1, 0.9, step=0.2)
    assert axis.values() == [0.1, 0.3, 0.5, 0.7, 0.9] and axis.count == 5 and axis.spread() == [0.1, 0.5, 0.9]
    assert axis.holds(0.3) and not axis.holds(0.4) and not axis.holds(1.1)
    sweep = Sweep(name="s", kind="search", trials=5, base=BASE, sampler="random", space={"ema": axis})
    sampler = Sampler(sweep, fingerprint, ())
    drawn = {trial.config.optimizer.ema_rate for _ in range(5) if (trial := sampler.suggest())}
    assert drawn == {0.1, 0.3, 0.5, 0.7, 0.9} and sampler.suggest() is None
