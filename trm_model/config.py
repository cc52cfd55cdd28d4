"""Define everything that can be set in one training run.

Defaults are the TRM paper's (arXiv 2510.04871, section 6 and the official code). The paper's letters: T is `cycles`,
n is `latent_steps`, N_sup is `supervision_steps` of the model, D is `supervision_steps` of the evaluation.
`runtime` holds what cannot change a result (device, threads, cadence) and is left out of a trial's identity.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from trm_data.config import DataConfig
from trm_data.own_code import identity_of, pin_named
from trm_data.settings import Settings, is_parsed
from trm_model.start_file import pin_named_start, start_identity

IGNORED = -100
"""Label of a cell that enters neither loss nor score; the default `ignore_index` of torch's cross entropy."""


_Rate = Annotated[float, Field(ge=0, lt=1)]
_Depth = Annotated[int, Field(ge=1)]


class _FiniteSettings(Settings):
    """Define settings of which none can be infinite or not a number."""

    model_config = ConfigDict(allow_inf_nan=False)


class ModelConfig(_FiniteSettings):
    """Configure one member of the model family."""

    variant: Literal["trm", "hrm", "direct"] = "trm"
    """trm: one network, latent and answer. hrm: two networks at two frequencies. direct: one pass, no recursion."""
    recursion: str | None = None
    """A recursion of your own, `path/to/file.py:ClassName`, in place of the variant's (docs/model.md). Records hold it
    with an absolute path and the content's hash: `/path/file.py:ClassName#sha256=<hex>`."""
    mixer: Literal["attention", "mlp"] = "attention"
    positions: Literal["rotary", "learned", "none"] = "rotary"
    hidden_size: int = Field(512, ge=8, le=2**16)
    num_heads: int = Field(8, ge=1, le=2**16)
    expansion: float = Field(4.0, gt=0, le=1_000)
    inner_multiple: int = Field(256, ge=1, le=2**16)
    """The inner size of a SwiGLU, 2/3 * expansion * width, is rounded up to a multiple of this (official: 256)."""
    num_layers: int = Field(2, ge=1, le=1_000)
    """Blocks per network. HRM has this many in each of its two networks."""
    cycles: int = Field(3, ge=1, le=1_000)
    """T: times that the answer is refined per supervision step (official `H_cycles`). All but the last without
    gradient."""
    latent_steps: int = Field(6, ge=1, le=1_000)
    """n: latent updates per cycle (official `L_cycles`)."""
    num_latents: int = Field(1, ge=0, le=1_000)
    """Latent features besides the answer. 0: the answer is the only state; k > 1: latent step i updates latent i mod k.
    """
    shared_network: bool | None = None
    """One network refines latent and answer, or each has its own. None: as the variant has it (trm shares, hrm does
    not)."""
    gradient: Literal["cycle", "step"] | None = None
    """How much of the last cycle is differentiated: all of it or its last latent and answer update. None: the
    variant's."""
    supervision_steps: int = Field(16, ge=1, le=10_000)
    """N_sup: most optimizer steps that one sequence's carry lives (official `halt_max_steps`)."""
    halting: Literal["sign", "continue", "compare"] | None = None
    """sign: halt when the halt logit is positive (TRM). continue: when it exceeds a learned value of continuing, which
    costs a second forward pass per step (HRM). compare: when it exceeds the continue logit that no loss trains (the
    official direct baseline). None: continue for hrm, sign for the others."""
    halt_exploration: float = Field(0.1, ge=0, le=1)
    puzzle_embedding_len: int = Field(16, ge=0, le=2**16)
    """Tokens in front of the grid that hold the puzzle embedding; 0 means none."""
    puzzle_embedding_size: int | None = Field(None, ge=1, le=2**20)
    """Numbers per puzzle, spread over those tokens and padded with zeros. None: the hidden size, so the first token."""
    rope_theta: float = Field(10000.0, gt=0)
    norm_epsilon: float = Field(1e-5, gt=0)

    @field_validator("recursion", mode="before")
    @classmethod
    def _pin_recursion(cls, value: Any, info: ValidationInfo) -> Any:
        return value if is_parsed(info) else pin_named(value)

    @property
    def puzzle_embedding_width(self) -> int:
        """Return the numbers per puzzle; 0 if puzzles have no embedding."""
        return (self.puzzle_embedding_size or self.hidden_size) if self.puzzle_embedding_len else 0

    @property
    def shares_network(self) -> bool:
        """Return whether one network refines both latent and answer."""
        return self.variant != "hrm" if self.shared_network is None else self.shared_network

    @property
    def one_step_gradient(self) -> bool:
        """Return whether only the last latent and answer update are differentiated."""
        return (self.gradient or ("step" if self.variant == "hrm" else "cycle")) == "step"

    @property
    def halting_rule(self) -> Literal["sign", "continue", "compare"]:
        """Return how a sequence decides to halt in training."""
        return self.halting or ("continue" if self.variant == "hrm" else "sign")

    @property
    def learns_continue(self) -> bool:
        """Return whether the continue logit has a loss, which needs a look at the next step."""
        return self.halting_rule == "continue"

    def identity(self) -> dict[str, Any]:
        """Return plain values that determine a result: a user's own recursion by class and content, not by path."""
        plain = self.plain()
        if self.recursion is not None:
            plain["recursion"] = identity_of(self.recursion)
        return plain

    def resolved(self) -> Self:
        """Return the same model with every default written out that follows from another setting."""
        return self.model_copy(
            update={
                "shared_network": self.shares_network,
                "gradient": "step" if self.one_step_gradient else "cycle",
                "halting": self.halting_rule,
                "puzzle_embedding_size": self.puzzle_embedding_width or None,
            }
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_latents == 0 and not self.shares_network:
            raise ValueError("num_latents=0 leaves nothing for a second network; set shared_network to true")
        room = self.puzzle_embedding_len * self.hidden_size
        if self.puzzle_embedding_width > room:
            raise ValueError(
                f"puzzle_embedding_size={self.puzzle_embedding_size} does not fit into {room} numbers of "
                f"puzzle_embedding_len={self.puzzle_embedding_len} tokens"
            )
        if self.mixer == "attention" and self.hidden_size % (2 * self.num_heads):
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of 2 * num_heads={2 * self.num_heads}")
        if self.mixer == "mlp" and self.positions == "rotary":
            raise ValueError("positions='rotary' has no meaning with mixer='mlp'; set positions to 'none' or 'learned'")
        return self


class OptimizerConfig(_FiniteSettings):
    """Configure the optimizer of the weights; puzzle embeddings have their own rate and decay (row-sparse sign-SGD)."""

    name: Literal["adam_atan2", "adamw", "muon"] = "adam_atan2"
    """muon: orthogonalised momentum for the matrices inside the networks, AdamW for embeddings and heads."""
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1.0, ge=0)
    betas: tuple[_Rate, _Rate] = (0.9, 0.95)
    warmup_steps: int = Field(2000, ge=0)
    lr_min_ratio: float = Field(1.0, ge=0, le=1)
    """1.0: constant after the warm-up. Below: cosine to this share of `lr` at the last step."""
    puzzle_embedding_lr: float = Field(1e-2, gt=0)
    puzzle_embedding_weight_decay: float = Field(0.1, ge=0)
    ema_rate: _Rate = 0.999
    """Decay of the averaged weights; 0 switches the average off. Warmed up, so that it does not lag at the start."""
    further_ema_rates: tuple[_Rate, ...] = ()
    """Averages kept in addition to the main one and scored at the end; none of them feeds back into training."""


class TrainConfig(_FiniteSettings):
    """Configure the length of training and its batches. One optimizer step is one supervision step."""

    batch_size: int = Field(768, ge=1, le=2**24)
    max_steps: int = Field(65_104, ge=1, le=10**10)
    max_puzzles: int | None = Field(None, ge=1)
    """End earlier, once this many puzzles have been presented: runs that differ in N_sup are equal in data only so."""
    loss: Literal["stablemax", "softmax"] = "stablemax"
    dtype: Literal["float32", "bfloat16", "float32-fast"] = "bfloat16"
    """float32-fast is not float32: the factors of matrix products are rounded, to bfloat16 on a CPU and to TF32 on a
    GPU, and only sums and everything else stay float32 (an error of 2e-3 per product on a CPU instead of 3e-7).
    bfloat16 on a CPU without its instructions is computed in float32 and rounded, which takes longer than float32."""
    depth_curriculum: tuple[tuple[Annotated[float, Field(ge=0, le=1)], _Depth, _Depth], ...] = ()
    """(share of the run, T, n): from that share on, train with this depth (CGAR). Before the first, and in
    evaluation, the model's own."""
    start_from: str | None = None
    """A checkpoint whose weights training starts from, with a fresh optimizer at step 0: a file, hf://owner/name/file
    or s3://bucket/key (docs/how-to/start-from-weights.md). Records hold it with the hash of the content."""
    new_embeddings: Literal["mean", "fresh"] = "mean"
    """With `start_from`: how embeddings of puzzles begin that its dataset did not have: as the mean of its table, or
    at zero as without it."""
    freeze: Literal["none", "network", "embeddings"] = "none"
    """What stays as it was at the start: all but the puzzle embeddings, or they alone."""

    @field_validator("start_from", mode="before")
    @classmethod
    def _pin_start(cls, value: Any, info: ValidationInfo) -> Any:
        return value if is_parsed(info) else pin_named_start(value)

    @property
    def freezes_network(self) -> bool:
        """Return whether only puzzle embeddings are trained."""
        return self.freeze == "network"

    def identity(self) -> dict[str, Any]:
        """Return plain values that determine a result: a checkpoint by its content, and no setting without effect.

        Trials of earlier versions, which did not have these settings, keep their identity.
        """
        plain = self.plain()
        if self.start_from is None:
            del plain["start_from"], plain["new_embeddings"]
        else:
            plain["start_from"] = start_identity(self.start_from)
        if self.freeze == "none":
            del plain["freeze"]
        return plain

    @model_validator(mode="after")
    def _check(self) -> Self:
        shares = [share for share, _, _ in self.depth_curriculum]
        if shares != sorted(set(shares)):
            raise ValueError(f"depth_curriculum has the shares {shares}: put them in ascending order, each once")
        return self


class EvaluationConfig(_FiniteSettings):
    """Configure the final evaluation."""

    split: Literal["validation", "test"] = "validation"
    supervision_steps: int | None = Field(None, ge=1, le=10_000)
    """D: steps at evaluation; None means as many as in training."""
    weights: Literal["ema", "raw"] = "ema"
    max_puzzles: int | None = Field(None, ge=1)
    """Number of puzzles to score, the first of the split; None means all."""
    batch_size: int = Field(512, ge=1, le=2**24)
    halt: bool = False
    """Keep a puzzle's answer from the step at which it first wants to halt, instead of running all D steps."""
    votes: int = Field(1, ge=1, le=10**6)
    """Views per puzzle that vote on the answer: the original and votes - 1 augmented copies."""
    rollouts: int = Field(1, ge=1, le=10**6)
    """K: runs per puzzle with noise in the latent."""
    noise: float = Field(0.0, ge=0)
    """Standard deviation of the Gaussian noise added to the latent before every supervision step, in rollouts but the
    first."""
    choose: Literal["majority", "halt"] = "majority"
    """Which of the rollouts' and views' answers counts: the most frequent, or the one with the best halt logit."""


class RuntimeConfig(Settings):
    """Configure what cannot change a result. Not part of the identity."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`mps` (Apple) has not been run; `auto` never takes it."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads of torch; None leaves torch's own choice. Results are bitwise equal only for an equal number."""
    evaluate_every: int | None = Field(None, ge=1)
    """Steps between evaluations on the validation split; None means a tenth of the run."""
    evaluate_puzzles: int | None = Field(None, ge=1)
    """Validation puzzles used for the curve; None means all."""
    log_every: int = Field(10, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)
    """Rows per forward pass; gradients accumulate to the same update. None means the whole batch."""
    recompute: Literal["none", "cycle", "block"] = "none"
    """What the backward pass computes again instead of keeping it, with the same gradient: nothing; the network, for
    each update of the cycle (cycle); or each block (block). Both take one more forward pass of the differentiated part
    and a fraction of the memory: which is smaller depends on n (docs/model.md)."""
    compile: bool = False
    """Compile the network with torch.compile. On an H100: up to 35 s at the start, then 1.9 to 2.4 times faster, for a
    fifth to a third more memory; on a CPU 40-60 s, then 1.0 to 1.3 times. Needs a C++ compiler and Python's headers."""
    checkpoint_every_s: float = Field(10.0, gt=0)
    """Seconds between checkpoints, or twenty times as long as writing one took, whichever is more."""
    keep_checkpoints: int = Field(2, ge=1)


class TrialConfig(Settings):
    """Configure one complete training run. `seed` seeds weights, batches and exploration; the dataset has its own
    seed."""

    recipe: str = ""
    """Where it started from; a label, not part of the identity."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    seed: int = Field(0, ge=0, le=2**63 - 1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.train.freeze != "none" and not self.model.puzzle_embedding_len:
            what = "train" if self.train.freezes_network else "freeze"
            raise ValueError(f"train.freeze={self.train.freeze!r} has nothing to {what}: model.puzzle_embedding_len=0")
        return self

    @property
    def sections(self) -> tuple[Settings, ...]:
        """Return everything but the label and the seed, `runtime` last."""
        return self.data, self.model, self.optimizer, self.train, self.evaluation, self.runtime

    def trajectory(self) -> dict[str, Any]:
        """Return what determines the weights after any number of steps: equal for two runs that differ only in
        length.

        How many steps follow matters to a decaying rate and to a curriculum alone.
        """
        plain = self.plain() | {
            "data": self.data.identity(),
            "model": self.model.identity(),
            "train": self.train.identity(),
        }
        found = {section: plain[section] for section in ("data", "model", "optimizer", "train", "seed")}
        if self.optimizer.lr_min_ratio == 1 and not self.train.depth_curriculum:
            del found["train"]["max_steps"]
        return found


ALIASES = {
    "T": "model.cycles",
    "n": "model.latent_steps",
    "N_sup": "model.supervision_steps",
    "D": "evaluation.supervision_steps",
    "aug": "data.num_augmentations",
    "lr": "optimizer.lr",
    "ema": "optimizer.ema_rate",
    "wd": "optimizer.weight_decay",
}
"""The short names that `--vary` and `--set` take for the most used settings."""


def inner_size(width: int, config: ModelConfig) -> int:
    """Return the inner width of a SwiGLU: 2/3 * expansion * width, rounded up to `inner_multiple`."""
    return -(round(config.expansion * width * 2 / 3) // -config.inner_multiple) * config.inner_multiple
