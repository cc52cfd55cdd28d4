"""Show a plan."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.cli.views.console import line, out, table
from orchestrator.errors import command_line
from orchestrator.resources.estimate import CellEstimate, Estimate
from orchestrator.results.seed_plan import SeedPlan
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import describe_axis
from orchestrator.sweep.text import MOST_ROWS, duration, num_bytes, within


def show_plan(
    sweep: Sweep,
    plan: Estimate,
    storage: str,
    lacking: Sequence[str] = (),
    run: Sequence[str] = ("sweep", "run"),
    needed: SeedPlan | None = None,
) -> None:
    """Print cells, seeds, steps, time, cost, what would not fit, what has to be built, and missing cloud quotas.

    Args:
        run: the words of the command that runs what was planned.
        needed: seeds that the comparisons need; None where nothing is compared.
    """
    stages = " + ".join(f"{count} {stage}" for stage, count in plan.trials_by_stage.items())
    out.print(line((plan.name, "bold"), f" ({plan.kind}): {plan.num_trials} trials ({stages}), equal {plan.equal}"))
    _show_datasets(plan)
    if sweep.kind == "search":
        out.print(f"space: {'; '.join(describe_axis(path, domain) for path, domain in sweep.space.items())}")
    out.print()
    _show_cells(sweep, plan)
    out.print(f"\nwould not fit: {_misfits(plan)}")
    out.print(
        f"{plan.total_steps:,} steps, {plan.total_flops / 1e15:.3g} PFLOP, "
        f"{num_bytes(plan.checkpoint_bytes)} of checkpoints"
    )
    _show_time(plan)
    if needed is not None:
        numbers, basis = needed.sentences
        out.print(numbers)
        out.print(basis, style="dim")
    for text in lacking:
        out.print(line(("quota", "yellow"), f" {text}"))
    status = command_line("sweep", "status", plan.name, storage=storage)
    out.print(f"\nnothing was started. Run it: {command_line(*run, storage=storage)}", soft_wrap=True)
    out.print(f"Watch it: {status}", soft_wrap=True)


def _show_datasets(plan: Estimate) -> None:
    missing = [dataset.benchmark for dataset in plan.datasets if not dataset.is_built]
    names = ", ".join(dict.fromkeys(dataset.benchmark for dataset in plan.datasets))
    state = f"not built yet: {len(missing)} of {len(plan.datasets)}" if missing else "built"
    at_once = " + ".join(f"{count} on {name}" for name, count in plan.slots.items()) or "none"
    out.print(f"dataset {names} ({state}); concurrent trials: {at_once}")


def _show_cells(sweep: Sweep, plan: Estimate) -> None:
    numbers = ("seeds", "steps", "PFLOP", "memory", "checkpoint")
    drop = (
        ("checkpoint", "PFLOP", "seeds", "does not fit")
        if not any(cell.does_not_fit for cell in plan.cells)
        else ("checkpoint", "PFLOP", "seeds", "steps")
    )
    rows = table("cell", *numbers, "does not fit", right=numbers, drop=drop)
    for cell in plan.cells[:MOST_ROWS]:
        rows.add_row(*_row(sweep, cell))
    out.print(rows)
    if plan.num_cells > MOST_ROWS:
        which = "all of them: --json"
        if plan.num_cells > len(plan.cells):
            which = f"totals are extrapolated from {len(plan.cells):,} of them"
        out.print(f"... and {plan.num_cells - MOST_ROWS:,} more cells ({which})", style="dim")


def _show_time(plan: Estimate) -> None:
    most = "at most " if plan.is_upper_bound else ""
    if plan.wall_s is None:
        out.print("estimated time: not known before the first trial")
    else:
        out.print(line("estimated time: ", (most + duration(plan.wall_s), "bold"), f", {within(plan.wall_spread)}"))
    for cost in plan.costs:
        hours = "" if cost.device_hours is None else f"{cost.device_hours:.3g} device hours, "
        usd = "" if cost.usd is None else f"${cost.usd:,.2f} on demand, "
        out.print(f"  {cost.device}: {hours}{usd}{cost.basis}", style="dim")


def _row(sweep: Sweep, cell: CellEstimate) -> list[str]:
    seeds = sweep.seeds if sweep.kind == "study" else 1
    return [
        cell.family,
        str(seeds),
        f"{cell.steps:,}",
        f"{cell.train_flops / 1e15:.3g}",
        num_bytes(cell.memory_bytes),
        num_bytes(cell.checkpoint_bytes),
        ", ".join(cell.does_not_fit) or "-",
    ]


def _misfits(plan: Estimate) -> str:
    """Describe each cell that does not fit: what it needs, and what the devices have."""
    found = [cell for cell in plan.cells if cell.does_not_fit]
    if not found:
        return "nothing"
    has = {device.name: num_bytes(device.memory_bytes or 0) for device in plan.devices}
    lines = [
        f"{cell.family}: "
        + ", ".join(
            f"needs {num_bytes(cell.memory_by_device[n])} on {n}, which has {has[n]}" for n in cell.does_not_fit
        )
        for cell in found[:MOST_ROWS]
    ]
    return "; ".join(lines) + ". Set runtime.micro_batch_size to a part of the batch: the result stays the same"
