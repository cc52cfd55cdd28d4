"""Does depth pay for itself? T cycles of n latent steps, at equal FLOPs: a shallow cell trains for more steps.

The published grid (Table 3, `sweeps/table3.py`) has one run per cell at equal steps, where depth
also means more compute.

    trm sweep plan sweeps/recursion_depth.py
"""

from orchestrator import recipe_for_gpu
from orchestrator.resources.published import ONE_GPU
from orchestrator.sweep import Sweep, choice

sweep = Sweep(
    name="recursion-depth",
    base=recipe_for_gpu("sudoku-mlp.paper"),
    space={"T": choice(1, 2, 3, 4, 6), "n": choice(1, 2, 4, 6, 8)},
    seeds=3,
    equal="flops",
    resources=ONE_GPU,
)
