"""How many augmented copies per training puzzle? Sudoku-Extreme, published with 1,000.

At equal steps: each copy more is a repeat less.

trm sweep plan sweeps/augmentation/sudoku.py
"""

from orchestrator import recipe_for_gpu
from orchestrator.resources.published import ONE_GPU
from orchestrator.sweep import Sweep, choice

sweep = Sweep(
    name="augmentation-sudoku",
    base=recipe_for_gpu("sudoku-mlp.paper"),
    space={"aug": choice(0, 1, 10, 100, 1000)},
    seeds=3,
    equal="steps",
    resources=ONE_GPU,
)
