"""Choose whose prices a plan takes: those of a provider of the catalogue, or what the user pays."""

from __future__ import annotations

from pydantic import Field, field_validator

from orchestrator.resources import catalogue
from orchestrator.resources.catalogue import CatalogueError
from trm_data.errors import nearest
from trm_data.settings import Settings


def providers() -> list[str]:
    """Return the providers of the catalogue, sorted."""
    return sorted({price.provider for price in catalogue.prices()})


class Pricing(Settings):
    """Price GPU-hours on demand."""

    provider: str = "aws"
    usd_per_gpu_hour: float | None = Field(None, ge=0, allow_inf_nan=False)
    """What the user pays for a GPU of any type, instead of the provider's list price."""

    @field_validator("provider")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in providers():
            raise ValueError(f"no prices of this provider. {nearest(name, providers())}")
        return name

    def usd(self, gpu: str) -> float | None:
        """Return USD per GPU-hour; None if the catalogue has no price of the provider for this GPU."""
        if self.usd_per_gpu_hour is not None:
            return self.usd_per_gpu_hour
        try:
            return catalogue.usd_per_gpu_hour(gpu, "on-demand", self.provider)
        except CatalogueError:
            return None

    def source(self, gpu: str) -> str:
        """Return whose price it is, and of which day: `lambda, 2026-09-25`."""
        if self.usd_per_gpu_hour is not None:
            return "your price"
        found = catalogue.prices_for(gpu, "on-demand", self.provider)
        return f"{self.provider}, {found[0].date}" if found else self.provider
