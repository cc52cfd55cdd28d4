"""Bundles of results: others verify them item by item, a changed one is refused, and nothing in one is executed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import verify_bundle, write_bundle
from orchestrator.cli import main
from orchestrator.evaluation.bundle_files import FileEntry, describe
from orchestrator.evaluation.checkpoints import Cell, score
from orchestrator.storage import open_storage
from tests.support.commands import call
from tests.support.sweeps import set_options
from trm_data import open_dataset
from trm_data.errors import UserError
from trm_model.checkpoints.store import pack, unpack
from trm_model.config import TrialConfig

SETTINGS = {
    "data.benchmark": "sudoku-4x4",
    "data.blanks": 6,
    "data.num_train": 40,
    "data.num_validation": 8,
    "data.num_test": 12,
    "model.hidden_size": 16,
    "model.inner_multiple": 256,
    "train.batch_size": 8,
    "runtime.evaluate_every": 10,
    "evaluation.split": "test",
}
RECURSION = """
from pathlib import Path
from trm_model import Recursion
Path({marker!r}).touch()
class Own(Recursion):
    pass
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a trained model."""
    folder = tmp_path_factory.mktemp("bundled") / "runs"
    with pytest.raises(SystemExit) as ended:
        main(["train", *set_options(SETTINGS), "--max-steps", "10", "--storage", str(folder)])
    assert ended.value.code == 0
    return folder


@pytest.fixture(scope="module")
def trial(runs: Path) -> str:
    return next((runs / "sweeps/train/trials").iterdir()).name


@pytest.fixture(scope="module")
def written(runs: Path, trial: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle("train", runs, path=tmp_path_factory.mktemp("out") / "bundle", trial=trial).path


@pytest.fixture
def bundle(written: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be changed."""
    return shutil.copytree(written, tmp_path / "bundle")


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((bundle / "MANIFEST.json").read_text())
    change(manifest)
    (bundle / "MANIFEST.json").write_text(json.dumps(manifest))


def replace(bundle: Path, trial: str, part: str, data: bytes) -> None:
    """Exchange a file of a bundle, its hash included."""
    name = f"trials/{trial}/{part}"
    (bundle / name).write_bytes(data)
    edit_manifest(bundle, lambda manifest: manifest["files"].update({name: describe(data).plain()}))


def change_weight(bundle: Path, trial: str) -> None:
    """Change one weight, and every hash that would tell."""
    file = bundle / "trials" / trial / "weights.safetensors"
    checkpoint = unpack(file.read_bytes())
    checkpoint.tensors["model/answer_head"][3, 0] += 50
    header = {name: value for name, value in checkpoint.header.items() if name not in ("format", "crc32")}
    replace(bundle, trial, file.name, pack(checkpoint.tensors, header))


def test_bundle_is_verified_in_another_process_with_another_storage_and_an_empty_environment(
    written: Path, tmp_path: Path
) -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; from orchestrator.cli import main; main()"
    command = [sys.executable, "-c", code, "results", "verify", str(written), "--storage", str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True, env={}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "confirmed: 12 of 12 items equal"
    assert (tmp_path / "other/datasets").is_dir()


def test_files_that_the_manifest_does_not_list_are_named(
    bundle: Path, runs: Path, trial: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verify = ("results", "verify", str(bundle), "--storage", str(runs))
    assert "does not list" not in call(capsys, *verify)[2]
    for name in ("notes.txt", f"trials/{trial}/more.txt"):
        (bundle / name).write_text("mine")
    code, _, err = call(capsys, *verify)
    assert code == 0 and "the manifest does not list notes.txt and 1 other file, which nothing here verifies" in err


def test_bundle_names_settings_dataset_code_and_hashes_and_no_private_fact(
    written: Path, runs: Path, trial: str
) -> None:
    manifest = json.loads((written / "MANIFEST.json").read_text())
    files = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    assert files == {*manifest["files"], "MANIFEST.json"} and manifest["trials"] == [trial]
    for name, entry in manifest["files"].items():
        assert describe((written / name).read_bytes()) == FileEntry.parse(entry)
    folder = written / "trials" / trial
    head = json.loads((folder / "trial.json").read_text())
    assert head["config"]["data"]["benchmark"] == "sudoku-4x4" and head["dataset"]["fingerprint"]
    (attempt,) = json.loads((folder / "provenance.json").read_text())["attempts"]
    start = json.loads((runs / f"sweeps/train/trials/{trial}/attempts/001/start.json").read_text())
    assert attempt["commit"] == start["git"]["commit"] and "torch" in attempt["versions"]
    assert not {"host", "pid", "node_id", "diff"} & attempt.keys()
    assert not any(
        name.startswith(("optimizer/", "carry/", "ema/"))
        for name in unpack((folder / "weights.safetensors").read_bytes()).tensors
    )


def test_bundle_with_one_changed_weight_is_refused_by_item(
    bundle: Path, runs: Path, trial: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change_weight(bundle, trial)
    code, out, _ = call(capsys, "results", "verify", str(bundle), "--storage", str(runs))
    assert code == 1 and "its answer differs in " in out and out.splitlines()[-1].startswith("not confirmed: ")
    found = json.loads(call(capsys, "results", "verify", str(bundle), "--storage", str(runs), "--json")[1])
    differing = found["trials"][0]["differences"]
    assert not found["confirmed"] and found["items"] == 12 and found["equal"] == 12 - len(differing) < 12
    assert {"item", "puzzle", "solved_then", "solved_now", "cells"} == differing[0].keys() and differing[0]["cells"] > 0
    assert f"item {differing[0]['item']} ({differing[0]['puzzle']}): " in out


def test_stated_score_that_its_weights_do_not_reach_is_refused(bundle: Path, runs: Path, trial: str) -> None:
    result = json.loads((bundle / "trials" / trial / "result.json").read_text())
    stated = result["metrics"]["exact_accuracy"] + 0.5
    result["metrics"]["exact_accuracy"] = stated
    replace(bundle, trial, "result.json", json.dumps(result).encode())
    found = verify_bundle(bundle, runs)
    assert not found.is_confirmed and found.equal == found.items == 12
    assert found.trials[0].scores == {"exact_accuracy": (stated, stated - 0.5)}
    result["per_item"] = "fff0"
    replace(bundle, trial, "result.json", json.dumps(result).encode())
    with pytest.raises(UserError, match="disagree about which items are solved"):
        verify_bundle(bundle, runs)


def test_only_solved_items_are_compared_on_request(bundle: Path, runs: Path, trial: str) -> None:
    change_weight(bundle, trial)
    solved = verify_bundle(bundle, runs, compare="solved")
    every = verify_bundle(bundle, runs)
    assert len(solved.trials[0].differences) < len(every.trials[0].differences)
    assert all(one.solved_then != one.solved_now for one in solved.trials[0].differences)


def test_other_dataset_is_told(bundle: Path, runs: Path, trial: str, capsys: pytest.CaptureFixture[str]) -> None:
    verify = ("results", "verify", str(bundle), "--storage", str(runs))
    options = ["--blanks", "6", "--num-train", "40", "--num-validation", "8", "--num-test", "12", "--seed", "5"]
    built = json.loads(call(capsys, "data", "build", "sudoku-4x4", *options, "--storage", str(runs), "--json")[1])
    code, _, err = call(capsys, *verify, "--dataset", Path(built["path"]).name)
    assert code == 2 and "the bundle was scored on dataset sudoku-4x4-generated-" in err and err.count("\n") == 1
    head = json.loads((bundle / "trials" / trial / "trial.json").read_text())
    head["dataset"]["fingerprint"] = "0" * 64
    replace(bundle, trial, "trial.json", json.dumps(head).encode())
    code, _, err = call(capsys, *verify)
    assert code == 2 and f"with fingerprint {'0' * 64}, the one here has" in err and err.count("\n") == 1


def missing(bundle: Path, trial: str) -> None:
    (bundle / "trials" / trial / "result.json").unlink()


def no_manifest(bundle: Path, trial: str) -> None:
    (bundle / "MANIFEST.json").unlink()


def wrong_hash(bundle: Path, trial: str) -> None:
    file = bundle / "trials" / trial / "outcomes.arrow"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def wrong_size(bundle: Path, trial: str) -> None:
    edit_manifest(bundle, lambda manifest: manifest["files"][f"trials/{trial}/result.json"].update(num_bytes=10**6))


def packed(bundle: Path, trial: str) -> None:
    shutil.rmtree(bundle)
    bundle.write_bytes(b"an archive")


def longer(bundle: Path, trial: str) -> None:
    with (bundle / "trials" / trial / "result.json").open("ab") as file:
        file.write(b" ")


def newer(bundle: Path, trial: str) -> None:
    edit_manifest(bundle, lambda manifest: manifest.update({"format": 2}))


def no_json(bundle: Path, trial: str) -> None:
    (bundle / "MANIFEST.json").write_bytes(b"\xff{")


def escape(bundle: Path, trial: str) -> None:
    (bundle.parent / "outside.txt").write_bytes(b"secret")
    edit_manifest(bundle, lambda manifest: manifest["files"].update({"../outside.txt": describe(b"secret").plain()}))


def absolute(bundle: Path, trial: str) -> None:
    edit_manifest(bundle, lambda manifest: manifest["files"].update({"/etc/passwd": describe(b"").plain()}))


def trial_outside(bundle: Path, trial: str) -> None:
    edit_manifest(bundle, lambda manifest: manifest.update({"trials": ["../../x"]}))


def no_trial(bundle: Path, trial: str) -> None:
    edit_manifest(bundle, lambda manifest: manifest.update({"trials": []}))


def other_items(bundle: Path, trial: str) -> None:
    result = json.loads((bundle / "trials" / trial / "result.json").read_text())
    replace(bundle, trial, "result.json", json.dumps({**result, "items": 1_000}).encode())


def link(bundle: Path, trial: str) -> None:
    file = bundle / "trials" / trial / "result.json"
    file.rename(bundle.parent / "result.json")
    file.symlink_to(bundle.parent / "result.json")


def linked_folder(bundle: Path, trial: str) -> None:
    shutil.move(bundle / "trials", bundle.parent / "trials")
    (bundle / "trials").symlink_to(bundle.parent / "trials")


def no_arrow(bundle: Path, trial: str) -> None:
    replace(bundle, trial, "outcomes.arrow", b"ARROW1")


def no_weights(bundle: Path, trial: str) -> None:
    replace(bundle, trial, "weights.safetensors", b"PK\x03\x04 a pickle")


def other_settings(bundle: Path, trial: str) -> None:
    head = json.loads((bundle / "trials" / trial / "trial.json").read_text())
    head["config"]["model"]["cycles"] += 1
    replace(bundle, trial, "trial.json", json.dumps(head).encode())


def from_a_list(bundle: Path, trial: str) -> None:
    head = json.loads((bundle / "trials" / trial / "trial.json").read_text())
    head["config"]["data"] |= {"source": "/a/list/of/somebody.txt", "blanks": None}
    head["dataset"]["name"] = "of-somebody"
    replace(bundle, trial, "trial.json", json.dumps(head).encode())
    file = bundle / "trials" / trial / "weights.safetensors"
    checkpoint = unpack(file.read_bytes())
    header = {name: value for name, value in checkpoint.header.items() if name not in ("format", "crc32")}
    replace(bundle, trial, file.name, pack(checkpoint.tensors, header | {"config": head["config"]}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (from_a_list, "Build it with `trm data build --source FILE`, and name it with --dataset"),
        (missing, "result.json is missing"),
        (no_manifest, "MANIFEST.json is missing"),
        (wrong_hash, "outcomes.arrow is not the file that MANIFEST.json lists (other sha256)"),
        (wrong_size, "result.json is not the file that MANIFEST.json lists (other size)"),
        (packed, "is a file, not the folder of a bundle. Unpack it, and name the folder"),
        (longer, "result.json is larger than MANIFEST.json lists"),
        (newer, "is a bundle of format '2', this version reads 1"),
        (no_json, "MANIFEST.json is damaged"),
        (escape, "lists a file outside of it: '../outside.txt'"),
        (absolute, "lists a file outside of it: '/etc/passwd'"),
        (trial_outside, "does not list trial.json of trial '../../x'"),
        (no_trial, "bundle has no trial"),
        (other_items, "disagree about which items are solved"),
        (link, "result.json is a link or cannot be read"),
        (linked_folder, "is a link or cannot be read"),
        (no_arrow, "outcomes.arrow is damaged"),
        (no_weights, "weights.safetensors is not a checkpoint of this program"),
        (other_settings, "weights.safetensors has other settings than trial.json"),
    ],
)
def test_bad_bundle_is_one_line_and_exit_code_2(
    bundle: Path, runs: Path, trial: str, damage: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(bundle, trial)
    code, _, err = call(capsys, "results", "verify", str(bundle), "--storage", str(runs))
    assert code == 2 and words in err and err.count("\n") == 1


def test_recursion_of_a_bundle_runs_only_where_the_command_names_its_file(
    bundle: Path, runs: Path, trial: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker, folder = tmp_path / "executed", bundle / "trials" / trial
    source = RECURSION.format(marker=str(marker)).encode()
    checkpoint = unpack((folder / "weights.safetensors").read_bytes())
    head = json.loads((folder / "trial.json").read_text())
    head["config"]["model"]["recursion"] = f"/home/a/own.py:Own#sha256={describe(source).sha256}"
    header = {name: value for name, value in checkpoint.header.items() if name not in ("format", "crc32")}
    replace(bundle, trial, "weights.safetensors", pack(checkpoint.tensors, {**header, "config": head["config"]}))
    replace(bundle, trial, "trial.json", json.dumps(head).encode())
    replace(bundle, trial, "recursion.py", source)
    verify = ("results", "verify", str(bundle), "--storage", str(runs))
    code, _, err = call(capsys, *verify)
    assert code == 2 and "does not trust" in err and "--trust" in err and not marker.exists()
    code, out, _ = call(capsys, *verify, "--trust", str(folder / "recursion.py"))
    assert code == 0 and "confirmed: 12 of 12 items equal" in out and marker.exists()


def test_bundle_of_a_sweep_and_of_an_unusable_trial(
    runs: Path, trial: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, storage = str(tmp_path / "b"), ("--storage", str(runs))
    code, shown, _ = call(capsys, "results", "bundle", "train", trial[:5], "--out", out, *storage)
    assert code == 0 and "1 trial, " in shown and "trm results verify" in shown
    for words, problem in (
        (("train", trial, "--out", out), "exists. Name a new folder"),
        (("train", "--out", out + "2"), "train has no confirmed trial. Name a finished one: trm results bundle train"),
        (("train", "zzz", "--out", out + "2"), "has no trial 'zzz'"),
        (("nowhere", "--out", out + "2"), "no sweep 'nowhere'"),
    ):
        code, _, err = call(capsys, "results", "bundle", *words, *storage)
        assert code == 2 and problem in err and err.count("\n") == 1
    copied = shutil.copytree(runs, tmp_path / "runs")
    for file in copied.rglob("step-*.safetensors"):
        file.unlink()
    with pytest.raises(UserError, match="keeps no checkpoint of its last step"):
        write_bundle("train", copied, path=out + "2", trial=trial)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "runs"]


def test_every_confirmed_trial_of_a_sweep_is_bundled_or_named(
    runs: Path, trial: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from orchestrator import Sweep
    from orchestrator.records.index import find_trial

    store = open_storage(str(shutil.copytree(runs, tmp_path / "runs")))
    sweep = Sweep(name="one", base=find_trial(store, f"train/{trial}").config)
    store.write("sweeps/one/sweep.json", json.dumps(sweep.plain()).encode())
    for name in ("aaaaaaaaaaaa", trial):
        for key in store.list(f"sweeps/train/trials/{trial}"):
            if name == trial or "/checkpoints/" not in key:
                data = store.read(key).replace(b'"stage": "explore"', b'"stage": "study"')
                if name != trial and key.endswith("/trial.json"):  # it is no copy of the other one
                    head = json.loads(data)
                    head |= {"trial_id": name, "config": head["config"] | {"seed": 7}}
                    data = json.dumps(head).encode()
                store.write(key.replace("sweeps/train", "sweeps/one").replace(trial, name), data)
    written = write_bundle("one", store, path=tmp_path / "bundle")
    assert written.trials == (trial,) and list(written.left_out) == ["aaaaaaaaaaaa"]
    assert (written.path / "sweep.json").is_file()
    assert verify_bundle(written.path, store).is_confirmed
    code, _, err = call(capsys, "results", "bundle", "one", "--out", str(tmp_path / "b"), "--storage", str(store.url))
    assert code == 0 and "left out aaaaaaaaaaaa: trial aaaaaaaaaaaa keeps no checkpoint of its last step" in err


@pytest.mark.parametrize("name", ["b.zip", "b.tar.gz", "B.TGZ"])
def test_bundle_that_is_named_like_an_archive_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    target, storage = tmp_path / name, str(tmp_path / "runs")
    code, _, err = call(capsys, "results", "bundle", "demo", "--out", str(target), "--storage", storage)
    assert code == 2 and err.count("\n") == 1
    assert f"{target} is named like an archive, and a bundle is a folder. Name a folder, " in err
    assert repr(str(tmp_path / name[0])) in err and not target.exists()


def test_seconds_of_a_score_are_those_between_its_begin_and_its_end(bundle: Path, runs: Path, trial: str) -> None:
    checkpoint = unpack((bundle / "trials" / trial / "weights.safetensors").read_bytes())
    dataset = open_dataset(next((runs / "datasets").glob("*/manifest.json")).parent)
    cell = Cell(trial, TrialConfig.parse(checkpoint.header["config"]).evaluation, "ema")
    [scored] = score(
        [cell], {trial: checkpoint}, dataset, "validation", device="cpu", timer=iter((100.0, 103.5)).__next__
    )
    assert scored.seconds == 3.5
