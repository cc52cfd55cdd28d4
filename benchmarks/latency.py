"""Measure milliseconds per puzzle on one CPU core: PyTorch against exported programs, a whole loop, one puzzle at a
time.

    python benchmarks/latency.py [--recipe NAME] [--steps D] [--rounds N]

Random weights: the time does not depend on them. ONNX is measured where onnxruntime and onnxscript are installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from trm_model.checkpoints.export import ExportError, WholeLoop, export
from trm_model.model.recursion import build_model
from trm_model.recipes import get_recipe


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """Return the median of `rounds` calls, after two for warm-up."""
    spent = []
    for _ in range(rounds + 2):
        started = time.perf_counter()
        call()
        spent.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(spent[2:]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="sudoku-9x9-mini")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = get_recipe(options.recipe).model
    model = build_model(config, vocab_size=11, seq_len=81, num_identifiers=1)
    inputs, ids = torch.ones(1, 81, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    found: dict[str, float | str] = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        loop = WholeLoop(model, options.steps).eval()
        found["pytorch_ms"] = milliseconds(lambda: loop(inputs, ids), options.rounds)
        export(model, Path(folder) / "loop.pt2", kind="torch", steps=options.steps)
        program = torch.export.load(Path(folder) / "loop.pt2").module()
        found["torch_export_ms"] = milliseconds(lambda: program(inputs, ids), options.rounds)
        try:
            written = export(model, Path(folder) / "loop.onnx", kind="onnx", steps=options.steps)
        except ExportError as error:
            found["onnx"] = str(error)
        else:
            found["onnx_ms"] = onnx_milliseconds(written.path, inputs, ids, options.rounds)
    print(json.dumps({**vars(options), **found}))


def onnx_milliseconds(path: Path, inputs: torch.Tensor, ids: torch.Tensor, rounds: int) -> float:
    """Measure onnxruntime with one thread."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    values = dict(zip(names, (inputs.numpy(), ids.numpy()), strict=True))
    return milliseconds(lambda: session.run(None, values), rounds)


if __name__ == "__main__":
    main()
