"""Measure step time, memory against prediction, compilation, share of peak and energy of published recipes on a GPU.

    python benchmarks/gpu.py [--recipe NAME ...] [--batch N] [--steps N] [--no-compile] [--device cuda|cpu]

Needs torch and this project, nothing else: no dataset, no ray, optuna or mlflow. Inputs are random symbols of the
benchmark's shape. One JSON line per measurement goes to standard output. `--device cpu` with a small recipe tries the
script itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch

from orchestrator.worker.telemetry import gpus_of
from trm_model import cost
from trm_model.config import TrialConfig
from trm_model.device import DTYPES
from trm_model.model.halting import Carry
from trm_model.model.precision import choose_products
from trm_model.model.recursion import build_model
from trm_model.recipes import get_recipe
from trm_model.training.ema import MovingAverage
from trm_model.training.optim import FlatParameters, build_optimizer
from trm_model.training.supervision import supervise

RECIPES = [
    "sudoku-mlp.readme",
    "sudoku-att.readme",
    "maze-att.readme",
    "arc-agi-1.readme",
    "hrm.sudoku",
    "sudoku.direct",
]
SHAPES = {"sudoku-6x6": (36, 8), "sudoku": (81, 11), "maze": (900, 6), "arc": (900, 12)}
"""Cells and symbols by the beginning of a benchmark's name; the longest that fits counts."""
PEAK_TFLOPS = {"H100 PCIe": 756, "H100": 989, "H200": 989, "L40S": 362, "A100": 312, "L4": 121, "4090": 165}
"""Dense bfloat16 by part of the device name, from the vendors' data sheets."""
ROOM = 0.9
"""Of a GPU's memory: the rest is the allocator's and the driver's."""


class Step:
    """Run one training step of a recipe on random data."""

    def __init__(self, config: TrialConfig, cells: int, vocab: int, device: torch.device, *, compiled: bool) -> None:
        self.config, self.dtype = config, DTYPES[config.train.dtype]
        self.model = build_model(config.model, vocab_size=vocab, seq_len=cells, num_identifiers=1024).to(device)
        if compiled:
            for network in self.model.recursion.networks():
                network.compile()
        self.flat = FlatParameters(self.model)
        self.optimizer = build_optimizer(config.optimizer, self.flat)
        self.average = MovingAverage(self.flat.vector, 0.999)
        size = config.train.batch_size
        generator = torch.Generator().manual_seed(0)
        symbols = torch.randint(1, vocab, (2, size, cells), generator=generator, dtype=torch.uint8).to(device)
        self.carry = Carry(
            states=tuple(state.contiguous() for state in self.model.start(size, self.dtype)),
            steps_B=torch.zeros(size, dtype=torch.int32, device=device),
            halted_B=torch.ones(size, dtype=torch.bool, device=device),
            inputs_BC=symbols[0],
            labels_BC=symbols[1].int(),
            puzzle_ids_B=torch.arange(size, device=device, dtype=torch.int32) % 1024,
        )
        self.earliest_B = torch.zeros(size, device=device)

    def __call__(self) -> None:
        table, optimizer = self.model.puzzle_embedding, self.config.optimizer
        rows = None if table is None else table.rows(self.carry.puzzle_ids_B, trained=True)
        weights = self.flat.weights(self.dtype)
        done = supervise(self.model, weights, self.carry, rows, self.earliest_B, self.config.train.loss)
        done.carry.halted_B.cpu()  # as in training, the host must know who has halted
        self.flat.vector.grad = None
        (done.loss / self.config.train.batch_size).backward()
        if table is not None and rows is not None and rows.grad is not None:
            table.update(self.carry.puzzle_ids_B, rows.grad, optimizer.puzzle_embedding_lr, 0.1, step=1)
        self.optimizer.step(self.flat.vector, self.flat.grad, optimizer.lr)
        self.average.update(self.flat.vector)
        self.carry = done.carry


def fitted(
    config: TrialConfig, batch: int | None, shape: dict[str, int], device: torch.device, *, compiled: bool
) -> TrialConfig:
    """Return the recipe with a batch that fits on the device: its own, halved until it fits. Published runs of mazes
    and ARC had four or eight GPUs for a batch that does not fit on one; training uses such a part as
    `runtime.micro_batch_size`."""
    size = batch or config.train.batch_size
    room = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 2**62
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"compile": compiled})})
    while True:
        config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": size})})
        if batch or cost.peak_bytes(config, num_identifiers=1024, device=device.type, **shape) < ROOM * room:
            return config
        size //= 2


def measure(name: str, options: argparse.Namespace, *, compiled: bool) -> dict[str, Any]:
    """Return seconds per step, peak bytes and predicted bytes, FLOP/s and the share of peak of one recipe."""
    config = get_recipe(name)
    benchmark = config.data.benchmark
    cells, vocab = SHAPES[max((key for key in SHAPES if benchmark.startswith(key)), key=len)]
    shape = {"seq_len": cells, "vocab_size": vocab}
    device = torch.device(options.device)
    config = fitted(config, options.batch, shape, device, compiled=compiled)
    choose_products(device, rounded=config.train.dtype == "float32-fast")
    on_gpu = device.type == "cuda"
    torch.compiler.reset()  # what other recipes compiled counts against this one
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    step = Step(config, cells, vocab, device, compiled=compiled)
    step()
    warm_s = time.perf_counter() - started
    seconds, gpus = [], gpus_of(device.type)
    before_j = gpus.energy_j() if gpus else None
    for _ in range(options.steps):
        started = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    step_s, after_j = statistics.median(seconds), gpus.energy_j() if gpus else None
    joules = None if before_j is None or after_j is None else after_j - before_j
    rate = config.train.batch_size * cost.train_flops(config.model, **shape) / step_s
    predicted = cost.peak_bytes(config, num_identifiers=1024, device=device.type, **shape)
    title = torch.cuda.get_device_name() if on_gpu else "cpu"
    peak = next((tflops for part, tflops in PEAK_TFLOPS.items() if part in title), None)
    measured = torch.cuda.max_memory_allocated() if on_gpu else None
    return {
        "recipe": name,
        "device": title,
        "batch": config.train.batch_size,
        "compiled": compiled,
        "warm_up_s": round(warm_s, 2),
        "step_s": round(step_s, 5),
        "examples_per_s": round(config.train.batch_size / step_s, 1),
        "tflops": round(rate / 1e12, 2),
        "share_of_peak": None if peak is None else round(rate / 1e12 / peak, 3),
        "joules_per_step": None if joules is None else round(joules / options.steps, 2),
        "predicted_gib": round(predicted / 2**30, 3),
        "peak_gib": None if measured is None else round(measured / 2**30, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="*", default=RECIPES)
    parser.add_argument("--batch", type=int, help="instead of the recipe's own")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu tries the script itself")
    for name in options.recipe:
        for compiled in (False,) if options.no_compile else (False, True):
            try:
                found = measure(name, options, compiled=compiled)
            except torch.OutOfMemoryError as error:
                found = {"recipe": name, "compiled": compiled, "out_of_memory": str(error).splitlines()[0]}
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
