"""`trm train`: train one configuration on this machine; `trm recipes`: list the named configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.completion import recipe_names, trial_addresses
from orchestrator.cli.options import JsonOption, MaxStepsOption, SetOption, StorageOption
from trm_data.settings import strict_json

if TYPE_CHECKING:
    from orchestrator.records.schema import TrialRecord
    from trm_model.config import TrialConfig

RequiredRecipe = Annotated[
    str, typer.Option("--recipe", help="A named configuration: see `trm recipes`.", autocompletion=recipe_names)
]
ShowOption = Annotated[bool, typer.Option("--show-config", help="Print the complete configuration and stop.")]


def train(
    recipe: RequiredRecipe = "sudoku-mini",
    set_: SetOption = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CHECKPOINT",
            help="Start from these weights: a file, SWEEP/TRIAL, SWEEP/best, hf://OWNER/NAME[@REVISION]/FILE or s3://. "
            "SWEEP/last is the last run with a checkpoint that this command did not begin.",
            autocompletion=trial_addresses,
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option("--freeze", help="Leave the network or the embeddings as they are.", metavar="network|embeddings"),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0)] = None,
    max_steps: MaxStepsOption = None,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Processes that share every batch: one per GPU.")
    ] = 1,
    storage: StorageOption = "runs",
    show_config: ShowOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one configuration on this machine and score it; the same command again resumes from the last checkpoint.

    Examples:

    trm train --recipe sudoku-mini

    trm train --recipe arc-agi-1 --set train.batch_size=2 --set train.max_steps=2

    trm train --recipe sudoku-9x9-mini --processes 2

    trm train --recipe arc-agi-1 --from arc.safetensors --freeze network
    """
    from orchestrator.cli.configs import base_config

    config = base_config(recipe, set_, max_steps, {"train.freeze": freeze})
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    if start_from is not None:
        config = _start_from(config, start_from, storage)
    if show_config:
        print(strict_json(config.plain(), indent=1))
        return
    from orchestrator.cli.views.console import err
    from orchestrator.sweep.text import plural

    # The imports and the dataset take a while. A recursion file is executed first: if it fails, that is the only line.
    if not err.is_terminal and config.model.recursion is None:
        err.print(f"starting {recipe}: the dataset first, then {plural(config.train.max_steps, 'step')}")
    from orchestrator.api.train import train as train_config
    from orchestrator.cli.views.train import TrainView, show_outcome

    raise typer.Exit(show_outcome(train_config(config, storage, processes=processes, callbacks=[TrainView()]), as_json))


def _start_from(config: TrialConfig, named: str, storage: str) -> TrialConfig:
    """Return a configuration that starts from a checkpoint of `--from`. Runs of that configuration are not named."""
    from orchestrator.cli.lookup import start_address
    from orchestrator.sweep.identity import trial_id
    from orchestrator.sweep.settings import configure, replace_settings
    from trm_data.errors import ConfigError
    from trm_model.start_file import SETTING

    if config.train.start_from is not None:
        raise ConfigError(f"{SETTING} is given twice, by --set and by --from", "Give it once")

    def is_own(record: TrialRecord) -> bool:
        start = record.config.train.start_from
        if start is None:
            return False
        return trial_id(replace_settings(config, {SETTING: start}), record.dataset.fingerprint) == record.trial_id

    return configure(config, {SETTING: start_address(named, storage, is_own)})


def recipes(as_json: JsonOption = False) -> None:
    """List the named configurations.

    Example: trm recipes
    """
    from orchestrator.cli.views.console import out, table
    from trm_model.recipes import RECIPES

    described = {
        name: (make.__doc__ or "").strip().splitlines()[0] if make.__doc__ else "" for name, make in RECIPES.items()
    }
    if as_json:
        print(strict_json(described, indent=1))
        return
    rows = table("recipe", "what it is", words=("recipe",))
    for name, text in described.items():
        rows.add_row(name, text)
    out.print(rows)
