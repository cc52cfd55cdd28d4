"""The commands about trained models: look into checkpoints, take official ones over, score in several ways."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
import torch

from orchestrator.api.terminal import SafeConsole
from orchestrator.cli import main
from orchestrator.cli.commands.solve import solve as solve_command
from orchestrator.evaluation.checkpoints import expand
from orchestrator.records.checkpoints import find_checkpoint
from orchestrator.results.stats import wilson
from orchestrator.storage import open_storage
from orchestrator.sweep.settings import split_assignments
from tests.support.arc_tasks import SMALL as SMALL_ARC
from tests.support.commands import call
from tests.support.sweeps import set_options
from trm_data.errors import ConfigError, UserError
from trm_data.puzzles.kinds import kind_of
from trm_model.checkpoints.store import CheckpointError
from trm_model.checkpoints.trained import load_trained
from trm_model.config import EvaluationConfig, ModelConfig
from trm_model.evaluation.solve import solve

SETTINGS = {
    "data.benchmark": "sudoku-4x4",
    "data.blanks": 6,
    "data.num_train": 40,
    "data.num_validation": 8,
    "data.num_test": 12,
    "model.hidden_size": 16,
    "model.inner_multiple": 256,
    "train.batch_size": 8,
    "runtime.evaluate_every": 5,
    "runtime.checkpoint_every_s": 1e-9,
    "runtime.keep_checkpoints": 5,
    "evaluation.split": "test",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with two trained models, which differ by their seed."""
    folder = tmp_path_factory.mktemp("model") / "runs"
    options = set_options(SETTINGS)
    for seed in ("0", "1"):
        with pytest.raises(SystemExit) as ended:
            main(["train", *options, "--max-steps", "10", "--seed", seed, "--storage", str(folder)])
        assert ended.value.code == 0
    return folder


@pytest.fixture(scope="module")
def trials(runs: Path) -> list[str]:
    return sorted(f"train/{path.name}" for path in (runs / "sweeps/train/trials").iterdir())


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command prints with --json."""
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_finished_trial_keeps_its_outcomes_and_a_gallery(runs: Path, trials: list[str]) -> None:
    folder = runs / "sweeps" / trials[0].replace("train/", "train/trials/")
    result = json.loads((folder / "result.json").read_bytes())
    with pa.memory_map(str(folder / "outcomes.arrow")) as source:
        exact = pa.ipc.open_file(source).read_all().column("exact_accuracy").to_pylist()
    assert sum(exact) / len(exact) == pytest.approx(result["metrics"]["exact_accuracy"])
    gallery = json.loads((folder / "gallery.json").read_bytes())
    assert gallery["benchmark"] == "sudoku-4x4-generated" and gallery["grid_shape"] == [4, 4]
    assert 4 <= len(gallery["puzzles"]) <= 8
    for puzzle in gallery["puzzles"]:
        assert puzzle.keys() == {"item", "input", "label", "answers", "halt", "exact"}
        assert puzzle["exact"] == exact[puzzle["item"]] == (puzzle["answers"][-1] == puzzle["label"])
        assert len(puzzle["answers"]) == len(puzzle["halt"]) == result["supervision_steps"]


def test_checkpoint_of_a_trial_is_shown_by_the_start_of_its_id(
    runs: Path, trials: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(runs)]
    shown = told(capsys, "checkpoint", "show", trials[0][:10], *storage)
    assert shown["step"] == 10 and shown["recipe"] == "sudoku-mini" and shown["grid_cells"] == 16
    assert shown["model"].endswith("T=2 n=2 N_sup=4") and shown["averages"] == ["0.99"]
    assert shown["config"]["data"]["benchmark"] == "sudoku-4x4"
    best = told(capsys, "checkpoint", "show", trials[0], "--at", "best", *storage)
    assert best["step"] == shown["best_step"]
    assert told(capsys, "checkpoint", "show", trials[0], "--at", "5", *storage)["step"] == 5
    file = next((runs / "sweeps").rglob("step-00000010.safetensors"))
    assert told(capsys, "checkpoint", "show", str(file))["step"] == 10
    code, out, _ = call(capsys, "checkpoint", "show", str(file))
    assert code == 0 and "complete: a run can resume from it" in out


def test_checkpoint_that_is_not_there_is_named_with_the_nearest(runs: Path, trials: list[str]) -> None:
    storage = open_storage(str(runs))
    for address, at, match in (
        ("trian/0", "last", "Did you mean 'train'"),
        ("train/zzz", "last", "has no trial 'zzz'"),
        ("train/", "last", "has 2 trials that begin with ''"),
        ("model.safetensors", "last", "no checkpoint file"),
        (trials[0], "11", r"keeps no checkpoint of step 11\. Kept steps: .*5.*10"),
        (trials[0], "latest", "neither last, best nor a step"),
    ):
        with pytest.raises(UserError, match=match):
            find_checkpoint(address, storage, at)


def test_best_checkpoint_is_found_although_the_last_one_is_damaged(
    runs: Path, trials: list[str], tmp_path: Path
) -> None:
    copied = shutil.copytree(runs, tmp_path / "runs")
    storage = open_storage(str(copied))
    best = find_checkpoint(trials[0], storage, "best").name
    last = next(copied.rglob(f"{trials[0].partition('/')[2]}/checkpoints/step-00000010.safetensors"))
    last.with_name("step-00000011.safetensors").write_bytes(b"cut short")
    assert find_checkpoint(trials[0], storage, "best").name == best
    with pytest.raises(CheckpointError, match=r"step-00000011\.safetensors is not a checkpoint of this program"):
        find_checkpoint(trials[0], storage, "last").load()


def test_checkpoints_are_found_on_s3(runs: Path, trials: list[str], s3_bucket: str) -> None:
    local, remote = open_storage(str(runs)), open_storage(s3_bucket)
    for key in local.list("sweeps"):
        remote.write(key, local.read(key))
    expected = find_checkpoint(trials[0], local).load()
    found = find_checkpoint(trials[0], remote)
    assert found.dataset == find_checkpoint(trials[0], local).dataset
    bucket, _, options = s3_bucket.partition("?")
    key = f"{bucket}/sweeps/{trials[0].replace('/', '/trials/')}/checkpoints/{found.name}?{options}"
    for one in (found, find_checkpoint(key, local)):
        loaded = one.load()
        assert loaded.header == expected.header
        assert all(torch.equal(loaded.tensors[name], value) for name, value in expected.tensors.items())
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        find_checkpoint(key.replace("step-", "stop-"), local)


@pytest.mark.parametrize("compiled", [False, True])
def test_official_checkpoint_goes_out_and_comes_back_with_the_same_score(
    compiled: bool, runs: Path, trials: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(runs)]
    official, back = tmp_path / "official/step_10", tmp_path / "back.safetensors"
    assert call(capsys, "checkpoint", "export", trials[0], "-o", str(official), *storage)[0] == 0
    if compiled:
        state = torch.load(official, weights_only=True)
        torch.save({f"_orig_mod.{name}": value for name, value in state.items()}, official)
    code, _, err = call(capsys, "checkpoint", "import", str(official), "-o", str(back), *storage)
    assert code == 0, err
    assert told(capsys, "checkpoint", "show", str(back))["kind"] == "weights only"
    name = find_checkpoint(trials[0], open_storage(str(runs))).dataset
    scores = [
        told(capsys, "eval", one, "--dataset", str(name), "--split", "test", *storage)[0]["metrics"]
        for one in (trials[0], str(back))
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    wrong = ["--recipe", "sudoku-mini", "--set", "n=6", *(f"--set={k}={v}" for k, v in SETTINGS.items())]
    code, _, err = call(capsys, "checkpoint", "import", str(official), "-o", str(back), *wrong, *storage)
    assert code == 2 and "model.latent_steps=6 in the recipe" in err and "says 2" in err


HRM_YAML = """\
arch:
  H_cycles: 2
  H_layers: 1
  L_cycles: 2
  L_layers: 1
  expansion: 2.0
  halt_exploration_prob: 0.1
  halt_max_steps: 4
  hidden_size: 16
  loss:
    loss_type: stablemax_cross_entropy
    name: losses@ACTLossHead
  name: hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1
  num_heads: 4
  pos_encodings: "rope"
  puzzle_emb_ndim: 16
beta1: 0.9
beta2: 0.95
checkpoint_every_eval: true
checkpoint_path: checkpoints/Sudoku ACT-torch/HierarchicalReasoningModel_ACTV1 daring-finch
data_path: data/sudoku
epochs: 20000
eval_interval: 2000
eval_save_outputs: []
global_batch_size: 8
lr: 0.005
lr_min_ratio: 1.0
lr_warmup_steps: 50
project_name: Sudoku ACT-torch
puzzle_emb_lr: 0.01
puzzle_emb_weight_decay: 0.1
run_name: HierarchicalReasoningModel_ACTV1 daring-finch
seed: 0
weight_decay: 0.1
"""
"""What HRM's own `pretrain.py` writes beside a checkpoint: no EMA, and no setting that TRM added."""


def test_hrm_checkpoint_with_hrm_s_own_yaml_scores_the_same_as_with_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(tmp_path / "runs")]
    shape = {"model.mixer": "attention", "model.positions": "rotary"}
    options = ["--recipe", "sudoku-mini.hrm", *set_options(SETTINGS | shape)]
    assert call(capsys, "train", *options, "--max-steps", "10", *storage)[0] == 0
    folder = next((tmp_path / "runs/sweeps/train/trials").iterdir())
    trial, official = f"train/{folder.name}", tmp_path / "official/step_10"
    assert call(capsys, "checkpoint", "export", trial, "-o", str(official), *storage)[0] == 0
    official.with_name("all_config.yaml").write_text(HRM_YAML)
    name = str(find_checkpoint(trial, open_storage(str(tmp_path / "runs"))).dataset)
    scores = []
    for by in (["--dataset", name], options):
        back = str(tmp_path / f"{len(scores)}.safetensors")
        code, _, err = call(capsys, "checkpoint", "import", str(official), "-o", back, *by, *storage)
        assert code == 0, err
        scores.append(told(capsys, "eval", back, "--dataset", name, "--split", "test", *storage)[0]["metrics"])
    trained = told(capsys, "eval", trial, "--dataset", name, "--split", "test", *storage)[0]["metrics"]
    assert scores[0] == pytest.approx(scores[1]) and scores[0] == pytest.approx(trained)
    official.with_name("all_config.yaml").write_text(HRM_YAML.replace("hrm_act_v1@", "hrm_act_v2@"))
    code, _, err = call(capsys, "checkpoint", "import", str(official), "-o", back, *options, *storage)
    assert code == 2 and "hrm.hrm_act_v2@HierarchicalReasoningModel_ACTV1" in err and err.count("\n") == 1


def test_imported_checkpoint_is_not_scored_on_a_dataset_that_it_does_not_name(
    runs: Path, trials: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(runs)]
    official, back = tmp_path / "official/step_10", tmp_path / "back.safetensors"
    assert call(capsys, "checkpoint", "export", trials[0], "-o", str(official), *storage)[0] == 0
    assert call(capsys, "checkpoint", "import", str(official), "-o", str(back), *storage)[0] == 0
    code, _, err = call(capsys, "eval", str(back), *storage)
    assert code == 2 and "does not name the dataset" in err and "--dataset" in err and err.count("\n") == 1


def test_puzzle_file_that_is_no_text_is_one_line(
    runs: Path, trials: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "puzzle").write_bytes(bytes(range(256)))
    code, _, err = call(capsys, "solve", trials[0], str(tmp_path / "puzzle"), "--storage", str(runs))
    assert code == 2 and "puzzle is not text" in err and err.count("\n") == 1
    code, _, err = call(capsys, "solve", trials[0], str(tmp_path), "--storage", str(runs))
    assert code == 2 and "cannot read" in err and err.count("\n") == 1


def test_solve_tells_a_missing_file_from_a_puzzle_and_names_the_picture(
    runs: Path, trials: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(runs)]
    for name in ("missing.txt", "a/b", str(tmp_path / "none")):
        code, _, err = call(capsys, "solve", trials[0], name, *storage)
        assert code == 2 and f"no file {name!r}" in err and err.count("\n") == 1
    code, _, err = call(capsys, "solve", trials[0], "11" + "." * 14, *storage)
    assert code == 2 and "1 stands twice in row 1" in err
    picture = tmp_path / "new" / "x.gif"
    code, _, err = call(capsys, "solve", trials[0], "." * 16, "--out", str(picture), *storage)
    assert code in (0, 1) and picture.is_file()
    assert f"picture: {picture}\n" in err and f"made the new folder {picture.parent}\n" in err
    (tmp_path / "two.txt").write_text(f"{'.' * 16}\n{EASY}\n")
    picture = tmp_path / "X.GIF"
    code, _, err = call(capsys, "solve", trials[0], str(tmp_path / "two.txt"), "--out", str(picture), *storage)
    assert code in (0, 1) and f"picture: {picture} (the first of 2 puzzles)\n" in err and picture.is_file()
    code, _, err = call(capsys, "solve", "absent/3f", EASY, "--out", "x.jpg", *storage)
    assert code == 2 and "x.jpg is not a picture" in err, "before a model is loaded"


def test_wrong_names_are_answered_with_the_known_ones(
    runs: Path, trials: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    puzzle = "." * 16
    for words, hint in (
        (["eval", "trian/last"], "Did you mean 'train'?"),
        (["solve", "trian/last", puzzle], "Did you mean 'train'?"),
        (["eval", "nothing/3f"], "Known: train"),
        (["solve", trials[0], puzzle, "--weights", "emaa"], "Did you mean 'ema'?"),
        (["solve", trials[0], puzzle, "--at", "bst"], "Did you mean 'best'?"),
        (["eval", trials[0], "--vary", "D=0"], "--vary D='0': input should be"),
        (["eval", trials[0], "--dataset", "sudoku-6x6"], "trained on 4x4 puzzles, and the dataset has 6x6 ones"),
    ):
        code, _, err = call(capsys, *words, "--storage", str(runs))
        assert code == 2 and hint in err, (words, err)


def test_eval_scores_every_cell_without_training(
    runs: Path, trials: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(runs), "--out", str(tmp_path / "out")]
    rows = told(capsys, "eval", trials[0], "--vary", "D=2,4", "--vary", "votes=1,3", *storage)
    assert [row["cell"] for row in rows] == ["D=2 votes=1", "D=2 votes=3", "D=4 votes=1", "D=4 votes=3"]
    recorded = json.loads((runs / "sweeps" / trials[0].replace("/", "/trials/") / "result.json").read_bytes())
    assert rows[2]["metrics"] == pytest.approx(recorded["metrics"])
    assert [row["flops"] / rows[0]["flops"] for row in rows] == [1, 3, 2, 6]
    for row in rows:
        assert row["split"] == "test" and row["items"] == 12
        expected = wilson(row["metrics"]["valid_accuracy"], 12)
        assert row["intervals"]["valid_accuracy"] == pytest.approx(list(expected))
        with pa.memory_map(str(tmp_path / "out" / f"{row['cell'].replace(' ', '-')}.arrow")) as source:
            table = pa.ipc.open_file(source).read_all()
        assert sum(table.column("exact_accuracy").to_pylist()) / 12 == pytest.approx(row["metrics"]["exact_accuracy"])
    assert json.loads((tmp_path / "out/evaluation.json").read_bytes()) == rows
    code, out, _ = call(capsys, "eval", trials[0], "--vary", "K=1,3", "--vary", "noise=0.5", *storage)
    assert code == 0 and "K=3 noise=0.5" in out and "12 test items" in out


def test_eval_prints_its_progress_without_a_terminal(
    runs: Path, trials: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.cli.views.evaluate.PLAIN_EVERY_S", 0.0)
    code, _, err = call(capsys, "eval", trials[0], "--vary", "D=2,4", "--storage", str(runs))
    assert code == 0 and "scoring D=2: 100 %, 1 of 2 done" in err and "scoring D=4: 100 %, 2 of 2 done" in err


def test_single_run_is_found_by_its_id_alone(runs: Path, trials: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    name = trials[0].removeprefix("train/")
    assert told(capsys, "trial", "show", name, "--storage", str(runs))["trial_id"] == name


def test_several_checkpoints_vote_together_under_another_name(
    runs: Path, trials: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = told(capsys, "eval", *trials, "--max-puzzles", "5", "--storage", str(runs))
    assert [row["checkpoint"].partition(" at")[0] for row in rows] == [*trials, "ensemble of 2"]
    assert "ensemble_exact_accuracy" in rows[2]["metrics"] and "exact_accuracy" not in rows[2]["metrics"]
    assert rows[2]["intervals"].keys() == {"ensemble_exact_accuracy", "ensemble_valid_accuracy"}
    alone = told(capsys, "eval", trials[0], "--max-puzzles", "5", "--storage", str(runs))
    assert alone[0]["metrics"] == rows[0]["metrics"], "a vote must not leak into a single checkpoint's score"


MODEL = ModelConfig(cycles=2, latent_steps=4)


def cells(*vary: str) -> list[str]:
    return [cell.label for cell in expand(EvaluationConfig(), "ema", [MODEL], split_assignments(vary, "--vary"))]


def test_two_names_of_one_setting_are_refused() -> None:
    with pytest.raises(ConfigError, match="--vary D and --vary steps are the same setting"):
        cells("D=1", "steps=2")


def test_cells_that_mean_the_same_are_scored_once() -> None:
    assert cells() == ["one answer"]
    assert cells("K=1,10", "noise=0.1,0.3") == ["one answer", "K=10 noise=0.1", "K=10 noise=0.3"]
    assert cells("weights=ema,raw", "halt=true") == ["halt=true weights=ema", "halt=true weights=raw"]
    assert cells("T=2", "D=8") == ["D=8"]


def test_ranges_of_whole_numbers_are_listed() -> None:
    assert cells("D=1..4") == cells("steps=1..4") == ["D=1", "D=2", "D=3", "D=4"]
    assert cells("steps=1,2,4..6,5,8") == ["D=1", "D=2", "D=4", "D=5", "D=6", "D=8"]
    assert cells("T=2..2", "votes=1 .. 2") == ["votes=1", "votes=2"]


@pytest.mark.parametrize(
    ("vary", "match"),
    [
        ("D=4..1", r"--vary D=4..1: 4 is above 1. Write --vary D=1..4"),
        ("D=1..x", r"--vary D=1..x: not a range of whole numbers. Write --vary D=1..16"),
        ("D=..4", "not a range of whole numbers"),
        ("D=1...4", "not a range of whole numbers"),
        ("noise=0.1..0.3", "not a range of whole numbers.*or list values"),
        ("D=1..100000", "more than 10,000 numbers"),
        ("D=0..2", "--vary D='0'"),
        ("T=2..3", "T=3, but the checkpoint was trained with T=2"),
        ("T=3", "T=3, but the checkpoint was trained with T=2"),
        ("n=6", "n=6, but the checkpoint was trained with n=4"),
        ("N_sup=8", "N_sup=8, but the checkpoint was trained with N_sup=16"),
        ("model.num_layers=3", "model.num_layers=3, but"),
        ("votez=3", "Did you mean 'votes'"),
        ("D=0", "--vary D='0'"),
        ("D", "not of the form"),
        ("choose=best", "choose='best'"),
        ("K=10", "differ by their noise alone"),
        ("lr=3", "not a setting of an evaluation"),
    ],
)
def test_what_cannot_be_varied_at_evaluation_is_refused_by_name(vary: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        cells(vary)


def test_dataset_of_another_grid_is_refused_by_name(
    runs: Path, trials: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--num-train", "4", "--num-validation", "0", "--num-test", "4", "--storage", str(runs)]
    built = told(capsys, "data", "build", "sudoku-6x6", *sizes)["name"]
    code, out, err = call(capsys, "eval", trials[0], "--dataset", built, "--storage", str(runs))
    assert code == 2 and out == "" and "trained on 4x4 puzzles, and the dataset has 6x6 ones" in err


EASY = "1.3434.22.434.2."


def test_puzzle_is_solved_from_the_command_line_a_file_and_standard_input(
    runs: Path, trials: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = ["--storage", str(runs)]
    code, out, _ = call(capsys, "solve", trials[0], EASY, "--steps", *storage)
    assert out.count("halting score") == len(out.splitlines()) // 5 >= 1
    assert code == (1 if "not valid" in out else 0)
    (tmp_path / "two.txt").write_text(f"{EASY}\n{EASY}\n")
    _, from_file, _ = call(capsys, "solve", trials[0], str(tmp_path / "two.txt"), "--json", *storage)
    told = json.loads(from_file)
    assert len(told) == 2 and told[0] == told[1] and "steps" not in told[0]
    monkeypatch.setattr("sys.stdin", io.StringIO(EASY))
    _, from_pipe, _ = call(capsys, "solve", trials[0], "-", "--json", "--out", str(tmp_path / "a.gif"), *storage)
    assert json.loads(from_pipe) == told[:1]
    assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF89a")
    code, out, err = call(capsys, "solve", trials[0], "12", *storage)
    assert code == 2 and out == "" and "'12' is not a 4x4 Sudoku" in err


def test_exported_program_answers_as_the_model_does(
    runs: Path, trials: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(runs)]
    file = tmp_path / "loop.pt2"
    command = ["export", trials[0], "--format", "torch", "--steps", "2", "-o", str(file), *storage]
    code, out, err = call(capsys, *command)
    assert code == 0 and "2 supervision steps" in out, err
    program = torch.export.load(file).module()
    inputs = torch.tensor([[1 if letter == "." else 1 + int(letter) for letter in EASY]] * 3)
    cells, _, _ = program(inputs, torch.zeros(3, dtype=torch.int64))
    model = load_trained(find_checkpoint(trials[0], open_storage(str(runs))).load()).model
    answers = solve(model, inputs[0].numpy().astype("uint8"), steps=2, halt=False).answers
    assert cells.tolist() == [answers[-1].tolist()] * 3
    code, _, err = call(capsys, "export", trials[0], "--format", "onxx", "-o", str(file), *storage)
    assert code == 2 and "Did you mean 'onnx'" in err


def test_arc_checkpoint_is_scored_by_votes_and_writes_its_submission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, subset in enumerate(("training", "training", "evaluation"), 1):
        grids = [[[number, other, 0], [0, number, other]] for other in (4, 5, 6, 7)]
        pairs = [{"input": grid, "output": [row[::-1] for row in grid]} for grid in grids]
        (tmp_path / subset).mkdir(exist_ok=True)
        (tmp_path / subset / f"task{number}.json").write_text(json.dumps({"train": pairs[:3], "test": pairs[2:]}))
    settings = {
        **SMALL_ARC,
        "data.source": tmp_path,
        "data.allow_overlaps": '["all"]',
        "runtime.num_threads": 1,
        "evaluation.votes": 1,
    }
    storage = ["--storage", str(tmp_path / "runs")]
    options = set_options(settings)
    trained = told(capsys, "train", "--recipe", "arc-agi-1", *options, "--max-steps", "1", *storage)
    address = f"train/{trained['trial_id']}"
    rows = told(capsys, "eval", address, "--vary", "votes=1,3", "--out", str(tmp_path / "out"), *storage)
    assert rows[0]["metrics"]["pass@1"] == trained["metrics"]["pass@1"]
    for row in rows:
        assert {"pass@1", "pass@2", "task_pass@2"} <= row["metrics"].keys() & row["intervals"].keys()
        written = json.loads((tmp_path / "out" / f"{row['cell']}.submission.json").read_bytes())
        assert written.keys() == {"task3"} and len(written["task3"]) == 2
        assert all(answer.keys() == {"attempt_1", "attempt_2"} for answer in written["task3"])
    kinds = ["trained", "blank", "random", "swapped"]
    rows = told(capsys, "eval", address, "--vary", f"embedding={','.join(kinds)}", *storage)
    assert [row["embedding"] for row in rows] == kinds
    assert [row["cell"] for row in rows] == [f"embedding={kind}" for kind in kinds]
    assert rows[0]["metrics"] == told(capsys, "eval", address, *storage)[0]["metrics"]
    narrow = SafeConsole(width=80)
    narrow.file = io.StringIO()
    with mock.patch("orchestrator.cli.views.evaluate.out", narrow):
        call(capsys, "eval", address, "--vary", f"embedding={','.join(kinds)}", *storage)
    shown = narrow.file.getvalue()
    assert all(f"embedding={kind} " in shown for kind in kinds) and "pass@2 %" in shown
    before = told(capsys, "leaderboard", *storage)
    code, out, _ = call(capsys, "eval", address, "--embedding", "blank", "--out", str(tmp_path / "blank"), *storage)
    assert code == 0 and "puzzle embeddings: blank, an ablation that no leaderboard ranks" in out
    assert json.loads((tmp_path / "blank/evaluation.json").read_bytes())[0]["embedding"] == "blank"
    assert told(capsys, "leaderboard", *storage) == before
    code, out, err = call(capsys, "eval", address, "--embedding", "blnk", *storage)
    assert code == 2 and out == "" and "unknown embedding 'blnk'. Did you mean 'blank'?" in err
    code, out, err = call(capsys, "eval", address, "--vary", "votes=4", *storage)
    assert code == 2 and out == "" and "only 3 views of each task were trained" in err
    code, out, _ = call(capsys, "eval", address, *storage)
    assert code == 0 and "pass@2 %" in out and "whole tasks @2 %" in out


def test_puzzles_that_share_an_embedding_have_none_to_swap(
    runs: Path, trials: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(runs)]
    assert told(capsys, "eval", trials[0], "--embedding", "blank", *storage)[0]["embedding"] == "blank"
    for kind in ("random", "swapped"):
        code, out, err = call(capsys, "eval", trials[0], "--embedding", kind, *storage)
        assert code == 2 and out == "" and f"embedding={kind}: sudoku-4x4-generated gives all puzzles one" in err
        assert err.endswith("Only blank has a meaning for it\n")


def test_examples_of_solve_are_puzzles() -> None:
    words = [
        line.split() for line in (solve_command.__doc__ or "").splitlines() if line.strip().startswith("trm solve")
    ]
    puzzles = [word[3] for word in words if not Path(word[3]).suffix.lstrip(".").isalpha()]
    assert len(puzzles) == 1
    (question,) = kind_of("sudoku").read(puzzles[0], 6)
    assert question.label is not None, "it has one solution"
