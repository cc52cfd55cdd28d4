"""How many augmented copies per training puzzle? Maze-Hard, published without any; eight symmetries exist.

At equal steps: each copy more is a repeat less.

trm sweep plan sweeps/augmentation/maze.py
"""

from orchestrator import recipe_for_gpu
from orchestrator.resources.published import ONE_GPU
from orchestrator.sweep import Sweep, choice

sweep = Sweep(
    name="augmentation-maze",
    base=recipe_for_gpu("maze-att.paper"),
    space={"aug": choice(0, 1, 3, 7)},
    seeds=3,
    equal="steps",
    resources=ONE_GPU,
)
