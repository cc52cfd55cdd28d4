"""HRM on ARC-AGI-1: 40.3 % in two tries (arXiv 2506.21734). Three seeds at equal steps.

trm sweep plan sweeps/reproduce/hrm_arc_agi_1.py
"""

from orchestrator import reproduction_sweep

sweep = reproduction_sweep("hrm.arc-agi-1")
