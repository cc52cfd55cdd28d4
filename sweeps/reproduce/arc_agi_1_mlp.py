"""TRM with MLP mixing on ARC-AGI-1: 29.6 % in two tries (arXiv 2510.04871, Table 5). Three seeds at equal steps.

trm sweep plan sweeps/reproduce/arc_agi_1_mlp.py
"""

from orchestrator import reproduction_sweep

sweep = reproduction_sweep("arc-agi-1.mlp")
