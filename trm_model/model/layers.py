"""Build the network: truncated-normal linear maps, RMS norm, SwiGLU, attention, token mixing, and the stack of
blocks.

Shapes: B batch, L tokens (puzzle-embedding tokens, then grid cells), D width, H heads, N width per head, I inner width.
Post-norm throughout: a block is `x = norm(x + mix(x)); x = norm(x + swiglu(x))`, and the norm has no learned scale.
Weights are created in float32; a module computes in the dtype of the weights that it is called with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from trm_model.config import ModelConfig, inner_size
from trm_model.model.fused import residual_norm, swiglu
from trm_model.model.precision import attention, linear, widens_attention

Recompute = Literal["none", "cycle", "block"]
_STD_AFTER_TRUNCATION = 0.8796256610342398  # of a unit normal cut at +-2


class Rotary(NamedTuple):
    """Hold the angles of the rotary positions."""

    cos_LN: Tensor
    sin_LN: Tensor


def truncated_normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    """Draw normal numbers cut at two standard deviations, rescaled so that `std` holds after the cut."""
    bound = math.erf(math.sqrt(2.0))
    uniform = torch.empty(shape).uniform_(-bound, bound, generator=generator)
    return uniform.erfinv_().mul_(math.sqrt(2.0)).clamp_(-2.0, 2.0).mul_(std / _STD_AFTER_TRUNCATION)


def linear_weight(outputs: int, inputs: int, generator: torch.Generator) -> nn.Parameter:
    """Return an (outputs, inputs) weight with variance 1 / inputs."""
    return nn.Parameter(truncated_normal((outputs, inputs), inputs**-0.5, generator))


class SwiGLU(nn.Module):
    """Compute `down(silu(gate(x)) * up(x))` along the last axis."""

    def __init__(self, width: int, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        inner = inner_size(width, config)
        self.gate_up = linear_weight(2 * inner, width, generator)
        self.down = linear_weight(width, inner, generator)

    def forward(self, x: Tensor) -> Tensor:
        return swiglu(x, self.gate_up, self.down)


class Attention(nn.Module):
    """Apply multi-head self-attention over all tokens, without a mask."""

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = linear_weight(3 * config.hidden_size, config.hidden_size, generator)
        self.out = linear_weight(config.hidden_size, config.hidden_size, generator)

    def forward(self, x_BLD: Tensor, rotary: Rotary | None) -> Tensor:
        dtype = x_BLD.dtype
        qkv_BLHN = linear(x_BLD, self.qkv).view(*x_BLD.shape[:2], 3 * self.num_heads, -1)
        if widens_attention(x_BLD):
            qkv_BLHN = qkv_BLHN.float()
        q_BLHN, k_BLHN, v_BLHN = qkv_BLHN.chunk(3, dim=2)
        if rotary is not None:
            q_BLHN, k_BLHN = rotate(q_BLHN, rotary), rotate(k_BLHN, rotary)
        mixed_BHLN = attention(q_BLHN.transpose(1, 2), k_BLHN.transpose(1, 2), v_BLHN.transpose(1, 2))
        return linear(mixed_BHLN.transpose(1, 2).flatten(2).to(dtype), self.out)


def rotary_table(num_tokens: int, head_size: int, theta: float) -> Rotary:
    """Compute the angles for positions 0 .. num_tokens - 1."""
    frequencies = theta ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    angles_LN = torch.outer(torch.arange(num_tokens, dtype=torch.float32), frequencies).repeat(1, 2)
    return Rotary(angles_LN.cos(), angles_LN.sin())


def rotate(x_BLHN: Tensor, rotary: Rotary) -> Tensor:
    """Rotate each pair (i, i + N/2) of a head by its position's angle."""
    first, second = x_BLHN.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BLHN * rotary.cos_LN[:, None] + turned * rotary.sin_LN[:, None]).to(x_BLHN.dtype)


class Block(nn.Module):
    """Mix the tokens, then the channels."""

    def __init__(self, num_tokens: int, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.epsilon = config.norm_epsilon
        self.attention: Attention | None = None
        self.token_mixer: SwiGLU | None = None
        if config.mixer == "attention":
            self.attention = Attention(config, generator)
        else:
            self.token_mixer = SwiGLU(num_tokens, config, generator)
        self.swiglu = SwiGLU(config.hidden_size, config, generator)

    def forward(self, x_BLD: Tensor, rotary: Rotary | None) -> Tensor:
        if self.token_mixer is not None:
            # The norm after token mixing runs along the tokens, as in the official model.
            x_BDL = x_BLD.transpose(1, 2).contiguous()
            x_BLD = residual_norm(x_BDL, self.token_mixer(x_BDL), self.epsilon).transpose(1, 2).contiguous()
        elif self.attention is not None:
            x_BLD = residual_norm(x_BLD, self.attention(x_BLD, rotary), self.epsilon)
        return residual_norm(x_BLD, self.swiglu(x_BLD), self.epsilon)


class Network(nn.Module):
    """Apply a stack of blocks: one application is one step of the recursion."""

    def __init__(self, num_tokens: int, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(num_tokens, config, generator) for _ in range(config.num_layers))
        self.recompute: Recompute = "none"
        """What the backward pass computes again: nothing, all blocks of an application together, or one at a time."""

    def forward(self, x_BLD: Tensor, rotary: Rotary | None) -> Tensor:
        blocks = list(self.blocks)
        if self.recompute == "none" or not torch.is_grad_enabled():
            return _apply(blocks, x_BLD, rotary)
        for group in [blocks] if self.recompute == "cycle" else [[block] for block in blocks]:
            x_BLD = _recomputed(group, x_BLD, rotary)
        return x_BLD


def _apply(blocks: Sequence[nn.Module], x_BLD: Tensor, rotary: Rotary | None) -> Tensor:
    for block in blocks:
        x_BLD = block(x_BLD, rotary)
    return x_BLD


def _recomputed(blocks: Sequence[nn.Module], x_BLD: Tensor, rotary: Rotary | None) -> Tensor:
    """Apply blocks so that only their input is kept for the backward pass, which applies them once more.

    The weights are arguments: the model is called with other weights than its own (`recursion.run`), which it no
    longer has during the backward pass.
    """
    names = [list(dict(block.named_parameters())) for block in blocks]
    weights = [weight for block in blocks for _, weight in block.named_parameters()]

    def apply(x_BLD: Tensor, *weights: Tensor) -> Tensor:
        left = iter(weights)
        for block, own in zip(blocks, names, strict=True):
            x_BLD = functional_call(block, dict(zip(own, islice(left, len(own)), strict=True)), (x_BLD, rotary))
        return x_BLD

    output: Tensor = checkpoint(apply, x_BLD, *weights, use_reentrant=False, preserve_rng_state=False)
    return output
