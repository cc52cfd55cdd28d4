"""Compare a recursion of your own with the built-in one, at equal steps.

trm sweep plan sweep.py
trm sweep run sweep.py
trm ablate own-recursion --control recursion=None
"""

from my_recursion import MyRecursion

from orchestrator import Sweep, choice, configure, get_recipe

base = configure(
    get_recipe("sudoku-mini"),
    {
        "ema": 0.99,
        "data.num_train": 1000,
        "train.max_steps": 300,
        "train.dtype": "float32",  # bfloat16 is for GPUs and processors that have its instructions
    },
)

sweep = Sweep(
    name="own-recursion",
    base=base,
    space={"model.recursion": choice(None, MyRecursion)},  # None is the built-in one
    seeds=3,  # every cell with three seeds
)
