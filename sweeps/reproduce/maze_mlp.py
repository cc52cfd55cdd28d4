"""TRM with MLP mixing on Maze-Hard: 0.0 % (arXiv 2510.04871, Table 4). Three seeds at equal steps.

trm sweep plan sweeps/reproduce/maze_mlp.py
"""

from orchestrator import reproduction_sweep

sweep = reproduction_sweep("maze-mlp.paper")
