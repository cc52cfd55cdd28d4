"""Implement optimizers in plain PyTorch on one flat vector of all parameters, and the learning-rate schedule.

`FlatParameters` lays all weights out in one float32 vector: the optimizer, the moving average, the cast to bfloat16
and the reduction over processes are then one kernel each instead of one per parameter.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from trm_model.config import OptimizerConfig


class FlatParameters:
    """Hold the parameters of a module as views of one float32 vector, `vector`, which is the leaf that gradients
    reach, unless they are frozen."""

    def __init__(self, module: nn.Module, *, frozen: bool = False) -> None:
        named = dict(module.named_parameters())
        self.shapes = {name: parameter.shape for name, parameter in named.items()}
        self._sizes = [parameter.numel() for parameter in named.values()]
        self.vector = torch.cat([parameter.detach().flatten() for parameter in named.values()])
        self.vector.requires_grad_(not frozen)
        for parameter, view in zip(named.values(), self.views(self.vector.detach()).values(), strict=True):
            parameter.data = view
            parameter.requires_grad_(False)

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the parts of a vector of this layout, by parameter name."""
        pieces = torch.split(vector, self._sizes)
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the weights to compute with, cast once; gradients flow back to `vector`."""
        return self.views(self.vector.to(dtype))

    @property
    def grad(self) -> Tensor:
        """Return the gradient vector after a backward pass."""
        assert self.vector.grad is not None, "no backward pass yet"
        return self.vector.grad

    @property
    def num_parameters(self) -> int:
        return sum(self._sizes)


class Optimizer(Protocol):
    """Update a vector in place from its gradient."""

    def step(self, vector: Tensor, grad: Tensor, lr: float) -> None: ...

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold."""
        ...

    def load(self, state: dict[str, Tensor]) -> None: ...


class _Moments:
    """Hold first and second moment, shared by the members of the Adam family."""

    def __init__(self, like: Tensor, betas: tuple[float, float], weight_decay: float) -> None:
        self.first = torch.zeros_like(like, requires_grad=False)
        self.second = torch.zeros_like(like, requires_grad=False)
        self.count = 0
        self.betas = betas
        self.weight_decay = weight_decay

    def _advance(self, vector: Tensor, grad: Tensor, lr: float) -> tuple[float, Tensor]:
        """Decay the weights and update the moments; return (first-moment correction, corrected root of the second)."""
        self.count += 1
        beta1, beta2 = self.betas
        vector.mul_(1 - lr * self.weight_decay)
        self.first.lerp_(grad, 1 - beta1)
        self.second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        root = self.second.sqrt().div_(math.sqrt(1 - beta2**self.count))
        return 1 - beta1**self.count, root

    def state(self) -> dict[str, Tensor]:
        return {"first": self.first, "second": self.second, "count": torch.tensor(self.count)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.first.copy_(state["first"])
        self.second.copy_(state["second"])
        self.count = int(state["count"])


class AdamAtan2(_Moments):
    """Implement Adam with atan2(m, sqrt(v)) in place of m / (sqrt(v) + eps): bounded, scale-free and without
    epsilon.

    As the CUDA package adam-atan2 0.0.3: a = b = 1, and the first-moment correction scales the step, outside the
    arctangent.
    """

    @torch.no_grad()
    def step(self, vector: Tensor, grad: Tensor, lr: float) -> None:
        correction, root = self._advance(vector, grad, lr)
        vector.sub_(torch.atan2(self.first, root), alpha=lr / correction)


class AdamW(_Moments):
    """Implement Adam with decoupled weight decay, epsilon 1e-8."""

    @torch.no_grad()
    def step(self, vector: Tensor, grad: Tensor, lr: float) -> None:
        correction, root = self._advance(vector, grad, lr)
        vector.addcdiv_(self.first, root.add_(1e-8), value=-lr / correction)


class Muon:
    """Implement Muon: orthogonalised momentum for the matrices inside the networks; AdamW for everything else.

    The update of an (m, n) matrix is scaled by 0.2 sqrt(max(m, n)), which gives it the root mean square of an AdamW
    update, so that the same rate and decay serve both.
    """

    momentum = 0.95

    def __init__(self, flat: FlatParameters, betas: tuple[float, float], weight_decay: float) -> None:
        self._flat = flat
        self.velocity = torch.zeros_like(flat.vector, requires_grad=False)
        self._rest = AdamW(flat.vector, betas, 0.0)
        self.weight_decay = weight_decay

    @torch.no_grad()
    def step(self, vector: Tensor, grad: Tensor, lr: float) -> None:
        vector.mul_(1 - lr * self.weight_decay)
        self.velocity.lerp_(grad, 1 - self.momentum)
        ahead = grad.lerp(self.velocity, self.momentum)  # Nesterov
        others = grad.clone()
        zeroed = self._flat.views(others)
        weights = self._flat.views(vector)
        for name, update in self._flat.views(ahead).items():
            if name.startswith("recursion.") and update.ndim == 2:
                zeroed[name].zero_()  # AdamW's update of a gradient that is always zero is zero
                weights[name].sub_(orthogonal(update), alpha=0.2 * lr * math.sqrt(max(update.shape)))
        self._rest.step(vector, others, lr)

    def state(self) -> dict[str, Tensor]:
        return {"velocity": self.velocity} | self._rest.state()

    def load(self, state: dict[str, Tensor]) -> None:
        self.velocity.copy_(state["velocity"])
        self._rest.load(state)


def orthogonal(matrix: Tensor) -> Tensor:
    """Approximate the orthogonal factor of a matrix, by five Newton-Schulz steps of degree five."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x: Tensor = (matrix if wide else matrix.t()) / (matrix.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.t()
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return x if wide else x.t()


def build_optimizer(config: OptimizerConfig, flat: FlatParameters) -> Optimizer:
    """Return the optimizer that a configuration names."""
    if config.name == "muon":
        return Muon(flat, config.betas, config.weight_decay)
    kind = AdamAtan2 if config.name == "adam_atan2" else AdamW
    return kind(flat.vector, config.betas, config.weight_decay)


def schedule(step: int, *, warmup_steps: int, max_steps: int, min_ratio: float) -> float:
    """Return the share of the peak rate at update `step` (1-based): linear warm-up, then constant or cosine to
    `min_ratio`."""
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return min_ratio + max(0.0, (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))
