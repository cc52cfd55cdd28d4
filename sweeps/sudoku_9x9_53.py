"""How far does half an hour on one thread carry? TRM on generated 9x9 Sudoku with 53 of 81 cells blank (28 clues).

Scored once on 1,000 held-out puzzles (docs/results/sudoku-9x9.md).

    trm sweep run sweeps/sudoku_9x9_53.py
"""

from orchestrator.sweep import Sweep, configure
from trm_model.recipes import get_recipe

base = configure(
    get_recipe("sudoku-9x9-mini"),
    {
        "data.blanks": 53,
        "data.num_train": 50_000,
        "T": 2,
        "n": 3,
        "N_sup": 6,
        "lr": 3e-3,
        "optimizer.lr_min_ratio": 0.02,  # at a constant rate it stays at half of the puzzles from step 2,400 on
        "ema": 0.995,
        "train.max_steps": 7000,
        "runtime.evaluate_every": 500,
    },
)

sweep = Sweep(name="sudoku-9x9-53-blanks", base=base, seeds=1, equal="steps")
