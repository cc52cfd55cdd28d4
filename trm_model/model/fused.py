"""Fuse the elementwise parts of a block into two operations: SwiGLU and the norm of a residual sum.

Each saves what its backward needs and nothing more (SwiGLU its input and pre-activations, the norm its output), so that
the activations of a block are a third less than with the operations one by one. On a CPU with few threads, where memory
traffic and not arithmetic is the limit, both run as single passes compiled by numba, in float32 or bfloat16; elsewhere
they are written with torch operations, which `torch.compile` fuses. R rows, I inner width, W width.
"""

# mypy: disable-error-code="no-untyped-call, no-untyped-def, untyped-decorator"
# The kernels are typed by numba, and autograd.Function.apply is not typed at all.

from __future__ import annotations

from typing import Any, cast

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from trm_model.model.precision import linear, product

_MOST_THREADS = 4  # the kernels use one thread; beyond four, torch's parallel operations overtake them

_jit: Any = numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")


def _load(x):
    """Load a number as float32: itself, or bfloat16 held as uint16."""
    raise NotImplementedError  # compiled below


def _store(x, like):
    """Convert a float32 to the type of `like`, rounded to the nearest even bfloat16 if that is uint16."""
    raise NotImplementedError  # compiled below


@overload(_load)
def _compile_load(x):
    if isinstance(x, numba.types.Float):
        return lambda x: x
    return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


@overload(_store)
def _compile_store(x, like):
    if isinstance(like, numba.types.Float):
        return lambda x, like: x

    def narrow(x, like):
        bits = np.float32(x).view(np.uint32)
        return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

    return narrow


@_jit
def _sigmoid(x):
    """Compute 1 / (1 + 2^t) with t = -x log2(e): the integer part of t shifted into the exponent, a polynomial for
    the rest.

    Written out because a call into the math library would keep the loop from being vectorised. Error below 2e-7.
    """
    t = min(max(x * np.float32(-1.442695), np.float32(-126)), np.float32(126))
    whole = np.floor(t + np.float32(0.5))
    rest = t - whole
    power = np.float32(1.3333558e-3)
    power = power * rest + np.float32(9.6181291e-3)
    power = power * rest + np.float32(5.5504109e-2)
    power = power * rest + np.float32(2.4022651e-1)
    power = power * rest + np.float32(6.9314718e-1)
    power = power * rest + np.float32(1)
    scale = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(1) / (np.float32(1) + power * scale)


@_jit
def _gate_forward(gate_up, out):
    rows, inner = out.shape
    for r in range(rows):
        for i in range(inner):
            gate = _load(gate_up[r, i])
            out[r, i] = _store(gate * _sigmoid(gate) * _load(gate_up[r, inner + i]), out[0, 0])


@_jit
def _gate_backward(gate_up, grad, grad_gate_up, out):
    rows, inner = out.shape
    for r in range(rows):
        for i in range(inner):
            gate, up, slope = _load(gate_up[r, i]), _load(gate_up[r, inner + i]), _load(grad[r, i])
            sigmoid = _sigmoid(gate)
            silu = gate * sigmoid
            grad_gate_up[r, i] = _store(slope * up * (sigmoid + silu * (np.float32(1) - sigmoid)), out[0, 0])
            grad_gate_up[r, inner + i] = _store(slope * silu, out[0, 0])
            out[r, i] = _store(silu * up, out[0, 0])


@_jit
def _norm_forward(x, change, epsilon, out, scale):
    rows, width = x.shape
    for r in range(rows):
        total = np.float32(0)
        for i in range(width):
            value = _load(x[r, i]) + _load(change[r, i])
            total += value * value
        factor = np.float32(1) / np.sqrt(total / np.float32(width) + epsilon)
        scale[r] = factor
        for i in range(width):
            out[r, i] = _store((_load(x[r, i]) + _load(change[r, i])) * factor, out[0, 0])


@_jit
def _norm_backward(out, scale, grad, grad_x):
    rows, width = out.shape
    for r in range(rows):
        total = np.float32(0)
        for i in range(width):
            total += _load(grad[r, i]) * _load(out[r, i])
        along = total / np.float32(width)
        for i in range(width):
            grad_x[r, i] = _store(scale[r] * (_load(grad[r, i]) - _load(out[r, i]) * along), out[0, 0])


def _uses_kernels(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and torch.get_num_threads() <= _MOST_THREADS
        and not torch.compiler.is_compiling()
    )


def _rows(x: Tensor) -> NDArray[Any]:
    """Return a contiguous tensor as a matrix over its last axis, sharing memory; bfloat16 as uint16."""
    flat = x.detach().view(-1, x.shape[-1])
    return (flat.view(torch.uint16) if x.dtype == torch.bfloat16 else flat).numpy()


def _gate(gate_up: Tensor) -> Tensor:
    if _uses_kernels(gate_up):
        out = gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
        _gate_forward(_rows(gate_up), _rows(out))
        return out
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _gate_gradient(gate_up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return (gradient of `gate_up`, the recomputed gated values)."""
    if _uses_kernels(gate_up):
        grad_gate_up, out = torch.empty_like(gate_up), torch.empty_like(grad)
        _gate_backward(_rows(gate_up), _rows(grad), _rows(grad_gate_up), _rows(out))
        return grad_gate_up, out
    gate, up = gate_up.chunk(2, dim=-1)
    sigmoid = gate.sigmoid()
    silu = gate * sigmoid
    return torch.cat((grad * up * (sigmoid + silu * (1 - sigmoid)), grad * silu), dim=-1), silu * up


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, gate_up_weight: Tensor, down_weight: Tensor) -> Tensor:
        gate_up = linear(x, gate_up_weight)
        ctx.save_for_backward(x, gate_up, gate_up_weight, down_weight)
        return linear(_gate(gate_up), down_weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, gate_up, gate_up_weight, down_weight = ctx.saved_tensors
        grad = grads[0].reshape(-1, down_weight.shape[0])
        grad_gate_up, gated = _gate_gradient(gate_up.view(-1, gate_up.shape[-1]), product(grad, down_weight))
        grad_x = product(grad_gate_up, gate_up_weight).view(x.shape)
        if not ctx.needs_input_grad[1]:  # frozen weights
            return grad_x, None, None
        return grad_x, product(grad_gate_up.t(), x.reshape(-1, x.shape[-1])), product(grad.t(), gated)


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, change: Tensor, epsilon: float) -> Tensor:
        if _uses_kernels(x):
            out, scale = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
            _norm_forward(_rows(x), _rows(change), np.float32(epsilon), _rows(out), scale.view(-1).numpy())
        else:
            wide = (x + change).float()
            scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
            out = (wide * scale).to(x.dtype)
        ctx.save_for_backward(out, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        out, scale = ctx.saved_tensors
        grad = grads[0].contiguous()
        if _uses_kernels(out):
            grad_x = torch.empty_like(out)
            _norm_backward(_rows(out), scale.view(-1).numpy(), _rows(grad), _rows(grad_x))
        else:
            wide, unit = grad.float(), out.float()
            grad_x = (scale * (wide - unit * (wide * unit).mean(-1, keepdim=True))).to(out.dtype)
        return grad_x, grad_x, None


def swiglu(x: Tensor, gate_up_weight: Tensor, down_weight: Tensor) -> Tensor:
    """Compute `down(silu(gate(x)) * up(x))` along the last axis; the weights are (2I, W) and (W, I)."""
    if torch.compiler.is_compiling():  # the compiler fuses automatically, and export does not support custom functions
        return linear(_gate(linear(x, gate_up_weight)), down_weight)
    return cast(Tensor, _SwiGLU.apply(x, gate_up_weight, down_weight))


def residual_norm(x: Tensor, change: Tensor, epsilon: float) -> Tensor:
    """Divide `x + change` by its root mean square along the last axis. Both must be contiguous."""
    if torch.compiler.is_compiling():
        wide = (x + change).float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(x.dtype)
    return cast(Tensor, _ResidualNorm.apply(x, change, epsilon))
