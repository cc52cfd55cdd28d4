"""Halting: one rule, carries in checkpoints, and answers that are kept from the step at which they halted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.trm_model.test_train import assert_same, final_tensors, run, tiny
from trm_data import Dataset, build
from trm_model.checkpoints.store import LocalCheckpoints, newest
from trm_model.config import ModelConfig
from trm_model.evaluation.inference import Step, final_answers
from trm_model.model.halting import wants_halt, with_halted, without_halted
from trm_model.model.recursion import Output


def output(halt: list[float], going_on: list[float]) -> Output:
    return Output((), torch.empty(0), torch.tensor(halt), torch.tensor(going_on))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"halting": "sign"}, [True, False, True, False]),
        ({"halting": "continue"}, [False, True, True, False]),
        ({"halting": "compare"}, [False, True, True, False]),
        ({"variant": "hrm"}, [False, True, True, False]),
        ({"variant": "trm"}, [True, False, True, False]),
    ],
)
def test_halting_rule(settings: dict[str, str], expected: list[bool]) -> None:
    logits = output([1.0, -2.0, 3.0, -4.0], [2.0, -3.0, -1.0, -4.0])
    assert wants_halt(logits, ModelConfig.parse(settings)).tolist() == expected


def test_carry_without_states_of_halted_slots() -> None:
    halted = torch.tensor([True, False, False, True])
    states = torch.arange(8.0).reshape(4, 2)
    steps = torch.tensor([3, 1, 2, 3])
    kept = without_halted({"halted_B": halted, "state_0": states, "steps_B": steps})
    assert kept["state_0"].tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert kept["steps_B"].tolist() == [3, 1, 2, 3] and kept["halted_B"].tolist() == halted.tolist()
    whole = with_halted(kept)
    assert whole["state_0"].tolist() == [[0.0, 0.0], [2.0, 3.0], [4.0, 5.0], [0.0, 0.0]]
    assert whole["steps_B"].tolist() == [3, 1, 2, 3]
    earlier = {"halted_B": halted, "state_0": states}
    assert with_halted(earlier)["state_0"].tolist() == states.tolist(), "as earlier versions wrote them"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(tiny().data.request(), tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("variant", ["trm", "hrm"])
def test_run_resumes_from_a_step_at_which_some_slots_have_halted(
    variant: str, dataset: Dataset, tmp_path: Path
) -> None:
    """Slots halt after two or three steps here, by exploration, and so no longer all at once."""
    model = {"variant": variant, "supervision_steps": 3, "halt_exploration": 0.5}
    config = tiny(model=model, train={"batch_size": 16}, optimizer={"lr": 0.05}, runtime={"log_every": 1})
    run(config, dataset, tmp_path / "straight")
    mixed = 0
    for stop_at in (4, 5, 7):
        place = tmp_path / f"resumed{stop_at}"
        run(config, dataset, place, stop_at=stop_at)
        checkpoint = newest(LocalCheckpoints(place))
        assert checkpoint is not None
        halted = checkpoint.tensors["carry/halted_B"]
        assert len(checkpoint.tensors["carry/state_0"]) == int((~halted).sum())
        mixed += bool(halted.any() and not halted.all())
        run(config, dataset, place)
        assert_same(final_tensors(tmp_path / "straight"), final_tensors(place))
    assert mixed, "no checkpoint had both halted and active slots, so that nothing was tested"


def steps_of(cells: list[list[int]], logits: list[list[float]], wants: list[list[bool]]) -> list[Step]:
    """Steps with one cell per sequence."""
    return [
        Step(torch.tensor(c)[:, None], torch.tensor(x), torch.tensor(w))
        for c, x, w in zip(cells, logits, wants, strict=True)
    ]


def test_each_sequence_keeps_its_answer_from_the_step_at_which_it_first_wanted_to_halt() -> None:
    cells = [[10, 20, 30], [11, 21, 31], [12, 22, 32], [13, 23, 33]]
    logits = [[0.1, 0.2, 0.3], [1.1, 1.2, 1.3], [2.1, 2.2, 2.3], [3.1, 3.2, 3.3]]
    # The first halts at once and later wants to go on again, the second halts at step 2, the third never.
    wants = [[True, False, False], [False, True, False], [False, False, False], [False, True, False]]
    seen: list[int] = []
    found = final_answers(iter(steps_of(cells, logits, wants)), 4, halt=True, on_step=seen.append)
    assert found.cells_BC.squeeze(1).tolist() == [10, 21, 33]
    assert found.halt_logits_B.tolist() == pytest.approx([0.1, 1.2, 3.3])
    assert found.steps_B.tolist() == [1, 2, 4]
    assert (found.num_steps, seen) == (4, [1, 2, 3, 4])
    assert found.first_cells_BC.squeeze(1).tolist() == [10, 20, 30]


def test_batch_ends_when_the_last_sequence_has_halted() -> None:
    cells, logits = [[1, 2], [3, 4], [5, 6]], [[0.0, 0.0]] * 3
    wants = [[False, True], [True, False], [False, False]]
    found = final_answers(iter(steps_of(cells, logits, wants)), 3, halt=True)
    assert (found.num_steps, found.cells_BC.squeeze(1).tolist()) == (2, [3, 2])


def test_without_halting_the_last_step_counts_for_all() -> None:
    cells, logits = [[1, 2], [3, 4], [5, 6]], [[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]]
    wants = [[True, True], [True, False], [False, False]]
    found = final_answers(iter(steps_of(cells, logits, wants)), 3, halt=False)
    assert (found.num_steps, found.cells_BC.squeeze(1).tolist()) == (3, [5, 6])
    assert (found.steps_B.tolist(), found.halt_logits_B.tolist()) == ([3, 3], [2.0, 2.5])
