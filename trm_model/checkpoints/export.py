"""Export a trained model as ONNX or a `torch.export` program: one supervision step, or a loop of D steps.

Shapes: B batch (free in the exported program), C grid cells, L tokens, D width, V vocabulary. Puzzle embeddings are
looked up inside, by id. Every export is run and compared with PyTorch before it is returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from trm_data.errors import UserError, nearest
from trm_data.files import make_folder, temporary_folder
from trm_model.model.recursion import Model

Kind = Literal["onnx", "torch"]
_TOLERANCE = 0.02
"""In logits. Deep recursion amplifies rounding: four steps of random weights made 1e-3 of differences of 1e-6."""

_MOST_ONNX_BYTES = 2**31 - 2**26
"""Protobuf's limit, less some room for the graph."""


class ExportError(UserError):
    """Raised for a model that cannot be exported on this machine, or whose export computes different numbers."""


def kind_of(name: str) -> Kind:
    """Return the kind of program that a user names.

    Raises:
        ExportError: there is no such format.
    """
    if name not in get_args(Kind):
        raise ExportError(f"unknown format {name!r}", nearest(name, get_args(Kind)))
    return cast("Kind", name)


class OneStep(nn.Module):
    """Map (inputs (B, C), ids (B), states (B, L, D) ...) to (logits (B, C, V), halt logits (B), new states ...)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs_BC: Tensor, ids_B: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        table = self.model.puzzle_embedding
        output = self.model(states, inputs_BC, None if table is None else table.weight[ids_B])
        return output.logits_BCV, output.halt_logits_B, *output.states


class WholeLoop(nn.Module):
    """Map (inputs (B, C), ids (B)) to (cells (B, C), halt logits (B), logits (B, C, V)) after a fixed number of
    steps."""

    def __init__(self, model: Model, steps: int) -> None:
        super().__init__()
        self.one = OneStep(model)
        self.steps = steps

    def forward(self, inputs_BC: Tensor, ids_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = self.one.model.start(inputs_BC.shape[0], torch.float32)
        for _ in range(self.steps):
            logits_BCV, halt_logits_B, *states = self.one(inputs_BC, ids_B, *states)
        return logits_BCV.argmax(-1), halt_logits_B, logits_BCV


@dataclass(frozen=True, slots=True)
class Exported:
    """Describe what was written, and its largest difference from PyTorch's numbers."""

    path: Path
    num_bytes: int
    largest_difference: float


def export(
    model: Model, path: Path, *, kind: Kind, steps: int | None = None, most_onnx_bytes: int = _MOST_ONNX_BYTES
) -> Exported:
    """Write one supervision step (`steps` None) or a loop of `steps`, and check it against PyTorch on another batch.

    An ONNX file holds at most 2 GiB. The weights of a larger model, such as one with a table of a million puzzle
    embeddings, are written to `PATH.data`, which belongs to it.

    Args:
        most_onnx_bytes: weights above this many bytes are written to a file of their own.

    Raises:
        ExportError: ONNX is requested and not installed, or the results differ.
    """
    module = (OneStep(model) if steps is None else WholeLoop(model, steps)).eval()
    example, other = _arguments(model, steps, 2), _arguments(model, steps, 3)
    free = {0: torch.export.Dim("batch")}
    shapes = (free, free) if steps is not None else (free, free, tuple(free for _ in example[2:]))
    make_folder(path.parent)
    with torch.no_grad(), temporary_folder(path.parent, is_own=False) as aside:
        program = torch.export.export(module, example, dynamic_shapes=shapes, strict=False)
        expected = [value.numpy() for value in module(*other)]
        made = aside / path.name
        if kind == "onnx":
            found = _write_onnx(program, other, made, _num_bytes(model) > most_onnx_bytes)
        else:
            torch.export.save(program, made)
            found = [value.numpy() for value in program.module()(*other)]
        # Cells follow from the logits, and flip where two are equal but for rounding.
        floats = [(a, b) for a, b in zip(expected, found, strict=True) if a.dtype == np.float32]
        difference = max(float(np.abs(a - b).max()) for a, b in floats)
        if difference > _TOLERANCE:
            what = f"the exported program differs from PyTorch by {difference:.2g}"
            raise ExportError(what, "Report this as a defect")
        written = sorted(aside.iterdir(), key=lambda file: file == made)  # the program last: it needs the others
        num_bytes = sum(file.stat().st_size for file in written)
        for file in written:
            file.replace(path.parent / file.name)
    return Exported(path, num_bytes, difference)


def _num_bytes(model: Model) -> int:
    return sum(value.nbytes for value in model.state_dict().values())


def _arguments(model: Model, steps: int | None, batch_size: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch_size)
    inputs_BC = torch.randint(0, model.vocab_size, (batch_size, model.num_cells), generator=generator)
    ids_B = torch.zeros(batch_size, dtype=torch.int64)
    if steps is not None:
        return inputs_BC, ids_B
    states = [state.contiguous() for state in model.start(batch_size, torch.float32)]
    return inputs_BC, ids_B, *states


def _write_onnx(
    program: torch.export.ExportedProgram, arguments: tuple[Tensor, ...], path: Path, external_data: bool
) -> list[Any]:
    """Write the program, and with `external_data` its weights to `PATH.data`; run what was written and return that."""
    try:
        import onnxruntime  # type: ignore[import-untyped,unused-ignore]
        import onnxscript  # noqa: F401  (the exporter needs it)
    except ImportError as error:
        raise ExportError(f"ONNX needs the package {error.name}", "pip install onnx onnxscript onnxruntime") from error
    converted = torch.onnx.export(program, dynamo=True, verbose=False)
    assert converted is not None
    converted.save(str(path), external_data=external_data)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    values = dict(zip(names, (argument.numpy() for argument in arguments), strict=True))
    outputs: list[Any] = session.run(None, values)
    return outputs
