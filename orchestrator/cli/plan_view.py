"""A plan, for people."""

from __future__ import annotations

from rich.table import Table

from orchestrator.cli.console import duration, num_bytes, out
from orchestrator.domains import Choice, Uniform
from orchestrator.estimate import CellEstimate, Estimate
from orchestrator.naming import short_name
from orchestrator.sweep import Sweep

MOST_ROWS = 16


def show_plan(sweep: Sweep, plan: Estimate) -> None:
    """Cells, seeds, steps, time, money, and what would not fit."""
    stages = " + ".join(f"{count} {stage}" for stage, count in plan.trials_by_stage.items())
    out.print(f"[bold]{plan.name}[/] ({plan.kind}): {plan.num_trials} trials ({stages}), equal {plan.equal}")
    built = "built" if plan.dataset_is_built else "will be built"
    out.print(f"dataset {plan.dataset} ({built}); {plan.slots} trials at once")
    if sweep.kind == "search":
        out.print(f"space: {'; '.join(_axis(path, domain) for path, domain in sweep.space.items())}")
    out.print()
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("cell", no_wrap=True)
    for name in ("seeds", "steps", "PFLOP", "memory", "checkpoint"):
        table.add_column(name, justify="right")
    table.add_column("does not fit")
    for cell in plan.cells[:MOST_ROWS]:
        table.add_row(*_row(sweep, cell))
    out.print(table)
    if len(plan.cells) > MOST_ROWS:
        out.print(f"... and {len(plan.cells) - MOST_ROWS} more cells (all of them: --json)", style="dim")
    misfits = [cell for cell in plan.cells if cell.does_not_fit]
    out.print(f"\nwould not fit: {_misfits(misfits)}")
    most = "at most " if plan.is_upper_bound else ""
    out.print(
        f"{plan.total_steps:,} steps, {plan.total_flops / 1e15:.3g} PFLOP, "
        f"{num_bytes(plan.checkpoint_bytes)} of checkpoints"
    )
    out.print(f"estimated time: [bold]{most}{duration(plan.wall_s)}[/] on {plan.wall_device}")
    for cost in plan.costs:
        usd = "" if cost.usd is None else f", ${cost.usd:,.2f} on demand"
        out.print(f"  {cost.device}: {cost.device_hours:.3g} device hours{usd} ({cost.basis})", style="dim")
    out.print(f"\nnothing was started. Run it: trm sweep run ... (then `trm sweep status {plan.name}`)")


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


def _axis(path: str, domain: Choice | Uniform) -> str:
    if isinstance(domain, Choice):
        return f"{short_name(path)} in {', '.join(map(str, domain.values))}"
    return f"{short_name(path)} from {domain.low:g} to {domain.high:g}{' (log)' if domain.log else ''}"


def _misfits(cells: list[CellEstimate]) -> str:
    if not cells:
        return "nothing"
    return "; ".join(
        f"{cell.family} ({num_bytes(cell.memory_bytes)}) on {', '.join(cell.does_not_fit)}" for cell in cells
    )
