"""TRM with MLP mixing on Sudoku-Extreme: 87.4 % (arXiv 2510.04871, Table 4). Three seeds at equal steps.

trm sweep plan sweeps/reproduce/sudoku_mlp.py
"""

from orchestrator import reproduction_sweep

sweep = reproduction_sweep("sudoku-mlp.paper")
