"""How often should a puzzle's answer be improved before the next puzzle comes? N_sup at an equal number of puzzles.

At equal steps a run with N_sup = 16 would see up to sixteen times fewer puzzles than one with N_sup = 1.

    trm sweep plan sweeps/supervision_steps.py
"""

from orchestrator import recipe_for_gpu
from orchestrator.resources.published import ONE_GPU
from orchestrator.sweep import Sweep, choice, configure

PAPER = recipe_for_gpu("sudoku-mlp.paper")
PUZZLES = PAPER.train.max_steps * PAPER.train.batch_size // PAPER.model.supervision_steps

sweep = Sweep(
    name="supervision-steps",
    base=configure(PAPER, {"train.max_puzzles": PUZZLES}),
    space={"N_sup": choice(1, 2, 4, 8, 16)},
    seeds=3,
    equal="puzzles",
    resources=ONE_GPU,
)
