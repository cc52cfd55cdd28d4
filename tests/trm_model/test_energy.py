"""Energy where the device reports it, against a stand-in for NVIDIA's library; no number elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.trm_model.test_train import run, tiny
from trm_data import build
from trm_model.training.energy import EnergyMeter, gpu_uuid
from trm_model.training.events import Evaluated, Finished, Trained


class FakeNvml(ModuleType):
    """One GPU that uses 250 J between two looks at its meter."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, has_meter: bool = True) -> None:
        super().__init__("pynvml")
        self.has_meter, self.total_mj = has_meter, 7_000_000

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != "GPU-here":
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        assert handle == "GPU-here"
        if not self.has_meter:
            raise self.NVMLError("Not Supported")
        self.total_mj += 250_000
        return self.total_mj


def test_meter_counts_from_its_making(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    meter = EnergyMeter("GPU-here")
    assert [meter.joules(), meter.joules()] == [250, 500]


@pytest.mark.parametrize(
    ("nvml", "uuid"), [(FakeNvml(has_meter=False), "GPU-here"), (FakeNvml(), "GPU-gone"), (None, "GPU-here")]
)
def test_device_that_does_not_report_gives_no_number(
    nvml: ModuleType | None, uuid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert EnergyMeter(uuid).joules() is None
    assert gpu_uuid(torch.device("cpu")) is None


def test_run_tells_its_energy_over_all_attempts_and_none_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def told(events: list[Any]) -> list[float]:
        measured = [event for event in events if isinstance(event, Trained | Evaluated)]
        return [event.metrics["energy_j"] for event in measured if "energy_j" in event.metrics]

    config = tiny()
    dataset = build(config.data.request(), tmp_path / "data")
    on_cpu = run(config, dataset, tmp_path / "cpu")
    assert not told(on_cpu) and "energy_j" not in on_cpu[-1].result  # type: ignore[union-attr]
    monkeypatch.setattr("trm_model.training.trainer.gpu_uuid", lambda device: "GPU-here")
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    first = told(run(config, dataset, tmp_path / "gpu", stop_at=4))
    assert first == [250, 500]
    again = run(config, dataset, tmp_path / "gpu")
    assert told(again)[0] > first[-1]
    assert isinstance(again[-1], Finished)
    assert again[-1].result["energy_j"] > told(again)[-1]
