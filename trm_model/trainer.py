"""The state of a training run and one step of it.

One optimizer step is one supervision step of every slot of the batch. All randomness is a pure function of the seed
and the step, so a checkpoint needs no generator state, and 10 steps straight equal 5, a resume and 5 more, bit for
bit on one CPU with the same number of threads. Shapes: B batch (slots), C grid cells, E puzzle embedding.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trm_data.errors import ConfigError
from trm_data.loader import TrainLoader
from trm_model.checkpoint import Checkpoint, CheckpointError, pack
from trm_model.config import TrialConfig
from trm_model.ema import MovingAverage
from trm_model.evaluate import EvalResult, evaluate
from trm_model.halting import Carry, earliest_halt
from trm_model.losses import as_targets
from trm_model.optim import FlatParameters, build_optimizer, schedule
from trm_model.recursion import Weights, build_model
from trm_model.supervision import SUMS, supervise

if TYPE_CHECKING:
    from trm_data import Dataset

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one.

    Raises:
        ConfigError: CUDA is asked for and not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device='cuda', but this machine has no usable CUDA device", "Set it to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


class Trainer:
    """Everything that a run changes from step to step, and how one step changes it."""

    def __init__(self, config: TrialConfig, dataset: Dataset, device: torch.device) -> None:
        self.config = config
        self.dataset = dataset
        self.device = device
        self.dtype = DTYPES[config.train.dtype]
        self.num_identifiers = dataset.num_identifiers(config.data.num_augmentations)
        self.model = build_model(
            config.model,
            vocab_size=dataset.vocab_size,
            seq_len=dataset.seq_len,
            num_identifiers=self.num_identifiers,
            seed=config.seed,
        ).to(device)
        self.flat = FlatParameters(self.model)
        self.optimizer = build_optimizer(config.optimizer, self.flat.vector)
        rate = config.optimizer.ema_rate
        self.average = MovingAverage(self.flat.vector, rate) if rate else None
        self.loader = TrainLoader(
            dataset,
            splits=config.data.train_splits,
            batch_size=config.train.batch_size,
            num_augmentations=config.data.num_augmentations,
            seed=config.seed,
            translation=config.data.translation,
        )
        self.step = 0
        self.puzzles_presented = 0
        self.carry = self._empty_carry()
        self._halted = np.ones(config.train.batch_size, np.bool_)

    def _empty_carry(self) -> Carry:
        size, device = self.config.train.batch_size, self.device
        cells = torch.zeros(size, self.dataset.seq_len, dtype=torch.uint8, device=device)
        return Carry(
            states=self.model.start(size, self.dtype),
            steps_B=torch.zeros(size, dtype=torch.int32, device=device),
            halted_B=torch.ones(size, dtype=torch.bool, device=device),
            inputs_BC=cells,
            labels_BC=cells.short(),
            puzzle_ids_B=torch.zeros(size, dtype=torch.int32, device=device),
        )

    def _refill(self) -> None:
        """Fetch new puzzles for the slots whose sequence has halted, and only for them."""
        slots = np.flatnonzero(self._halted)
        if not len(slots):
            return
        batch = self.loader.fetch(self.step, slots)
        self.puzzles_presented += len(slots)
        place = torch.from_numpy(slots).to(self.device)
        for target, rows in (
            (self.carry.inputs_BC, torch.tensor(batch.inputs)),
            (self.carry.labels_BC, as_targets(torch.tensor(batch.labels))),
            (self.carry.puzzle_ids_B, torch.tensor(batch.puzzle_ids)),
        ):
            target.index_copy_(0, place, rows.to(self.device))

    def learning_rate(self, peak: float) -> float:
        """The rate of the coming update."""
        settings = self.config.optimizer
        return peak * schedule(
            self.step + 1,
            warmup_steps=settings.warmup_steps,
            max_steps=self.config.train.max_steps,
            min_ratio=settings.lr_min_ratio,
        )

    def train_step(self) -> tuple[float, np.ndarray]:
        """One optimizer step: the mean loss and the sums in the order of `SUMS`. None is made from a loss that is not
        finite."""
        config, size = self.config, self.config.train.batch_size
        self._refill()
        earliest = earliest_halt(
            config.seed,
            self.step,
            range(size),
            supervision_steps=config.model.supervision_steps,
            exploration=config.model.halt_exploration,
        )
        embedding = self.model.puzzle_embedding
        rows_BE = None if embedding is None else embedding.rows(self.carry.puzzle_ids_B, trained=True)
        done = supervise(
            self.model,
            self.flat.weights(self.dtype),
            self.carry,
            rows_BE,
            torch.from_numpy(earliest).to(self.device),
            config.train.loss,
        )
        mean_loss = done.loss / size
        # One transfer tells the host all it needs: the loss, who has halted, the metrics.
        told = torch.cat([mean_loss.detach().double().view(1), done.sums, done.carry.halted_B.double()]).cpu().numpy()
        if not math.isfinite(told[0]):
            return math.nan, told[1 : 1 + len(SUMS)]
        self.flat.vector.grad = None
        torch.autograd.backward(mean_loss)
        if embedding is not None and rows_BE is not None and rows_BE.grad is not None:
            rate = self.learning_rate(config.optimizer.puzzle_embedding_lr)
            decay = config.optimizer.puzzle_embedding_weight_decay
            embedding.update(self.carry.puzzle_ids_B, rows_BE.grad, rate, decay)
        self.optimizer.step(self.flat.vector, self.flat.grad, self.learning_rate(config.optimizer.lr))
        if self.average is not None:
            self.average.update(self.flat.vector)
        self.carry = done.carry
        self._halted = told[1 + len(SUMS) :] > 0
        self.step += 1
        return float(told[0]), told[1 : 1 + len(SUMS)]

    def weights(self, kind: str) -> Weights:
        """The raw or averaged weights by name (raw where no average is kept)."""
        averaged = kind == "ema" and self.average is not None
        vector = self.average.vector if averaged and self.average is not None else self.flat.vector.detach()
        return self.flat.views(vector)

    def score(self, split: str, *, weights: str, max_puzzles: int | None) -> EvalResult:
        """Evaluate with D of the configuration."""
        evaluation = self.config.evaluation.model_copy(update={"max_puzzles": max_puzzles})
        return evaluate(self.model, self.dataset, split, evaluation, weights=self.weights(weights), dtype=self.dtype)

    def save(self, extra: dict[str, Any]) -> bytes:
        """The whole run as a checkpoint file."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimizer/{name}": value for name, value in self.optimizer.state().items()}
        carry = self.carry
        tensors |= {f"carry/state_{index}": state for index, state in enumerate(carry.states)}
        tensors |= {
            f"carry/{name}": getattr(carry, name)
            for name in ("steps_B", "halted_B", "inputs_BC", "labels_BC", "puzzle_ids_B")
        }
        if self.average is not None:
            views = self.flat.views(self.average.vector)
            tensors |= {f"ema/{self.average.rate}/{name}": value for name, value in views.items()}
        header = {
            "step": self.step,
            "config": self.config.plain(),
            "fingerprint": self.dataset.fingerprint,
            "id_map_hash": self.dataset.id_map_hash(self.config.data.num_augmentations),
            "vocab_size": self.dataset.vocab_size,
            "seq_len": self.dataset.seq_len,
            "num_identifiers": self.num_identifiers,
            "rng": {"kind": "counter", "seed": self.config.seed, "step": self.step},
            "data_position": {"step": self.step, "batch_size": self.config.train.batch_size},
            "ema_updates": self.average.count if self.average else 0,
            "puzzles_presented": self.puzzles_presented,
            "torch": torch.__version__,
        }
        return pack(tensors, header | extra)

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same run.

        Raises:
            CheckpointError: it belongs to another configuration, dataset or map of puzzle ids.
        """
        self._check_same_run(checkpoint)
        # Parameters are views of the flat vector, so copying into them copies into it.
        self.model.load_state_dict(checkpoint.section("model"))
        self.optimizer.load(checkpoint.section("optimizer"))
        if self.average is not None:
            saved = checkpoint.section(f"ema/{self.average.rate}")
            for name, view in self.flat.views(self.average.vector).items():
                view.copy_(saved[name])
            self.average.count = int(checkpoint.header["ema_updates"])
        saved = {name: value.to(self.device) for name, value in checkpoint.section("carry").items()}
        states = tuple(saved.pop(f"state_{index}") for index in range(len(self.carry.states)))
        self.carry = replace(self.carry, states=states, **saved)
        self._halted = saved["halted_B"].cpu().numpy().copy()
        self.step = checkpoint.step
        self.puzzles_presented = int(checkpoint.header["puzzles_presented"])

    def _check_same_run(self, checkpoint: Checkpoint) -> None:
        header = checkpoint.header
        own_map = self.dataset.id_map_hash(self.config.data.num_augmentations)
        if header["id_map_hash"] != own_map:
            raise CheckpointError(
                f"the checkpoint's puzzle-id map {header['id_map_hash']} is not the dataset's {own_map}",
                "Use the dataset that it was trained on, with the same number of augmentations",
            )
        own = self.config.plain()
        for section in ("data", "model", "optimizer", "train", "seed"):
            if header["config"][section] != own[section]:
                raise CheckpointError(
                    f"the checkpoint at step {checkpoint.step} was written with another {section} configuration",
                    "Start in an empty folder, or restore the old settings",
                )
