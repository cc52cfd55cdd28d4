"""TRM with attention on ARC-AGI-1: 44.6 % in two tries (arXiv 2510.04871, Table 5). Three seeds at equal steps.

trm sweep plan sweeps/reproduce/arc_agi_1.py
"""

from orchestrator import reproduction_sweep

sweep = reproduction_sweep("arc-agi-1.paper")
