"""What a sweep refuses when it is made, in one line with the remedy, and what old records may still contain."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.errors import SweepError
from orchestrator.execution.options import RunOptions
from orchestrator.execution.run import run_sweep
from orchestrator.records.index import find_definition
from orchestrator.resources.devices import require_local_gpu_count
from orchestrator.resources.estimate import estimate
from orchestrator.search.planner import Planner
from orchestrator.storage import open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep import Confirm, ResourceRule, Resources, Stopping, Sweep, Variant, choice, log_uniform, uniform
from orchestrator.sweep.domains import Choice
from orchestrator.sweep.metrics import PASS_AT, measured_metrics
from orchestrator.sweep.plan_file import dump_plan, load_plan
from orchestrator.sweep.trials import cells, study_trials
from tests.support.commands import call
from tests.support.sweeps import attempted, fingerprint, search, study, tiny_config
from trm_data.errors import ConfigError
from trm_model.evaluation.evaluate import PASS_AT as MEASURED_PASS_AT

TWINS = (Variant(name="a", settings={"T": 2}), Variant(name="b", settings={"model.cycles": 2}))
BEST = (Variant(name="best T=2", settings={"T": 2}),)
NAMESAKES = (Variant(name="a", settings={"T": 2}), Variant(name="a", settings={"T": 3}))
THREADS = (Variant(name="a", settings={"runtime.num_threads": 3}), Variant(name="b", settings={}))
ACCENTS = (Variant(name="\u00e9", settings={"T": 2}), Variant(name="e\u0301", settings={"T": 3}))
SPACED = (NAMESAKES[0], Variant(name="a ", settings={"T": 3}))


def rule(**when: Any) -> ResourceRule:
    return ResourceRule(when=when, resources=Resources(cpus=2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: search(metric="exact_acuracy"), "is not measured. Did you mean 'exact_accuracy'"),
        (lambda: search(metric="pass@2"), "metric='pass@2' is not measured"),
        (lambda: study(metric="accuracy"), "metric='accuracy' is not measured. Did you mean 'exact_accuracy'"),
        (lambda: search(space={"lr": uniform(5e-3, float("inf"))}), "must be finite"),
        (lambda: search(space={"lr": uniform(float("-inf"), 1)}), "must be finite"),
        (lambda: search(space={"lr": uniform(float("nan"), 1)}), "must be finite"),
        (lambda: search(space={"lr": log_uniform(1e-2, 1e-4)}), "must be below"),
        (
            lambda: study(space={"lr": uniform(1e-4, 1e-2)}),
            'lr: a study runs every cell, and this is a range: give choices, or make it a search with kind="search", t',
        ),
        (lambda: study(space={"lr": choice(1e-3, float("inf"))}), "inf is not a value"),
        (lambda: study(variants=(Variant(name="x", settings={"lr": float("inf")}),)), "lr=inf is not finite"),
        (lambda: study(space={"T": choice(1, 1.0, 2)}), "two values of model.cycles are the same setting"),
        (lambda: study(space={}, variants=TWINS), "variants 'a' and 'b' give the same result"),
        (lambda: study(space={"runtime.num_threads": choice(1, 2)}), "runtime.num_threads does not change a result"),
        (lambda: search(space={"T": choice(1, 2), "runtime.device": choice("cpu", "auto")}), "runtime.device does not"),
        (lambda: study(space={"evaluation.batch_size": choice(8, 16)}), "evaluation.batch_size does not change"),
        (lambda: study(space={"evaluation.split": choice("test", "validation")}), "evaluation.split does not change"),
        (lambda: study(space={}, variants=THREADS), "variants 'a' and 'b' give the same result"),
        (lambda: study(space={"train.new_embeddings": choice("mean", "fresh")}), "give the same result: exclude one"),
        (lambda: study(space={"data.num_train": Choice(values=(None, 200))}), "give the same result: exclude one"),
        (lambda: study(space={"seed": choice(0, 1)}, seeds=2), "'seed' varies, and seeds=2 varies it too"),
        (lambda: study(variants=(Variant(name="a", settings={"seed": 1}),), seeds=2), "'seed' varies, and seeds=2"),
        (lambda: study(resource_rules=(rule(T=7),)), "resource_rules: no trial has T=7"),
        (lambda: search(resource_rules=(rule(**{"model.variant": "hrm"}),)), "no trial has model.variant='hrm'"),
        (lambda: study(space={}, variants=ACCENTS), "two variants are named 'e\u0301'"),
        (lambda: study(space={}, variants=NAMESAKES), "two variants are named 'a'"),
        (lambda: study(space={}, variants=SPACED), "two variants are named 'a '"),
        (lambda: study(resources=Resources.parse({"gpus": 1.5})), "1.5 GPUs: give a share of one, below 1, or a whole"),
        (lambda: study(variants=(Variant(name="T=1 n=1", settings={"T": 3}),)), "is the name of another cell"),
        (lambda: search(confirm=Confirm(controls=TWINS)), "controls 'a' and 'b' give the same result"),
        (lambda: search(confirm=Confirm(controls=NAMESAKES)), "two controls are named 'a'"),
        (lambda: search(confirm=Confirm(controls=BEST)), "a control named 'best T=2' would be taken for one of the"),
        (lambda: study(variants=(Variant(name="a\x1b[31mb", settings={"T": 3}),)), "cannot be printed"),
        (lambda: search(variants=(Variant(name="a", settings={"T": 3}),)), "confirm.controls"),
        (lambda: search(seeds=2), "'seeds' is for kind='study', and this is a search. For a search set confirm.seeds"),
        (lambda: search(only=("3f9a",)), "'only' is for kind='study'"),
        (lambda: study(trials=3), "'trials' is for kind='search', and this is a study. Leave it out, or set kind="),
        (lambda: study(confirm=Confirm(seeds=5)), "'confirm' is for kind='search'"),
        (lambda: study(stopping=Stopping(rule="median")), "'stopping' is for kind='search'"),
        (lambda: study(sampler="random"), "'sampler' is for kind='search'"),
        (lambda: study(sampler_seed=1), "'sampler_seed' is for kind='search'"),
        (lambda: study(warm_start=("other",)), "'warm_start' is for kind='search'"),
        (lambda: search(metric="halting_steps"), "metric='halting_steps' is not higher for a better model. Search for"),
        (lambda: search(metric="halt_accuracy"), "one of exact_accuracy, cell_accuracy, first_step_accuracy, valid_a"),
        (lambda: search(minimise=("train_s", "train_s")), "names a cost twice"),
        (lambda: search(minimize=("train_s", "train_s")), "names a cost twice"),
        (lambda: search(minimise=("train_s",), minimize=()), "the same field: give one of them"),
        (lambda: search(warm_start=("search",)), "the sweep itself"),
        (lambda: study(forbidden=({"T": "one"},)), "model.cycles='one'"),
        (lambda: study(only_if={"n": {"T": 0}}), "model.cycles=0"),
        (lambda: study(forbidden=({},)), "a condition without settings"),
        (lambda: study(resource_rules=(ResourceRule(when={"T": "x"}, resources=Resources()),)), "T='x'"),
        (lambda: study(resource_rules=(ResourceRule(when={"cycels": 1}, resources=Resources()),)), "cycels"),
        (lambda: Resources(cpus=float("inf")), "finite"),
        (lambda: Resources(gpus=1, gpu_type="H100 or L40S"), "gpu_type"),
        (lambda: search(space={"optimizer.betas": choice((0.9, 0.95), (0.9, 0.99))}), "cannot choose among lists"),
        (lambda: study(space={"data.benchmark": choice("sudoku-4x4", "sudoku-5x5")}), "sudoku-5x5"),
    ],
)  # fmt: skip
def test_what_would_fail_later_is_refused_in_the_definition(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["train", "Train", "published"])
def test_names_that_mean_something_else_are_reserved(name: str) -> None:
    with pytest.raises(ConfigError, match="is reserved for"):
        study(name=name)
    assert study(name=f"{name}-2").name == f"{name}-2"


def test_a_bad_cell_is_named_with_the_way_out() -> None:
    heads = {"model.hidden_size": choice(16, 20), "model.num_heads": choice(2, 4)}
    base = tiny_config(**{"model.mixer": "attention", "model.positions": "none"})
    with pytest.raises(ConfigError, match=r"cell 'hidden_size=20 num_heads=4' cannot run") as caught:
        study(base=base, space=heads)
    assert "'forbidden'" in str(caught.value)
    left = study(base=base, space=heads, forbidden=({"model.num_heads": 4},))
    assert [cell for _, cell in cells(left)] == [
        {"model.hidden_size": 16, "model.num_heads": 2},
        {"model.hidden_size": 20, "model.num_heads": 2},
    ]


def test_metrics_that_may_be_searched_for_are_those_that_a_trial_measures(tmp_path: Path) -> None:
    config = tiny_config(**{"optimizer.further_ema_rates": (0.9,), "train.max_steps": 2})
    record = attempted(open_storage(str(tmp_path)), config, {})
    assert record.result is not None
    assert sorted(measured_metrics(config)) == sorted(record.result.metrics)
    assert PASS_AT == MEASURED_PASS_AT
    arc = measured_metrics(tiny_config(**{"data.benchmark": "arc-agi-1", "data.blanks": None}))
    assert {"pass@2", "task_pass@1000"} <= set(arc) and "valid_accuracy" not in arc


def test_a_recorded_definition_that_would_be_refused_today_is_still_read(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    plain = study(space={}, variants=TWINS[:1]).plain()
    plain |= {"name": "train", "metric": "gone", "variants": [twin.plain() for twin in TWINS]}
    storage.write("sweeps/train/sweep.json", to_json_bytes(plain))
    sweep = find_definition(storage, "train")
    assert sweep is not None and sweep.metric == "gone"
    assert [name for name, _ in cells(sweep)] == ["a"], "one configuration is one cell"


@pytest.mark.parametrize(
    ("sweep", "ignored"),
    [
        (search(), {"seeds": 2}),
        (study(), {"confirm": Confirm(seeds=2).plain(), "stopping": Stopping(rule="none").plain(), "sampler": "qmc"}),
    ],
    ids=["search", "study"],
)
def test_fields_that_older_versions_ignored_are_dropped_from_records_and_plans(
    sweep: Sweep, ignored: dict[str, Any], tmp_path: Path
) -> None:
    assert Sweep.from_record(sweep.plain() | ignored) == sweep
    first, *rest = dump_plan(sweep, fingerprint).splitlines(keepends=True)
    plain = json.loads(first)["sweep"]
    (tmp_path / "plan.jsonl").write_bytes(json.dumps({"sweep": plain | ignored}).encode() + b"\n" + b"".join(rest))
    assert load_plan(tmp_path / "plan.jsonl", fingerprint) == sweep


def test_plan_and_run_expand_the_same_trials_where_a_variant_repeats_a_cell(tmp_path: Path) -> None:
    sweep = study(variants=(Variant(name="again", settings={"T": 2, "n": 1}), Variant(name="new", settings={"T": 3})))
    plan = estimate(sweep, open_storage(str(tmp_path)))
    planner = Planner(sweep, fingerprint, [])
    started = list(iter(planner.next, None))
    assert plan.num_trials == planner.total == len(started) == 2 * (4 + 1)
    assert [cell.family for cell in plan.cells] == ["T=1 n=1", "T=1 n=2", "T=2 n=1", "T=2 n=2", "new"]
    assert len({trial.trial_id for trial in study_trials(sweep, fingerprint)}) == 10


@pytest.mark.parametrize(
    "resources",
    [
        {"resources": Resources(cpus=10_000)},
        {"resource_rules": (ResourceRule(when={"T": 2}, resources=Resources(cpus=10_000)),)},
    ],
)
@pytest.mark.parametrize("cores", [None, 2])
def test_more_cpus_than_the_machine_has_are_refused_before_anything_is_written(
    tmp_path: Path, resources: dict[str, Any], cores: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, storage = study(**resources), open_storage(str(tmp_path))
    message = f"needs 10000 CPUs, and this machine has {cores or 1}"
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    with pytest.raises(SweepError, match=message):
        estimate(sweep, storage)
    with pytest.raises(SweepError, match=message):
        run_sweep(sweep, storage, RunOptions())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"resources": Resources(gpus=1, gpu_type="H100")}, "a trial needs 1 H100, and this machine has no GPU"),
        ({"resources": Resources(gpus=2)}, "a trial needs 2 GPU, and this machine has no GPU"),
        (
            {"resource_rules": (ResourceRule(when={"T": 2}, resources=Resources(gpus=1)),)},
            "a trial with T=2 needs 1 GPU",
        ),
    ],
)
def test_gpus_that_the_machine_lacks_are_refused_before_anything_is_written(
    tmp_path: Path, resources: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.resources.local_gpus.local_gpus", lambda: ())
    monkeypatch.setattr("orchestrator.execution.run.RayCluster", lambda *_: pytest.fail("Ray is started"))
    with pytest.raises(SweepError, match=f"{message}.*--address"):
        run_sweep(study(**resources), open_storage(str(tmp_path)), RunOptions())
    assert list(tmp_path.iterdir()) == []


def test_plan_names_the_cells_whose_gpus_this_machine_lacks_in_the_words_of_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.resources.local_gpus.local_gpus", lambda: ())
    rules = [{"when": {"T": 2}, "resources": {"gpus": 1, "gpu_type": "L40S"}}]
    file, where = tmp_path / "placed.yaml", ("--storage", str(tmp_path / "runs"))
    text = {"recipe": "sudoku-mini", "parameters": {"T": {"values": [1, 2]}, "n": {"values": [1, 2]}}}
    file.write_text(json.dumps({**text, "resource_rules": rules}))
    code, out, _ = call(capsys, "sweep", "plan", str(file), *where)
    planned = next(line for line in out.splitlines() if line.startswith("this machine cannot run"))
    assert code == 0 and "or a cluster (--address HOST:PORT)" in out
    for options in ([], ["--gpu", "auto"], ["--gpu", "none"]):
        code, _, err = call(capsys, "sweep", "run", str(file), *where, *options)
        refusal = err.removeprefix("error: ").strip()
        assert (code, planned) == (2, f"this machine cannot run T=2 n=1, T=2 n=2: {refusal}")
        assert "a trial with T=2 needs 1 L40S" in refusal and "rule in resource_rules, which --gpu leaves" in refusal

    unseen = {
        "method": "bayes",
        "run_cap": 4,
        "parameters": {"T": {"min": 1, "max": 8}},
        "resource_rules": [{"when": {"T": 7}, "resources": {"gpus": 2}}],
    }
    for settings, words in (
        ({"resources": {"gpus": 1}}, "any of these cells: a trial needs 1 GPU"),
        (unseen, "this sweep: a trial with T=7 needs 2 GPU"),
    ):
        file.write_text(json.dumps({**text, **settings}))
        _, out, _ = call(capsys, "sweep", "plan", str(file), *where)
        assert f"this machine cannot run {words}, and this machine has no GPU" in out
        code, _, err = call(capsys, "sweep", "run", str(file), *where)
        assert code == 2 and words.partition(": ")[2] in err

    file.write_text(json.dumps(text))
    _, out, _ = call(capsys, "sweep", "plan", str(file), *where)
    assert "would not fit: nothing\n" in out and "cannot run" not in out and "HOST:PORT" not in out


@pytest.mark.parametrize(
    "rules",
    [
        {"T": 2, "gpus": 1},
        [{"T": 2, "gpus": 1}],
        [{"when": {"T": 2}}],
        [{"when": "T=2", "resources": {"gpus": 1}}],
        [{"when": {"T": 2}, "resources": "L40S"}],
        ["T=2"],
        [{}],
    ],
)
def test_wrong_form_of_resource_rules_shows_the_right_one(rules: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        study(resource_rules=rules)
    form = "[{when: {T: 2}, resources: {gpus: 1, gpu_type: L40S}}]"
    assert f"write resource_rules: {form}" in str(caught.value) and "ResourceRule(when=" in str(caught.value)


def test_machine_of_another_gpu_type_is_refused_and_a_fitting_one_is_not() -> None:
    sweep = study(resources=Resources(gpus=1, gpu_type="H100|L40S"))
    with pytest.raises(SweepError, match="needs 1 H100 or L40S, and this machine has 2 A100"):
        require_local_gpu_count(sweep, "A100", 2)
    require_local_gpu_count(sweep, "L40S", 1)
    require_local_gpu_count(study(resources=Resources(gpus=0.5)), "A100", 1)
    require_local_gpu_count(study(resources=Resources(gpus=0)), None, 0)


def test_another_definition_of_a_name_says_how_to_narrow_a_question(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write("sweeps/study/sweep.json", to_json_bytes(study().plain()))
    with pytest.raises(SweepError, match=r"space.model.cycles.values: \(1, 2\) -> \(1,\)|model.cycles") as caught:
        run_sweep(study(space={"T": choice(1), "n": choice(1, 2)}), storage, RunOptions())
    assert "--name" in str(caught.value) and "--reuse" in str(caught.value)


def test_the_command_line_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--recipe", "sudoku-mini", "--cpus", "10000"], "needs 10000 CPUs"),
        (["--recipe", "sudoku-mini", "--name", "train"], "the name 'train' is reserved"),
        (["--recipe", "sudoku-mini", "--set", "lr=inf"], "lr=inf is not finite"),
        (["--recipe", "sudoku-mini", "--vary", "T=1,1.0"], "the same setting"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["sweep", "plan", *arguments, "--storage", str(tmp_path)])
        error = capsys.readouterr().err
        assert ended.value.code == 2 and message in error and error.count("\n") == 1, error


def test_any_gpu_is_taken_by_its_label_and_its_price_and_time_are_said_to_be_unknown(tmp_path: Path) -> None:
    sweep = study(resources=Resources(gpus=1, gpu_type="X9000"))
    [*_, cost] = estimate(sweep, open_storage(str(tmp_path))).costs
    assert (cost.device, cost.usd, cost.device_hours) == ("X9000", None, None)
    assert "unknown before its first trial" in cost.basis
    assert Sweep.parse(sweep.plain()) == sweep


@pytest.mark.parametrize("ending", [".py", ".yaml", ".yml", ".jsonl"])
def test_a_name_that_would_be_taken_for_a_sweep_file_is_refused(ending: str) -> None:
    with pytest.raises(ConfigError, match="is reserved for files of sweeps"):
        study(name=f"depth{ending}")
    assert study(name=f"depth{ending}-2").name.endswith("-2")


def test_rule_applies_to_what_an_axis_a_control_or_the_base_has() -> None:
    study(resource_rules=(rule(T=2), rule(seed=5), rule(**{"train.batch_size": tiny_config().train.batch_size})))
    search(resource_rules=(rule(**{"model.variant": "direct"}),))


def test_seeds_as_an_axis_are_trials_of_their_own() -> None:
    sweep = study(space={"seed": choice(3, 4)}, seeds=1)
    planned = list(study_trials(sweep, fingerprint))
    assert [trial.config.seed for trial in planned] == [3, 4] and len({trial.trial_id for trial in planned}) == 2
    assert Planner(sweep, fingerprint, []).total == 2


def test_recorded_sweep_that_varied_what_changes_nothing_is_readable() -> None:
    plain = study(space={"T": choice(1, 2)}, seeds=1).plain()
    plain["space"] = {"runtime.num_threads": {"kind": "choice", "values": [1, 2]}}
    sweep = Sweep.from_record(plain)
    assert len({trial.trial_id for trial in study_trials(sweep, fingerprint)}) == 1
    plain |= {"space": {}, "variants": [variant.plain() for variant in THREADS]}
    assert [name for name, _ in cells(Sweep.from_record(plain))] == ["a"]
