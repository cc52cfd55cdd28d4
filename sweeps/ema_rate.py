"""Which rate of the averaged weights? At equal steps, and for the price of one: averages never feed back into training,
so every run keeps all of them and scores each (`exact_accuracy@ema=0.99` and so on in `trm sweep export ema-rate`).

    trm sweep plan sweeps/ema_rate.py
"""

from orchestrator import recipe_for_gpu
from orchestrator.resources.published import ONE_GPU
from orchestrator.sweep import Sweep

PAPER = recipe_for_gpu("sudoku-mlp.paper")
RATES = (0.9, 0.99, 0.995, 0.9995, 0.9999)  # in addition to the paper's own, 0.999

sweep = Sweep(
    name="ema-rate",
    base=PAPER.model_copy(update={"optimizer": PAPER.optimizer.model_copy(update={"further_ema_rates": RATES})}),
    seeds=5,
    equal="steps",
    resources=ONE_GPU,
)
