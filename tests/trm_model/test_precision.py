"""How float32 products are computed, and the fused kernels against plain operations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from trm_model.model import precision
from trm_model.model.fused import residual_norm, swiglu
from trm_model.model.precision import (
    attention,
    bfloat16_instructions,
    choose_products,
    is_amd,
    linear,
    prefer_onednn,
    product_error,
    widens_attention,
    widens_products,
)

NARROW, WIDE = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1)


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


@pytest.mark.parametrize(
    ("flags", "products"),
    [
        ("flags : fpu avx2", True),
        ("flags : fpu avx2 avx512_bf16 avx512f", False),
        ("flags : fpu avx2 avx512_bf16 amx_bf16 amx_tile", False),
        ("Features : fp asimd bf16", False),
        ("flags : avx512_bf16x not_bf16", True),
    ],
)
def test_what_is_widened_follows_the_instructions_of_the_processor(
    flags: str, products: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"vendor_id : x\n{flags}\n")
    found = bfloat16_instructions(tmp_path / "cpuinfo")
    monkeypatch.setattr(precision, "INSTRUCTIONS", found)
    assert widens_products(NARROW) == products
    assert widens_attention(NARROW)
    assert not widens_products(WIDE)
    assert not widens_attention(WIDE)


def test_processor_that_cannot_be_read_multiplies_as_pytorch_does(tmp_path: Path) -> None:
    assert bfloat16_instructions(tmp_path / "missing") == precision.BFLOAT16_INSTRUCTIONS


def heads(seed: int) -> list[torch.Tensor]:
    """Return query, key, value and a gradient of (2, 3, 50, 16)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 50, 3, 16, generator=generator).transpose(1, 2) for _ in range(4)]


def test_attention_is_computed_without_the_switch_for_products_and_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, during = torch.backends.mkldnn.matmul, []
    function = F.scaled_dot_product_attention

    def spy(*args: torch.Tensor) -> torch.Tensor:
        during.append(settings.fp32_precision)
        return function(*args)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    *parts, grad = heads(0)
    leaves = [part.requires_grad_() for part in parts]
    expected = function(*leaves)
    plain = torch.autograd.grad(expected, leaves, grad)
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        mixed = attention(*leaves)
        assert (during, settings.fp32_precision) == (["none"], "bf16")
        assert mixed.grad_fn is not None
        seen: list[str] = []
        mixed.grad_fn.register_prehook(lambda grads: seen.append(settings.fp32_precision))
        leaves[0].register_hook(lambda grad: seen.append(settings.fp32_precision))
        grads = torch.autograd.grad(mixed, leaves, grad)
        assert (seen, settings.fp32_precision) == (["none", "bf16"], "bf16")
    finally:
        settings.fp32_precision = before
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(grads, plain)


@pytest.mark.parametrize("instructions", [frozenset(), frozenset({"avx512_bf16"})], ids=["widened", "native"])
def test_bfloat16_products_are_rounded_float32_ones(
    instructions: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "INSTRUCTIONS", instructions)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator).bfloat16() for shape in ((2, 5, 64), (32, 64))]
    given = [each.requires_grad_() for each in drawn]
    exact = [each.detach().double().requires_grad_() for each in given]
    slope = torch.randn(2, 5, 32, generator=generator).bfloat16()
    found, expected = linear(*given), F.linear(*exact)
    assert found.dtype == torch.bfloat16
    pairs = [(found, expected)]
    pairs += zip(
        torch.autograd.grad((found * slope).sum(), given),
        torch.autograd.grad((expected * slope.double()).sum(), exact),
        strict=True,
    )
    for one, two in pairs:
        assert (one.double() - two).norm() / two.norm() < 4e-3  # half of bfloat16's last digit


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
