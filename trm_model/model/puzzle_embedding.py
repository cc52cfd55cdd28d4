"""Train one vector per augmented puzzle, row by row: the table is too large for autograd (1.8 GB on ARC-AGI-1).

Shapes: B batch, E embedding size, R distinct rows. The table is a buffer: the optimizer and the moving average leave
it alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PuzzleEmbedding(nn.Module):
    """Hold the table, which starts at zero. Row 0 is the blank identifier of benchmarks whose puzzles share one."""

    weight: Tensor
    changed_at: Tensor
    """(rows) int32: the step that changed a row last."""

    def __init__(self, num_identifiers: int, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_identifiers, size))
        self.register_buffer("changed_at", torch.zeros(num_identifiers, dtype=torch.int32), persistent=False)

    def rows(self, ids_B: Tensor, *, trained: bool) -> Tensor:
        """Return the rows of a batch, (B, E), as a leaf whose gradient `update` takes."""
        return self.weight[ids_B.long()].requires_grad_(trained)

    @torch.no_grad()
    def update(self, ids_B: Tensor, grad_BE: Tensor, lr: float, weight_decay: float, *, step: int) -> None:
        """Apply sign-SGD to the rows of a batch, at optimizer step `step` (1-based). Gradients of a row that occurs
        twice are summed before the sign."""
        ids_R, place_B = torch.unique(ids_B.long(), return_inverse=True)
        grad_RE = torch.zeros(len(ids_R), grad_BE.shape[1], device=grad_BE.device).index_add_(0, place_B, grad_BE)
        self.weight[ids_R] = self.weight[ids_R].mul_(1 - lr * weight_decay).sub_(grad_RE.sign(), alpha=lr)
        self.changed_at[ids_R] = step
