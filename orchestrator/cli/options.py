"""Define the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.completion import recipe_names, sweep_names, sweeps_to_run
from orchestrator.sweep.packaged import packaged_sweeps
from trm_data.own_code import trust

StorageOption = Annotated[
    str, typer.Option("--storage", help="Folder or s3://bucket/prefix that holds datasets and records.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]
INPUT_FILE: dict[str, Any] = {"exists": True, "dir_okay": False, "readable": True}
INPUT_FOLDER: dict[str, Any] = {"exists": True, "file_okay": False, "readable": True}
OUTPUT_FILE: dict[str, Any] = {"dir_okay": False, "writable": True}
OUTPUT_FOLDER: dict[str, Any] = {"file_okay": False, "writable": True}
"""Requirements of a path argument: a wrong one is a usage error before anything is read or trained."""
_BASELINES_HELP = "CSV file with result rows of your own; baselines in the storage if left out."
BaselinesOption = Annotated[Path | None, typer.Option("--baselines", help=_BASELINES_HELP, **INPUT_FILE)]
NewBaselinesOption = Annotated[Path | None, typer.Option("--baselines", help=_BASELINES_HELP, **OUTPUT_FILE)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting: --set lr=1e-3 (repeat).", metavar="NAME=VALUE"),
]
VaryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--vary",
        help="Values to compare: --vary T=1,2 --vary n=2..4; with --trials also lr=1e-4..1e-2 and lr=log:1e-4..1e-2.",
        metavar="NAME=V,V...|LOW..HIGH",
    ),
]
FileArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[SWEEP]",
        help=f"A sweep file (.py, .yaml), a plan, a recorded sweep, or a packaged one: {', '.join(packaged_sweeps())}.",
        show_default=False,
        autocompletion=sweeps_to_run,
    ),
]
SweepArgument = Annotated[str, typer.Argument(help="Name of a sweep.", show_default=False, autocompletion=sweep_names)]
OptionalSweepArgument = Annotated[
    str | None,
    typer.Argument(help="Name of a sweep; all of them if left out.", show_default=False, autocompletion=sweep_names),
]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="A named configuration: see `trm recipes`.", autocompletion=recipe_names),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Name of the sweep; made from its definition if left out.")
]
SeedsOption = Annotated[int | None, typer.Option("--seeds", min=1, help="Seeds per cell (study) or per confirmation.")]
TrialsOption = Annotated[
    int | None, typer.Option("--trials", min=1, help="Make it a search with this many trials over the space.")
]
MaxStepsOption = Annotated[int | None, typer.Option("--max-steps", min=1, help="Optimizer steps of every trial.")]
GpuOption = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        help="GPU of every trial: auto (this machine's GPUs, shared by memory), none (CPU), any, or types by the name "
        "in nvidia-smi or Ray's label: RTX4090, 'L40S|H100'. If left out, as the sweep says, else auto; on a cluster "
        "auto is none.",
    ),
]
TrustOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust",
        metavar="FILE",
        help="Run the code of this file where a stored setting or dataset names its content (repeatable).",
    ),
]
ABOVE_0 = "<float> [x>0]"
"""Shown in place of a range: typer's bounds are inclusive. The command checks the value."""
CpusOption = Annotated[float | None, typer.Option("--cpus", min=0.1, help="CPU cores of every trial.")]


def trust_files(files: list[Path] | None) -> None:
    """Let this command execute the files that `--trust` names."""
    for file in files or []:
        trust(file)
