"""Measure training steps against an equivalent plain implementation in the same run, and ARC voting.

    python benchmarks/model.py [--threads N] [--rounds N] [--case NAME ...]

The plain implementation is straightforward PyTorch: eager modules, the default matrix library, weights cast at every
use, operations one by one. Both sides run the same steps in turns; a figure is the median over rounds, and the ratio
is computed per round. With one thread, seconds are CPU time, so that other work on the machine does not count; with
several they are wall time. Efficiency is the share of the step that its matrix products take when they run alone,
one after the other, in the same shapes and layouts; the breakdown shows the rest.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from orchestrator.worker.provenance import processor
from trm_data import build
from trm_data.config import DataRequest
from trm_data.dataset.loader import TrainLoader
from trm_data.puzzles.arc import grid_hash
from trm_data.puzzles.kinds import kind_of
from trm_data.puzzles.symmetry import arc_colours, dihedral
from trm_model import cost
from trm_model.config import ModelConfig
from trm_model.device import DTYPES
from trm_model.evaluation.voting import Votes
from trm_model.model.halting import Carry
from trm_model.model.precision import choose_products
from trm_model.model.recursion import Model, build_model
from trm_model.training.ema import MovingAverage
from trm_model.training.optim import AdamAtan2, FlatParameters
from trm_model.training.supervision import supervise

CASES: dict[str, tuple[dict[str, Any], str, int]] = {
    "mlp-512-float32": ({"mixer": "mlp", "positions": "none"}, "float32", 4),
    "mlp-512-float32-fast": ({"mixer": "mlp", "positions": "none"}, "float32-fast", 4),
    "mlp-512-bfloat16": ({"mixer": "mlp", "positions": "none"}, "bfloat16", 8),
    "attention-512-float32": ({}, "float32", 4),
    "attention-512-float32-fast": ({}, "float32-fast", 4),
    "attention-512-bfloat16": ({}, "bfloat16", 8),
    "attention-128-bfloat16": ({"hidden_size": 128, "num_heads": 4}, "bfloat16", 32),
    "mlp-64-bfloat16": (
        {"mixer": "mlp", "positions": "none", "hidden_size": 64, "num_heads": 4, "cycles": 2, "latent_steps": 2},
        "bfloat16",
        64,
    ),
}
CELLS, VOCAB = 81, 11


class PlainBlock(nn.Module):
    """Run a block with per-call casts and operations one by one, on the weights of ours."""

    def __init__(self, block: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weights = nn.ParameterDict(
            {name.replace(".", "_"): nn.Parameter(value.clone()) for name, value in block.named_parameters()}
        )

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[name].to(x.dtype))

    def norm(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.config.norm_epsilon)
        return wide.to(x.dtype)

    def swiglu(self, x: Tensor, name: str) -> Tensor:
        gate, up = self.linear(x, f"{name}_gate_up").chunk(2, dim=-1)
        return self.linear(F.silu(gate) * up, f"{name}_down")

    def attention(self, x_BLD: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
        batch, tokens, width = x_BLD.shape
        heads = self.config.num_heads
        q, k, v = self.linear(x_BLD, "attention_qkv").view(batch, tokens, 3 * heads, -1).chunk(3, dim=2)
        if cos is not None and sin is not None:
            q, k = (_rotated(part, cos, sin) for part in (q, k))
        mixed = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)))
        return self.linear(mixed.transpose(1, 2).reshape(batch, tokens, width), "attention_out")

    def forward(self, x: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
        if self.config.mixer == "mlp":
            x = x.transpose(1, 2)
            x = self.norm(x + self.swiglu(x, "token_mixer")).transpose(1, 2)
        else:
            x = self.norm(x + self.attention(x, cos, sin))
        return self.norm(x + self.swiglu(x, "swiglu"))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = x.to(torch.float32)
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]).to(x.dtype)


class PlainStep:
    """Run one step the plain way: forward, backward, a per-parameter optimizer and average."""

    def __init__(self, model: Model, carry: Carry, dtype: torch.dtype) -> None:
        self.config, self.carry, self.dtype = model.config, carry, dtype
        blocks = model.recursion.latent_network.blocks
        self.blocks = nn.ModuleList(PlainBlock(block, model.config) for block in blocks)
        self.embedding = nn.Parameter(model.token_embedding.detach().clone())
        self.head = nn.Parameter(model.answer_head.detach().clone())
        self.parameters = [*self.blocks.parameters(), self.embedding, self.head]
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters]
        self.average = [p.detach().clone() for p in self.parameters]
        table = model.rotary(dtype)
        self.cos, self.sin = (None, None) if table is None else table
        self.prefix = model.config.puzzle_embedding_len

    def network(self, hidden: Tensor, injection: Tensor) -> Tensor:
        hidden = hidden + injection
        for block in self.blocks:
            hidden = block(hidden, self.cos, self.sin)
        return hidden

    def cycle(self, answer: Tensor, latent: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(self.config.latent_steps):
            latent = self.network(latent, answer + x)
        return self.network(answer, latent), latent

    def __call__(self) -> None:
        x = F.embedding(self.carry.inputs_BC.int(), self.embedding).to(self.dtype) * self.config.hidden_size**0.5
        x = F.pad(x, (0, 0, self.prefix, 0))
        answer, latent = self.carry.states
        with torch.no_grad():
            for _ in range(self.config.cycles - 1):
                answer, latent = self.cycle(answer, latent, x)
        answer, latent = self.cycle(answer, latent, x)
        logits = F.linear(answer, self.head.to(self.dtype))[:, self.prefix :].double()
        scores = torch.where(logits < 0, 1 / (1 - logits + 1e-30), logits + 1)
        shares = torch.log(scores / scores.sum(-1, keepdim=True))
        loss = -shares.gather(-1, self.carry.labels_BC.long().unsqueeze(-1)).mean()
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        for p, (first, second), average in zip(self.parameters, self.moments, self.average, strict=True):
            assert p.grad is not None
            p.mul_(1 - 1e-4)
            first.lerp_(p.grad, 0.1)
            second.lerp_(p.grad * p.grad, 0.05)
            p.sub_(torch.atan2(first, second.sqrt()), alpha=1e-4)
            average.lerp_(p, 0.001)


class OurStep:
    """Run the same step with the code of this project."""

    def __init__(self, model: Model, carry: Carry, dtype: torch.dtype) -> None:
        self.model, self.carry, self.dtype = model, carry, dtype
        self.flat = FlatParameters(model)
        self.optimizer = AdamAtan2(self.flat.vector, (0.9, 0.95), 1.0)
        self.average = MovingAverage(self.flat.vector, 0.999)
        self.earliest = torch.zeros(len(carry.steps_B))

    def __call__(self, after: Callable[[str], None] = lambda phase: None) -> None:
        assert self.model.puzzle_embedding is not None
        rows = self.model.puzzle_embedding.rows(self.carry.puzzle_ids_B, trained=True)
        done = supervise(self.model, self.flat.weights(self.dtype), self.carry, rows, self.earliest, "stablemax")
        after("forward")
        self.flat.vector.grad = None
        done.loss.backward()
        after("backward")
        self.optimizer.step(self.flat.vector, self.flat.grad, 1e-4)
        self.average.update(self.flat.vector)
        after("update")


def now() -> float:
    """Return CPU seconds with one thread, which other work does not change; else wall-clock seconds."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def timed(step: Callable[[], Any]) -> float:
    started = now()
    step()
    return now() - started


class Products(TorchDispatchMode):
    """Record the matrix products of a step: which, in what shapes and layouts, how often in each phase."""

    KINDS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.addmm.default)

    def __init__(self) -> None:
        super().__init__()
        self._now: Counter[Any] = Counter()
        self.phases: dict[str, Counter[Any]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in self.KINDS:
            self._now[function, tuple((tuple(arg.shape), arg.stride(), arg.dtype) for arg in args)] += 1
        return function(*args, **(kwargs or {}))

    def after(self, phase: str) -> None:
        self.phases[phase], self._now = self._now, Counter()

    def seconds(self, phase: str) -> float:
        """Return the seconds of a phase's products run one after the other, each at its fastest."""
        total = 0.0
        for (function, layouts), count in self.phases[phase].items():
            operands = [torch.empty_strided(size, stride, dtype=dtype).normal_() for size, stride, dtype in layouts]
            total += count * min(timed(lambda: function(*operands)) for _ in range(5))  # noqa: B023
        return total


def breakdown(step: OurStep, rounds: int) -> dict[str, float]:
    """Return shares of a step: its matrix products alone, the rest of the forward and the backward pass, the update."""
    products = Products()
    with products:
        step(products.after)
    spent: dict[str, list[float]] = {"forward": [], "backward": [], "update": []}
    for _ in range(rounds):
        last = now()

        def after(phase: str) -> None:
            nonlocal last
            spent[phase].append(now() - last)
            last = now()

        step(after)
    seconds = {phase: statistics.median(values) for phase, values in spent.items()}
    alone = {phase: products.seconds(phase) for phase in ("forward", "backward")}
    whole = sum(seconds.values())
    shares = {"products": sum(alone.values()), "update": seconds["update"]}
    shares |= {f"rest_of_{phase}": seconds[phase] - alone[phase] for phase in alone}
    return {name: round(value / whole, 3) for name, value in shares.items()}


def fetch_seconds(batch: int) -> float:
    """Measure fetching a whole batch of 9x9 Sudoku, every slot new."""
    with tempfile.TemporaryDirectory() as folder:
        request = DataRequest(benchmark="sudoku-9x9", num_train=64, num_validation=0, num_test=1)
        loader = TrainLoader(build(request, Path(folder)), batch_size=batch, num_augmentations=1000, seed=0)
        return min(timed(lambda: loader.fetch(step, np.arange(batch))) for step in range(10))  # noqa: B023


def compare(name: str, rounds: int) -> dict[str, Any]:
    """Return median seconds of both sides, the median ratio, and the breakdown of ours."""
    settings, kind, batch = CASES[name]
    dtype, cpu = DTYPES[kind], torch.device("cpu")
    config = ModelConfig.parse(settings)
    model = build_model(config, vocab_size=VOCAB, seq_len=CELLS, num_identifiers=1)
    generator = torch.Generator().manual_seed(0)
    carry = Carry(
        states=tuple(state.contiguous() for state in model.start(batch, dtype)),
        steps_B=torch.zeros(batch, dtype=torch.int32),
        halted_B=torch.ones(batch, dtype=torch.bool),
        inputs_BC=torch.randint(1, VOCAB, (batch, CELLS), generator=generator).to(torch.uint8),
        labels_BC=torch.randint(1, VOCAB, (batch, CELLS), generator=generator).short(),
        puzzle_ids_B=torch.zeros(batch, dtype=torch.int32),
    )
    plain, ours = PlainStep(model, carry, dtype), OurStep(model, carry, dtype)
    seconds: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        torch.backends.mkldnn.matmul.fp32_precision = "none"  # type: ignore[attr-defined]  # as PyTorch comes
        one = timed(plain)
        choose_products(cpu, rounded=kind == "float32-fast")
        two = timed(ours)
        if number:  # the first round warms up
            seconds.append((one, two))
    flops = batch * cost.train_flops(config, seq_len=CELLS, vocab_size=VOCAB)
    ours_s = statistics.median(two for _, two in seconds)
    return {
        "case": name,
        "batch": batch,
        "plain_s": round(statistics.median(one for one, _ in seconds), 4),
        "ours_s": round(ours_s, 4),
        "ratio": round(statistics.median(one / two for one, two in seconds), 2),
        "gflops": round(flops / ours_s / 1e9, 1),
        "shares": breakdown(ours, rounds) | {"fetch": round(fetch_seconds(batch) / ours_s, 4)},
    }


def arc_votes(rows: int = 385_815, batch: int = 4096) -> dict[str, Any]:
    """Undo, hash and count the answers of a whole ARC-AGI-1 evaluation with 1,000 augmentations, three in ten wrong."""
    generator = np.random.default_rng(0)
    grids = [frame_of(generator.integers(2, 12, generator.integers(3, 20, 2), np.uint8)) for _ in range(400)]
    votes, spent, undo = Votes(), 0.0, kind_of("arc").undo
    undo(grids[0][None], np.zeros(1, np.uint64), 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, rows, batch):
        items = np.arange(start, min(start + batch, rows)) % len(grids)
        answers = np.stack([grids[item] for item in items])
        wrong = generator.random(len(items)) < 0.3
        answers[wrong, generator.integers(0, 3, wrong.sum())] = generator.integers(2, 12, wrong.sum())
        codes = generator.integers(0, 8, len(items)).astype(np.uint64)
        logits = generator.standard_normal(len(items))
        spent += timed(lambda: votes.add(items, undo(answers, codes, 30), logits))  # noqa: B023
    spent += timed(lambda: [votes.ranking(item) for item in votes.items])  # type: ignore[arg-type,return-value]
    crop(grids[0])
    plain_s = rows / 2000 * timed(lambda: plain_votes(grids, codes_of_task=5, rows=2000))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "case": "arc-votes",
        "rows": rows,
        "plain_s": round(plain_s, 2),
        "ours_s": round(spent, 2),
        "ratio": round(plain_s / spent, 1),
        "grown_mb": round(grown / 1024, 1),
    }


def plain_votes(grids: list[np.ndarray], codes_of_task: int, rows: int) -> None:
    """Count the same votes row by row: crop, turn back, recolour, sha256, count."""
    seen: dict[tuple[int, str], list[float]] = {}
    colours = np.argsort(arc_colours(codes_of_task))
    for row in range(rows):
        item = row % len(grids)
        grid = colours[dihedral(crop(grids[item]), codes_of_task % 8)]
        seen.setdefault((item, grid_hash(grid)), []).append(0.5)


@numba.njit
def crop(cells: np.ndarray) -> np.ndarray:
    """Return the largest rectangle of colours at the corner, compiled as the official evaluator does."""
    grid = cells.reshape(30, 30)
    best, rows, cols, width = 0, 0, 0, 30
    for height in range(1, 31):
        for col in range(width):
            if grid[height - 1, col] < 2 or grid[height - 1, col] > 11:
                width = col
                break
        if height * width > best:
            best, rows, cols = height * width, height, width
    return grid[:rows, :cols] - 2


def frame_of(grid: np.ndarray) -> np.ndarray:
    cells = np.zeros((30, 30), np.uint8)
    cells[: grid.shape[0], : grid.shape[1]] = grid
    return cells.reshape(-1)


def instructions() -> list[str]:
    """Return which of the instructions that decide how products are computed this processor has."""
    flags = set(Path("/proc/cpuinfo").read_text().split()) if Path("/proc/cpuinfo").exists() else set()
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", nargs="*", choices=[*CASES, "arc-votes"], default=[*CASES, "arc-votes"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        json.dumps(
            {"processor": processor(), "instructions": instructions(), "torch": torch.__version__, **vars(options)}
        )
    )
    for name in options.case:
        print(json.dumps(arc_votes() if name == "arc-votes" else compare(name, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
