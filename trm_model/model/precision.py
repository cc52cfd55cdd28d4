"""Choose how float32 matrices are multiplied: exactly or with rounded factors, and on a CPU with which library.

PyTorch sends float32 products to MKL, which is slow on AMD: oneDNN takes half the time there at hidden size 512, with
the same accuracy. PyTorch has no switch for that alone, but allowing oneDNN to use bfloat16 re-routes float32
products to it, and on a chip without matrix tiles (AMX) it then still computes in float32. The rule is the vendor,
not a timing, so that a resumed run takes the same path; and the accuracy is checked, so that a chip on which the
assumption fails keeps the default.
"""

from __future__ import annotations

from pathlib import Path

import torch

_FLOAT32_ERROR = 1e-5  # of a product of 512-vectors: float32 gives about 3e-7, bfloat16 about 3e-3


def is_amd(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this machine's processor is made by AMD (False if that cannot be read)."""
    try:
        return "AuthenticAMD" in cpuinfo.read_text()
    except OSError:
        return False


def product_error() -> float:
    """Return the relative error of a float32 product with the current settings."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    return float((torch.nn.functional.linear(a, b.t()).double() - exact).norm() / exact.norm())


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
