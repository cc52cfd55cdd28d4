"""Credentials in an address that would be recorded are refused, and no message repeats them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import Sweep, Variant, choice, run, train
from orchestrator.cli.views.live import show_outcome
from orchestrator.execution.options import SweepOutcome, SweepSnapshot, SweepStatus
from orchestrator.records.progress import SweepProgress
from orchestrator.storage import StorageError, open_storage
from orchestrator.sweep import configure
from tests.support.commands import call
from tests.support.sweeps import study, tiny_config
from trm_data.addresses import hide_credentials
from trm_data.errors import ConfigError, UserError, first_line

SOURCES = [
    "https://me:hunter2@host/puzzles.csv",
    "https://host/puzzles.csv?X-Amz-Signature=hunter2",
    "s3://AKIA:hunter2@bucket/puzzles.csv",
    "s3://bucket/puzzles.csv?endpoint_override=http://me:hunter2@host:9000",
    "s3://bucket/puzzles.csv?endpoint_override=http%3A%2F%2Fme%3Ahunter2%40host",
]
COMMANDS = {
    "train": "train --max-steps 1 --set {setting}",
    "sweep plan": "sweep plan --recipe sudoku-mini --vary T=1 --set {setting}",
    "sweep plan, values": "sweep plan --recipe sudoku-mini --vary {setting}",
    "sweep run": "sweep run --recipe sudoku-mini --vary T=1 --set {setting}",
    "sweep run, extra": "sweep run --recipe sudoku-mini --vary T=1 --set {setting}".replace("source", "extra_training"),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("command", COMMANDS)
def test_credentials_in_a_setting_are_refused(
    source: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = COMMANDS[command].format(setting=f"data.source={source}").split()
    code, out, err = call(capsys, *words, "--storage", str(tmp_path / "runs"))
    assert code == 2 and err.count("\n") == 1 and "contains credentials" in err and "HF_TOKEN" in err
    assert "hunter2" not in out + err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("source", ["hf://owner/name@v2/list.csv", "https://cdn.host/gh/me/repo@v2/list.csv"])
def test_a_revision_is_no_user(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hide_credentials(f"see {source}.") == f"see {source}."
    _, _, err = call(capsys, "train", "--set", f"data.source={source}", "--storage", str(tmp_path))
    assert "contains credentials" not in err


def test_credentials_in_a_sweep_file_are_refused_in_base_variants_and_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("space={'data.source': choice(A)}", "variants=(Variant(name='v', settings={'data.source': A}),)"):
        file = tmp_path / "sweep.py"
        file.write_text(
            "from orchestrator.sweep import Sweep, Variant, choice, configure\n"
            f"from trm_model.recipes import get_recipe\nA = {SOURCES[0]!r}\n"
            f"sweep = Sweep(name='s', base=configure(get_recipe('sudoku-mini'), {{'data.blanks': None}}), {part})\n"
        )
        code, _, err = call(capsys, "sweep", "run", str(file), "--storage", str(tmp_path / "runs"))
        assert code == 2 and "contains credentials" in err and "hunter2" not in err


def test_credentials_of_the_python_interface_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = configure(tiny_config(), {"data.source": SOURCES[0], "data.blanks": None})
    sweep = Sweep(name="s", base=config, space={"T": choice(1)}, variants=(Variant(name="v", settings={"n": 1}),))
    for use in (lambda: run(sweep, tmp_path / "runs"), lambda: train(config, tmp_path / "runs")):
        with pytest.raises(ConfigError, match="contains credentials") as caught:
            use()
        assert "hunter2" not in str(caught.value)
    assert not (tmp_path / "runs" / "sweeps" / "s" / "sweep.json").exists()


@pytest.mark.parametrize("address", ["s3://AKIA:hunter2@bucket/x", "s3://b?endpoint_override=http://me:hunter2@h:9000"])
def test_credentials_in_the_address_of_a_storage_are_refused(address: str) -> None:
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID") as caught:
        open_storage(address)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["https://me:hunter2@host/v1", "https://host/v1?api_key=hunter2"])
def test_credentials_in_the_address_of_a_language_model_are_refused(
    endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--model m --benchmark sudoku-4x4 --max-usd 1 --usd-per-mtok-in 0 --usd-per-mtok-out 0"
    words = f"baselines run-llm --endpoint {endpoint} {options} --storage {tmp_path}".split()
    code, _, err = call(capsys, *words)
    assert code == 2 and "--api-key-file" in err and "hunter2" not in err


def test_end_of_a_sweep_shows_no_password_of_the_tracker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = SweepOutcome(SweepStatus.COMPLETE, SweepSnapshot("study", "exact_accuracy", SweepProgress(4, 4, 0), ()))
    show_outcome(study(), open_storage(str(tmp_path)), outcome, "http://me:hunter2@tracker:5000/?password=hunter3")
    out = capsys.readouterr().out
    assert "MLflow: http://tracker:5000/" in out and "hunter" not in out


def test_secrets_of_the_environment_and_of_addresses_are_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2hunter2")
    monkeypatch.setenv("SOME_TOKEN_FILE", "/path/of/hunter3")
    text = "http://me:hunter2@host refused hunter2hunter2 of /path/of/hunter3"
    shown = "http://host refused ... of /path/of/hunter3"
    assert first_line(ValueError(text)) == str(UserError(text)) == UserError("x", text).remedy == shown


def test_the_remedies_placeholder_of_a_port_is_shown() -> None:
    assert hide_credentials("Use http://HOST:PORT, or none") == "Use http://HOST:PORT, or none"
    assert "hunter2" not in hide_credentials("cannot open http://user:hunter2@host:PORT")
    assert hide_credentials("http://user:hunter2") == "http://..."
