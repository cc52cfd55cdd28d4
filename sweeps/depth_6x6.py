"""How should a fixed budget of FLOPs be spent: on T, on n, on N_sup, or on more steps? Three seeds per cell.

Generated 6x6 Sudoku, 500 training puzzles, 1,000 augmented copies each (docs/results/depth-6x6.md).

    trm sweep run sweeps/depth_6x6.py
    trm leaderboard sudoku-6x6-generated --html report.html
"""

from orchestrator.sweep import Sweep, choice, configure
from trm_model.recipes import get_recipe

base = configure(
    get_recipe("sudoku-mini"),
    {
        "T": 2,
        "n": 3,
        "N_sup": 4,
        "lr": 2e-3,
        "ema": 0.99,
        "aug": 1000,
        "data.num_train": 500,
        "train.max_steps": 500,
        "runtime.evaluate_every": 100,
    },
)

sweep = Sweep(
    name="depth-6x6",
    base=base,
    space={"T": choice(1, 2), "n": choice(1, 3), "N_sup": choice(1, 4)},
    seeds=3,
    equal="flops",
)
