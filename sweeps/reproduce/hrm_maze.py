"""HRM on Maze-Hard: 74.5 % (arXiv 2506.21734). Three seeds at equal steps.

trm sweep plan sweeps/reproduce/hrm_maze.py
"""

from orchestrator import reproduction_sweep

sweep = reproduction_sweep("hrm.maze")
