"""How float32 products are computed, and the fused kernels against plain operations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from trm_model.model.fused import residual_norm, swiglu
from trm_model.model.precision import choose_products, is_amd, prefer_onednn, product_error


def test_products_stay_float32_whatever_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("vendor_id : AuthenticAMD\n")
    assert is_amd(tmp_path / "cpuinfo")
    assert not is_amd(tmp_path / "missing")
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        prefer_onednn(amd=True)
        assert product_error() < 1e-5
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_rounded_products_are_rounded_and_exact_ones_exact_again_afterwards() -> None:
    cpu = torch.device("cpu")
    try:
        choose_products(cpu, rounded=True)
        assert product_error() < 5e-3  # on a chip without bfloat16 instructions it stays float32's
    finally:
        choose_products(cpu, rounded=False)
    assert product_error() < 1e-5


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_fused_operations_equal_plain_ones(dtype: torch.dtype, tolerance: float, threads: int) -> None:
    """One thread takes the compiled kernels, eight the torch operations."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 7, 16), (48, 16), (16, 24))
    given = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    x, gate_up, down = given
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    plain = x + F.linear(F.silu(gate) * up, down)
    plain = plain * torch.rsqrt(plain.square().mean(-1, keepdim=True) + 1e-5)
    slope = torch.randn(plain.shape, generator=generator)
    expected = [plain, *torch.autograd.grad((plain * slope).sum(), given)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = x.to(dtype)
        fused = residual_norm(y, swiglu(y, gate_up.to(dtype), down.to(dtype)), 1e-5)
        found = [fused, *torch.autograd.grad((fused.float() * slope).sum(), given)]
    finally:
        torch.set_num_threads(before)
    for one, two in zip(expected, found, strict=True):
        assert (one - two).norm() / one.norm() < tolerance
