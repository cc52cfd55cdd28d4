"""How many augmented copies per training puzzle? ARC-AGI-1, published with 1,000.

At equal steps: each copy more is a repeat less.

trm sweep plan sweeps/augmentation/arc_agi_1.py
"""

from orchestrator.published import ONE_GPU
from orchestrator.sweep import Sweep, choice
from trm_model.recipes import get_recipe

sweep = Sweep(
    name="augmentation-arc-agi-1",
    base=get_recipe("arc-agi-1.readme"),
    space={"aug": choice(0, 10, 100, 300, 1000)},
    seeds=3,
    equal="steps",
    resources=ONE_GPU,
)
