"""Table 2 of the TRM paper (arXiv 2510.04871): how many states the recursion carries.

Published with one run per row; here three seeds at equal steps.

trm sweep plan sweeps/table2.py
"""

from orchestrator import recipe_for_gpu, table_variants
from orchestrator.resources.published import ONE_GPU
from orchestrator.sweep import Sweep

base = recipe_for_gpu("table1.trm")
sweep = Sweep(
    name="table2", base=base, variants=table_variants("table2", base), seeds=3, equal="steps", resources=ONE_GPU
)
