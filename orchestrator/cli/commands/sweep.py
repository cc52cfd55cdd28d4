"""`trm sweep`: plan, run, watch, stop and change sweeps."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.cloud_options import ProviderOption, UsdPerGpuHourOption
from orchestrator.cli.commands import sweep_lifecycle
from orchestrator.cli.commands.notify import TargetsOption
from orchestrator.cli.commands.sweep_export import export
from orchestrator.cli.options import (
    OUTPUT_FILE,
    CpusOption,
    FileArgument,
    GpuOption,
    JsonOption,
    MaxStepsOption,
    NameOption,
    OptionalSweepArgument,
    RecipeOption,
    SeedsOption,
    SetOption,
    StorageOption,
    SweepArgument,
    TrialsOption,
    TrustOption,
    VaryOption,
    trust_files,
)
from orchestrator.cli.run_options import (
    AddressOption,
    CanaryOption,
    ConcurrentOption,
    MaxFailuresOption,
    MaxGpuHoursOption,
    MaxGpusOption,
    MaxHoursOption,
    MaxTrialsOption,
    MaxUsdOption,
    PreferOption,
    ReplayOption,
    RetriesOption,
    ReuseOption,
    ShareOption,
    TrackingOption,
    budget,
    run_and_show,
)

if TYPE_CHECKING:
    from orchestrator.resources.affordable import Affordable
    from orchestrator.resources.estimate import Estimate
    from orchestrator.sweep.definition import Sweep

RegionOption = Annotated[
    str | None, typer.Option("--region", help="AWS region whose quotas are checked, e.g. us-east-1.")
]
PlanUsdOption = Annotated[
    float | None, typer.Option("--max-usd", min=0, help="Show which part of the sweep this many dollars pay for.")
]
PlanFileOption = Annotated[
    Path | None, typer.Option("--out", help="Write the expanded plan, which `run` takes.", **OUTPUT_FILE)
]

app = typer.Typer(help="Plan, run, watch, stop, resume, extend and tidy up sweeps.", no_args_is_help=True)


@app.command()
def plan(
    ctx: typer.Context,
    file: FileArgument = None,
    recipe: RecipeOption = None,
    vary: VaryOption = None,
    set_: SetOption = None,
    seeds: SeedsOption = None,
    trials: TrialsOption = None,
    max_steps: MaxStepsOption = None,
    name: NameOption = None,
    gpu: GpuOption = None,
    cpus: CpusOption = None,
    storage: StorageOption = "runs",
    address: AddressOption = None,
    region: RegionOption = None,
    provider: ProviderOption = None,
    usd_per_gpu_hour: UsdPerGpuHourOption = None,
    max_usd: PlanUsdOption = None,
    max_concurrent: ConcurrentOption = None,
    share_gpus: ShareOption = None,
    to: PlanFileOption = None,
    trust: TrustOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a sweep would do and cost, without starting anything.

    Examples:

    trm sweep plan demo

    trm sweep plan --recipe sudoku-mini --vary T=1,2 --vary n=2,4 --seeds 3

    trm sweep plan table1 --out plan.jsonl --region us-east-1

    trm sweep run plan.jsonl

    trm sweep plan table1 --max-usd 200   (which part of it that pays for, and where)

    trm sweep plan --gpu RTX4090   (how each published recipe fits this GPU)
    """
    from orchestrator.api.plan import plan as estimate_sweep
    from orchestrator.cli.configs import make_sweep
    from orchestrator.cli.views.console import only_json
    from orchestrator.cli.views.plan import plan_as_json, show_affordable, show_plan
    from orchestrator.results.seed_plan import plan_seeds
    from orchestrator.sweep.plan_file import dump_plan
    from trm_data import fingerprint
    from trm_data.files import write_output

    trust_files(trust)
    if file is None and recipe is None and gpu not in (None, "none", "any"):
        return _show_fitting(str(gpu), as_json)
    with only_json(as_json):
        sweep = make_sweep(
            file, storage, recipe=recipe, vary=vary, settings=set_, seeds=seeds, trials=trials, max_steps=max_steps,
            name=name, gpu=gpu, cpus=cpus,
        )  # fmt: skip
    found = estimate_sweep(
        sweep, storage, address=address, max_concurrent=max_concurrent, share_gpus=share_gpus,
        provider=provider or "aws", usd_per_gpu_hour=usd_per_gpu_hour,
    )  # fmt: skip
    parts = [] if max_usd is None else _affordable(found, sweep, max_usd, provider, usd_per_gpu_hour)
    lacking = _lacking(found, sweep, region)
    if to is not None:
        write_output(to, dump_plan(sweep, fingerprint))
    needed = plan_seeds(sweep, found.num_cells, storage)
    if as_json:
        print(plan_as_json(found, lacking, needed, parts))
        return
    show_plan(sweep, found, storage, lacking, _run_words(ctx, sweep, file, to), needed)
    if max_usd is not None:
        show_affordable(sweep, found, parts, max_usd)


def _affordable(plan: Estimate, sweep: Sweep, usd: float, provider: str | None, own: float | None) -> list[Affordable]:
    """Return what a sum pays for: at the named price, else at every provider of the catalogue."""
    from orchestrator.resources.affordable import affordable
    from orchestrator.resources.catalogue import host_prices
    from orchestrator.resources.pricing import Pricing, providers

    names = providers() if provider is None and own is None else [provider or "aws"]
    pricings = [Pricing(provider=name, usd_per_gpu_hour=own) for name in names]
    wants_gpu = bool(sweep.resources.gpus or sweep.resources.gpu_type)
    hosts = [] if wants_gpu or own is not None else [host for host in host_prices() if host.provider in names]
    return affordable(plan, usd, pricings, hosts, sweep.resources.cpus)


def _show_fitting(gpu: str, as_json: bool) -> None:
    """Show how each published recipe fits a GPU."""
    from orchestrator.cli.views.fitting import show_fitting

    show_fitting(gpu, as_json)


def _lacking(plan: Estimate, sweep: Sweep, region: str | None) -> list[str]:
    """Return the quotas of a region that a plan exceeds."""
    from orchestrator.resources.aws.quotas import shortfalls
    from orchestrator.resources.estimate import machines_needed

    return shortfalls(machines_needed(plan, sweep), region) if region is not None else []


_WHAT = ("--recipe", "--vary", "--set", "--seeds", "--trials", "--max-steps", "--name", "--gpu", "--cpus")
_WHERE = ("--address", "--max-concurrent", "--share-gpus")
"""Options that `plan` and `run` share: which trials, and where."""


def _run_words(ctx: typer.Context, sweep: Sweep, file: Path | None, to: Path | None) -> list[str]:
    """Return the words of the `trm sweep run` that runs what this `trm sweep plan` has planned.

    Args:
        to: the plan file that was written; it contains the settings, so that only where to run is left.
    """
    from orchestrator.api.inputs import is_file_name
    from orchestrator.sweep.commands import trust_words
    from orchestrator.sweep.yaml_file import YAML_SUFFIXES

    named = to or file
    words = ["sweep", "run", *([str(named)] if named else [])]
    for parameter in ctx.command.params:
        option, value = parameter.opts[0], ctx.params[parameter.name or ""]
        if value is False and parameter.secondary_opts:
            option, value = parameter.secondary_opts[0], True
        if option not in (_WHERE if to else (*_WHAT, *_WHERE)) or value in (None, False):
            continue
        values = value if isinstance(value, list | tuple) else [value]
        words += [option] if value is True else [word for one in values for word in (option, str(one))]
    is_data = file is not None and (not is_file_name(file) or file.suffix in YAML_SUFFIXES)
    if to is not None or is_data:  # the files with code that data names have to be named
        words += trust_words(sweep.plain())
    return words


@app.command("resume")
@app.command("run")
def run(
    file: FileArgument = None,
    recipe: RecipeOption = None,
    vary: VaryOption = None,
    set_: SetOption = None,
    seeds: SeedsOption = None,
    trials: TrialsOption = None,
    max_steps: MaxStepsOption = None,
    name: NameOption = None,
    gpu: GpuOption = None,
    cpus: CpusOption = None,
    storage: StorageOption = "runs",
    address: AddressOption = None,
    max_concurrent: ConcurrentOption = None,
    max_gpus: MaxGpusOption = None,
    prefer: PreferOption = "cost",
    share_gpus: ShareOption = None,
    canary: CanaryOption = None,
    reuse: ReuseOption = False,
    replay: ReplayOption = None,
    max_failures: MaxFailuresOption = 5,
    retries: RetriesOption = 0,
    trust: TrustOption = None,
    max_trials: MaxTrialsOption = None,
    max_gpu_hours: MaxGpuHoursOption = None,
    max_usd: MaxUsdOption = None,
    max_hours: MaxHoursOption = None,
    tracking: TrackingOption = None,
    notify: TargetsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a sweep, or resume it: finished trials are never repeated. `run` and `resume` are the same command.

    Finished trials stay, unfinished ones resume from their checkpoints.

    Examples:

    trm sweep run demo

    trm sweep run --recipe sudoku-mini --vary T=1,2 --vary n=2,4 --seeds 2 --max-steps 50

    trm sweep run --recipe sudoku-mini --vary T=1..3 --vary lr=log:1e-4..1e-2 --trials 12 --max-steps 50

    trm sweep run demo --address 10.0.0.5:6379 --storage s3://bucket/trm --gpu 'L40S|H100' --max-usd 50

    trm sweep resume demo --max-trials 40 --max-hours 2
    """
    from orchestrator.api.inputs import is_recorded
    from orchestrator.cli.configs import make_sweep
    from orchestrator.cli.views.console import only_json
    from orchestrator.storage import open_storage

    trust_files(trust)
    with only_json(as_json):
        sweep = make_sweep(
            file, storage, recipe=recipe, vary=vary, settings=set_, seeds=seeds, trials=trials, max_steps=max_steps,
            name=name, gpu=gpu, cpus=cpus,
        )  # fmt: skip
    options = {
        "address": address,
        "max_concurrent": max_concurrent,
        "max_gpus": max_gpus,
        "prefer": prefer,
        "share_gpus": share_gpus,
        "canary": canary,
        "reuse": reuse,
        "replay": replay,
        "max_failures": max_failures or None,
        "retries": retries,
        "budget": budget(max_trials, max_gpu_hours, max_usd, max_hours),
    }
    is_stored = file is not None and is_recorded(file, open_storage(storage))
    raise typer.Exit(run_and_show(sweep, storage, tracking, notify, options, is_stored=is_stored, as_json=as_json))


@app.command()
def status(
    name: OptionalSweepArgument = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Show how far a sweep is, from its records: on any machine, whether or not it runs.

    Examples:

    trm sweep status

    trm sweep status demo --json
    """
    from orchestrator.cli.views.status import show

    show(name, storage, as_json=as_json)


@app.command()
def stop(name: SweepArgument, storage: StorageOption = "runs") -> None:
    """Ask a running sweep to stop cleanly, wherever its driver is; `trm sweep resume` resumes it.

    Example: trm sweep stop demo
    """
    from orchestrator.api.lifecycle import stop_sweep
    from orchestrator.cli.views.console import out

    driver = stop_sweep(name, storage)
    doubt = "" if driver["host"] == socket.gethostname() else "if it still runs, "
    about = f"process {driver['pid']} on {driver['host']}; {doubt}its trials write a last checkpoint"
    out.print(f"requested a stop of {about}")


for command in (*sweep_lifecycle.COMMANDS, export):
    app.command()(command)
