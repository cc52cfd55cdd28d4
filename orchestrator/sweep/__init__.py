"""Define sweeps. Sweep files write `from orchestrator.sweep import Sweep, choice`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.sweep.definition import Confirm, ResourceRule, Resources, Stopping, Sweep, Variant
    from orchestrator.sweep.domains import choice, integers, log_uniform, uniform
    from orchestrator.sweep.settings import configure

_HOMES = {
    "definition": ("Confirm", "ResourceRule", "Resources", "Stopping", "Sweep", "Variant"),
    "domains": ("choice", "integers", "log_uniform", "uniform"),
    "settings": ("configure",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
