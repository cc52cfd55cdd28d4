"""Choose how matrices are multiplied: float32 exactly or with rounded factors, and on a CPU with which library.

PyTorch sends float32 products to MKL, which is slow on AMD: oneDNN takes half the time there at hidden size 512, with
the same accuracy. PyTorch has no switch for that alone, but allowing oneDNN to use bfloat16 re-routes float32
products to it, and on a chip without matrix tiles (AMX) it then still computes in float32. The rule is the vendor,
not a timing, so that a resumed run takes the same path; and the accuracy is checked, so that a chip on which the
assumption fails keeps the default.

bfloat16 products need instructions of their own. Without them PyTorch takes several times as long as in float32 (nine
times on an AMD EPYC with AVX2), so the factors are widened to float32 and the product is rounded, which is what the
instructions compute: bfloat16 factors, sums in float32.

Attention on a CPU is computed in float32 by PyTorch's own kernel, and never with the switch above: with it, the kernel
sends its many small products to oneDNN, which took four to ten times as long on an AMD EPYC with AVX512-BF16. The
kernel's bfloat16 backward takes three to seven times as long as float32's there, and about five times on others.
"""

# mypy: disable-error-code="no-untyped-call"
# autograd.Function.apply is not typed.

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

BFLOAT16_INSTRUCTIONS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
"""Names in /proc/cpuinfo of instructions that multiply bfloat16: of Intel, of Intel and AMD, of ARM."""
_CPUINFO = Path("/proc/cpuinfo")
_FLOAT32_ERROR = 1e-5  # of a product of 512-vectors: float32 gives about 3e-7, bfloat16 about 3e-3


def is_amd(cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether this machine's processor is made by AMD (False if that cannot be read)."""
    try:
        return "AuthenticAMD" in cpuinfo.read_text()
    except OSError:
        return False


def bfloat16_instructions(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """Return the instructions of this machine's processor that multiply bfloat16; all where that cannot be read."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return BFLOAT16_INSTRUCTIONS
    return BFLOAT16_INSTRUCTIONS & set(re.findall(r"\w+", text))


INSTRUCTIONS = bfloat16_instructions()
"""Those of this machine: a constant, which `torch.compile` can read."""


def widens_products(x: Tensor) -> bool:
    """Return whether products with `x` are computed in float32 and rounded: bfloat16 on a CPU without instructions."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not INSTRUCTIONS


def widens_attention(x: Tensor) -> bool:
    """Return whether attention over `x` is computed in float32: on a CPU, always."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu"


def attention(q_BHLN: Tensor, k_BHLN: Tensor, v_BHLN: Tensor) -> Tensor:
    """Apply attention without a mask and return (B, H, L, N). float32 on a CPU takes PyTorch's own products."""
    parts, settings = (q_BHLN, k_BHLN, v_BHLN), getattr(torch.backends.mkldnn, "matmul", None)
    if q_BHLN.device.type != "cpu" or torch.compiler.is_compiling() or settings is None:
        return F.scaled_dot_product_attention(*parts)
    chosen = settings.fp32_precision
    if chosen == "none":
        return F.scaled_dot_product_attention(*parts)

    def choose(precision: str) -> None:
        settings.fp32_precision = precision

    choose("none")
    try:
        mixed_BHLN = F.scaled_dot_product_attention(*parts)
    finally:
        choose(chosen)
    node = mixed_BHLN.grad_fn
    if node is not None:  # the backward pass of this operation alone
        node.register_prehook(lambda grads: choose("none"))
        node.register_hook(lambda inputs, outputs: choose(chosen))
    return mixed_BHLN


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of two matrices, in their dtype; for use where gradients are computed by hand."""
    return (a.float() @ b.float()).to(a.dtype) if widens_products(a) else a @ b


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Apply `torch.nn.functional.linear`. No float32 copies are kept for the backward pass."""
    if not widens_products(x) or weight.dtype != x.dtype:  # of two types, PyTorch's function raises the error
        return F.linear(x, weight)
    if torch.compiler.is_compiling():
        return F.linear(x.float(), weight.float()).to(x.dtype)
    return cast(Tensor, _WideLinear.apply(x, weight))


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x.float(), weight.float()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.shape[0])
        grad_x = product(grad, weight).view(x.shape)
        return grad_x, product(grad.t(), x.reshape(-1, x.shape[-1])) if ctx.needs_input_grad[1] else None


def product_error() -> float:
    """Return the relative error of a float32 product with the current settings."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    return float((F.linear(a, b.t()).double() - exact).norm() / exact.norm())


def choose_products(device: torch.device, *, rounded: bool) -> None:
    """Multiply float32 matrices exactly, or `rounded`: with factors in bfloat16 (CPU) or TF32 (CUDA), sums in float32.

    For the whole process. A chip without instructions for the rounded kind multiplies exactly.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.fp32_precision = "tf32" if rounded else "ieee"
        return
    settings = getattr(torch.backends.mkldnn, "matmul", None)
    if settings is not None:
        settings.fp32_precision = "bf16" if rounded else "none"
    if not rounded:
        prefer_onednn()


def prefer_onednn(*, amd: bool | None = None) -> bool:
    """Send float32 products to oneDNN on AMD if they stay float32. Return whether they now go there."""
    settings = getattr(torch.backends.mkldnn, "matmul", None)
    if settings is None or not (is_amd() if amd is None else amd):
        return False
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    if product_error() < _FLOAT32_ERROR:
        return True
    settings.fp32_precision = before
    return False
