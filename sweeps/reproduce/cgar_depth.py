"""TRM on Sudoku-Extreme with a depth that grows during training: 85.47 % (CGAR, arXiv 2511.08653). Three seeds,
at equal steps.

trm sweep plan sweeps/reproduce/cgar_depth.py
"""

from orchestrator import reproduction_sweep

sweep = reproduction_sweep("cgar-depth")
