"""Compute losses and the sums that metrics are made of.

Shapes: B batch, C grid cells, V vocabulary. A loss is a sum over the rows of the batch, each row's
cells averaged; the loop divides by the global batch size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trm_model.config import IGNORED
from trm_model.model.recursion import Output


class Judged(NamedTuple):
    """Hold the comparison of the answers with the labels."""

    correct_B: Tensor
    """Every supervised cell is right."""
    cell_accuracy_B: Tensor
    has_labels_B: Tensor


def stablemax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return cross entropy with s(x) = x + 1 above zero and 1 / (1 - x) below in place of exp, in float64.

    The sums lose all precision in float32 when a logit is large; at 11 symbols float64 does not show in a profile.
    """
    wide = logits.double()
    # The clamp keeps the branch not taken finite: at x = 1 its gradient would be infinite, and 0 * inf is not 0.
    scores = torch.where(wide < 0, 1 / (1 - wide.clamp(max=0)), wide + 1)
    picked = scores.gather(-1, labels.long().clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return scores.sum(-1).log() - picked.log()


def softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the usual cross entropy per cell, in float32."""
    flat = F.cross_entropy(
        logits.float().flatten(0, -2), labels.long().flatten(), ignore_index=IGNORED, reduction="none"
    )
    return flat.view(labels.shape)


CROSS_ENTROPIES = {"stablemax": stablemax_cross_entropy, "softmax": softmax_cross_entropy}


def as_targets(labels_BC: Tensor) -> Tensor:
    """Convert labels of the data (unsigned, 0 for a cell that is not supervised): signed, with `IGNORED` for 0."""
    return labels_BC.short().masked_fill_(labels_BC == 0, IGNORED)


@torch.no_grad()
def judge(logits_BCV: Tensor, labels_BC: Tensor) -> Judged:
    """Compare the most likely symbols with the labels."""
    supervised_BC = labels_BC != IGNORED
    right_B = ((logits_BCV.argmax(-1) == labels_BC) & supervised_BC).sum(-1)
    count_B = supervised_BC.sum(-1)
    return Judged(right_B == count_B, right_B / count_B.clamp_min(1), count_B > 0)


def answer_loss(logits_BCV: Tensor, labels_BC: Tensor, kind: str) -> Tensor:
    """Return the sum over rows of the mean cross entropy of a row's supervised cells."""
    supervised_BC = labels_BC != IGNORED
    loss_BC = CROSS_ENTROPIES[kind](logits_BCV, labels_BC).masked_fill(~supervised_BC, 0)
    return (loss_BC.sum(-1) / supervised_BC.sum(-1).clamp_min(1)).sum()


def halt_loss(halt_logits_B: Tensor, correct_B: Tensor) -> Tensor:
    """Return the loss of the halting head, which predicts whether the answer is already right."""
    return F.binary_cross_entropy_with_logits(halt_logits_B, correct_B.to(halt_logits_B.dtype), reduction="sum")


@torch.no_grad()
def continue_target(next_output: Output, is_last_B: Tensor) -> Tensor:
    """Return the target of the continue head: the value that the next step would have."""
    halt_B, go_on_B = next_output.halt_logits_B, next_output.continue_logits_B
    return torch.where(is_last_B, halt_B, torch.maximum(halt_B, go_on_B)).sigmoid()


def continue_loss(continue_logits_B: Tensor, target_B: Tensor) -> Tensor:
    """Return the Q-learning loss of the continue head."""
    return F.binary_cross_entropy_with_logits(continue_logits_B, target_B, reduction="sum")
