"""TRM with attention on Sudoku-Extreme: 74.7 % (arXiv 2510.04871, Table 4). Three seeds at equal steps.

trm sweep plan sweeps/reproduce/sudoku_attention.py
"""

from orchestrator import reproduction_sweep

sweep = reproduction_sweep("sudoku-att.paper")
