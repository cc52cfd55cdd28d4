"""How much weight decay? Published: 1.0 on 1,000 puzzles, 0.1 on ARC. Equal steps.

trm sweep plan sweeps/weight_decay.py
"""

from orchestrator import recipe_for_gpu
from orchestrator.resources.published import ONE_GPU
from orchestrator.sweep import Sweep, choice

sweep = Sweep(
    name="weight-decay",
    base=recipe_for_gpu("sudoku-mlp.paper"),
    space={"wd": choice(0.0, 0.01, 0.1, 0.3, 1.0, 3.0)},
    seeds=3,
    equal="steps",
    resources=ONE_GPU,
)
