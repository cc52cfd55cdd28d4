"""HRM on Sudoku-Extreme: 55.0 % (arXiv 2506.21734). Three seeds at equal steps.

trm sweep plan sweeps/reproduce/hrm_sudoku.py
"""

from orchestrator import reproduction_sweep

sweep = reproduction_sweep("hrm.sudoku")
