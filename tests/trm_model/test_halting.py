"""Halting: one rule, carries in checkpoints, and answers that are kept from the step at which they halted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.trm_model.test_train import assert_same, tiny
from trm_data import Dataset, build
from trm_model.checkpoints.store import pack, unpack
from trm_model.config import ModelConfig, TrialConfig
from trm_model.evaluation.inference import Step, final_answers
from trm_model.model.halting import earliest_halt, halts, wants_halt, with_halted, without_halted
from trm_model.model.recursion import Output
from trm_model.training.trainer import Trainer


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


@pytest.mark.parametrize("steps", [2, 3, 16])
def test_explored_halting_steps_are_drawn_evenly_from_2_to_the_last(steps: int) -> None:
    drawn = earliest_halt(1, 5, 40_000, supervision_steps=steps, exploration=0.25)
    explored = drawn[drawn > 0]
    assert len(explored) / len(drawn) == pytest.approx(0.25, abs=0.01)
    values, counts = np.unique(explored, return_counts=True)
    assert values.tolist() == list(range(2, steps + 1))
    assert counts / counts.sum() == pytest.approx(np.full(steps - 1, 1 / (steps - 1)), abs=0.02)


def test_explored_halting_steps_depend_on_seed_step_and_the_whole_batch_alone() -> None:
    options = {"supervision_steps": 6, "exploration": 0.5}
    whole = earliest_halt(1, 5, 100, **options)  # type: ignore[arg-type]
    assert earliest_halt(1, 5, 100, **options).tolist() == whole.tolist()  # type: ignore[arg-type]
    assert earliest_halt(2, 5, 100, **options).tolist() != whole.tolist()  # type: ignore[arg-type]
    assert earliest_halt(1, 6, 100, **options).tolist() != whole.tolist()  # type: ignore[arg-type]
    assert not earliest_halt(1, 5, 9, supervision_steps=6, exploration=0.0).any()


def test_slots_are_left_when_the_sequence_wants_to_or_at_the_last_step_and_not_before_the_explored_one() -> None:
    wants = torch.tensor([True, True, False, False, True])
    steps = torch.tensor([1, 3, 3, 4, 2])
    earliest = torch.tensor([0, 4, 0, 4, 2])
    assert halts(wants, steps, earliest, 4).tolist() == [True, False, False, True, True]
    assert halts(wants, steps, earliest, 1).all(), "without deep supervision every step is the last"


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


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread: for models this small, several only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer(config: TrialConfig, dataset: Dataset) -> Trainer:
    """A run whose halt logits have either sign from the start; an untrained model never wants to halt."""
    made = Trainer(config, dataset, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        made.model.halt_head.copy_(torch.randn(made.model.halt_head.shape, generator=generator))
        made.model.halt_bias.zero_()
    return made


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("variant", ["trm", "hrm"])
def test_run_resumes_from_a_step_at_which_some_slots_have_halted(variant: str, dataset: Dataset) -> None:
    config = tiny(model={"variant": variant, "supervision_steps": 4}, train={"batch_size": 16})
    straight = trainer(config, dataset)
    saved: list[bytes] = []
    for _ in range(6):
        straight.train_step()
        checkpoint = straight.state({})
        saved.append(pack(checkpoint.tensors, checkpoint.header))
    wanted = straight.state({}).tensors
    mixed = 0
    for data in saved[:-1]:
        checkpoint = unpack(data)
        halted = checkpoint.tensors["carry/halted_B"]
        assert len(checkpoint.tensors["carry/state_0"]) == int((~halted).sum())
        mixed += bool(halted.any() and not halted.all())
        resumed = Trainer(config, dataset, torch.device("cpu"))
        resumed.load(checkpoint)
        while resumed.step < 6:
            resumed.train_step()
        assert_same(wanted, resumed.state({}).tensors)
    assert mixed >= 3, "most checkpoints must have both halted and active slots, or nothing is tested"


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
