"""Define sweeps. Sweep files write `from orchestrator.sweep import Sweep, choice`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trm_data.lazy import lazy_names

if TYPE_CHECKING:
    from orchestrator.sweep.definition import Confirm, ResourceRule, Resources, Stopping, Sweep, Variant
    from orchestrator.sweep.domains import choice, integers, log_uniform, uniform
    from orchestrator.sweep.settings import configure

__all__ = [
    "Confirm",
    "ResourceRule",
    "Resources",
    "Stopping",
    "Sweep",
    "Variant",
    "choice",
    "configure",
    "integers",
    "log_uniform",
    "uniform",
]

__getattr__ = lazy_names(
    globals(),
    {
        ".definition": ("Confirm", "ResourceRule", "Resources", "Stopping", "Sweep", "Variant"),
        ".domains": ("choice", "integers", "log_uniform", "uniform"),
        ".settings": ("configure",),
    },
)
