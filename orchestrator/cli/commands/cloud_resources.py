"""Define the verbs of `trm cloud` that are about files, the account and prices: render, init, orphans, prices."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption
from trm_data.files import write_output
from trm_data.settings import strict_json

ConfigFileOption = Annotated[Path, typer.Option("--config", help="What may be rented: a copy of infra/cloud.toml.")]
RegionsOption = Annotated[
    list[str] | None, typer.Option("--region", help="Only this region (repeatable).", metavar="REGION")
]


class Target(StrEnum):
    """Name the places for which a file is rendered."""

    AWS = "aws"
    SKY = "sky"
    K8S = "k8s"
    SLURM = "slurm"


class Provider(StrEnum):
    """Name the providers whose accounts are set up."""

    AWS = "aws"


def render(
    ctx: typer.Context,
    sweep: Annotated[str, typer.Argument(help="A sweep file, or a packaged sweep.", show_default=False)],
    on: Annotated[Target, typer.Option("--on", help="What reads the file.")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Further options of `trm sweep run`.")
    ] = None,
    config: ConfigFileOption = Path("cloud.toml"),
    single: Annotated[bool, typer.Option("--single", help="aws: one GPU machine that is head and worker.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file.", dir_okay=False)] = None,
) -> None:
    """Print the file that Ray (aws), SkyPilot (sky), KubeRay (k8s) or Slurm (slurm) reads. Nothing is started.

    Examples:

    trm cloud render demo --on aws --single

    trm cloud render demo --on slurm -o sweep.sbatch -- --gpu any
    """
    from orchestrator.cloud.config import CloudConfig, load_config
    from orchestrator.cloud.render.rendered import render as rendered

    # Slurm's table has a default for every field.
    is_named = str(ctx.get_parameter_source("config")).endswith("COMMANDLINE")
    has_defaults = on is Target.SLURM and not is_named
    found = CloudConfig() if has_defaults and not config.exists() else load_config(config)
    words = [*(options or []), *_gpu_words(sweep, on, options or [])]
    text = rendered(found, on.value, sweep, words, single=single).text
    if out is None:
        print(text, end="")
    else:
        write_output(out, text.encode())
        typer.echo(f"wrote {out}", err=True)


def _gpu_words(sweep: str, on: Target, options: list[str]) -> list[str]:
    """Return the option about GPUs that the rendered driver needs beside those that the user has given.

    Raises:
        SweepError: there is no such sweep.
    """
    from orchestrator.cli.configs import make_sweep
    from orchestrator.cloud.local_copy import gpu_words_of

    found = make_sweep(
        Path(sweep), "runs", recipe=None, vary=None, settings=None, seeds=None, trials=None, max_steps=None, name=None,
        gpu=None, cpus=None,
    )  # fmt: skip
    is_given = on is Target.AWS or any(option.partition("=")[0] == "--gpu" for option in options)
    return [] if is_given else gpu_words_of(found.resources.gpus)


def init(
    provider: Annotated[Provider, typer.Argument(help="Whose account is set up.", show_default=False)],
    config: ConfigFileOption = Path("cloud.toml"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be made, with the policies; ask AWS nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make what launches need once per account: bucket, roles, policies, security group. It can be repeated.

    It takes the rights of an administrator; launches then need the policy that it makes for them.

    Examples:

    trm cloud init aws --dry-run

    trm cloud init aws
    """
    from orchestrator.cli.views.console import line, out
    from orchestrator.cloud.aws.iam import ROLES, policy
    from orchestrator.cloud.aws.setup import described, set_up
    from orchestrator.cloud.config import load_config

    found = load_config(config)
    if dry_run:
        policies = {role: policy(found, role) for role in ROLES}
        if as_json:
            steps = [step._asdict() for step in described(found)]
            print(strict_json({"steps": steps, "policies": policies}, indent=1))
            return
        for step in described(found):
            out.print(line(f"would make {step.kind} ", (step.name, "bold"), f"  {step.note}"), soft_wrap=True)
        for role, document in policies.items():
            out.print(f"\npolicy {role}:\n{strict_json(document, indent=1)}", soft_wrap=True)
        return
    made = []
    for step in set_up(found):
        made.append(step._asdict())
        if not as_json:
            text = f"{step.state} {step.kind} ", (step.name, "bold"), f"  {step.note}"
            out.print(line(*text), soft_wrap=True)
    if as_json:
        print(strict_json({"steps": made}, indent=1))


def orphans(region: RegionsOption = None, as_json: JsonOption = False) -> None:
    """List everything on AWS with our tag that is billed, in all enabled regions, with the command that ends it.

    What is still in use is listed too. The exit code is 0 if there is nothing, 1 if there is something, and 2 if a
    region could not be looked at.

    Example: trm cloud orphans
    """
    from orchestrator.cli.views.cloud_resources import show_orphans
    from orchestrator.cli.views.console import err, line
    from orchestrator.cloud.aws.orphans import find_orphans
    from orchestrator.resources.aws.errors import AwsError

    unseen: list[AwsError] = []
    found = find_orphans(time.time(), region or [], unseen)
    if as_json:
        print(strict_json([orphan.plain() for orphan in found], indent=1))
    else:
        show_orphans(found, where="in the other regions " if unseen else "")
    for error in unseen:
        err.print(line(("not looked at", "yellow"), f": {error}"), soft_wrap=True)
    if found or unseen:
        raise typer.Exit(2 if unseen else 1)


def prices(
    provider: Annotated[str | None, typer.Option("--provider", help="Only this provider.")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="Only this GPU.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Ask AWS for its prices and write them to a file of yours.")
    ] = False,
    region: RegionsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the prices that plans use, with provider, date and source.

    Examples:

    trm cloud prices --gpu H100

    trm cloud prices --update --region us-east-1 --region us-east-2
    """
    from orchestrator.cli.views.cloud_resources import show_prices
    from orchestrator.cli.views.console import err
    from orchestrator.resources import catalogue
    from orchestrator.resources.pricing import providers

    if update:
        from orchestrator.cloud.aws.price_update import update_prices

        updated = update_prices(region or ["us-east-1"])
        err.print(f"{len(updated.prices) + len(updated.hosts)} prices written to {updated.path}", soft_wrap=True)
        for name in updated.not_offered:
            err.print(f"not offered: {name}", style="dim", soft_wrap=True)
    wanted = None if gpu is None else catalogue.gpu(gpu).name
    found = [
        price
        for price in catalogue.prices()
        if wanted in (None, price.gpu) and provider in (None, price.provider) and (not region or price.region in region)
    ]
    if not found:
        raise catalogue.CatalogueError("the catalogue has no such price", f"Providers: {', '.join(providers())}")
    if as_json:
        print(strict_json([price.plain() for price in found], indent=1))
    else:
        show_prices(sorted(found, key=lambda price: (price.gpu, price.usd_per_gpu_hour)))
