"""TRM with attention on Maze-Hard: 85.3 % (arXiv 2510.04871, Table 4). Three seeds at equal steps.

trm sweep plan sweeps/reproduce/maze_attention.py
"""

from orchestrator import reproduction_sweep

sweep = reproduction_sweep("maze-att.paper")
