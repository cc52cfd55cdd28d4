"""Which parts of TRM matter on a puzzle that a laptop can train? Table 1 of the paper in small, three seeds each.

Every run costs the FLOPs of the control. Generated 6x6 Sudoku, 500 training puzzles (docs/results/parts-6x6.md).

    trm sweep run sweeps/parts_6x6.py
    trm ablate parts-6x6 --control TRM
"""

from orchestrator.sweep import Sweep, Variant, configure
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

PARTS = {
    "TRM": {},
    "no augmentation": {"aug": 0},
    "no average of the weights": {"ema": 0.0},
    "no deep supervision": {"N_sup": 1},
    "one-step gradient": {"model.gradient": "step"},
    "two networks": {"model.shared_network": False},
    "attention": {"model.mixer": "attention", "model.positions": "rotary"},
}

sweep = Sweep(
    name="parts-6x6",
    base=base,
    variants=tuple(Variant(name=name, settings=settings) for name, settings in PARTS.items()),
    seeds=3,
    equal="flops",
)
