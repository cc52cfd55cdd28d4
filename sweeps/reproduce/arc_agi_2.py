"""TRM with attention on ARC-AGI-2: 7.8 % in two tries (arXiv 2510.04871, Table 5). Three seeds at equal steps.

trm sweep plan sweeps/reproduce/arc_agi_2.py
"""

from orchestrator import reproduction_sweep

sweep = reproduction_sweep("arc-agi-2.paper")
