"""GPU facts and prices."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest

from orchestrator.errors import SweepError
from orchestrator.resources import catalogue
from orchestrator.resources.catalogue import CatalogueError
from orchestrator.resources.devices import require_local_gpus
from orchestrator.resources.placement import misspelled_gpus, parse_gpu
from orchestrator.sweep.definition import Resources
from tests.support.sweeps import study


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("L40S", "L40S"),
        ("NVIDIA L40S", "L40S"),
        ("H100", "H100-SXM"),
        ("h100 pcie", "H100-PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA H100 NVL", "H100-NVL"),
    ],
)
def test_a_gpu_is_found_by_any_of_its_names(name: str, expected: str) -> None:
    assert catalogue.gpu(name).name == expected


@pytest.mark.parametrize(("name", "near"), [("L40", "L40S"), ("H100-SMX", "H100-SXM"), ("TPU", "Known: .*H100-NVL")])
def test_an_unknown_gpu_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(CatalogueError, match=f"unknown GPU '{name}'.*{near}"):
        catalogue.gpu(name)


def test_the_facts_are_those_of_the_data_sheets() -> None:
    l40s, h100 = catalogue.gpu("L40S"), catalogue.gpu("H100")
    assert (l40s.bf16_tflops, l40s.bandwidth_gb_per_s, l40s.power_w) == (362, 864, 350)
    assert (h100.bf16_tflops, h100.bandwidth_gb_per_s, h100.power_w) == (989, 3350, 700)
    assert (l40s.memory_bytes, h100.memory_bytes) == (45_776 << 20, 81_920 << 20)


def test_no_two_gpus_share_a_name() -> None:
    names = [name.casefold() for known in catalogue.gpus() for name in {known.name, *known.aliases.split("|")} if name]
    assert len(names) == len(set(names))


def test_prices_are_per_gpu_and_the_cheapest_comes_first() -> None:
    assert catalogue.usd_per_gpu_hour("L40S") == 1.861
    assert catalogue.usd_per_gpu_hour("H100") == 6.88
    assert catalogue.usd_per_gpu_hour("H100", "spot") == 2.54
    assert catalogue.usd_per_gpu_hour("NVIDIA H100 PCIe", provider="lambda") == 3.29
    shares = [price.usd_per_gpu_hour for price in catalogue.prices_for("H100")]
    assert shares == sorted(shares) and min(shares) == 1.25


def test_instances_are_the_on_demand_machines_of_aws() -> None:
    assert [machine.instance for machine in catalogue.instances_for("H100")] == ["p5.4xlarge", "p5.48xlarge"]
    first = catalogue.instances_for("L40S")[0]
    assert (first.instance, first.num_vcpus, first.memory_gib, first.num_gpus) == ("g6e.xlarge", 4, 32, 1)


def test_a_missing_market_lists_the_known_ones() -> None:
    with pytest.raises(CatalogueError, match=r"no spot price for H100-NVL at aws\. Known: runpod on-demand"):
        catalogue.usd_per_gpu_hour("H100-NVL", "spot")


def test_every_price_names_a_known_gpu_and_says_where_it_is_from() -> None:
    for price in catalogue.prices():
        assert catalogue.gpu(price.gpu).name == price.gpu
        assert price.source
        assert 0.5 < price.usd_per_gpu_hour < 15


def test_every_aws_family_has_a_quota_in_both_markets() -> None:
    families = {price.instance[0] for price in catalogue.prices() if price.provider == "aws"}
    expected = set(itertools.product(families, ("on-demand", "spot")))
    assert {(quota.family, quota.market) for quota in catalogue.quotas()} == expected
    assert len({quota.code for quota in catalogue.quotas()}) == len(catalogue.quotas())


def test_aws_prices_equal_the_reference_table(shared: Path) -> None:
    with (shared / "research" / "hardware.csv").open(newline="") as file:
        expected = {row["item"]: row["usd_per_hour_on_demand_us_east_1"] for row in csv.DictReader(file)}
    for price in catalogue.prices():
        if (price.provider, price.market) == ("aws", "on-demand"):
            assert float(expected[price.instance]) == price.usd_per_hour


def test_misspelled_gpu_is_named_unless_a_node_has_the_label() -> None:
    for name in ("A100", "my-gpu", "L40S", "h100", "any", "GeForce-RTX-4080", "A5000"):
        assert misspelled_gpus(study(resources=Resources(gpus=1, gpu_type=name)), []) == ""
    sweep = study(resources=Resources(gpus=1, gpu_type="H100|L40"))
    assert misspelled_gpus(sweep, ["L40S", None]).endswith(
        "'L40' is unknown, and no node has that label. Did you mean 'L40S'?"
    )
    assert misspelled_gpus(sweep, ["L40"]) == ""
    with pytest.raises(SweepError, match="Did you mean 'L40S'"):
        require_local_gpus(sweep, None)
    require_local_gpus(sweep, "L40")


DRIVER_NAMES = (
    "Tesla T4", "NVIDIA L4", "NVIDIA A10G", "NVIDIA A10", "NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 4090",
    "NVIDIA GeForce RTX 5090", "NVIDIA A100-SXM4-40GB", "NVIDIA A100 80GB PCIe", "NVIDIA L40S",
    "NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA B200", "NVIDIA GH200 480GB", "Tesla V100-SXM2-16GB",
    "Tesla P100-PCIE-16GB",
)  # fmt: skip
UNKNOWN_NAMES = ("NVIDIA GeForce RTX 3060 Ti", "NVIDIA RTX A4000", "NVIDIA RTX 6000 Ada Generation", "Quadro P2000")


@pytest.mark.parametrize("name", [*DRIVER_NAMES, *UNKNOWN_NAMES])
def test_every_gpu_has_the_label_that_ray_gives_its_node(name: str) -> None:
    from ray._private.accelerators import NvidiaGPUAcceleratorManager

    assert catalogue.ray_label(name) == NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(name)


@pytest.mark.parametrize("name", DRIVER_NAMES)
def test_common_gpus_are_known_by_the_name_in_nvidia_smi_and_by_their_label(name: str) -> None:
    known = catalogue.gpu(name)
    assert known.source and known.memory_bytes > 14e9 and known.power_w
    assert catalogue.gpu(known.ray_type).ray_type == known.ray_type


def test_labels_of_ray_are_its_own_constants() -> None:
    from ray.util.accelerators import accelerators

    labels = {value for name, value in vars(accelerators).items() if name.startswith("NVIDIA_")}
    own = {known.ray_type for known in catalogue.gpus()}
    assert {label for label in own if not label.startswith("GeForce")} - {"A10", "GH200"} <= labels


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("RTX4090", "GeForce-RTX-4090"),
        ("rtx 4090", "GeForce-RTX-4090"),
        ("NVIDIA GeForce RTX 4090", "GeForce-RTX-4090"),
        ("RTX3060", "GeForce-RTX-3060"),
        ("rtx 4070 SUPER", "GeForce-RTX-4070-SUPER"),
        ("NVIDIA RTX A4000", "RTX-A4000"),
        ("T4", "T4"),
        ("A100", "A100"),
        ("my-own-label", "my-own-label"),
    ],
)
def test_any_gpu_is_accepted(text: str, label: str) -> None:
    assert parse_gpu(text) == Resources(gpus=1, gpu_type=label)


def test_facts_without_a_source_are_empty_and_plans_do_without_them() -> None:
    t4, b200 = catalogue.gpu("T4"), catalogue.gpu("B200")
    assert t4.bf16_tflops is None and t4.peak_flops == 8.1e12, "bfloat16 is emulated on float32 units"
    assert b200.fp32_tflops is None and b200.peak_flops == 2250e12
    assert catalogue.prices_for("RTX4090") == []
