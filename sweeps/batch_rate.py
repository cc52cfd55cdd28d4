"""Which batch size with which learning rate? A search at an equal number of puzzles: large batches take fewer steps.

Early stopping compares equal steps, so every trial runs to its end.

    trm sweep plan sweeps/batch_rate.py
"""

from orchestrator import recipe_for_gpu
from orchestrator.resources.published import ONE_GPU
from orchestrator.sweep import Confirm, Stopping, Sweep, choice, configure, log_uniform

PAPER = configure(recipe_for_gpu("sudoku-mlp.paper"), {"data.num_validation": 1000})
PUZZLES = PAPER.train.max_steps * PAPER.train.batch_size // PAPER.model.supervision_steps

sweep = Sweep(
    name="batch-rate",
    kind="search",
    base=configure(PAPER, {"train.max_puzzles": PUZZLES, "train.max_steps": 8 * PAPER.train.max_steps}),
    space={"train.batch_size": choice(96, 192, 384, 768, 1536), "lr": log_uniform(1e-5, 1e-2)},
    trials=40,
    equal="puzzles",
    stopping=Stopping(rule="none"),
    confirm=Confirm(top=2, seeds=3),
    resources=ONE_GPU,
)
