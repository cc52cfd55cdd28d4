"""Exported programs compute what the model computes, for any batch size."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from trm_data.files import machine_id
from trm_model.checkpoints.export import export
from trm_model.config import ModelConfig
from trm_model.model.recursion import build_model

VARIANTS = {
    "mlp": ModelConfig(mixer="mlp", positions="none", hidden_size=16, num_heads=2, cycles=1, latent_steps=2),
    "attention": ModelConfig(hidden_size=16, num_heads=2, cycles=2, latent_steps=1),
}


@pytest.mark.parametrize(("variant", "steps"), [("attention", None), ("mlp", 2)])
def test_torch_program_equals_the_model(variant: str, steps: int | None, tmp_path: Path) -> None:
    model = build_model(VARIANTS[variant], vocab_size=6, seq_len=16, num_identifiers=1)
    exported = export(model, tmp_path / "model.pt2", kind="torch", steps=steps)
    assert exported.largest_difference < 1e-4
    assert exported.num_bytes == (tmp_path / "model.pt2").stat().st_size
    torch.export.load(tmp_path / "model.pt2")


def test_what_a_killed_export_left_goes_and_the_users_own_folders_stay(tmp_path: Path) -> None:
    left, of_user = tmp_path / f".{machine_id()}-{os.getpid()}-1-{'a' * 8}.tmp", tmp_path / ".config.personal"
    for folder in (left, of_user):
        folder.mkdir()
        (folder / "weights").touch()
        os.utime(folder, (0, 0))
    model = build_model(VARIANTS["mlp"], vocab_size=6, seq_len=16, num_identifiers=1)
    export(model, tmp_path / "model.pt2", kind="torch", steps=None)
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt2", of_user.name}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_onnx_program_equals_the_model(variant: str, steps: int | None, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = build_model(VARIANTS[variant], vocab_size=6, seq_len=16, num_identifiers=1)
    assert export(model, tmp_path / "model.onnx", kind="onnx", steps=steps).largest_difference < 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_weights_too_large_for_an_onnx_file_are_written_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = build_model(VARIANTS["mlp"], vocab_size=6, seq_len=16, num_identifiers=1000)
    exported = export(model, tmp_path / "model.onnx", kind="onnx", most_onnx_bytes=10_000)
    assert exported.largest_difference < 1e-4
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() == {"model.onnx", "model.onnx.data"}
    assert exported.num_bytes == sum(sizes.values())
    assert sizes["model.onnx.data"] > 4 * 16 * 1000 > sizes["model.onnx"] / 10


class _StandInProgram:
    """What torch's ONNX exporter returns, as far as this project uses it; the libraries for it are optional."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.module = program.module()

    def save(self, path: str, *, external_data: bool) -> None:
        Path(path).write_bytes(b"program")
        if external_data:
            Path(f"{path}.data").write_bytes(b"weights")

    def session(self, path: str, providers: list[str]) -> _StandInProgram:
        assert Path(path).read_bytes() == b"program"
        return self

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in ("inputs", "ids")]

    def run(self, _: None, values: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [value.numpy() for value in self.module(*map(torch.from_numpy, values.values()))]


@pytest.mark.parametrize(("most_bytes", "beside"), [(10_000, ["model.onnx.data"]), (2**31, [])])
def test_weights_above_the_limit_of_an_onnx_file_go_to_a_file_beside_it(
    most_bytes: int, beside: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[_StandInProgram] = []
    for name in ("onnxruntime", "onnxscript"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)  # which PyTorch looks for when it imports its compiler
        monkeypatch.setitem(sys.modules, name, module)
    runtime = sys.modules["onnxruntime"]
    monkeypatch.setattr(
        runtime, "InferenceSession", lambda path, providers: made[0].session(path, providers), raising=False
    )
    monkeypatch.setattr(torch.onnx, "export", lambda program, **_: made.append(_StandInProgram(program)) or made[0])
    model = build_model(VARIANTS["mlp"], vocab_size=6, seq_len=16, num_identifiers=1000)
    exported = export(model, tmp_path / "model.onnx", kind="onnx", steps=2, most_onnx_bytes=most_bytes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", *beside]
    assert exported.num_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
