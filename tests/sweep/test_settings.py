"""Settings by name: values of the command line, lists among them, and paths that hold wherever a trial runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli import main
from orchestrator.cli.configs import base_config, make_sweep
from orchestrator.errors import SweepError
from orchestrator.sweep import Sweep, Variant, choice, configure
from orchestrator.sweep.loader import load_sweep, with_absolute_paths
from orchestrator.sweep.settings import (
    differences,
    flatten,
    get_setting,
    label,
    parse_assignments,
    parse_value,
    split_assignments,
    summarize_differences,
)
from orchestrator.sweep.trials import study_trials
from tests.support.sweeps import fingerprint, set_options, study, tiny_config
from trm_data.errors import ConfigError
from trm_model.config import TrialConfig
from trm_model.recipes import get_recipe

scalars = st.none() | st.booleans() | st.integers(-99, 99) | st.sampled_from([0.5, 1e-4, "train", 'a "quoted", text'])
lists = st.recursive(scalars, lambda inside: st.lists(inside, max_size=3), max_leaves=6).filter(
    lambda value: isinstance(value, list)
)


def as_tuple(value: Any) -> Any:
    return tuple(map(as_tuple, value)) if isinstance(value, list) else value


@given(st.lists(lists, min_size=1, max_size=3))
def test_json_lists_are_values_whatever_they_hold(values: list[Any]) -> None:
    text = ",".join(json.dumps(value) for value in values)
    [found] = split_assignments([f"x={text}"], "--vary").values()
    assert [parse_value(part) for part in found] == [as_tuple(value) for value in values]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optimizer.betas", (1.0, 0.95), "optimizer.betas.0=1.0: input should be less than 1"),
        ("optimizer.betas", (0.9, 2.0), "optimizer.betas.1=2.0: input should be less than 1"),
        ("optimizer.betas", (-0.1, 0.9), "optimizer.betas.0=-0.1: input should be greater than or equal to 0"),
        ("optimizer.further_ema_rates", (0.9, 1.5), "optimizer.further_ema_rates.1=1.5: input should be less than 1"),
        ("optimizer.lr", math.inf, "optimizer.lr=inf: input should be a finite number"),
        ("model.rope_theta", math.inf, "model.rope_theta=inf: input should be a finite number"),
        ("evaluation.noise", math.nan, "evaluation.noise=nan: input should be a finite number"),
        ("train.depth_curriculum", ((0.5, 0, 1),), "train.depth_curriculum.0.1=0: input should be greater than or"),
        ("train.depth_curriculum", ((1.5, 1, 1),), "train.depth_curriculum.0.0=1.5: input should be less than or"),
        ("train.depth_curriculum", ((0.5, 1, 1), (0.2, 1, 1)), "depth_curriculum has the shares .*ascending order"),
        ("seed", 2**63, "seed=9223372036854775808: input should be less than"),
    ],
)
def test_value_out_of_range_is_refused_by_name(path: str, value: Any, message: str) -> None:
    section, _, leaf = path.partition(".")
    with pytest.raises(ConfigError, match=message) as refusal:
        TrialConfig.parse({section: {leaf: value} if leaf else value})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("optimizer.betas=[0.9,0.99]", (0.9, 0.99)),
        ('data.train_splits=["train","validation"]', ("train", "validation")),
        ("train.depth_curriculum=[[0.0,1,1],[0.5,2,2]]", ((0.0, 1, 1), (0.5, 2, 2))),
        ("optimizer.further_ema_rates=[]", ()),
        ("D=null", None),
        ("lr=1e-3", 1e-3),
    ],
)
def test_a_list_is_one_value_of_set(assignment: str, value: Any) -> None:
    config = base_config("sudoku-mini", [assignment], None)
    assert get_setting(config, assignment.partition("=")[0]) == value


def test_lists_can_be_compared_and_survive_as_data() -> None:
    options = {"seeds": 1, "trials": None, "max_steps": 3, "name": None, "gpu": None, "cpus": None, "settings": None}
    vary = ["optimizer.betas=[0.9,0.95],[0.9,0.99]", "T=1,2"]
    sweep = make_sweep(None, "runs", recipe="sudoku-mini", vary=vary, **options)  # type: ignore[arg-type]
    betas = [trial.config.optimizer.betas for trial in study_trials(sweep, fingerprint)]
    assert betas == [(0.9, 0.95)] * 2 + [(0.9, 0.99)] * 2
    assert next(study_trials(sweep, fingerprint)).family == "betas=[0.9,0.95] T=1"
    assert Sweep.parse(json.loads(json.dumps(sweep.plain()))) == sweep
    variants = (Variant(name="deep later", settings={"train.depth_curriculum": ((0.0, 1, 1), (0.5, 2, 2))}),)
    assert next(study_trials(study(space={}, variants=variants), fingerprint)).config.train.depth_curriculum


@pytest.mark.parametrize(
    "text",
    [
        "[0.9,0.95",
        "[train,validation]",
        '[{"a":1}]',
        "[" * 400 + "]" * 400,
        pytest.param("[" * 100_000, id="deep"),
        pytest.param(f"[{'1' * 5000}]", id="long number"),
    ],
)
def test_a_list_that_is_none_is_one_line_with_an_example(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "plan", "--recipe", "sudoku-mini", "--set", f"optimizer.betas={text}"])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and "list" in error and len(error) < 500


def test_a_text_that_looks_like_a_number_stays_text_where_the_setting_is_text() -> None:
    assert parse_assignments(["model.recursion=2024"], "--set") == {"model.recursion": ["2024"]}
    assert parse_assignments(["T=2024"], "--set") == {"T": [2024]}


nested = st.recursive(
    st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
    lambda inside: st.dictionaries(st.sampled_from("abc"), inside, min_size=1, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


@given(nested, nested)
def test_differences_are_the_leaves_that_differ(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert differences(old, old) == {}
    found = differences(old, new)
    first, second = flatten(old), flatten(new)
    assert all(first.get(path) == before and second.get(path) == after for path, (before, after) in found.items())
    assert {path for path in {*first, *second} if first.get(path) != second.get(path)} == set(found)
    assert {path: (a, b) for path, (b, a) in differences(new, old).items()} == found


def test_flatten_names_leaves_by_path() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}) == {"a.b": 1, "a.c.d": [1, 2], "e": None}
    assert label({"model.cycles": 2, "optimizer.betas": (0.9, 0.95)}) == "T=2 betas=[0.9,0.95]"


SWEEP = """
from orchestrator.sweep import Confirm, Sweep, Variant, choice, configure
from trm_model.config import TrialConfig
from trm_model.recipes import get_recipe

base = configure(get_recipe("sudoku-mini"), {{"data.source": "lists/mine.csv", "data.blanks": None}})
sweep = Sweep(name="own", base=base, variants=(Variant(name="other", settings={{"data.source": {other!r}}}),))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a sweep file and two lists of puzzles, which is not the current folder."""
    (tmp_path / "there" / "lists").mkdir(parents=True)
    for name in ("mine", "other"):
        (tmp_path / "there" / "lists" / f"{name}.csv").write_text("puzzle,solution\n")
    return tmp_path / "there"


def test_paths_in_a_sweep_file_are_relative_to_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "own.py").write_text(SWEEP.format(other="lists/other.csv"))
    monkeypatch.chdir(folder.parent)
    sweep = load_sweep(Path("there/own.py"))
    assert sweep.base.data.source == str(folder / "lists" / "mine.csv")
    assert [trial.config.data.source for trial in study_trials(sweep, fingerprint)] == [f"{folder}/lists/other.csv"]
    assert sweep.definition()["base"]["data"]["source"] == "mine.csv", "the folder does not make another sweep"


def test_paths_of_the_command_line_are_relative_to_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    config = base_config("sudoku-mini", ["data.source=lists/mine.csv"], None)
    assert config.data.source == str(folder / "lists" / "mine.csv")
    remote = base_config("sudoku-mini", ["data.source=s3://bucket/mine.csv"], None)
    assert remote.data.source == "s3://bucket/mine.csv"


def test_other_settings_with_paths_are_resolved_too(folder: Path) -> None:
    """The common beginning of a Kaggle pair is not a file; a hash belongs to the address; an axis may hold paths."""
    for part in ("challenges", "solutions"):
        (folder / f"concept_training_{part}.json").write_text("{}")
    base = configure(get_recipe("arc-agi-1.readme"), {"data.extra_training": "concept"})
    resolved = with_absolute_paths(study(base=base, space={"T": choice(1, 2)}), folder)
    assert resolved.base.data.extra_training == str(folder / "concept")
    axis = study(
        base=tiny_config(**{"data.blanks": None}),
        space={"data.source": choice("lists/mine.csv", "lists/other.csv#sha256=ab")},
    )
    assert with_absolute_paths(axis, folder).space["data.source"].spread() == [
        f"{folder}/lists/mine.csv",
        f"{folder}/lists/other.csv#sha256=ab",
    ]


def test_a_file_that_is_not_there_is_said_when_the_sweep_is_planned(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "own.py").write_text(SWEEP.format(other="lists/othr.csv"))
    monkeypatch.chdir(folder.parent)
    with pytest.raises(SweepError, match=r"data\.source='lists/othr\.csv': there is no .*/there/lists/othr\.csv"):
        load_sweep(Path("there/own.py"))
    for arguments in (["there/own.py"], ["--recipe", "sudoku-mini", "--set", "data.source=nowhere.csv"]):
        with pytest.raises(SystemExit) as ended:
            main(["sweep", "plan", *arguments, "--storage", "runs"])
        error = capsys.readouterr().err
        assert ended.value.code == 2 and "there is no" in error and error.count("\n") == 1
    assert not (folder.parent / "runs").exists()


def test_a_module_next_to_a_sweep_file_can_be_imported_and_another_of_its_name_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name, cycles in (("first", 1), ("second", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "common_settings.py").write_text(f"CYCLES = {cycles}\n")
        (tmp_path / name / "depth.py").write_text(
            "from common_settings import CYCLES\n"
            "from orchestrator.sweep import Sweep, configure\n"
            "from trm_model.recipes import get_recipe\n"
            "sweep = Sweep(name='depth', base=configure(get_recipe('sudoku-mini'), {'T': CYCLES}))\n"
        )
    path = list(sys.path)
    assert [load_sweep(tmp_path / name / "depth.py").base.model.cycles for name in ("first", "second")] == [1, 2]
    assert sys.path == path and "common_settings" not in sys.modules
    (tmp_path / "first" / "common_settings.py").write_text("raise RuntimeError('broken helper')\n")
    with pytest.raises(SweepError, match="broken helper"):
        load_sweep(tmp_path / "first" / "depth.py")
    assert sys.path == path


def test_set_of_a_list_runs_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = set_options({"optimizer.betas": "[0.5,0.6]"})
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "plan", "--recipe", "sudoku-mini", *sets, "--out", f"{tmp_path}/p.jsonl", "--storage", "runs"])
    capsys.readouterr()
    assert ended.value.code == 0
    first = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[1])
    assert first["config"]["optimizer"]["betas"] == [0.5, 0.6]


def test_settings_that_differ_in_a_list_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.betas"):
        configure(tiny_config(), {"optimizer.betas": (0.9, "x")})


def test_summary_of_differences_names_the_first_settings_and_counts_the_others() -> None:
    old = {"a": 1, "b": list(range(100)), "c": {"x": None}, "d": 1, "e": 1}
    new = {**old, "a": 2, "b": [1], "c": {"x": "y"}, "d": 2, "e": 2}
    assert summarize_differences(old, old) == ""
    assert summarize_differences(old, {**old, "a": 2}) == "a: 1 -> 2"
    text = summarize_differences(old, new)
    assert text == f"a: 1 -> 2, b: {str(old['b'])[:37]}... -> [1], c.x: None -> y, and 2 more"


def test_summary_of_long_values_shows_where_they_differ() -> None:
    old, new = ({"a": f"/home/someone/puzzles/recursions/mine.py:Mine#sha256={each * 32}"} for each in ("ab", "cd"))
    assert summarize_differences(old, new) == f"a: ...ne#sha256={'ab' * 13}a... -> ...ne#sha256={'cd' * 13}c..."


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('x=["a]b", "c"],["d"]', ['["a]b", "c"]', '["d"]']),
        ('x=["a","b,c"],2', ['["a","b,c"]', "2"]),
        ("x=[[1,2],[3,4]],5", ["[[1,2],[3,4]]", "5"]),
        ('x="a,b"', ['"a', 'b"']),
    ],
)
def test_lists_and_quoted_texts_in_them_are_not_split(text: str, values: list[str]) -> None:
    assert split_assignments([text], "--vary") == {"x": values}
