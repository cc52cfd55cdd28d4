"""Define the options of `trm cloud`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import ABOVE_0, FileArgument, GpuOption, JsonOption, MaxStepsOption, StorageOption
from orchestrator.cli.run_options import ConcurrentOption
from orchestrator.errors import SweepError

if TYPE_CHECKING:
    from orchestrator.cloud.backend import Limits, Options

HostsArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[USER@HOST[,USER@HOST]...]",
        help="With --on ssh: a machine, or several in one network.",
        show_default=False,
    ),
]
DeploymentArgument = Annotated[str, typer.Argument(help="Name of the sweep that was launched.", show_default=False)]
AnyDeploymentArgument = Annotated[
    str | None, typer.Argument(help="Name of the sweep that was launched; all if left out.", show_default=False)
]
OnOption = Annotated[
    str, typer.Option("--on", help="Where: ssh, aws or sky (k8s, slurm: see `trm cloud render`).", metavar="BACKEND")
]
ProviderOption = Annotated[
    str | None,
    typer.Option("--provider", help="Whose prices count: aws, lambda, runpod ... (of the catalogue)."),
]
MarketOption = Annotated[str, typer.Option("--market", help="Prices of which market.", metavar="on-demand|spot")]
UsdPerGpuHourOption = Annotated[
    float | None, typer.Option("--usd-per-gpu-hour", min=0, help="What you pay for a GPU for an hour.")
]
UsdPerHourOption = Annotated[
    float | None, typer.Option("--usd-per-hour", min=0, help="What you pay for a machine for an hour.")
]
CloudUsdOption = Annotated[
    float | None,
    typer.Option("--max-usd", metavar=ABOVE_0, help="Dollars of machine hours after which the timer ends all."),
]
NoLimitOption = Annotated[bool, typer.Option("--no-limit", help="Launch without --max-usd.")]
CloudHoursOption = Annotated[
    float | None, typer.Option("--max-hours", metavar=ABOVE_0, help="Hours after which the timer ends all.")
]
IdleOption = Annotated[
    float | None,
    typer.Option("--idle-minutes", metavar=ABOVE_0, help="Minutes without a driver after which it ends all; 15."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Launch without the question.")]
PythonOption = Annotated[
    str | None, typer.Option("--python", help="With --on ssh: the machines' Python; python3 if left out.")
]
EnvironmentOption = Annotated[
    str | None,
    typer.Option("--environment", help="With --on ssh: an environment that the machines have; nothing is installed."),
]
NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network",
        help="With --on ssh: network in which several machines reach each other, if not the one that leads outwards.",
        metavar="10.0.0.0/24",
    ),
]
SingleOption = Annotated[bool, typer.Option("--single", help="With --on aws: one GPU machine is head and worker.")]
SshConfigOption = Annotated[str | None, typer.Option("--ssh-config", help="With --on ssh: configuration file of ssh.")]
EndCommandOption = Annotated[
    str | None,
    typer.Option(
        "--end-command", help="Command that the timer runs last, on each of several machines: 'sudo poweroff'."
    ),
]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Wait for new events until the sweep ends.")]
ForgetOption = Annotated[bool, typer.Option("--forget", help="The machines are gone: only close the record.")]
KeepOption = Annotated[bool, typer.Option("--keep", help="Leave what was installed, for the next launch.")]
ConfigOption = Annotated[str | None, typer.Option("--config", help="Configuration file of the backend: cloud.toml.")]

_LAUNCH: dict[str, tuple[Any, Any]] = {
    "file": (FileArgument, None),
    "hosts": (HostsArgument, None),
    "on": (OnOption, "ssh"),
    "gpu": (GpuOption, None),
    "max_steps": (MaxStepsOption, None),
    "max_concurrent": (ConcurrentOption, None),
    "provider": (ProviderOption, None),
    "market": (MarketOption, "on-demand"),
    "usd_per_gpu_hour": (UsdPerGpuHourOption, None),
    "usd_per_hour": (UsdPerHourOption, None),
    "max_usd": (CloudUsdOption, None),
    "no_limit": (NoLimitOption, False),
    "max_hours": (CloudHoursOption, None),
    "idle_minutes": (IdleOption, None),
    "python": (PythonOption, None),
    "environment": (EnvironmentOption, None),
    "network": (NetworkOption, None),
    "ssh_config": (SshConfigOption, None),
    "end_command": (EndCommandOption, None),
    "config": (ConfigOption, None),
    "single": (SingleOption, False),
    "storage": (StorageOption, "runs"),
    "yes": (YesOption, False),
    "as_json": (JsonOption, False),
}
"""Parameters of the commands that launch: type and default."""


_OF_BACKENDS = {
    **dict.fromkeys(("hosts", "python", "environment", "network", "ssh_config", "end_command"), ("ssh",)),
    **dict.fromkeys(("usd_per_hour", "market"), ("ssh",)),
    **dict.fromkeys(("usd_per_gpu_hour", "provider"), ("ssh", "sky")),
    "config": ("aws", "sky"),
    "single": ("aws",),
}
"""Options that not all backends know."""


def launches(*without: str) -> Callable[[Callable[[typer.Context], None]], Callable[..., None]]:
    """Give a command the parameters of a launch; it finds their values in its context.

    Args:
        without: parameters that the command does not have.
    """
    found = {name: each for name, each in _LAUNCH.items() if name not in without}
    parameters = [Parameter("ctx", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    parameters += [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)
        for name, (kind, default) in found.items()
    ]

    def decorate(command: Callable[[typer.Context], None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(ctx: typer.Context, **_: Any) -> None:
            command(ctx)

        called.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return called

    return decorate


def elsewhere(hosts: str | None, ssh_config: str | None) -> Options | None:
    """Return the machines of a launch whose record is not in this storage; None if none are named."""
    return options_of({"hosts": hosts, "ssh_config": ssh_config}) if hosts else None


def options_of(params: dict[str, Any]) -> Options:
    """Return the options of a launch from the parameters of a command."""
    from orchestrator.cloud.backend import Options

    values = {name: params[name] for name in Options.model_fields if params.get(name) is not None}
    if "ssh_config" in values:  # later commands may be given in another folder
        values["ssh_config"] = str(Path(values["ssh_config"]).absolute())
    values["hosts"] = tuple(filter(None, (params.get("hosts") or "").split(",")))
    return Options.parse(values, where="options")


def require_own_options(ctx: typer.Context) -> None:
    """Raise SweepError for an option that the backend of `--on` would ignore."""
    from orchestrator.cloud.registry import BACKENDS

    backend = ctx.params["on"]
    for name, backends in _OF_BACKENDS.items():
        is_given = str(ctx.get_parameter_source(name)).endswith("COMMANDLINE")
        if is_given and backend in BACKENDS and backend not in backends:
            what = "machines" if name == "hosts" else f"--{name.replace('_', '-')}"
            where = " and ".join(f"--on {each}" for each in backends)
            raise SweepError(f"--on {backend} takes no {what}", f"It belongs to {where}")


def limits_of(params: dict[str, Any], *, required: bool) -> Limits:
    """Return the limits of a launch.

    Raises:
        SweepError: neither --max-usd nor --no-limit is given, or both.
    """
    from orchestrator.cloud.backend import Limits

    usd, no_limit = params.get("max_usd"), bool(params.get("no_limit"))
    if usd is not None and no_limit:
        raise SweepError("both --max-usd and --no-limit are given", "Leave one of them out")
    if required and usd is None and not no_limit:
        raise SweepError(
            "no limit is given for what the machines may cost",
            "Give --max-usd, for example --max-usd 50, or --no-limit",
        )
    values = {"max_usd": usd, "max_hours": params.get("max_hours"), "idle_minutes": params.get("idle_minutes")}
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise SweepError(f"--{name.replace('_', '-')} is {value:g}", "Give a number greater than 0")
    return Limits.parse({name: value for name, value in values.items() if value is not None}, where="limits")
