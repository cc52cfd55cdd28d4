"""Sweeps from Python and from the command line: expansion, identity, and errors that name their remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.configs import make_sweep
from orchestrator.errors import SweepError
from orchestrator.resources.usage import Budget
from orchestrator.sweep import Confirm, Resources, Stopping, Sweep, choice, configure
from orchestrator.sweep.domains import Uniform
from orchestrator.sweep.identity import trial_id
from orchestrator.sweep.loader import load_sweep
from orchestrator.sweep.settings import get_setting, parse_assignments
from orchestrator.sweep.trials import cells, study_trials
from tests.support.sweeps import fingerprint, search, study, tiny_config
from trm_data.errors import ConfigError, UserError
from trm_data.settings import Settings

NO_OPTIONS = {
    "recipe": None, "vary": None, "settings": None, "seeds": None, "trials": None, "max_steps": None, "name": None,
    "gpu": None, "cpus": None, "storage": "runs",
}  # fmt: skip


def test_study_expands_to_every_cell_and_seed_with_distinct_ids() -> None:
    trials = list(study_trials(study(), fingerprint))
    assert len({trial.trial_id for trial in trials}) == len(trials) == 8
    assert [trial.family for trial in trials[:4]] == ["T=1 n=1", "T=1 n=2", "T=2 n=1", "T=2 n=2"]
    assert {trial.config.evaluation.split for trial in trials} == {"test"}


def test_command_line_and_file_build_the_same_trials(tmp_path: Path) -> None:
    file = tmp_path / "grid.py"
    file.write_text(
        "from orchestrator.sweep import Sweep, choice\n"
        "from trm_model.recipes import get_recipe\n"
        "sweep = Sweep(name='grid', base=get_recipe('sudoku-mini'), space={'T': choice(1, 2), 'n': choice(2, 4)})\n"
    )
    options = {**NO_OPTIONS, "recipe": "sudoku-mini", "vary": ["T=1,2", "n=2,4"], "name": "grid"}
    from_file = make_sweep(file, **NO_OPTIONS)
    from_options = make_sweep(None, **options)  # type: ignore[arg-type]
    assert list(study_trials(from_file, fingerprint)) == list(study_trials(from_options, fingerprint))


def test_same_options_make_the_same_name_and_other_options_another() -> None:
    def name(**options: object) -> str:
        return make_sweep(None, **{**NO_OPTIONS, "recipe": "sudoku-mini", "vary": ["T=1,2"], **options}).name  # type: ignore[arg-type]

    assert name() == name() == name(cpus=2.0)
    assert len({name(), name(seeds=2), name(max_steps=7), name(vary=["T=1,3"])}) == 4
    assert name(seeds=3, trials=2) == "sudoku-mini-8b265c", "the command resumes the sweep that older versions recorded"


def test_seeds_of_the_command_line_are_those_that_the_kind_of_sweep_uses(tmp_path: Path) -> None:
    options = {**NO_OPTIONS, "recipe": "sudoku-mini", "vary": ["T=1,2"], "seeds": 3}
    found = [make_sweep(None, **{**options, "trials": trials}) for trials in (None, 2)]  # type: ignore[arg-type]
    assert [(each.kind, each.seeds, each.confirm.seeds) for each in found] == [("study", 3, 3), ("search", 1, 3)]
    file = tmp_path / "many.yaml"
    file.write_text("recipe: sudoku-mini\nseeds: 5\nparameters: {T: {values: [1, 2]}}\n")
    as_search = make_sweep(file, **{**NO_OPTIONS, "trials": 2})  # type: ignore[arg-type]
    assert (as_search.kind, as_search.seeds, as_search.confirm.seeds) == ("search", 1, 5)


@given(
    st.fixed_dictionaries(
        {
            "model.cycles": st.integers(1, 6),
            "optimizer.lr": st.floats(1e-5, 1e-1),
            "train.dtype": st.sampled_from(["float32", "bfloat16"]),
            "data.num_augmentations": st.integers(0, 1000),
        }
    )
)
def test_configure_sets_what_it_is_told_and_nothing_else(settings: dict[str, object]) -> None:
    base = tiny_config()
    config = configure(base, settings)  # type: ignore[arg-type]
    assert {path: get_setting(config, path) for path in settings} == settings
    restored = configure(config, {path: get_setting(base, path) for path in settings})
    assert restored == base


def test_trial_id_ignores_what_cannot_change_a_result() -> None:
    config = tiny_config()
    same = configure(config, {"runtime.num_threads": 7, "runtime.checkpoint_every_s": 99.0, "recipe": "other"})
    same = configure(same, {"evaluation.batch_size": 3})
    assert trial_id(same, "data") == trial_id(config, "data")


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 5},
        {"T": 2},
        {"aug": 3},
        {"train.max_steps": 5},
        {"evaluation.split": "test"},
        {"data.train_splits": ["train", "validation"]},
    ],
)
def test_trial_id_tells_apart_what_can(settings: dict[str, object]) -> None:
    config = tiny_config()
    assert trial_id(configure(config, settings), "data") != trial_id(config, "data")  # type: ignore[arg-type]
    assert trial_id(config, "data") != trial_id(config, "other data")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("model.cycels", "'model.cycles'"),
        ("modle.cycles", "'model.cycles'"),
        ("cycles", "'model.cycles'"),
        ("Nsup", "'N_sup'"),
        ("model", "is a group"),
    ],
)
def test_misspelt_setting_names_the_nearest(path: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(tiny_config(), {path: 1})
    assert hint in str(caught.value)


@pytest.mark.parametrize("text", ["T", "T=", "=3", ""])
def test_assignment_of_another_form_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="--vary T=1,2"):
        parse_assignments([text], "--vary")


def test_values_are_typed_by_their_looks() -> None:
    assert parse_assignments(["lr=1e-4,2"], "--vary")["lr"] == [1e-4, 2]
    assert parse_assignments(["D=null"], "--vary")["D"] == [None]
    assert parse_assignments(["train.dtype=float32"], "--vary")["train.dtype"] == ["float32"]


def test_value_of_a_wrong_type_is_refused_when_the_sweep_is_made() -> None:
    with pytest.raises(ConfigError, match=r"model\.cycles='x'"):
        study(space={"T": choice(1, "x")})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1", "defines no sweep"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import nowhere_at_all", "nowhere_at_all"),
        ("from orchestrator.sweep import *\nsweep = Sweep(name='a b', base={})", "name='a b'"),
        ("from orchestrator.sweep import *\nsweep = Sweep(name='a', base={}, spaces={})", "spaces"),
    ],
)
def test_broken_sweep_file_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        load_sweep(file)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_sweep_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "depth.py").touch()
    with pytest.raises(SweepError, match=r"depth\.py"):
        load_sweep(tmp_path / "dept.py")


def test_search_without_space_and_study_with_a_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="a search needs"):
        search(space={})
    with pytest.raises(ConfigError, match="a study runs every cell"):
        study(space={"lr": Uniform(low=1e-4, high=1e-2, log=True)})


@pytest.mark.parametrize("file", sorted(Path(__file__).parents[2].glob("sweeps/**/*.py")), ids=lambda f: f.stem)
def test_every_sweep_file_expands_and_survives_as_data(file: Path) -> None:
    sweep = load_sweep(file)
    assert Sweep.parse(sweep.plain()) == sweep
    if sweep.kind == "study":
        assert list(cells(sweep))


def test_a_trial_has_the_same_id_whichever_seed_was_planned_first() -> None:
    """Ids of further seeds are made from a template."""
    sweep = study(seeds=3)
    trials = list(study_trials(sweep, fingerprint))
    assert len({trial.trial_id for trial in trials}) == len(trials) == 12
    for trial in trials:
        assert trial.trial_id == trial_id(trial.config, fingerprint(trial.config.data.request()))
    assert [trial.config.seed for trial in trials] == [seed for seed in range(3) for _ in range(4)]


@pytest.mark.parametrize(
    ("part", "values"),
    [
        (Sweep, {"max_concurrent": 0}),
        (Sweep, {"trials": 0}),
        (Sweep, {"seeds": 0}),
        (Sweep, {"sampler_seed": -1}),
        (Confirm, {"top": -1}),
        (Confirm, {"seeds": 0}),
        (Stopping, {"grace": 1}),
        (Stopping, {"grace": -0.1}),
        (Stopping, {"keep": 0}),
        (Stopping, {"keep": 1.1}),
        (Stopping, {"patience": 0}),
        (Stopping, {"patience": 1.1}),
        (Resources, {"cpus": 0}),
        (Resources, {"cpus": float("inf")}),
        (Resources, {"gpus": -1}),
        (Resources, {"gpus": float("inf")}),
        (Budget, {"trials": 0}),
        (Budget, {"gpu_hours": 0}),
        (Budget, {"gpu_hours": float("inf")}),
        (Budget, {"usd": float("nan")}),
        (Budget, {"usd": float("inf")}),
        (Budget, {"wall_hours": float("inf")}),
        (Budget, {"wall_hours": 0}),
    ],
)
def test_number_outside_its_limits_is_refused_by_name(part: type[Settings], values: dict[str, Any]) -> None:
    given: dict[str, Any] = {"name": "x", "base": tiny_config(), "space": {"T": choice(1, 2)}} if part is Sweep else {}
    with pytest.raises(ConfigError, match=next(iter(values))):
        part.parse(given | values)


def test_limits_themselves_are_allowed() -> None:
    parts: list[tuple[type[Settings], dict[str, Any]]] = [
        (Confirm, {"top": 0, "seeds": 1}),
        (Stopping, {"grace": 0, "keep": 1, "patience": 1}),
        (Resources, {"gpus": 0, "cpus": 0.5}),
        (Budget, {"trials": 1, "gpu_hours": 0.01, "usd": 0.01, "wall_hours": 0.01}),
    ]
    for part, values in parts:
        assert part.parse(values).model_dump(include=set(values)) == values


def test_defaults_of_early_stopping_are_those_that_were_chosen_on_recorded_curves() -> None:
    """`docs/sweeps.md` gives their regret and saving."""
    assert Stopping() == Stopping(rule="halving", grace=0.6, keep=0.5, patience=0.25)
    assert Confirm() == Confirm(top=1, seeds=3)
