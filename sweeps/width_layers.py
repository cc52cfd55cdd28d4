"""Wider or deeper networks inside the recursion? At equal FLOPs: a small network trains for more steps.

trm sweep plan sweeps/width_layers.py
"""

from orchestrator import recipe_for_gpu
from orchestrator.resources.published import ONE_GPU
from orchestrator.sweep import Sweep, choice

sweep = Sweep(
    name="width-layers",
    base=recipe_for_gpu("sudoku-mlp.paper"),
    space={"model.hidden_size": choice(128, 256, 384, 512, 768), "model.num_layers": choice(1, 2, 4)},
    forbidden=({"model.hidden_size": 768, "model.num_layers": 4},),  # six times the published network
    seeds=3,
    equal="flops",
    resources=ONE_GPU,
)
