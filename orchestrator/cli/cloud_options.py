"""Define the options of `trm cloud`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    float | None, typer.Option("--max-usd", min=0, help="Dollars of machine hours after which the timer ends all.")
]
NoLimitOption = Annotated[bool, typer.Option("--no-limit", help="Launch without --max-usd.")]
CloudHoursOption = Annotated[
    float | None, typer.Option("--max-hours", min=0, help="Hours after which the timer ends all.")
]
IdleOption = Annotated[
    float | None, typer.Option("--idle-minutes", min=0, help="Minutes without a driver after which it ends all; 15.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Launch without the question.")]
PythonOption = Annotated[
    str | None, typer.Option("--python", help="With --on ssh: the machines' Python; python3 if left out.")
]
EnvironmentOption = Annotated[
    str | None,
    typer.Option("--environment", help="With --on ssh: an environment that the machines have; nothing is installed."),
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
RegionOption = Annotated[str | None, typer.Option("--region", help="Region of the provider.")]


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
    return Limits.parse({name: value for name, value in values.items() if value is not None}, where="limits")
