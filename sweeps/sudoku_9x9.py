"""Does recursion pay at equal compute? TRM, HRM and direct prediction on generated 9x9 Sudoku with 45 blanks.

Every run costs the FLOPs of the TRM's: the HRM takes about twice as many steps, direct prediction five times as many.
Three seeds each, scored once on 1,000 held-out puzzles (docs/results/sudoku-9x9.md).

    trm sweep plan sweeps/sudoku_9x9.py
    trm sweep run sweeps/sudoku_9x9.py
"""

from orchestrator.sweep import Sweep, Variant, configure
from trm_model.recipes import get_recipe

base = configure(
    get_recipe("sudoku-9x9-mini"),
    {
        "data.blanks": 45,
        "data.num_train": 20_000,
        "T": 2,
        "n": 3,
        "N_sup": 6,
        "lr": 3e-3,
        "train.max_steps": 2000,
        "runtime.evaluate_every": 200,
    },
)

sweep = Sweep(
    name="sudoku-9x9",
    base=base,
    variants=(
        Variant(name="TRM", settings={}),
        Variant(name="HRM", settings={"model.variant": "hrm", "model.num_layers": 1, "n": 2}),
        Variant(name="direct prediction", settings={"model.variant": "direct", "T": 1, "n": 1, "N_sup": 1}),
    ),
    seeds=3,
    equal="flops",
)
