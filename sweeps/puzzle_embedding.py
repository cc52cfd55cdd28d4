"""How many tokens for the puzzle embedding, and how fast should it learn? On ARC-AGI-1, where it tells tasks apart.

The rate counts for nothing without an embedding, so that cell exists once. Equal steps.

    trm sweep plan sweeps/puzzle_embedding.py
"""

from orchestrator import recipe_for_gpu
from orchestrator.resources.published import ONE_GPU
from orchestrator.sweep import Sweep, choice

sweep = Sweep(
    name="puzzle-embedding",
    base=recipe_for_gpu("arc-agi-1.readme"),
    space={
        "model.puzzle_embedding_len": choice(0, 1, 4, 16),
        "optimizer.puzzle_embedding_lr": choice(1e-4, 1e-3, 1e-2),
    },
    only_if={"optimizer.puzzle_embedding_lr": {"model.puzzle_embedding_len": (1, 4, 16)}},
    seeds=3,
    equal="steps",
    resources=ONE_GPU,
)
