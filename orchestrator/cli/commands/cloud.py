"""`trm cloud`: price, launch, watch and end sweeps on rented machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from orchestrator.cli.cloud_options import (
    AnyDeploymentArgument,
    DeploymentArgument,
    FollowOption,
    ForgetOption,
    HostsArgument,
    KeepOption,
    SshConfigOption,
    elsewhere,
    launches,
    limits_of,
    options_of,
    require_own_options,
)
from orchestrator.cli.commands.cloud_resources import init, orphans, prices, render
from orchestrator.cli.options import JsonOption, StorageOption
from orchestrator.errors import SweepError, command_line

if TYPE_CHECKING:
    from orchestrator.cloud.backend import Deployment
    from orchestrator.cloud.launch import Launch

app = typer.Typer(help="Price, launch, watch and end sweeps on rented machines.", no_args_is_help=True)
for verb in (render, init, orphans, prices):
    app.command()(verb)


@app.command()
@launches("max_concurrent", "no_limit", "python", "environment", "network", "end_command", "yes")
def plan(ctx: typer.Context) -> None:
    """Show machines, prices, hours and dollars of a launch, without starting anything.

    Without machines, `--on ssh` shows the cheapest of the catalogue for the sweep's GPU types.

    Examples:

    trm cloud plan demo --on ssh ubuntu@203.0.113.7 --usd-per-gpu-hour 1.99

    trm cloud plan table1 --on ssh --provider lambda
    """
    from orchestrator.cli.views.cloud import quote_as_json, show_quote

    launch = _prepare(ctx, required=False)
    if ctx.params["as_json"]:
        print(quote_as_json(launch.quote))
    else:
        show_quote(launch.quote)


@app.command()
@launches("max_concurrent")
def up(ctx: typer.Context) -> None:
    """Start the machines of a sweep: copy the project, install, start the timer. `submit` starts the sweep.

    Example: trm cloud up demo --on ssh ubuntu@203.0.113.7 --max-usd 20 --usd-per-gpu-hour 1.99
    """
    from orchestrator.cli.views.cloud import show_up

    show_up(_start(ctx), ctx.params["storage"], ctx.params["as_json"])


@app.command()
@launches()
def submit(ctx: typer.Context) -> None:
    """Run a sweep on rented machines; they are started first if they are not up. This terminal may be closed.

    Example: trm cloud submit demo --on ssh ubuntu@203.0.113.7 --max-usd 20 --usd-per-gpu-hour 1.99
    """
    from orchestrator.cli.views.cloud import show_submitted
    from orchestrator.cloud.launch import submit as submit_sweep
    from orchestrator.storage import open_storage

    launch, storage, at_once = _start(ctx), ctx.params["storage"], ctx.params["max_concurrent"]
    words = [] if at_once is None else ["--max-concurrent", str(at_once)]
    show_submitted(submit_sweep(launch, open_storage(storage), words), ctx.params["as_json"])


@app.command()
def status(
    name: AnyDeploymentArgument = None,
    hosts: HostsArgument = None,
    ssh_config: SshConfigOption = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Show a launched sweep from its records, its machines, what they have cost, and the next commands.

    Without a name, all launches of the storage are listed. With a machine, a launch of another client is found there:
    its record need not be in this storage.

    Examples:

    trm cloud status

    trm cloud status demo

    trm cloud status demo ubuntu@203.0.113.7
    """
    from orchestrator.cli.views.cloud import Named, show_deployments, show_status

    if name is None:
        show_deployments(storage, as_json)
        return
    show_status(Named(name, storage, elsewhere(hosts, ssh_config)), as_json)


@app.command()
def logs(
    name: DeploymentArgument,
    hosts: HostsArgument = None,
    follow: FollowOption = False,
    ssh_config: SshConfigOption = None,
    storage: StorageOption = "runs",
) -> None:
    """Print the events of a launched sweep from its records: starts, evaluations, ends.

    Example: trm cloud logs demo -f
    """
    from orchestrator.cli.views.cloud import Named, show_logs

    raise typer.Exit(show_logs(Named(name, storage, elsewhere(hosts, ssh_config)), follow))


@app.command()
def cost(
    name: DeploymentArgument,
    hosts: HostsArgument = None,
    ssh_config: SshConfigOption = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Show what a launch has cost: planned, spent by machine hours, and hours in which no trial ran.

    Example: trm cloud cost demo
    """
    from orchestrator.cli.views.cloud import Named, show_cost

    show_cost(Named(name, storage, elsewhere(hosts, ssh_config)), as_json)


@app.command()
def stop(
    name: DeploymentArgument,
    hosts: HostsArgument = None,
    ssh_config: SshConfigOption = None,
    storage: StorageOption = "runs",
) -> None:
    """Ask the driver to stop cleanly. Machines stay up until the timer or `down` ends them.

    Example: trm cloud stop demo
    """
    from orchestrator.cli.views.cloud import Named, show_stopped

    show_stopped(Named(name, storage, elsewhere(hosts, ssh_config)))


@app.command()
def down(
    name: DeploymentArgument,
    hosts: HostsArgument = None,
    keep: KeepOption = False,
    forget: ForgetOption = False,
    ssh_config: SshConfigOption = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """End driver, timer and machines of a launch, fetch its records, and print the receipt.

    Example: trm cloud down demo
    """
    from orchestrator.cli.views.cloud import Named, show_down

    show_down(Named(name, storage, elsewhere(hosts, ssh_config)), keep, forget, as_json)


def _prepare(ctx: typer.Context, *, required: bool) -> Launch:
    """Return the launch that the parameters of a command describe."""
    from orchestrator.cli.configs import make_sweep
    from orchestrator.cloud.launch import find_up, prepare
    from orchestrator.storage import open_storage

    found = ctx.params
    sweep = make_sweep(
        found["file"], found["storage"], recipe=None, vary=None, settings=None, seeds=None, trials=None,
        max_steps=found["max_steps"], name=None, gpu=found["gpu"], cpus=None,
    )  # fmt: skip
    storage = open_storage(found["storage"])
    known = find_up(sweep.name, storage) if required and not found["hosts"] else None
    if known is not None:  # its record says where it is and what it may cost
        _require_unchanged(ctx, known)
        return prepare(sweep, known.backend, known.options, known.limits, storage)
    require_own_options(ctx)
    return prepare(sweep, found["on"], options_of(found), limits_of(found, required=required), storage)


def _require_unchanged(ctx: typer.Context, known: Deployment) -> None:
    """Raise SweepError if a command asks for other limits than those of the launch that is up."""
    values = {
        "on": ("--on", known.backend),
        "max_usd": ("--max-usd", known.limits.max_usd),
        "max_hours": ("--max-hours", known.limits.max_hours),
        "idle_minutes": ("--idle-minutes", known.limits.idle_minutes),
    }
    for name, (option, now) in values.items():
        is_given = str(ctx.get_parameter_source(name)).endswith("COMMANDLINE")
        if is_given and ctx.params[name] != now:
            raise SweepError(
                f"{known.name} is up with {option} {now if now is not None else '(no limit)'}, not {ctx.params[name]}",
                f"Leave the option out, or end it first: trm cloud down {known.name}",
            )


def _start(ctx: typer.Context) -> Launch:
    """Show the quote, ask, and start the machines unless they are up."""
    from orchestrator.cli.views.cloud import show_quote
    from orchestrator.cli.views.console import confirm
    from orchestrator.cloud.launch import up as start
    from orchestrator.storage import open_storage

    launch = _prepare(ctx, required=True)
    if launch.deployment.backend == "ssh" and not launch.deployment.options.hosts:
        raise SweepError("--on ssh needs a machine", "Name it after the sweep: user@host")
    if launch.is_up:
        return launch
    show_quote(launch.quote, on_error=True)
    if launch.quote.num_finished == launch.quote.num_trials:
        raise SweepError(
            f"all {launch.quote.num_trials} trials of {launch.sweep.name} have finished: there is nothing to launch",
            "Extend it first (`trm sweep extend`), or give the sweep another name",
        )
    if not ctx.params["yes"]:
        confirm("Proceed?", f"{launch.quote.name!r} was not launched")
    try:
        start(launch, open_storage(ctx.params["storage"]), str(ctx.params["file"]))
    except KeyboardInterrupt:
        end = command_line("cloud", "down", launch.sweep.name, storage=ctx.params["storage"])
        typer.echo(f"interrupted: machines of {launch.sweep.name} may be up and billed. End them: {end}", err=True)
        raise
    return launch
