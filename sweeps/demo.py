"""The whole loop in minutes on a laptop: which recursion depth and how much augmentation does a small Sudoku need?

A search over T, n, N_sup and the augmentation count on generated 6x6 Sudoku with few training puzzles, then the best
configuration, direct prediction and an HRM of like size, three fresh seeds each, scored once on held-out puzzles. All
at equal steps. What is tried depends on no result and nothing is stopped early, so that two runs on one machine give
the same trials and the same scores.

    trm sweep plan demo
    trm sweep run demo
"""

from orchestrator.sweep import Confirm, Stopping, Sweep, Variant, choice, configure
from trm_model.recipes import get_recipe

base = configure(
    get_recipe("sudoku-mini"),
    {
        "lr": 4e-3,
        "ema": 0.99,
        "data.num_train": 500,  # few enough that augmentation matters
        "data.num_validation": 250,
        "data.num_test": 1000,
        "train.max_steps": 300,
        "train.dtype": "float32",  # most laptops have no bfloat16 instructions: a step there takes longer
        "runtime.evaluate_every": 50,
        "runtime.checkpoint_every_s": 10,
    },
)

# Each control gets a fair configuration: the augmentation, and its published shape at the TRM's number of weights.
DIRECT = {"model.variant": "direct", "T": 1, "n": 1, "N_sup": 1, "aug": 1000}
HRM = {"model.variant": "hrm", "model.num_layers": 1, "T": 2, "n": 2, "N_sup": 4, "aug": 1000}

sweep = Sweep(
    name="demo",
    kind="search",
    base=base,
    space={"T": choice(1, 2), "n": choice(1, 2, 3), "N_sup": choice(1, 2, 4), "aug": choice(0, 10, 1000)},
    trials=8,
    sampler="qmc",
    stopping=Stopping(rule="none"),
    confirm=Confirm(
        top=1,
        seeds=3,
        controls=(Variant(name="direct prediction", settings=DIRECT), Variant(name="HRM", settings=HRM)),
    ),
)
