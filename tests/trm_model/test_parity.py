"""The official numbers: forward, carry, halting, losses, gradients, optimizer steps, average of the golden models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.golden import model_arrays, model_facts
from tests.support.golden import numbers as golden_numbers
from trm_model.checkpoints.official import load_official, official_name, to_official
from trm_model.config import ModelConfig, OptimizerConfig
from trm_model.model.halting import Carry
from trm_model.model.puzzle_embedding import PuzzleEmbedding
from trm_model.model.recursion import Model, build_model, run
from trm_model.training.ema import MovingAverage
from trm_model.training.losses import judge, softmax_cross_entropy, stablemax_cross_entropy
from trm_model.training.optim import AdamAtan2, FlatParameters, build_optimizer, schedule
from trm_model.training.supervision import SUMS, Supervised, supervise

VARIANTS = {"hrm": "hrm", "transformers_baseline": "direct"}
LATENTS = {"trm_singlez": 0, "trm_hier6": 6}
MODELS = ["trm_att", "trm_mlp", "trm_singlez", "trm_hier6", "hrm", "transformers_baseline"]
OFFICIAL_SUMS = {
    "count": "count",
    "cell_accuracy": "accuracy",
    "exact_accuracy": "exact_accuracy",
    "halt_accuracy": "q_halt_accuracy",
    "halting_steps": "steps",
    "answer_loss": "lm_loss",
    "halt_loss": "q_halt_loss",
    "continue_loss": "q_continue_loss",
}


class Golden:
    """One golden model and its arrays."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.facts: dict[str, Any] = model_facts()[name]
        self.arrays = model_arrays(name)
        self._thinned = {key.partition("@")[0]: key for key in self.arrays if "@" in key}
        official = self.facts["config"]
        self.config = ModelConfig(
            variant=VARIANTS.get(name, "trm"),
            mixer="mlp" if official.get("mlp_t") else "attention",
            positions="rotary" if official["pos_encodings"] == "rope" else "none",
            hidden_size=official["hidden_size"],
            num_heads=official["num_heads"],
            expansion=official["expansion"],
            num_layers=official.get("L_layers") or official["H_layers"],
            cycles=official["H_cycles"],
            latent_steps=official.get("L_cycles", 1),
            num_latents=LATENTS.get(name, 1),
            supervision_steps=official["halt_max_steps"],
            halting="compare" if name == "transformers_baseline" else None,
            halt_exploration=official["halt_exploration_prob"],
            puzzle_embedding_len=official.get("puzzle_emb_len", 1),
        )

    def model(self) -> Model:
        model = build_model(self.config, vocab_size=11, seq_len=16, num_identifiers=10)
        load_official(model, {key[5:]: self.tensor(key).float() for key in self.arrays if key.startswith("init/")})
        return model

    def tensor(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key].copy())

    def state_key(self, index: int) -> str:
        return "z_" + official_name(f"start_{index}", self.config).removesuffix("_init")

    def check(self, key: str, value: torch.Tensor, tolerance: float) -> None:
        """Compare with the full array, or with the numbers of it that are stored."""
        if key not in self.arrays and key not in self._thinned:  # at most 512 numbers, evenly spread
            key, value = f"{key}/sample", value.detach().flatten()
            if len(value) > 512:
                value = value[torch.linspace(0, len(value) - 1, 512, dtype=torch.float64).long()]
        if key in self._thinned:
            key = self._thinned[key]
            value = value.detach().flatten()[:: int(key.partition("@")[2])]
        np.testing.assert_allclose(value.detach().numpy(), self.arrays[key], atol=tolerance, rtol=0, err_msg=key)


@pytest.fixture(params=MODELS)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def empty_carry(model: Model) -> Carry:
    zeros = torch.zeros(4, 16, dtype=torch.int32)
    return Carry(
        states=model.start(4, torch.float32),
        steps_B=torch.zeros(4, dtype=torch.int32),
        halted_B=torch.ones(4, dtype=torch.bool),
        inputs_BC=zeros,
        labels_BC=zeros,
        puzzle_ids_B=torch.zeros(4, dtype=torch.int32),
    )


def refill(carry: Carry, golden: Golden, number: int) -> Carry:
    """Batch rows take the place of halted ones."""
    halted = carry.halted_B
    fresh = [golden.tensor(f"batch{number}/{name}") for name in ("inputs", "labels", "puzzle_identifiers")]
    return replace(
        carry,
        inputs_BC=torch.where(halted[:, None], fresh[0], carry.inputs_BC),
        labels_BC=torch.where(halted[:, None], fresh[1], carry.labels_BC),
        puzzle_ids_B=torch.where(halted, fresh[2], carry.puzzle_ids_B),
    )


def step(model: Model, weights: Any, carry: Carry, rows: torch.Tensor) -> Supervised:
    return supervise(model, weights, carry, rows, torch.zeros(4, dtype=torch.int32), "stablemax")


def check_sums(golden: Golden, prefix: str, sums: torch.Tensor) -> None:
    for name, value in zip(SUMS, sums, strict=True):
        key = f"{prefix}/metric/{OFFICIAL_SUMS[name]}"
        if key in golden.arrays:
            golden.check(key, value, 1e-5)


def test_training_forward_follows_the_official_carry(golden: Golden) -> None:
    model = golden.model()
    assert model.puzzle_embedding is not None
    carry = empty_carry(model)
    for k in (1, 2, 3):
        carry = refill(carry, golden, k - 1)
        rows = model.puzzle_embedding.rows(carry.puzzle_ids_B, trained=False)
        done = step(model, dict(model.named_parameters()), carry, rows)
        carry, prefix = done.carry, f"A/step{k}"
        golden.check(f"{prefix}/logits", done.output.logits_BCV, 1e-4)
        golden.check(f"{prefix}/q_halt_logits", done.output.halt_logits_B, 1e-4)
        golden.check(f"{prefix}/q_continue_logits", done.output.continue_logits_B, 1e-4)
        assert (done.output.logits_BCV.argmax(-1).numpy() == golden.arrays[f"{prefix}/preds"]).all()
        for index, state in enumerate(carry.states):
            golden.check(f"{prefix}/carry/inner/{golden.state_key(index)}", state, 1e-4)
        assert (carry.steps_B.numpy() == golden.arrays[f"{prefix}/carry/steps"]).all()
        assert (carry.halted_B.numpy() == golden.arrays[f"{prefix}/carry/halted"]).all()
        assert (carry.inputs_BC.numpy() == golden.arrays[f"{prefix}/carry/current_data/inputs"]).all()
        golden.check(f"{prefix}/loss", done.loss, 1e-5)
        check_sums(golden, prefix, done.sums)


def test_evaluation_follows_the_official_steps(golden: Golden) -> None:
    model = golden.model()
    assert model.puzzle_embedding is not None
    inputs, labels = golden.tensor("batch0/inputs"), golden.tensor("batch0/labels")
    rows = model.puzzle_embedding.rows(golden.tensor("batch0/puzzle_identifiers"), trained=False)
    states = model.start(4, torch.float32)
    for k in range(1, 17):
        output = run(model, dict(model.named_parameters()), states, inputs, rows)
        states = output.states
        if k in (1, 2, 16):
            golden.check(f"E/step{k}/logits", output.logits_BCV, 3e-4)
            golden.check(f"E/step{k}/q_halt_logits", output.halt_logits_B, 3e-4)
    assert (output.logits_BCV.argmax(-1).numpy() == golden.arrays["E/preds"]).all()
    judged = judge(output.logits_BCV, labels)
    assert judged.correct_B.sum() == golden.arrays["E/metric/exact_accuracy"]
    assert judged.cell_accuracy_B.sum().item() == pytest.approx(float(golden.arrays["E/metric/accuracy"]), abs=1e-5)


def test_three_optimizer_steps_give_the_official_weights(golden: Golden) -> None:
    model = golden.model()
    embedding = model.puzzle_embedding
    assert embedding is not None
    settings = golden.facts["optim"]
    flat = FlatParameters(model)
    config = OptimizerConfig(lr=settings["lr"], weight_decay=settings["weight_decay"])
    optimizer = build_optimizer(config, flat)
    average = MovingAverage(flat.vector, settings["ema_mu"], warm_up=False)
    carry = empty_carry(model)

    def check_all(prefix: str, vector: torch.Tensor, tolerance: float) -> None:
        for name, value in flat.views(vector).items():
            golden.check(f"{prefix}/model.inner.{official_name(name, golden.config)}", value, tolerance)

    for k in (1, 2, 3):
        carry = refill(carry, golden, k - 1)
        rows = embedding.rows(carry.puzzle_ids_B, trained=True)
        done = step(model, flat.weights(torch.float32), carry, rows)
        flat.vector.grad = None
        (done.loss / 4).backward()
        assert rows.grad is not None
        golden.check(f"T/step{k}/puzzle_emb_local_grad", rows.grad, 1e-6)
        if k == 1:
            check_all("T/step1/grad", flat.grad, 1e-5)
        embedding.update(
            carry.puzzle_ids_B, rows.grad, settings["puzzle_emb_lr"], settings["puzzle_emb_weight_decay"], step=1
        )
        optimizer.step(flat.vector, flat.grad, settings["lr"])
        average.update(flat.vector)
        golden.check(f"T/step{k}/loss", done.loss, 1e-5)
        check_sums(golden, f"T/step{k}", done.sums)
        assert (done.carry.halted_B.numpy() == golden.arrays[f"T/step{k}/halted"]).all()
        golden.check(f"T/step{k}/puzzle_emb_weights", embedding.weight, 1e-6)
        if k != 2:
            check_all(f"T/step{k}/weight", flat.vector, 1e-5)
        carry = done.carry
    assert isinstance(optimizer, AdamAtan2)
    check_all("T/ema_shadow", average.vector, 1e-6)
    check_all("T/exp_avg", optimizer.first, 1e-6)
    check_all("T/exp_avg_sq", optimizer.second, 1e-6)


def test_export_gives_back_the_official_tensors(golden: Golden) -> None:
    exported = to_official(golden.model())
    stored = {key.removeprefix("init/"): golden.tensor(key) for key in golden.arrays if key.startswith("init/")}
    assert exported.keys() == stored.keys()
    assert all(torch.equal(exported[name], value.float()) for name, value in stored.items())


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    return golden_numbers()


def test_adam_atan2_follows_the_cuda_package(numbers: dict[str, Any]) -> None:
    case = numbers["adam_atan2"]
    after = torch.tensor(case["param_after"])
    vector = after[0].clone()
    optimizer = AdamAtan2(vector, tuple(case["betas"]), case["weight_decay"])
    for grad, expected in zip(torch.tensor(case["grads"]), after[1:], strict=True):
        optimizer.step(vector, grad, case["lr"])
        torch.testing.assert_close(vector, expected, atol=1e-6, rtol=0)


def test_puzzle_embedding_sums_duplicate_rows_before_the_sign(numbers: dict[str, Any]) -> None:
    case = numbers["signsgd"]
    embedding = PuzzleEmbedding(6, 3)
    embedding.weight.copy_(torch.tensor(case["weights"]))
    embedding.update(torch.tensor(case["ids"]), torch.tensor(case["grad"]), case["lr"], case["weight_decay"], step=1)
    torch.testing.assert_close(embedding.weight, torch.tensor(case["after"]), atol=1e-6, rtol=0)


def test_cross_entropies_are_the_official_ones(numbers: dict[str, Any]) -> None:
    case = numbers["losses"]
    logits, labels = torch.tensor(case["logits"]).requires_grad_(), torch.tensor(case["labels"])
    supervised = labels != -100
    loss = stablemax_cross_entropy(logits, labels).masked_fill(~supervised, 0)
    np.testing.assert_allclose(loss.detach(), case["stablemax_ce_float64"], atol=1e-9)
    loss.sum().backward()
    np.testing.assert_allclose(logits.grad, case["stablemax_grad"], atol=1e-6)
    np.testing.assert_allclose(softmax_cross_entropy(logits, labels).detach(), case["softmax_ce"], atol=1e-6)


def test_stablemax_has_a_finite_gradient_where_a_logit_is_exactly_one() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0]], requires_grad=True)
    stablemax_cross_entropy(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_learning_rate_ends_at_its_lowest_however_short_the_decay_is() -> None:
    for warmup_steps, lowest in ((10, 1.0), (9, 0.1), (0, 0.1)):
        share = schedule(10, warmup_steps=warmup_steps, max_steps=10, min_ratio=0.1)
        assert share == pytest.approx(lowest), "without a decay the rate ends at its peak"
    assert [schedule(step, warmup_steps=4, max_steps=10, min_ratio=0.0) for step in (0, 1, 4)] == [0.0, 0.25, 1.0]


def test_learning_rate_follows_the_official_schedule(numbers: dict[str, Any]) -> None:
    for case in numbers["lr_schedule"]:
        arguments = case["args"]
        for step_number, expected in zip(case["steps"], case["lr"], strict=True):
            share = schedule(
                step_number,
                warmup_steps=arguments["num_warmup_steps"],
                max_steps=arguments["num_training_steps"],
                min_ratio=arguments["min_ratio"],
            )
            assert share * arguments["base_lr"] == pytest.approx(expected, rel=1e-6)
