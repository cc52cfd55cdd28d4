"""Show a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.cli.views.console import line, out, table
from orchestrator.errors import command_line
from orchestrator.resources.affordable import Affordable
from orchestrator.resources.devices import THIS_MACHINE, Device
from orchestrator.resources.estimate import CellEstimate, Estimate
from orchestrator.resources.runtime import ASSUMED_SPREAD
from orchestrator.results.seed_plan import SeedPlan
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import describe_axis
from orchestrator.sweep.text import MOST_ROWS, about, device_time, num_bytes, plural, within
from trm_data.own_code import short
from trm_data.settings import strict_json


def plan_as_json(
    plan: Estimate, lacking: Sequence[str], needed: SeedPlan | None, parts: Sequence[Affordable] = ()
) -> str:
    """Return a plan as JSON, with the quotas that it exceeds, the seeds that are needed, and what a sum pays for."""
    values = {
        **plan.plain(),
        "lacking_quotas": list(lacking),
        "seeds_needed": needed and needed.plain(),
        "affordable": [part.plain() for part in parts],
    }
    return strict_json(values, indent=1)


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
    out.print(
        line((plan.name, "bold"), f" ({plan.kind}): {plural(plan.num_trials, 'trial')} ({stages}), equal {plan.equal}")
    )
    if plan.num_left is not None:
        out.print(f"{plan.num_done} of {plan.num_done + plan.num_left} trials done, {plan.num_left} left")
    _show_datasets(plan)
    for text in filter(None, (plan.gpu_choice, plan.gpu_hint)):
        out.print(text)
    if sweep.kind == "search":
        out.print(f"space: {'; '.join(describe_axis(path, domain) for path, domain in sweep.space.items())}")
    out.print()
    _show_cells(sweep, plan)
    out.print(f"\nwould not fit: {_misfits(plan)}", soft_wrap=True)
    for text in plan.lacking_gpus:
        out.print(f"this machine cannot run {text}", soft_wrap=True)
    out.print(
        f"{plural(plan.total_steps, 'step')}, {plan.total_flops / 1e15:.3g} PFLOP, "
        f"{num_bytes(plan.checkpoint_bytes)} of checkpoints"
    )
    _show_time(sweep, plan)
    if needed is not None:
        numbers, basis = needed.sentences
        out.print(numbers)
        out.print(basis, style="dim")
    for text in lacking:
        out.print(line(("quota", "yellow"), f" {text}"))
    status = command_line("sweep", "status", plan.name, storage=storage)
    if plan.num_left == 0:
        out.print(f"\nnothing is left to run. See it: {status}", soft_wrap=True)
        return
    where = "It needs a machine with these GPUs, or a cluster (--address HOST:PORT). " if plan.lacking_gpus else ""
    out.print(f"\nnothing was started. {where}Run it: {command_line(*run, storage=storage)}", soft_wrap=True)
    out.print(f"Watch it: {status}", soft_wrap=True)


def show_affordable(sweep: Sweep, plan: Estimate, parts: Sequence[Affordable], usd: float) -> None:
    """Print which part of a sweep a sum pays for, on which GPU of which provider, the most trials first."""
    if not parts:
        out.print(f"\nwhat ${usd:,.2f} pays for: unknown, no price or no speed of these GPUs is known")
        return
    out.print(f"\nwhat ${usd:,.2f} pays for, set-up and idle time not included:")
    rows = table("on", "USD/h", "price of", "trials", "part of the sweep", "USD", right=("USD/h", "trials", "USD"))
    for part in parts[:MOST_ROWS]:
        trials = f"{part.num_trials:,} of {plan.num_trials:,}"
        price = f"{part.usd_per_hour:.2f}"
        rows.add_row(part.device, price, part.source, trials, _part(sweep, plan, part), f"{part.usd:,.2f}")
    out.print(rows)


def _part(sweep: Sweep, plan: Estimate, part: Affordable) -> str:
    """Describe a part of a sweep, with the option that runs it."""
    if part.is_whole:
        return "all of it"
    if sweep.kind == "search":
        explored = part.num_trials - (plan.num_trials - plan.trials_by_stage["explore"])
        return f"--trials {explored}" if explored > 0 else f"--max-steps {_shorter(sweep, part)}"
    if part.num_cells == plan.num_cells:
        return f"all {plan.num_cells} cells, --seeds {part.seeds}"
    shorter = f"; or all with one and --max-steps {_shorter(sweep, part)}" if part.steps_share < 1 else ""
    return f"{part.num_cells} of {plan.num_cells} cells with {plural(part.seeds, 'seed')}{shorter}"


def _shorter(sweep: Sweep, part: Affordable) -> int:
    return int(sweep.base.train.max_steps * part.steps_share)


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
    for cell in _shown_cells(plan):
        rows.add_row(*_row(sweep, cell, plan))
    if sweep.kind == "search":
        out.print(_described_cells(sweep, plan), style="dim")
    out.print(rows)
    if plan.num_cells > MOST_ROWS:
        which = "all of them: --json"
        if plan.num_cells > len(plan.cells):
            which = f"totals are extrapolated from {len(plan.cells):,} of them"
        out.print(f"... and {plural(plan.num_cells - MOST_ROWS, 'more cell')} ({which})", style="dim")


def _shown_cells(plan: Estimate) -> Sequence[CellEstimate]:
    """Return the first cells; of examples of a space, cells from all over it."""
    if not plan.cells_are_examples or len(plan.cells) <= MOST_ROWS:
        return plan.cells[:MOST_ROWS]
    return [plan.cells[number * (len(plan.cells) - 1) // (MOST_ROWS - 1)] for number in range(MOST_ROWS)]


def _described_cells(sweep: Sweep, plan: Estimate) -> str:
    """Say of a search whether the cells are what it explores, or examples."""
    explored = plural(plan.trials_by_stage["explore"], "configuration")
    if plan.cells_are_examples:
        return f"examples of the space; {short(sweep.sampler)} chooses {explored} of it while the search runs"
    return f"the {explored} that the search draws at random{', then its controls' * bool(sweep.confirm.controls)}"


def _show_time(sweep: Sweep, plan: Estimate) -> None:
    if plan.wall_s is None:
        fits = not any(_not_fitting(cell, plan) for cell in plan.cells)
        out.print(f"estimated time: {'not known before the first trial' if fits else 'a cell fits on no device'}")
    else:
        time, error = plan.time_text
        out.print(line("estimated time: ", (time, "bold"), f", {error}"))
    gpus = {device.name: device.gpus for device in plan.devices}
    for cost in plan.costs:
        hours = ""
        if cost.device_hours is not None:
            unit, count = ("GPU", gpus[cost.device]) if gpus[cost.device] else ("core", max(1.0, sweep.resources.cpus))
            hours = f"{device_time(cost.device_hours * count, unit)}, "
        usd = "" if cost.usd is None else f"${cost.usd:,.2f} on demand, "
        error = f", {within(cost.spread)}" if cost.spread > ASSUMED_SPREAD else ""
        out.print(f"  {cost.device}: {hours}{usd}{cost.basis}{error}", style="dim")
    _show_left(plan)


def _show_left(plan: Estimate) -> None:
    """Print time and cost of the trials that are left of a sweep that has begun."""
    if not plan.num_left or not plan.num_done or plan.wall_s is None:
        return
    share = plan.num_left / (plan.num_done + plan.num_left)
    costs = [f"${share * cost.usd:,.2f} on {cost.device}" for cost in plan.costs if cost.usd is not None]
    time = f"{about(share * plan.wall_s)}, if each takes as long as the average"
    out.print(f"of that for the {plural(plan.num_left, 'trial')} left: {'; '.join([time, *costs])}")


def _row(sweep: Sweep, cell: CellEstimate, plan: Estimate) -> list[str]:
    is_control = sweep.kind == "search" and cell.family in {control.name for control in sweep.confirm.controls}
    seeds = sweep.confirm.seeds if is_control else sweep.seeds if sweep.kind == "study" else 1
    return [
        cell.family,
        str(seeds),
        f"{cell.steps:,}",
        f"{cell.train_flops / 1e15:.3g}",
        num_bytes(cell.memory_bytes),
        num_bytes(cell.checkpoint_bytes),
        ", ".join(_not_fitting(cell, plan)) or "-",
    ]


def _not_fitting(cell: CellEstimate, plan: Estimate) -> list[str]:
    """Return the devices that a cell does not fit: this machine's memory counts only where trials run on its CPUs."""
    cpus = plan.devices[0].name
    return [name for name in cell.does_not_fit if (name == cpus) is (cpus in plan.slots)]


def _misfits(plan: Estimate) -> str:
    """Describe each cell that does not fit: what it needs, what a trial may take, and settings with which it fits."""
    devices = {device.name: device for device in plan.devices}
    found = [(cell, name) for cell in plan.cells for name in _not_fitting(cell, plan)]
    if not found:
        return "nothing by its memory" if plan.lacking_gpus else "nothing"
    return "; ".join(
        f"{cell.family} needs {num_bytes(cell.memory_by_device[name])} on {_room(devices[name], plan)}"
        f"{_remedy(cell, name)}"
        for cell, name in found[:MOST_ROWS]
    )


def _room(device: Device, plan: Estimate) -> str:
    """Describe how much memory a trial may take: `this machine, where each of 2 trials may take 12.6 GB`."""
    room, count = num_bytes(device.memory_bytes or 0), plan.slots.get(device.name, 1)
    is_part = device.name == THIS_MACHINE or 0 < device.gpus < 1
    if is_part and count > 1:
        return f"{device.name}, where each of {count} trials at once may take {room}"
    return f"{device.name}, which has {room}"


def _remedy(cell: CellEstimate, name: str) -> str:
    if name == THIS_MACHINE:
        return " (fewer at once: --max-concurrent; or runtime.micro_batch_size, which leaves the result as it is)"
    if name not in cell.fits_with:
        return " (no micro-batch is small enough)"
    settings = dict(cell.fits_with[name])
    slowdown = settings.pop("slowdown")
    time = "about the same time" if float(slowdown) < 1.05 else f"{slowdown} times the time"
    return f" (fits with {as_options(settings)}: the same result in {time})"


def as_options(settings: Mapping[str, str]) -> str:
    """Format settings as the options of a command line."""
    return " ".join(f"--set {path}={value}" for path, value in settings.items())
