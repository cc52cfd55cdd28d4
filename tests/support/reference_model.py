"""The family once more, written down as naively as it can be: row by row, head by head, in float64.

Made from the pseudocode of arXiv 2510.04871 (figures 2 and 3) and 2506.21734, not from `trm_model`, of which only the
names of the weights are used: what both say agrees for a reason. C cells, L tokens (puzzle tokens and cells), D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trm_model.config import ModelConfig

Weights = dict[str, Tensor]
IGNORED = -100


@dataclass
class Sequence:
    """One slot of the batch: a puzzle, and how far the model has thought about it."""

    puzzle: Tensor
    """(C) symbols."""
    label: Tensor
    """(C) symbols, or IGNORED."""
    puzzle_id: int
    states: list[Tensor] = field(default_factory=list)
    """(L, D) each: the answer, then the latents; empty before the first step."""
    steps: int = 0
    halted: bool = False


@dataclass
class Told:
    """What one supervision step of one sequence gives."""

    logits: Tensor
    halt: Tensor
    go_on: Tensor
    loss: Tensor


class Reference:
    """A model of the family with given weights."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.w = weights

    def norm(self, x: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.config.norm_epsilon)

    @staticmethod
    def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        half = gate_up.shape[0] // 2
        gate, up = x @ gate_up[:half].T, x @ gate_up[half:].T
        return (gate / (1 + torch.exp(-gate)) * up) @ down.T

    def attention(self, x: Tensor, qkv: Tensor, out: Tensor) -> Tensor:
        width, heads = self.config.hidden_size, self.config.num_heads
        size = width // heads
        mixed = []
        for head in range(heads):
            q, k, v = (x @ qkv[part * width + head * size : part * width + (head + 1) * size].T for part in range(3))
            if self.config.positions == "rotary":
                q, k = self.turned(q), self.turned(k)
            mixed.append(torch.softmax(q @ k.T / math.sqrt(size), dim=-1) @ v)
        return torch.cat(mixed, dim=-1) @ out.T

    def turned(self, x: Tensor) -> Tensor:
        """Number i and number i + N/2 of a head are a point in a plane, turned by position * theta^(-2i/N)."""
        length, size = x.shape
        half = size // 2
        positions, numbers = torch.arange(length, dtype=x.dtype), torch.arange(half, dtype=x.dtype)
        angles = positions[:, None] * self.config.rope_theta ** (-2 * numbers / size)
        first, second = x[:, :half], x[:, half:]
        cos, sin = torch.cos(angles), torch.sin(angles)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def net(self, name: str, x: Tensor) -> Tensor:
        for layer in range(self.config.num_layers):
            part = f"recursion.{name}.blocks.{layer}"
            if self.config.mixer == "attention":
                attended = self.attention(x, self.w[f"{part}.attention.qkv"], self.w[f"{part}.attention.out"])
                x = self.norm(x + attended)
            else:
                gate_up, down = self.w[f"{part}.token_mixer.gate_up"], self.w[f"{part}.token_mixer.down"]
                x = self.norm(x.T + self.swiglu(x.T, gate_up, down)).T  # official: normed along the tokens
            x = self.norm(x + self.swiglu(x, self.w[f"{part}.swiglu.gate_up"], self.w[f"{part}.swiglu.down"]))
        return x

    def latent_net(self, x: Tensor) -> Tensor:
        return self.net("latent_network", x)

    def answer_net(self, x: Tensor) -> Tensor:
        separate = any(name.startswith("recursion.answer_network") for name in self.w)
        return self.net("answer_network" if separate else "latent_network", x)

    def embed(self, sequence: Sequence) -> Tensor:
        config, width = self.config, self.config.hidden_size
        tokens = [self.w["token_embedding"][symbol] for symbol in sequence.puzzle.tolist()]
        if config.puzzle_embedding_len:
            row = self.w["puzzle_embedding.weight"][sequence.puzzle_id]
            padded = torch.cat([row, row.new_zeros(config.puzzle_embedding_len * width - len(row))])
            tokens = [*padded.view(-1, width), *tokens]
        x = torch.stack(tokens)
        if config.positions == "learned":
            x = (x + self.w["position_embedding"]) / math.sqrt(2)
        return math.sqrt(width) * x

    def fresh(self, length: int) -> list[Tensor]:
        count = 1 if self.config.variant == "direct" else 1 + self.config.num_latents
        return [self.w[f"start_{i}"].expand(length, -1) for i in range(count)]

    def improve(self, x: Tensor, states: list[Tensor]) -> list[Tensor]:
        """One supervision step."""
        config = self.config
        if config.variant == "direct":
            return [self.answer_net(states[0] + x)]
        step_only = (config.gradient or ("step" if config.variant == "hrm" else "cycle")) == "step"
        for cycle in range(config.cycles):
            is_last = cycle == config.cycles - 1
            for i in range(config.latent_steps):
                learns = is_last and (not step_only or i == config.latent_steps - 1)
                with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                    if config.num_latents == 0:
                        states = [self.latent_net(states[0] + x)]
                    else:
                        refined = self.latent_net(sum(states[1:]) + states[0] + x)  # type: ignore[arg-type]
                        at = 1 + i % config.num_latents
                        states = [*states[:at], refined, *states[at + 1 :]]
            with torch.set_grad_enabled(is_last and torch.is_grad_enabled()):
                states = [self.answer_net(sum(states)), *states[1:]]  # type: ignore[arg-type]
        return states

    def heads(self, answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(logits (C, V), halt, continue)."""
        q = self.w["halt_head"] @ answer[0] + self.w["halt_bias"]
        return answer[self.config.puzzle_embedding_len :] @ self.w["answer_head"].T, q[0], q[1]

    def supervise(self, sequence: Sequence) -> Told:
        """One supervision step of a sequence, which it changes: its states, its steps, whether it has halted."""
        config = self.config
        x = self.embed(sequence)
        if sequence.halted or not sequence.states:
            sequence.states, sequence.steps = self.fresh(len(x)), 0
        sequence.steps += 1
        states = self.improve(x, [state.detach() for state in sequence.states])
        logits, halt, go_on = self.heads(states[0])
        sequence.states = [state.detach() for state in states]
        is_last = sequence.steps >= config.supervision_steps
        rule = config.halting or ("continue" if config.variant == "hrm" else "sign")
        loss = self.answer_loss(logits, sequence.label)
        right = bool(((logits.argmax(-1) == sequence.label) | (sequence.label == IGNORED)).all())
        losses = [cross_entropy(halt, float(right))]
        if rule == "continue":
            with torch.no_grad():
                _, halt_next, go_on_next = self.heads(self.improve(x, sequence.states)[0])
                best = halt_next if is_last else torch.maximum(halt_next, go_on_next)
                target = float(torch.sigmoid(best))
            losses.append(cross_entropy(go_on, target))
        sequence.halted = is_last or bool(halt > (0 if rule == "sign" else go_on))
        return Told(logits, halt, go_on, loss + 0.5 * sum(losses))  # type: ignore[arg-type]

    @staticmethod
    def answer_loss(logits: Tensor, label: Tensor) -> Tensor:
        """The stable-max cross entropy, averaged over the supervised cells."""
        total, count = logits.new_zeros(()), 0
        for cell, symbol in enumerate(label.tolist()):
            if symbol != IGNORED:
                scores = [x + 1 if x >= 0 else 1 / (1 - x) for x in logits[cell]]
                total = total - torch.log(scores[symbol] / sum(scores))  # type: ignore[arg-type]
                count += 1
        return total / max(count, 1)


def cross_entropy(logit: Tensor, target: float) -> Tensor:
    """Binary, of one logit."""
    probability = torch.sigmoid(logit)
    return -(target * torch.log(probability) + (1 - target) * torch.log(1 - probability))
