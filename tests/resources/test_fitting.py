"""How a configuration is made to fit a GPU, and what plans say of it."""

from __future__ import annotations

import json

import pytest

from orchestrator.cli import main
from orchestrator.resources import catalogue
from orchestrator.resources.fitting import ROOM, fit_memory
from orchestrator.resources.memory import memory_bytes
from orchestrator.sweep import configure
from orchestrator.sweep.text import about, device_time
from tests.support.gpus import MIB, RTX_4090, pretend
from tests.support.sweeps import tiny_config
from trm_model.recipes import get_recipe

LABEL = "GeForce-RTX-4090"


def call(*words: str) -> int | str | None:
    """Run a command; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return ended.value.code


def test_a_published_recipe_fits_an_rtx_4090_with_a_smaller_micro_batch() -> None:
    recipe = get_recipe("arc-agi-1.readme")
    room = RTX_4090[1] * MIB
    found = fit_memory(recipe, LABEL, room)
    assert found is not None and memory_bytes(recipe, "cuda") > room
    applied = configure(recipe, dict(found.settings))
    assert memory_bytes(applied, "cuda") == found.memory_bytes <= ROOM * room
    assert found.slowdown >= 1 and found.seconds is not None and found.seconds > 86400


def test_what_fits_stays_as_it_is() -> None:
    found = fit_memory(tiny_config(), LABEL, RTX_4090[1] * MIB)
    assert found is not None and found.settings == {} and found.slowdown == 1


def test_recomputing_is_proposed_where_one_example_is_too_large_without() -> None:
    recipe = get_recipe("maze-att.readme")
    smallest = {
        mode: memory_bytes(configure(recipe, {"runtime.micro_batch_size": 1, "runtime.recompute": mode}), "cuda")
        for mode in ("none", "cycle", "block")
    }
    room = int((smallest["none"] - 1) / ROOM)
    found = fit_memory(recipe, LABEL, room)
    assert found is not None and found.config.runtime.recompute in ("cycle", "block")
    assert 1.1 < found.slowdown < 1.5
    assert fit_memory(recipe, LABEL, int(min(smallest.values()) / ROOM) - 2**20) is None


def test_time_on_an_unknown_gpu_is_not_invented() -> None:
    found = fit_memory(get_recipe("arc-agi-1.readme"), "X9000", 16 * 2**30)
    assert found is not None and found.seconds is None and found.slowdown >= 1


def test_the_command_lists_every_published_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch)
    assert call("sweep", "plan", "--gpu", "RTX4090", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gpu_type"] == LABEL and found["memory_bytes"] == catalogue.gpu("RTX4090").memory_bytes
    assert all(one["memory_bytes"] <= ROOM * found["memory_bytes"] for one in found["recipes"].values())
    assert call("sweep", "plan", "--gpu", "RTX4090") == 0
    text = capsys.readouterr().out
    assert "arc-agi-1.readme" in text and "--set runtime.micro_batch_size=" in text and "days" in text
    assert call("sweep", "plan", "--gpu", "X9000") == 2
    assert "the memory of X9000 is not known" in capsys.readouterr().err


def test_a_plan_names_what_it_needs_what_there_is_and_what_helps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    pretend(monkeypatch)
    storage = str(tmp_path_factory.mktemp("plan"))
    assert call("sweep", "plan", "--recipe", "arc-agi-1.readme", "--gpu", "RTX4090", "--storage", storage) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"needs 117.8 GB on {LABEL}, which has 25.8 GB (fits with --set runtime.micro_batch_size=" in text
    assert "this machine, which has" not in text, "this machine's own memory does not matter to trials on a GPU"
    assert "GPU-hours" in text and "core-hours" in text and "e+0" not in text.split("estimated time")[1]
    assert "estimated time: a cell fits on no device" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "less than 1 s"), (22, "22 s"), (59.7, "1 min"), (200, "3 min"), (3599, "1 h"), (7300, "2 h"),
     (170_000, "47 h"), (190_000, "2 days"), (190 * 86400.0, "190 days"), (47_123 * 86400.0, "47,000 days")],
)  # fmt: skip
def test_predicted_times_have_no_more_digits_than_they_are_good_for(seconds: float, text: str) -> None:
    assert about(seconds) == text


def test_device_hours_are_readable() -> None:
    assert device_time(2832.3, "GPU") == "2,800 GPU-hours" and device_time(1.13e6, "core") == "1,100,000 core-hours"
    assert device_time(0.05, "GPU") == "3 min of one GPU" and device_time(1.26, "GPU") == "1.3 GPU-hours"
