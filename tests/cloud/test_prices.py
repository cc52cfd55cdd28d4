"""Prices of machines: the user's, else the catalogue's of the named provider, else unknown."""

from __future__ import annotations

import pytest

from orchestrator.cloud.backend import CloudError, Limits, Offer, Options
from orchestrator.cloud.prices import catalogue_offers, price_machine
from orchestrator.cloud.quote import quote
from orchestrator.resources import catalogue
from orchestrator.storage import open_storage
from orchestrator.sweep.definition import Resources, Sweep
from orchestrator.sweep.settings import configure
from trm_model.recipes import get_recipe


def test_price_is_the_users_then_the_providers_then_unknown() -> None:
    assert price_machine("H100", 4, Options(usd_per_gpu_hour=2.0, provider="aws")).usd_per_hour == 8.0
    assert price_machine(None, 0, Options(usd_per_hour=0.25)).usd_per_hour == 0.25
    found = price_machine("H100", 2, Options(provider="lambda"))
    assert found.usd_per_hour == 2 * catalogue.usd_per_gpu_hour("H100", "on-demand", "lambda")
    assert found.source and found.date and found.provider == "lambda"
    assert price_machine("H100", 1, Options()).usd_per_hour is None
    assert price_machine("RTX4090", 1, Options(provider="lambda")).usd_per_hour is None
    with pytest.raises(CloudError, match="no prices of provider 'lambada'") as error:
        price_machine("H100", 1, Options(provider="lambada"))
    assert "lambda" in error.value.remedy


def test_offers_take_the_cheapest_provider_of_the_catalogue() -> None:
    every = catalogue_offers(["H100", "L40S"], Options())
    aws = catalogue_offers(["H100", "L40S"], Options(provider="aws"))
    assert [offer.usd_per_hour for offer in every] < [offer.usd_per_hour for offer in aws]
    assert {offer.provider for offer in aws} == {"aws"} and all(offer.price_date for offer in every)
    with pytest.raises(CloudError, match="no on-demand price of vast for L40S"):
        catalogue_offers(["L40S"], Options(provider="vast"))


def test_quote_prices_machine_hours_and_names_what_is_unknown(tmp_path) -> None:  # type: ignore[no-untyped-def]
    base = configure(get_recipe("sudoku-mini"), {"train.max_steps": 1000})
    sweep = Sweep(name="s", base=base, seeds=4, resources=Resources(cpus=1, gpus=1))
    offer = Offer(machine="box", gpu="H100", num_gpus=2, num_cpus=16, usd_per_hour=5.0)
    storage = open_storage(str(tmp_path))
    found = quote(sweep, "ssh", [offer, offer], storage, Limits(idle_minutes=30))
    assert found.num_trials == 4 and found.slots["H100"] >= 4 and found.usd_per_hour == 10.0
    assert found.hours is not None and found.usd == tuple(10.0 * hours for hours in found.hours)
    assert found.hours[1] > 0.5  # the idle time at the end
    unknown = quote(sweep, "ssh", [offer, offer.model_copy(update={"usd_per_hour": None})], storage, Limits())
    assert unknown.usd is None and unknown.usd_per_hour is None and "price of box: unknown" in unknown.unknown[0]
    short = quote(sweep, "ssh", [offer], storage, Limits(max_usd=0.01))
    assert "the budget ends it before it is complete" in short.unknown[-1]
    assert not any("budget" in text for text in found.unknown)
    wrong = sweep.model_copy(update={"resources": Resources(cpus=1, gpus=1, gpu_type="L40S")})
    assert quote(wrong, "ssh", [offer], storage, Limits()).misfits


def test_one_trial_at_a_time_is_not_offered_eight_gpus() -> None:
    (one,) = catalogue_offers(["H100"], Options(provider="lambda"))
    (many,) = catalogue_offers(["H100"], Options(provider="lambda"), least_gpus=8)
    assert one.num_gpus == 1 and many.num_gpus == 8 and one.usd_per_hour < many.usd_per_hour  # type: ignore[operator]
