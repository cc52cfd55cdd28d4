"""Which GPUs trials use where the sweep leaves it open, on stand-ins of several machines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.errors import SweepError
from orchestrator.resources.estimate import estimate
from orchestrator.resources.gpu_choice import choose_gpus
from orchestrator.resources.local_gpus import LocalGpu, label_of, local_gpus, smallest_bytes
from orchestrator.resources.nodes import Node
from orchestrator.resources.placement import parse_gpu
from orchestrator.storage import open_storage
from orchestrator.sweep import ResourceRule, Resources, Sweep, Variant, choice, configure
from tests.support.gpus import MIB, RTX_4090, UNKNOWN, nvidia_smi, nvml, pretend
from tests.support.sweeps import study
from trm_data.errors import ConfigError
from trm_model.recipes import get_recipe

GPU_4090 = LocalGpu(RTX_4090[0], RTX_4090[1] * MIB)
CORES = 16


@pytest.fixture(autouse=True)
def _cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: CORES)


class TestFindingGpus:
    def test_the_driver_names_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch, RTX_4090, UNKNOWN)
        assert local_gpus() == [GPU_4090, LocalGpu(UNKNOWN[0], UNKNOWN[1] * MIB)]

    @pytest.mark.parametrize(
        ("visible", "expected"),
        [
            ("1", ["b"]),
            ("2,0", ["c", "a"]),
            ("GPU-1111,GPU-0", ["b", "a"]),
            ("0,7,1", ["a"]),  # as in CUDA, a wrong index hides what follows
            ("", []),
            ("-1", []),
            ("NoDevFiles", []),
            ("MIG-5c4e-1", ["MIG device"]),
        ],
    )
    def test_cuda_visible_devices_of_the_user_is_obeyed(
        self, monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]
    ) -> None:
        pretend(monkeypatch, ("a", 100), ("b", 200), ("c", 300), visible=visible)
        assert [gpu.name for gpu in local_gpus()] == expected

    def test_nvidia_smi_serves_where_the_library_cannot_be_used(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setitem(sys.modules, "pynvml", nvml(works=False))
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        assert local_gpus() == []
        nvidia_smi(tmp_path, RTX_4090, RTX_4090)
        assert local_gpus() == [GPU_4090, GPU_4090]

    def test_gpus_of_two_types_have_a_label_of_their_own_and_the_memory_of_the_smaller(self) -> None:
        both = [GPU_4090, LocalGpu("NVIDIA GeForce RTX 3060", 12 * 2**30)]
        assert label_of(both) == "mixed" and smallest_bytes(both) == 12 * 2**30
        assert label_of([GPU_4090]) == "GeForce-RTX-4090" and label_of([]) is None
        assert smallest_bytes([GPU_4090, LocalGpu("MIG device")]) is None


class TestChoice:
    def test_one_rtx_4090_is_shared_by_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch, RTX_4090)
        choice = choose_gpus(study())
        assert (choice.sweep.resources.gpus, choice.is_shared, choice.label) == (1, True, "GeForce-RTX-4090")
        assert choice.memory == {"GeForce-RTX-4090": RTX_4090[1] * MIB}
        assert "1 x NVIDIA GeForce RTX 4090" in choice.message and "20 trials on each" in choice.message
        assert "\n" not in choice.message and "--gpu none" in choice.message

    def test_no_gpu_leaves_trials_on_the_cpu_without_a_word(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch)
        choice = choose_gpus(study())
        assert (choice.sweep.resources.gpus, list(choice.gpus or ()), choice.message) == (0, [], "")

    def test_none_offers_no_gpu_to_ray(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch, RTX_4090)
        choice = choose_gpus(study(resources=parse_gpu("none")))
        assert (choice.sweep.resources.gpus, list(choice.gpus or ()), choice.message) == (0, [], "")

    def test_definitions_of_older_versions_name_no_gpu_and_stay_on_the_cpu(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend(monkeypatch, RTX_4090)
        older = study().plain() | {"resources": {"cpus": 1, "gpus": 0, "gpu_type": None}}
        assert choose_gpus(Sweep.from_record(older)).sweep.resources.gpus == 0

    def test_a_cluster_is_not_this_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch, RTX_4090)
        for num_gpus, message in ((0.0, ""), (4.0, "--gpu any lets them use its GPUs")):
            choice = choose_gpus(study(), [Node("id", "host", True, 8, num_gpus, "L40S", None)])
            assert choice.sweep.resources.gpus == 0 and choice.gpus is None and choice.memory == {}
            assert choice.message.endswith(message) and bool(choice.message) is bool(num_gpus)

    def test_a_cpu_build_of_torch_and_a_cpu_configuration_leave_the_gpu_alone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend(monkeypatch, RTX_4090, cuda=None)
        choice = choose_gpus(study())
        assert choice.sweep.resources.gpus == 0 and "torch is a CPU build" in choice.message
        pretend(monkeypatch, RTX_4090)
        on_cpu = study(base=configure(study().base, {"runtime.device": "cpu"}))
        assert choose_gpus(on_cpu).sweep.resources.gpus == 0

    def test_a_configuration_that_the_gpu_cannot_hold_stays_on_the_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch, ("NVIDIA GeForce RTX 3060", 12288))
        choice = choose_gpus(Sweep(name="big", base=get_recipe("arc-agi-1.readme")))
        assert choice.sweep.resources.gpus == 0
        assert "this machine's 1 x NVIDIA GeForce RTX 3060 has 12.9 GB" in choice.message

    def test_rules_and_named_types_keep_what_they_say(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch, RTX_4090)
        rules = (
            ResourceRule(when={"T": 1}, resources=Resources(gpus=0)),
            ResourceRule(when={"T": 2}, resources=Resources(cpus=2)),
        )
        gpu_rule = ResourceRule(when={"T": 2}, resources=Resources(gpus=1))
        some = choose_gpus(study(resources=parse_gpu("none"), resource_rules=(rules[0], gpu_rule)))
        assert some.gpus == [GPU_4090], "Ray is told of the GPUs if any trial needs one"
        choice = choose_gpus(study(resources=parse_gpu("RTX4090"), resource_rules=rules))
        assert choice.sweep.resources == parse_gpu("RTX4090")
        assert [rule.resources.gpus for rule in choice.sweep.resource_rules] == [0, 1]

    def test_sharing_can_be_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch, RTX_4090)
        choice = choose_gpus(study(), share=False)
        assert choice.sweep.resources.gpus == 1 and not choice.is_shared
        assert choose_gpus(study(resources=parse_gpu("any"))).is_shared is False


class TestPlan:
    @pytest.mark.parametrize(
        ("gpus", "visible", "slots"),
        [
            ([RTX_4090], None, {"GeForce-RTX-4090": CORES}),  # 20 by memory, one core each
            ([UNKNOWN] * 2, None, {"Imaginary-X9000": CORES}),
            ([UNKNOWN] * 2, "1", {"Imaginary-X9000": 10}),
            ([], None, {"this machine": CORES}),
            ([RTX_4090], "", {"this machine": CORES}),
        ],
    )
    def test_it_counts_trials_by_the_memory_of_the_machines_own_gpus(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        gpus: list[tuple[str, int]],
        visible: str | None,
        slots: dict[str, int],
    ) -> None:
        pretend(monkeypatch, *gpus, visible=visible)
        plan = estimate(study(), open_storage(str(tmp_path)))
        assert plan.slots == slots
        is_unknown = "Imaginary-X9000" in slots
        assert (plan.wall_s is None) is is_unknown, "the time of an unknown GPU is not known before its first trial"
        assert ("x NVIDIA" in plan.gpu_choice) is ("this machine" not in slots)

    def test_any_is_planned_on_what_the_machine_has(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        pretend(monkeypatch, RTX_4090, RTX_4090)
        plan = estimate(study(resources=parse_gpu("any")), open_storage(str(tmp_path)))
        assert plan.slots == {"GeForce-RTX-4090": 2}
        assert plan.wall_s is not None and plan.wall_s >= 10, "a start on a GPU takes seconds"


class TestRequestedDevice:
    """What `runtime.device` names must be there, and trials must be given it."""

    @pytest.fixture(autouse=True)
    def _cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch)
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def test_variants_and_axes_count_and_a_base_that_does_not_run_does_not(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path))
        on_cuda = Variant(name="a", settings={"T": 2, "runtime.device": "cuda"})
        for refused in (study(space={}, variants=(on_cuda,)), study(space={"runtime.device": choice("cuda")})):
            with pytest.raises(ConfigError, match=r"runtime\.device='cuda', but this machine has no usable CUDA"):
                estimate(refused, storage)
        base = configure(get_recipe("sudoku-mini"), {"runtime.device": "cuda"})
        on_cpu = Variant(name="b", settings={"runtime.device": "cpu"})
        assert estimate(study(base=base, space={}, variants=(on_cpu,)), storage).num_trials == 2

    def test_plan_for_gpus_that_this_machine_lacks_is_made(self, tmp_path: Path) -> None:
        base = configure(get_recipe("sudoku-mini"), {"runtime.device": "cuda"})
        sweep = study(base=base, resources=Resources(gpus=1, gpu_type="L40S"))
        assert estimate(sweep, open_storage(str(tmp_path))).num_trials == 8

    def test_trials_without_a_gpu_cannot_use_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        base = configure(get_recipe("sudoku-mini"), {"runtime.device": "cuda"})
        with pytest.raises(SweepError, match="trials are given no GPU"):
            estimate(study(base=base, resources=Resources(gpus=0)), open_storage(str(tmp_path)))
