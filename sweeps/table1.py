"""Table 1 of the TRM paper (arXiv 2510.04871): what each part of TRM contributes.

Published with one run per row; here three seeds at equal steps.

trm sweep plan sweeps/table1.py
"""

from orchestrator import recipe_for_gpu, table_variants
from orchestrator.resources.published import ONE_GPU
from orchestrator.sweep import Sweep

base = recipe_for_gpu("table1.trm")
sweep = Sweep(
    name="table1", base=base, variants=table_variants("table1", base), seeds=3, equal="steps", resources=ONE_GPU
)
