"""Wrong files, folders, encodings and values, thrown at every verb that takes one: one line and exit code 2."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main
from tests.support.sweeps import tiny_config
from trm_model.checkpoints.trained import pack_weights
from trm_model.model.recursion import build_model

INPUTS = {
    "sweep plan": "sweep plan {path}",
    "sweep run": "sweep run {path} --tracking none",
    "baselines check": "baselines check {path}",
    "baselines update": "baselines update {path} --date 2026-11-22",
    "baselines list": "baselines list --baselines {path}",
    "baselines run-llm": "baselines run-llm --endpoint https://localhost:1/v1 --model m --benchmark sudoku-4x4"
    " --max-usd 1 --usd-per-mtok-in 0 --usd-per-mtok-out 0 --api-key-file {path}",
    "leaderboard": "leaderboard --baselines {path}",
    "checkpoint show": "checkpoint show {path}",
    "checkpoint import": "checkpoint import {path} --recipe sudoku-mlp.readme -o {out}",
    "checkpoint import, without a recipe": "checkpoint import {path} -o {out}",
    "checkpoint export": "checkpoint export {path} -o {out}",
    "data build": "data build sudoku-9x9 --source {path}",
    "data import-official": "data import-official {path}",
    "data verify": "data verify {path}",
    "data show": "data show {path}",
    "data export": "data export {path} {out}",
    "data fingerprint": "data fingerprint {path}",
    "eval": "eval {path}",
    "eval, dataset": "eval {path} --dataset {path}",
    "solve": "solve {path} 1..4.2..3..1",
    "export": "export {path} -o {out}",
    "train": "train --set data.source={path} --max-steps 1",
    "trust": "solve {path} 1..4.2..3..1 --trust {path}",
}
"""Commands by what they read. A plain folder or file is none that any of them can use."""
WRONG = (
    "nowhere",
    "folder",
    "empty",
    "text",
    "binary",
    "null",
    "json",
    "latin-1",
    "no-utf8-name",
    "long",
    "spaces [x]",
)


@pytest.fixture
def wrong(tmp_path: Path) -> dict[str, Path]:
    """Paths that are not what any command wants."""
    content = {
        "empty": b"",
        "text": b"not what you expect\n",
        "binary": bytes(range(256)) * 8,
        "null": b"\0" * 64,
        "json": b'{"a": [1, null]}',
        "latin-1": "\xe9,1\n".encode("latin-1"),
        "spaces [x]": b"\x1b[31mred",
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    odd = tmp_path / "odd\udcff"
    odd.write_bytes(b"x")
    return {name: tmp_path / name for name in WRONG} | {"no-utf8-name": odd, "long": tmp_path / ("x" * 300)}


def end(capsys: pytest.CaptureFixture[str], arguments: list[str], storage: Path) -> tuple[int, str]:
    """Run one command and return its exit code and standard error. A traceback would fail the test here."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *(["--storage", str(storage)] if arguments[:2] != ["baselines", "check"] else [])])
    code = ended.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().err


@pytest.mark.parametrize("command", INPUTS)
def test_wrong_input_is_one_line_and_exit_code_2(
    command: str, wrong: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, path in wrong.items():
        words = [
            word.format(path=path, out=tmp_path / "out") for word in INPUTS[command].split()
        ]  # a path may hold spaces
        code, err = end(capsys, words, tmp_path / "runs")
        assert code == 2, f"{kind}: exit code {code}\n{err}"
        err = re.sub(r"^starting .*\n", "", err)  # `trm train` says first what it does
        assert err.startswith("error: ") and err.count("\n") == 1, f"{kind}: {err}"
        assert "\x1b" not in err and "elete" not in err, f"{kind}: advice about a file that is not ours: {err}"
        assert "shows where" not in err, f"{kind}: a known command left this to the last resort: {err}"


def test_folder_in_place_of_a_sweep_file_is_told_with_the_sweeps_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.yaml").write_text("title: no sweep\n")
    (folder / "helper.py").write_text("import orchestrator\nsweeps = 1\n")
    for word in ("mine", "./mine", str(folder)):
        code, err = end(capsys, ["sweep", "plan", word], tmp_path / "runs")
        shown = word.removeprefix("./") if word != str(folder) else word
        assert (code, err) == (2, f"error: {shown} is a folder, not a sweep file. It holds no sweep file\n")
    for name, text in (
        ("a.py", "sweep = Sweep(...)"),
        ("b.yaml", "recipe: demo"),
        ("c.jsonl", '{"sweep":{}}'),
        ("d.py", "x = 1\nsweep: Sweep = x"),
    ):
        (folder / name).write_text(text + "\n")
    code, err = end(capsys, ["sweep", "run", "mine"], tmp_path / "runs")
    assert (code, err.partition(". ")[2]) == (2, "Name a file in it: mine/a.py, mine/b.yaml, mine/c.jsonl and 1 more\n")


def test_puzzle_that_is_no_text_is_one_line(
    wrong: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config()
    model = build_model(config.model, vocab_size=6, seq_len=16, num_identifiers=1)
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(pack_weights(model, config, step=1, id_map_hash="shared"))
    for kind, words in (("binary", "binary is not text"), ("latin-1", "is not text"), ("folder", "Is a directory")):
        code, err = end(capsys, ["solve", str(checkpoint), str(wrong[kind])], tmp_path / "runs")
        assert code == 2 and err.count("\n") == 1 and words in err, err


OUTPUTS = {
    "sweep plan --out": "sweep plan --recipe sudoku-mini --vary T=1,2 --out {path}",
    "leaderboard --html": "leaderboard --html {path}",
    "data export": "data export sudoku-4x4 {path}",
    "data show": "data show sudoku-4x4 --out {path}",
}


@pytest.mark.parametrize("command", OUTPUTS)
@pytest.mark.parametrize("kind", ["onto the other kind", "below a file"])
def test_output_that_cannot_be_written_is_one_line(
    command: str, kind: str, wrong: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    other = wrong["text"] if command == "data export" else wrong["folder"]
    path = other if kind == "onto the other kind" else wrong["text"] / "below"
    code, err = end(capsys, OUTPUTS[command].format(path=path).split(), tmp_path / "runs")
    assert code == 2 and err.count("\n") == 1 and path.name in err, err
    assert wrong["text"].read_bytes() == b"not what you expect\n"


@pytest.mark.parametrize("storage", ["text", "text/below", "s3://", "ftp://host/x", ""])
@pytest.mark.parametrize("command", ["sweep status", "leaderboard", "data list", "sweep plan --recipe sudoku-mini"])
def test_storage_that_cannot_be_used_is_one_line(
    command: str, storage: str, wrong: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = str(tmp_path / storage) if storage.startswith("text") else storage
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--storage", address])
    err = capsys.readouterr().err
    if ended.value.code == 0:  # a plan, for example, writes nothing: a place that cannot be written does not matter
        assert not err.strip()
        assert command.startswith("sweep plan") or command == "data list", "a file was taken for an empty storage"
    else:
        assert ended.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert "shows where" not in err


READERS = (
    "sweep status",
    "sweep status demo",
    "leaderboard",
    "ui",
    "results bundle demo --out {out}",
    "ablate demo --control T=1",
    "trial show demo/3f9a",
)
"""Commands that read a storage and run nothing."""


@pytest.mark.parametrize("command", READERS)
def test_storage_that_does_not_exist_is_one_line_and_is_not_made(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "sweeps").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    words = command.format(out=tmp_path / "bundle").split()
    for storage, said in (
        ("reslts", f"no storage {tmp_path}/reslts: there is no such folder. Did you mean '{tmp_path}/results'?"),
        ("other", f"no storage {tmp_path}/other: there is no such folder. Name the folder that a sweep wrote to"),
        ("file", f"storage {tmp_path}/file is a file, not a folder. Name the folder that a sweep wrote to"),
        ("s3:/bucket", "storage 's3:/bucket': 's3:' is followed by one slash or none. Write s3://..., or ./s3:/bucket"),
        (
            "s3:bucket/x",
            "storage 's3:bucket/x': 's3:' is followed by one slash or none. Write s3://..., or ./s3:bucket",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--storage", storage])
        err = capsys.readouterr().err
        assert ended.value.code == 2 and err.count("\n") == 1, err
        assert err.startswith(f"error: {said}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "results"]


def test_error_of_no_known_kind_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last resort, for a place that the tests above do not know."""
    from orchestrator.cli.commands import train

    for error, hint in (
        (PermissionError(13, "Permission denied", "/root/.x\x1b[2J"), "/root/.x: Permission denied"),
        (UnicodeDecodeError("utf-8", b"ab\xff", 2, 3, "invalid start byte"), "not utf-8 text"),
        (ValueError("two\nlines"), "ValueError: two"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nx"), "out of memory: CUDA out of memory. Tried"),
        (MemoryError(), "out of memory: MemoryError. Take smaller batches"),
    ):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("orchestrator.cli.configs.base_config", fail)
        with pytest.raises(SystemExit) as ended:
            main(["train"])
        err = capsys.readouterr().err
        assert ended.value.code == 2 and hint in err and err.count("\n") == 1 and "\x1b" not in err
    assert train is not None and sys.exc_info() == (None, None, None)


@pytest.mark.parametrize("module", ["orchestrator.cli.entry", "typer", "orchestrator.cli.app"])
def test_an_interrupt_while_the_command_is_imported_is_one_line(module: str) -> None:
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with SIGINT ignored
class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from orchestrator.cli import main
main(["--version"])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "error: interrupted\n")


def test_data_that_cannot_be_built_leaves_the_name_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "sweep run --recipe sudoku-mini --name x --tracking none --max-steps 1 --vary T=1,2"
    sets = "--set data.benchmark=sudoku-4x4 --set data.blanks=18"
    code, err = end(capsys, f"{words} {sets}".split(), tmp_path)
    assert code == 2 and "blanks=18 cannot be made" in err
    assert not (tmp_path / "sweeps/x/sweep.json").exists()


@pytest.mark.parametrize("blanks", ["18", "2"])
def test_plan_refuses_the_data_that_a_run_would_refuse(
    blanks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "sweep {verb} --recipe sudoku-mini --name x --vary T=1,2 --set data.benchmark=sudoku-4x4"
    errors = []
    for verb in ("plan", "run --tracking none"):
        words_of = [*words.format(verb=verb).split(), "--set", f"data.blanks={blanks}"]
        code, err = end(capsys, words_of, tmp_path)
        assert code == 2
        errors.append(err)
    assert errors[0] == errors[1] and f"{blanks} " in errors[0].replace("=", " ")


@pytest.mark.parametrize("setting", ["T", "n", "N_sup", "D", "train.batch_size", "model.num_layers", "seed"])
def test_number_beyond_every_limit_is_refused(setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["train", "--max-steps", "1"], ["sweep", "plan", "--recipe", "sudoku-mini", "--vary", "lr=0.1"]):
        code, err = end(capsys, [*words, "--set", f"{setting}={10**19}"], tmp_path)
        assert code == 2 and "less than or equal" in err
