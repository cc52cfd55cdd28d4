"""How many augmented copies per training puzzle? ARC-AGI-1, published with 1,000.

At equal steps: each copy more is a repeat less.

trm sweep plan sweeps/augmentation/arc_agi_1.py
"""

from orchestrator import recipe_for_gpu
from orchestrator.resources.published import ONE_GPU
from orchestrator.sweep import Sweep, choice

sweep = Sweep(
    name="augmentation-arc-agi-1",
    base=recipe_for_gpu("arc-agi-1.readme"),
    space={"aug": choice(0, 10, 100, 300, 1000)},
    seeds=3,
    equal="steps",
    resources=ONE_GPU,
)
