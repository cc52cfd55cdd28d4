"""List the metrics that evaluations measure, and those that a search can maximise."""

from __future__ import annotations

from trm_data.benchmarks import has_tasks
from trm_data.errors import ConfigError, nearest
from trm_model.config import TrialConfig

METRICS = ("exact_accuracy", "cell_accuracy", "first_step_accuracy", "halt_accuracy", "halting_steps", "confidence")
"""Metrics that every evaluation measures."""
DIAGNOSTICS = ("halt_accuracy", "halting_steps", "confidence")
"""Those that a better model need not have higher: if it never halts and solves nothing, its halt accuracy is 1."""
PASS_AT = (1, 2, 5, 10, 100, 1000)
"""The k of pass@k, which evaluations of ARC measure."""


def measured_metrics(config: TrialConfig) -> list[str]:
    """Return the names of the metrics that the final evaluation of a trial measures."""
    if has_tasks(config.data.benchmark):
        own = [f"{name}@{k}" for name in ("pass", "task_pass") for k in PASS_AT]
    else:
        own = ["valid_accuracy"]
    return [*METRICS, *own, *(f"exact_accuracy@ema={rate}" for rate in config.optimizer.further_ema_rates)]


def require_metric(metric: str, kind: str, config: TrialConfig) -> None:
    """Raise ConfigError unless trials measure the metric and, for a search, a better model has a higher value."""
    known = measured_metrics(config)
    if metric not in known:
        longer = next((name for name in known if name.endswith(f"_{metric}")), None)  # accuracy: exact_accuracy
        hint = f"Did you mean {longer!r}?" if longer else nearest(metric, known)
        raise ConfigError(f"metric={metric!r} is not measured", hint)
    if kind == "search" and metric in DIAGNOSTICS:
        scores = ", ".join(name for name in known if name not in DIAGNOSTICS)
        raise ConfigError(f"metric={metric!r} is not higher for a better model", f"Search for one of {scores}")
