"""Official checkpoints of the hub: imported with the settings next to them, from a server on this machine."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.commands import call
from tests.support.hub import HubHandler, HubServer
from tests.support.infra import in_a_thread
from tests.support.sweeps import TINY, set_options, tiny_config
from trm_data.benchmarks import resolve_benchmark
from trm_model.checkpoints.known import KNOWN
from trm_model.checkpoints.official import export_official
from trm_model.checkpoints.store import unpack
from trm_model.model.recursion import Model, build_model

FILE = "step_10"
SETTINGS = {**TINY, "model.inner_multiple": 256}
CONFIG = tiny_config(**SETTINGS)


@pytest.fixture
def model() -> Model:
    return build_model(CONFIG.model, vocab_size=6, seq_len=16, num_identifiers=1, seed=3)


@pytest.fixture
def hub(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The part of an address behind the repository's file, of a server with an official checkpoint."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    export_official(model, CONFIG, tmp_path / "served" / FILE)
    with in_a_thread(
        HubServer(("127.0.0.1", 0), functools.partial(HubHandler, directory=str(tmp_path / "served")))
    ) as running:
        running.etags = {}
        yield f"?endpoint=http://127.0.0.1:{running.server_port}"


def imported(capfd: pytest.CaptureFixture[str], folder: Path, address: str, *more: str) -> Any:
    code, out, err = call(capfd, "checkpoint", "import", address, "-o", str(folder / "out.safetensors"), *more)
    assert code == 0, err
    assert "weights" in out
    return unpack((folder / "out.safetensors").read_bytes())


def test_official_checkpoint_of_the_hub_is_imported_with_the_settings_next_to_it(
    hub: str, model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = imported(capfd, tmp_path, f"hf://owner/model@main/{FILE}{hub}")
    assert all(torch.equal(found.section("model")[name], value) for name, value in model.state_dict().items())
    header = found.header
    assert header["imported_from"] == f"hf://owner/model@main/{FILE}" and header["step"] == 10
    assert re.fullmatch("[0-9a-f]{64}", header["imported_sha256"])
    assert header["config"]["model"]["hidden_size"] == 16
    for revision in ("refs/pr/1", "refs%2Fpr%2F1"):
        header = imported(capfd, tmp_path, f"hf://owner/model@{revision}/{FILE}{hub}").header
        assert header["imported_from"] == f"hf://owner/model@{revision}/{FILE}"
    imported(capfd, tmp_path, f"hf://owner/model@main/{FILE}{hub}")
    code, out, _ = call(capfd, "checkpoint", "show", str(tmp_path / "out.safetensors"))
    assert code == 0 and "hf://owner/model@main/step_10" in out
    words = ["train", "--recipe", "sudoku-mini", *set_options(SETTINGS), "--max-steps", "2"]
    words += ["--storage", str(tmp_path / "runs"), "--from", str(tmp_path / "out.safetensors")]
    code, _, err = call(capfd, *words)
    assert code == 0 and "starting from the weights of step 10 of" in err


def test_repository_without_settings_needs_a_recipe(
    hub: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "served/all_config.yaml").unlink()
    address, out_file = f"hf://owner/model/{FILE}{hub}", str(tmp_path / "out.safetensors")
    code, out, err = call(capfd, "checkpoint", "import", address, "-o", out_file)
    assert code == 2 and not out and err.count("\n") == 1
    assert f"hf://owner/model/{FILE} has no all_config.yaml next to it" in err and "Give its --recipe" in err
    imported(capfd, tmp_path, address, "--recipe", "sudoku-mini", *set_options(SETTINGS))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://owner/model/step_99{hub}", "hf://owner/model/step_99 does not exist on the hub"),
        (
            "hf://owner/model@gone/step_10{hub}",
            "model has no revision 'gone' on the hub. Name one of its branches",
        ),
        ("hf://owner/model@refs/pr/1{hub}", "names no file. Write hf://OWNER/NAME/FILE"),
        ("hf://owner/model/step_10?endpoint=http://name.invalid", "cannot reach the hub for hf://owner/model/step_10"),
        ("hf://owner/model{hub}", "names no file. Write hf://OWNER/NAME/FILE"),
        ("https://127.0.0.1:9/step_10", "is neither a file nor hf://OWNER/NAME/FILE. Download it"),
        ("nowhere/step_10", "nowhere/"),
    ],
)
def test_mistake_is_one_line(
    address: str, message: str, hub: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["checkpoint", "import", address.format(hub=hub), "-o", str(tmp_path / "out.safetensors")]
    code, out, err = call(capfd, *words)
    assert code == 2 and not out and err.count("\n") == 1 and message in err, err
    assert not (tmp_path / "out.safetensors").exists()


def test_file_that_is_no_checkpoint_is_one_line(hub: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "served" / FILE).write_bytes(b"PK, but nothing else")
    code, _, err = call(capfd, "checkpoint", "import", f"hf://o/m/{FILE}{hub}", "-o", str(tmp_path / "x.safetensors"))
    assert code == 2 and err.count("\n") == 1 and FILE in err


def test_known_checkpoints_name_a_benchmark_a_repository_and_a_source(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capfd, "checkpoint", "known", "--json")
    assert code == 0
    rows = json.loads(out)
    assert len(rows) == len(KNOWN) >= 5
    for row in rows:
        assert re.fullmatch(r"hf://[\w.-]+/[\w.-]+", row["address"]) and 0 < row["score"] < 100 and row["source"]
        assert resolve_benchmark(row["benchmark"]).name == row["benchmark"]
    code, out, _ = call(capfd, "checkpoint", "known")
    assert code == 0 and "trm checkpoint import hf://OWNER/NAME/FILE" in out
