"""Hold the state of a training run and run one step of it.

One optimizer step is one supervision step of every slot of the batch. All randomness is a pure function of the seed
and the step, so a checkpoint needs no generator state, and 10 steps straight equal 5, a resume and 5 more, bit for
bit on one CPU with the same number of threads. Shapes: B batch (slots), C grid cells, E puzzle embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trm_data.dataset.loader import TrainLoader
from trm_data.errors import first_line, is_out_of_memory
from trm_model.checkpoints.start import Start, load_start
from trm_model.checkpoints.store import Checkpoint, CheckpointError, DamagedCheckpointError
from trm_model.checkpoints.table_deltas import CHANGED_AT
from trm_model.config import TrialConfig
from trm_model.cost import train_flops
from trm_model.device import DTYPES
from trm_model.distributed import Ranks
from trm_model.evaluation.evaluate import evaluate, never
from trm_model.evaluation.gallery import gallery
from trm_model.evaluation.outcomes import EvalResult
from trm_model.model.halting import Carry, carry_fault, earliest_halt, with_halted, without_halted
from trm_model.model.precision import choose_products
from trm_model.model.recursion import Weights, build_model
from trm_model.training.ema import MovingAverage
from trm_model.training.losses import as_targets
from trm_model.training.optim import FlatParameters, build_optimizer, schedule
from trm_model.training.supervision import SUMS, supervise

if TYPE_CHECKING:
    from trm_data import Dataset


def _damaged(checkpoint: Checkpoint, what: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"the checkpoint at step {checkpoint.step} is damaged: {what}",
        "Use an earlier checkpoint, or another copy of this one",
    )


class _Part(NamedTuple):
    """Hold the result of a micro-batch."""

    loss: Tensor
    sums: Tensor
    carry: Carry
    row_grads_BE: Tensor | None


class Trainer:
    """Hold everything that changes from step to step of a run, and apply steps."""

    def __init__(self, config: TrialConfig, dataset: Dataset, device: torch.device) -> None:
        self.config = config
        self.dataset = dataset
        self.device = device
        self.dtype = DTYPES[config.train.dtype]
        choose_products(device, rounded=config.train.dtype == "float32-fast")
        self.num_identifiers = dataset.num_identifiers(config.data.num_augmentations)
        self.model = build_model(
            config.model,
            vocab_size=dataset.vocab_size,
            seq_len=dataset.seq_len,
            num_identifiers=self.num_identifiers,
            seed=config.seed,
        ).to(device)
        self.model.recursion.set_recompute(config.runtime.recompute)
        if config.runtime.compile:
            for network in self.model.recursion.networks():
                # What is recomputed is compiled in parts, so that the compiler does not decide what is kept.
                for part in [network] if config.runtime.recompute == "none" else network.blocks:
                    part.compile()
        is_frozen = config.train.freezes_network  # weights that do not change have neither optimizer nor average
        self.flat = FlatParameters(self.model, frozen=is_frozen)
        self.optimizer = None if is_frozen else build_optimizer(config.optimizer, self.flat)
        rates = () if is_frozen else (config.optimizer.ema_rate, *config.optimizer.further_ema_rates)
        self.averages = {str(rate): MovingAverage(self.flat.vector, rate) for rate in rates if rate}
        self.ranks = Ranks.current()
        self.slots = self.ranks.share(config.train.batch_size)
        self.loader = TrainLoader(
            dataset,
            splits=config.data.train_splits,
            batch_size=config.train.batch_size,
            num_augmentations=config.data.num_augmentations,
            seed=config.seed,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            translation=config.data.translation,
        )
        self.step = 0
        self.puzzles_presented = 0
        self.flops = 0.0
        self.carry = self._empty_carry()
        self._halted = np.ones(len(self.slots), np.bool_)

    def _empty_carry(self) -> Carry:
        size, device = len(self.slots), self.device
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
        place = torch.from_numpy(slots).to(self.device)
        for target, rows in (
            (self.carry.inputs_BC, torch.tensor(batch.inputs)),
            (self.carry.labels_BC, as_targets(torch.tensor(batch.labels))),
            (self.carry.puzzle_ids_B, torch.tensor(batch.puzzle_ids)),
        ):
            target.index_copy_(0, place, rows.to(self.device))

    def learning_rate(self, peak: float) -> float:
        """Return the learning rate of the next update."""
        settings = self.config.optimizer
        return peak * schedule(
            self.step + 1,
            warmup_steps=settings.warmup_steps,
            max_steps=self.config.train.max_steps,
            min_ratio=settings.lr_min_ratio,
        )

    def train_step(self) -> tuple[float, NDArray[np.float64]]:
        """Run one optimizer step; return the mean loss and the sums in the order of `SUMS`, over all processes.

        A loss that is not finite changes nothing.
        """
        config, size = self.config, self.config.train.batch_size
        depth = self._set_depth()
        fetched = int(self._halted.sum())
        self._refill()
        self.flat.vector.grad = None
        earliest_B = self._earliest_halts()
        parts = [self._accumulate(part, earliest_B[part]) for part in self._micro_batches()]
        # One transfer brings everything that the host needs: fetched rows, the loss, the metrics, halted slots.
        totals = torch.stack([torch.cat([part.loss.detach().double().view(1), part.sums]) for part in parts]).sum(0)
        totals = self.ranks.sum_(torch.cat([totals, totals.new_tensor([fetched])]))
        carry = Carry.join([part.carry for part in parts])
        values = torch.cat([totals, carry.halted_B.double()]).cpu().numpy()
        loss, sums, fetched = float(values[0]) / size, values[1 : 1 + len(SUMS)], int(values[1 + len(SUMS)])
        if not math.isfinite(loss):
            return math.nan, sums
        self._update([part.row_grads_BE for part in parts])
        self.carry = carry
        self._halted = values[2 + len(SUMS) :] > 0
        self.step += 1
        self.puzzles_presented += fetched
        self.flops += size * train_flops(
            config.model.model_copy(update={"cycles": depth[0], "latent_steps": depth[1]}),
            seq_len=self.dataset.seq_len,
            vocab_size=self.dataset.vocab_size,
            frozen=config.train.freezes_network,
        )
        return loss, sums

    @property
    def is_done(self) -> bool:
        """Return whether the run has reached its number of steps or puzzles."""
        limits = self.config.train
        most = math.inf if limits.max_puzzles is None else limits.max_puzzles
        return self.step >= limits.max_steps or self.puzzles_presented >= most

    def _set_depth(self) -> tuple[int, int]:
        """Return T and n of the next step."""
        depth = self.config.model.cycles, self.config.model.latent_steps
        for share, cycles, latent_steps in self.config.train.depth_curriculum:
            if self.step >= share * self.config.train.max_steps:
                depth = cycles, latent_steps
        self.model.recursion.set_depth(*depth)
        return depth

    def _micro_batches(self) -> list[slice]:
        count = len(self.slots)
        size = self.config.runtime.micro_batch_size or count
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]

    def _earliest_halts(self) -> Tensor:
        """Return the supervision step before which each slot of this process may not halt."""
        whole = earliest_halt(
            self.config.seed,
            self.step,
            self.config.train.batch_size,
            supervision_steps=self.config.model.supervision_steps,
            exploration=self.config.model.halt_exploration,
        )
        return torch.from_numpy(whole[self.slots.start : self.slots.stop]).to(self.device)

    def _accumulate(self, part: slice, earliest_B: Tensor) -> _Part:
        """Run forward and backward of some slots; add the gradient of the whole batch's mean loss to the flat
        vector."""
        config, carry, embedding = self.config, self.carry.rows(part), self.model.puzzle_embedding
        is_trained = config.train.freeze != "embeddings"
        rows_BE = None if embedding is None else embedding.rows(carry.puzzle_ids_B, trained=is_trained)
        done = supervise(
            self.model,
            self.flat.weights(self.dtype),
            carry,
            rows_BE,
            earliest_B,
            config.train.loss,
        )
        torch.autograd.backward(done.loss / config.train.batch_size)
        return _Part(done.loss, done.sums, done.carry, None if rows_BE is None else rows_BE.grad)

    def _update(self, row_grads: list[Tensor | None]) -> None:
        """Apply the gradients of the whole batch: embeddings first, then weights and averages."""
        settings, embedding = self.config.optimizer, self.model.puzzle_embedding
        grads = [grad for grad in row_grads if grad is not None]
        if embedding is not None and grads:
            embedding.update(
                self.ranks.gather(self.carry.puzzle_ids_B),
                self.ranks.gather(torch.cat(grads)),
                self.learning_rate(settings.puzzle_embedding_lr),
                settings.puzzle_embedding_weight_decay,
                step=self.step + 1,
            )
        if self.optimizer is None:
            return
        self.optimizer.step(self.flat.vector, self.ranks.sum_(self.flat.grad), self.learning_rate(settings.lr))
        for average in self.averages.values():
            average.update(self.flat.vector)

    def weights(self, kind: str) -> Weights:
        """Return weights by name: `raw`, `ema` (the main average), or a further average by its rate."""
        rate = str(self.config.optimizer.ema_rate) if kind == "ema" else kind
        average = self.averages.get(rate)
        return self.flat.views(self.flat.vector.detach() if average is None else average.vector)

    def score(
        self, split: str, *, weights: str, max_puzzles: int | None, should_stop: Callable[[], bool] = never
    ) -> EvalResult:
        """Evaluate as the configuration says, at the model's own depth.

        Raises:
            EvaluationStoppedError: `should_stop` became true in the first process.
        """
        self.model.recursion.set_depth(self.config.model.cycles, self.config.model.latent_steps)
        evaluation = self.config.evaluation.model_copy(update={"max_puzzles": max_puzzles})
        return evaluate(
            self.model,
            self.dataset,
            split,
            evaluation,
            weights=self.weights(weights),
            dtype=self.dtype,
            trained_augmentations=self.config.data.num_augmentations,
            seed=self.config.seed,
            ranks=self.ranks,
            should_stop=should_stop,
        )

    def gallery(self, scored: EvalResult) -> bytes:
        """Select a few of the puzzles that were scored, see `gallery.gallery`."""
        weights = self.weights(self.config.evaluation.weights)
        return gallery(self.model, self.dataset, scored, weights=weights, dtype=self.dtype)

    def state(self, extra: dict[str, Any]) -> Checkpoint:
        """Collect the state of the run. Tensors are shared with it, so write them before the next step."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        if self.optimizer is not None:
            tensors |= {f"optimizer/{name}": value for name, value in self.optimizer.state().items()}
        if self.model.puzzle_embedding is not None:
            tensors[CHANGED_AT] = self.model.puzzle_embedding.changed_at
        carry = without_halted({name: self.ranks.gather(value) for name, value in self.carry.tensors().items()})
        tensors |= {f"carry/{name}": value for name, value in carry.items()}
        for rate, average in self.averages.items():
            tensors |= {f"ema/{rate}/{name}": value for name, value in self.flat.views(average.vector).items()}
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
            "ema_updates": {rate: average.count for rate, average in self.averages.items()},
            "puzzles_presented": self.puzzles_presented,
            "train_flops": self.flops,
            "torch": torch.__version__,
        }
        return Checkpoint(tensors, header | extra)

    def start_from(self, start: Start) -> str:
        """Begin with the weights of a checkpoint, and return one line on what they are. For a run at step 0.

        Raises:
            CheckpointError: they are those of another model.
        """
        data, new = self.config.data, self.config.train.new_embeddings
        described = load_start(self.model, start, self.dataset, data.num_augmentations, new)
        for average in self.averages.values():
            average.vector.copy_(self.flat.vector.detach())
        self.carry = self._empty_carry()  # whose states begin as the checkpoint's do
        return described

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore a checkpoint of the same run.

        Raises:
            CheckpointError: it belongs to another configuration, dataset or map of puzzle ids.
            DamagedCheckpointError: it is damaged. The run is then unusable until another checkpoint has been loaded.
        """
        self._check_same_run(checkpoint)
        fault = carry_fault(
            checkpoint.section("carry"),
            self.carry,
            slots=self.config.train.batch_size,
            vocab_size=self.dataset.vocab_size,
            num_identifiers=self.num_identifiers,
            supervision_steps=self.config.model.supervision_steps,
        )
        if fault is not None:
            raise _damaged(checkpoint, fault)
        try:
            self._copy_state(checkpoint)
        except (RuntimeError, LookupError, TypeError, ValueError) as error:  # a tensor or a counter is not as written
            if is_out_of_memory(error):
                raise
            raise _damaged(checkpoint, first_line(error)) from None

    def _copy_state(self, checkpoint: Checkpoint) -> None:
        # Parameters are views of the flat vector, so copying into them copies into it.
        self.model.load_state_dict(checkpoint.section("model"))
        if self.model.puzzle_embedding is not None:
            # Checkpoints of earlier versions lack the time of each row's change: count all rows as just changed.
            changed_at = checkpoint.tensors.get(CHANGED_AT, torch.tensor(checkpoint.step))
            self.model.puzzle_embedding.changed_at.copy_(changed_at)
        if self.optimizer is not None:
            self.optimizer.load(checkpoint.section("optimizer"))
        for rate, average in self.averages.items():
            saved = checkpoint.section(f"ema/{rate}")
            for name, view in self.flat.views(average.vector).items():
                view.copy_(saved[name])
            average.count = int(checkpoint.header["ema_updates"][rate])
        mine = slice(self.slots.start, self.slots.stop)
        saved = with_halted(checkpoint.section("carry"))
        self.carry = Carry.of({name: value[mine].to(self.device) for name, value in saved.items()})
        self._halted = self.carry.halted_B.cpu().numpy()
        self.step = checkpoint.step
        self.puzzles_presented = int(checkpoint.header["puzzles_presented"])
        self.flops = float(checkpoint.header["train_flops"])

    def _check_same_run(self, checkpoint: Checkpoint) -> None:
        header = checkpoint.header
        own_map = self.dataset.id_map_hash(self.config.data.num_augmentations)
        if header["id_map_hash"] != own_map:
            raise CheckpointError(
                f"the checkpoint's puzzle-id map {header['id_map_hash']} is not the dataset's {own_map}",
                "Use the dataset that it was trained on, with the same number of augmentations",
            )
        own = self.config.trajectory()
        theirs = TrialConfig.parse(header["config"], "checkpoint").trajectory()
        for section in own:
            if theirs[section] != own[section]:
                raise CheckpointError(
                    f"the checkpoint at step {checkpoint.step} was written with another {section} configuration",
                    "Start in an empty folder, or restore the old settings",
                )
