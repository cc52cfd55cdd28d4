"""How many augmented copies per training puzzle? Sudoku-Extreme, published with 1,000.

At equal steps: each copy more is a repeat less.

trm sweep plan sweeps/augmentation/sudoku.py
"""

from orchestrator.published import ONE_GPU
from orchestrator.sweep import Sweep, choice
from trm_model.recipes import get_recipe

sweep = Sweep(
    name="augmentation-sudoku",
    base=get_recipe("sudoku-mlp.paper"),
    space={"aug": choice(0, 1, 10, 100, 1000)},
    seeds=3,
    equal="steps",
    resources=ONE_GPU,
)
