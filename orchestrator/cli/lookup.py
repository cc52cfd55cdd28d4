"""Look up what model commands are given by name: a checkpoint, and the dataset that belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.completion import trial_addresses
from trm_data.files import expand_home

if TYPE_CHECKING:
    from orchestrator.records.checkpoints import FoundCheckpoint
    from orchestrator.records.schema import TrialRecord
    from orchestrator.storage import Storage
    from trm_data import Dataset
    from trm_model.config import TrialConfig

CheckpointArgument = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A checkpoint file, SWEEP/TRIAL of the storage, or train/last, SWEEP/last, SWEEP/best (explored).",
        show_default=False,
        autocompletion=trial_addresses,
    ),
]
AtOption = Annotated[
    str, typer.Option("--at", help="Which checkpoint of a trial: last, best, or a step.", metavar="last|best|STEP")
]
WeightsOption = Annotated[
    str, typer.Option("--weights", help="ema (the main average), raw, or the rate of a further average.")
]
DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", help="A built dataset's name or folder, or a benchmark; by default the one trained on."),
]


def start_address(address: str, storage_url: str, is_own: Callable[[TrialRecord], bool]) -> str:
    """Return the pinned address of a checkpoint that `--from` names: a file, a remote one, or one of a trial.

    Args:
        is_own: see `find_start`.
    """
    from orchestrator.records.checkpoints import find_start
    from orchestrator.storage import open_storage
    from orchestrator.sweep.settings import absolute_path
    from trm_model.start_file import SETTING

    folder = Path.cwd()
    if "://" not in address and not (folder / expand_home(address)).exists() and "#" not in address:
        address = find_start(address, open_storage(storage_url), is_own).address
    return str(absolute_path(SETTING, address, folder))


def open_by_name(name: str, storage: Storage) -> Dataset:
    """Return a built dataset by folder or name, else the benchmark's default one, built if necessary."""
    from orchestrator.cli.views.console import BuildBar
    from orchestrator.records.datasets import find

    with BuildBar() as progress:
        return find(storage, name, progress)


def dataset_for(found: FoundCheckpoint, config: TrialConfig, name: str | None, storage: Storage) -> Dataset:
    """Return the named dataset, or the one on which the checkpoint was trained."""
    from orchestrator.cli.views.console import BuildBar
    from orchestrator.records.datasets import ensure_local, provide_stored

    if name is not None:
        return open_by_name(name, storage)
    if found.dataset is not None:
        return ensure_local(storage, found.dataset)
    with BuildBar() as progress:
        return provide_stored(storage, config.data.request(), progress)
