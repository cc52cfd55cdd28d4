"""Define the model family: TRM, HRM and direct prediction are one model with different recursions.

Shapes: B batch, C grid cells, L tokens (P puzzle-embedding tokens + C cells), D width, V vocabulary, E puzzle
embedding.

    paper            here               official
    y                answer             z_H
    z                latent             z_L
    T                cycles             H_cycles
    n                latent_steps       L_cycles

One supervision step runs T cycles of n latent updates and one answer update; all but the last cycle without gradient.
HRM is the same with two networks and the gradient of the last two updates only. A further variant is a subclass of
`Recursion` with its own `cycle` or `forward`, in this file or in one of yours (`ModelConfig.recursion`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from trm_data.own_code import RECURSION, load_class
from trm_model.config import ModelConfig
from trm_model.model.layers import Network, Recompute, Rotary, linear_weight, rotary_table, truncated_normal
from trm_model.model.precision import linear
from trm_model.model.puzzle_embedding import PuzzleEmbedding

States = tuple[Tensor, ...]  # each (B, L, D)


class Output(NamedTuple):
    """Hold the output of one supervision step. `states` carry no gradient."""

    states: States
    logits_BCV: Tensor
    halt_logits_B: Tensor
    continue_logits_B: Tensor


def _sum(states: Sequence[Tensor]) -> Tensor:
    total = states[0]
    for state in states[1:]:
        total = total + state
    return total


class Recursion(nn.Module):
    """Refine answer and latent features in turns: TRM, or HRM if each has its own network."""

    def __init__(self, num_tokens: int, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.cycles, self.latent_steps = config.cycles, config.latent_steps
        self.one_step_gradient = config.one_step_gradient
        self.num_latents = config.num_latents
        self.latent_network = Network(num_tokens, config, generator)
        self.answer_network = None if config.shares_network else Network(num_tokens, config, generator)

    @property
    def num_states(self) -> int:
        """Return the number of tensors in the carry; the answer is the first."""
        return 1 + self.num_latents

    def networks(self) -> list[Network]:
        """Return the one or two networks."""
        return [self.latent_network] if self.answer_network is None else [self.latent_network, self.answer_network]

    def set_recompute(self, recompute: Recompute) -> None:
        """Set what the backward pass computes again (`RuntimeConfig.recompute`); the gradient stays the same."""
        for network in self.networks():
            network.recompute = recompute

    def set_depth(self, cycles: int, latent_steps: int) -> None:
        """Change T and n: the weights fit any depth."""
        self.cycles, self.latent_steps = cycles, latent_steps

    def refine_latent(self, x_BLD: Tensor, rotary: Rotary | None) -> Tensor:
        refined: Tensor = self.latent_network(x_BLD, rotary)
        return refined

    def refine_answer(self, x_BLD: Tensor, rotary: Rotary | None) -> Tensor:
        refined: Tensor = (self.answer_network or self.latent_network)(x_BLD, rotary)
        return refined

    def cycle(self, states: States, input_BLD: Tensor, rotary: Rotary | None, steps_without_gradient: int) -> States:
        """Run n latent updates, the first few of them without gradient, then one update of the answer.

        With several latents, step i refines latent i (modulo their number) from the sum of all.
        """
        answer, *latents = states
        context = answer + input_BLD
        for step in range(self.latent_steps):
            with torch.set_grad_enabled(torch.is_grad_enabled() and step >= steps_without_gradient):
                latents[step % len(latents)] = self.refine_latent(_sum(latents) + context, rotary)
        return self.refine_answer(answer + _sum(latents), rotary), *latents

    def forward(self, states: States, input_BLD: Tensor, rotary: Rotary | None) -> States:
        """Run one supervision step."""
        with torch.no_grad():
            for _ in range(self.cycles - 1):
                states = self.cycle(states, input_BLD, rotary, 0)
        skipped = self.latent_steps - 1 if self.one_step_gradient else 0
        return self.cycle(states, input_BLD, rotary, skipped)


class OneState(Recursion):
    """Use no latent besides the answer: n updates that see the input, then one that does not."""

    @property
    def num_states(self) -> int:
        return 1

    def cycle(self, states: States, input_BLD: Tensor, rotary: Rotary | None, steps_without_gradient: int) -> States:
        (answer,) = states
        for step in range(self.latent_steps):
            with torch.set_grad_enabled(torch.is_grad_enabled() and step >= steps_without_gradient):
                answer = self.refine_latent(answer + input_BLD, rotary)
        return (self.refine_answer(answer, rotary),)


class DirectPrediction(Recursion):
    """Compute the answer alone, in one pass per supervision step: deep supervision without recursion.

    With `supervision_steps=1` there is no deep supervision either: a plain feed-forward network.
    """

    @property
    def num_states(self) -> int:
        return 1

    def forward(self, states: States, input_BLD: Tensor, rotary: Rotary | None) -> States:
        return (self.refine_answer(states[0] + input_BLD, rotary),)


def recursion_class(config: ModelConfig) -> type[Recursion]:
    """Return the recursion that a configuration names."""
    if config.recursion is not None:
        return load_recursion(config.recursion)
    if config.variant == "direct":
        return DirectPrediction
    return Recursion if config.num_latents else OneState


def load_recursion(address: str) -> type[Recursion]:
    """Return the class that a pinned address names; see `load_class`."""
    return load_class(address, RECURSION)


class Model(nn.Module):
    """Combine embeddings, a recursion and two heads: the answer per cell and whether to halt."""

    def __init__(
        self, config: ModelConfig, *, vocab_size: int, seq_len: int, num_identifiers: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.num_cells = seq_len
        width, num_tokens = config.hidden_size, seq_len + config.puzzle_embedding_len
        self.num_tokens = num_tokens
        size = config.puzzle_embedding_width
        self.token_embedding = nn.Parameter(truncated_normal((vocab_size, width), width**-0.5, generator))
        self.position_embedding: nn.Parameter | None = None
        if config.positions == "learned":
            self.position_embedding = nn.Parameter(truncated_normal((num_tokens, width), width**-0.5, generator))
        self.recursion = recursion_class(config)(num_tokens, config, generator)
        self.answer_head = linear_weight(vocab_size, width, generator)
        self.halt_head = nn.Parameter(torch.zeros(2, width))
        self.halt_bias = nn.Parameter(torch.full((2,), -5.0))  # do not halt before it has been learned
        self.puzzle_embedding = PuzzleEmbedding(num_identifiers, size) if size else None
        for index in range(self.recursion.num_states):
            self.register_buffer(f"start_{index}", truncated_normal((width,), 1.0, generator))
        self._rotary = None
        if config.positions == "rotary":
            self._rotary = rotary_table(num_tokens, width // config.num_heads, config.rope_theta)

    @property
    def device(self) -> torch.device:
        return self.token_embedding.device

    def start(self, batch_size: int, dtype: torch.dtype) -> States:
        """Return fresh states, each (B, L, D)."""
        size = (batch_size, self.num_tokens, self.config.hidden_size)
        return tuple(start.to(dtype).expand(size) for start in self._starts())

    def reset(self, states: States, halted_B: Tensor) -> States:
        """Return `states` with fresh ones for the sequences that have halted."""
        fresh = halted_B.view(-1, 1, 1)
        return tuple(
            torch.where(fresh, start.to(state.dtype), state)
            for state, start in zip(states, self._starts(), strict=True)
        )

    def _starts(self) -> list[Tensor]:
        return [self.get_buffer(f"start_{index}") for index in range(self.recursion.num_states)]

    def embed(self, inputs_BC: Tensor, puzzle_rows_BE: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return the input of the recursion, (B, L, D): puzzle tokens, then cells."""
        width = self.config.hidden_size
        embedded = F.embedding(inputs_BC.int(), self.token_embedding.to(dtype))
        if puzzle_rows_BE is not None:
            rows = puzzle_rows_BE.to(dtype)
            room = self.config.puzzle_embedding_len * width - rows.shape[-1]
            tokens = F.pad(rows, (0, room)).view(-1, self.config.puzzle_embedding_len, width)
            embedded = torch.cat((tokens, embedded), dim=1)
        if self.position_embedding is not None:
            embedded = math.sqrt(0.5) * (embedded + self.position_embedding.to(dtype))
        return math.sqrt(width) * embedded

    def forward(self, states: States, inputs_BC: Tensor, puzzle_rows_BE: Tensor | None) -> Output:
        """Run one supervision step from `states`."""
        dtype = states[0].dtype
        input_BLD = self.embed(inputs_BC, puzzle_rows_BE, dtype)
        states = self.recursion(states, input_BLD, self.rotary(dtype))
        answer_BLD = states[0]
        logits_BCV = linear(answer_BLD[:, self.config.puzzle_embedding_len :], self.answer_head)
        q_B2 = F.linear(answer_BLD[:, 0], self.halt_head, self.halt_bias).float()
        return Output(tuple(state.detach() for state in states), logits_BCV, q_B2[:, 0], q_B2[:, 1])

    def rotary(self, dtype: torch.dtype) -> Rotary | None:
        """Return the angles on the model's device, in the dtype that attention computes in."""
        if self._rotary is None:
            return None
        if self._rotary.cos_LN.device != self.device:
            self._rotary = Rotary(*(table.to(self.device) for table in self._rotary))
        return self._rotary


Weights = Mapping[str, Tensor]


def run(model: Model, weights: Weights, states: States, inputs_BC: Tensor, puzzle_rows_BE: Tensor | None) -> Output:
    """Run one supervision step with other weights than the model's own: averaged, or cast once to a narrower type."""
    output: Output = functional_call(model, dict(weights), (states, inputs_BC, puzzle_rows_BE))
    return output


def build_model(config: ModelConfig, *, vocab_size: int, seq_len: int, num_identifiers: int, seed: int = 0) -> Model:
    """Return a freshly initialised model on the CPU in float32; the same seed gives the same weights on every
    machine."""
    generator = torch.Generator().manual_seed(seed)
    return Model(config, vocab_size=vocab_size, seq_len=seq_len, num_identifiers=num_identifiers, generator=generator)
