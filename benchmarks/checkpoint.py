"""Compare the bytes and seconds of checkpoints with row deltas and with whole files, at the size of ARC-AGI-1.

    python benchmarks/checkpoint.py [--tasks N] [--slots N] [--life STEPS ...] [--batches N ...] [--folder PATH]

The state is that of the `arc-agi-1.readme` recipe with 1,000 augmentations and random numbers: 960 x 1,001 rows of
512 embeddings, weights, moments, average, and the carry of all slots. Every step changes the rows of its slots; a
slot keeps its puzzle for `life` steps, so a life of 1 is the worst case. Both methods run the same code on the same
folder in turns. Needs 12 GB of memory and of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.worker.provenance import processor
from trm_model.checkpoints.run_checkpoints import RunCheckpoints
from trm_model.checkpoints.store import Checkpoint, LocalCheckpoints, checkpoint_names, pack, read
from trm_model.checkpoints.table_deltas import CHANGED_AT, TABLE
from trm_model.cost import num_parameters
from trm_model.recipes import get_recipe

CELLS, VOCAB = 900, 12


class State:
    """Hold everything that a checkpoint of the run contains, and run steps that change only the table."""

    def __init__(self, rows: int, slots: int, life: int) -> None:
        model = get_recipe("arc-agi-1.readme").model
        self.generator = torch.Generator().manual_seed(0)
        self.step, self.slots, self.life = 0, slots, life
        self.table, self.changed_at = torch.zeros(rows, model.hidden_size), torch.zeros(rows, dtype=torch.int32)
        self.ids = self.drawn(slots)
        weights = num_parameters(model, seq_len=CELLS, vocab_size=VOCAB)
        self.rest = {name: torch.randn(weights) for name in ("model/weights", "ema/0.999/weights")}
        self.rest |= {f"optimizer/{name}": torch.randn(weights) for name in ("first", "second")}
        tokens = CELLS + model.puzzle_embedding_len
        for number in range(2):
            states = torch.randn(slots, tokens, model.hidden_size, dtype=torch.bfloat16, generator=self.generator)
            self.rest[f"carry/state_{number}"] = states

    def drawn(self, count: int) -> Tensor:
        return torch.randint(0, len(self.table), (count,), generator=self.generator)

    def run(self, steps: int) -> None:
        """Run steps in which every slot's row changes and one in `life` slots takes a new puzzle."""
        for _ in range(steps):
            self.step += 1
            fresh = torch.arange(self.step % self.life, self.slots, self.life)
            self.ids[fresh] = self.drawn(len(fresh))
            self.table[self.ids] += torch.randn(self.slots, 1, generator=self.generator)
            self.changed_at[self.ids] = self.step

    def checkpoint(self) -> Checkpoint:
        table = {TABLE: self.table, CHANGED_AT: self.changed_at}
        return Checkpoint(self.rest | table, {"step": self.step, "config": {}})


def timed(call: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    value = call()
    return value, round(time.perf_counter() - started, 2)


def write_whole(store: LocalCheckpoints, checkpoint: Checkpoint) -> int:
    data = pack(checkpoint.tensors, checkpoint.header)
    store.write("step-00000001.safetensors", data)
    return len(data)


def measure(options: argparse.Namespace, life: int, batches: int, count: int, folder: Path) -> dict[str, Any]:
    """Write `count` checkpoints, `batches` steps apart, with both methods in turns."""
    state = State(options.tasks * 1001, options.slots, life)
    whole, deltas = LocalCheckpoints(folder / "whole"), LocalCheckpoints(folder / "deltas")
    kept = RunCheckpoints(deltas)
    figures: list[tuple[int, float, int, float]] = []
    for _ in range(count):
        state.run(batches)
        checkpoint = state.checkpoint()
        num_bytes, whole_s = timed(lambda: write_whole(whole, checkpoint))  # noqa: B023
        written, delta_s = timed(lambda: kept.write(checkpoint))  # noqa: B023
        kept.prune(keep=2, best_step=None)
        figures.append((num_bytes, whole_s, written.num_bytes, delta_s))
    _, whole_read_s = timed(lambda: read(whole, "step-00000001.safetensors"))
    found, read_s = timed(lambda: read(deltas, checkpoint_names(deltas)[-1]))
    assert torch.equal(found.tensors[TABLE], state.table)
    on_disk = sum(path.stat().st_size for path in deltas.path.iterdir())
    for store in (whole, deltas):
        for name in store.names():
            store.delete(name)
    sums = [sum(column) for column in zip(*figures, strict=True)]
    rest = sum(value.nbytes for value in state.rest.values())
    return {
        "batches_between": batches,
        "life": life,
        "checkpoints": count,
        "rows_changed": int((state.changed_at > 0).sum()),
        "whole_mb": round(sums[0] / count / 1e6),
        "deltas_mb": round(sums[2] / count / 1e6),
        "of_that_not_table_mb": round(rest / 1e6),
        "whole_s": round(sums[1] / count, 2),
        "deltas_s": round(sums[3] / count, 2),
        "bytes_ratio": round(sums[0] / sums[2], 2),
        "table_bytes_ratio": round((sums[0] - count * rest) / max(1, sums[2] - count * rest), 2),
        "seconds_ratio": round(sums[1] / sums[3], 2),
        "read_whole_s": whole_read_s,
        "read_deltas_s": read_s,
        "on_disk_mb": round(on_disk / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=960)
    parser.add_argument("--slots", type=int, default=768)
    parser.add_argument("--life", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--batches", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--checkpoints", type=int, default=5, help="in a row, so that bases count in their share")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    machine = processor()
    print(json.dumps({"machine": machine, "load": os.getloadavg()[0], "torch": torch.__version__}))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for life in options.life:
            for batches in options.batches:
                for count in sorted({1, options.checkpoints}):
                    print(json.dumps(measure(options, life, batches, count, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
