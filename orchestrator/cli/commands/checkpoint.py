"""`trm checkpoint`: show checkpoints, import official ones, export to their format."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.lookup import AtOption, CheckpointArgument, DatasetOption, WeightsOption
from orchestrator.cli.options import (
    OUTPUT_FILE,
    JsonOption,
    RecipeOption,
    SetOption,
    StorageOption,
    TrustOption,
    trust_files,
)
from trm_data.settings import strict_json

if TYPE_CHECKING:
    from trm_data.config import DataConfig
    from trm_model.checkpoints.store import Checkpoint
    from trm_model.config import TrialConfig

app = typer.Typer(help="Inspect checkpoints; import and export official ones.", no_args_is_help=True)


@app.command()
def show(
    checkpoint: CheckpointArgument, at: AtOption = "last", storage: StorageOption = "runs", as_json: JsonOption = False
) -> None:
    """Show a checkpoint: model, step, scores, data, averages, sizes.

    Examples:

    trm checkpoint show demo/3f2a91 --at best

    trm checkpoint show model.safetensors --json
    """
    from orchestrator.cli.views.console import line, out, table
    from orchestrator.records.checkpoints import find_checkpoint
    from orchestrator.storage import open_storage

    found = find_checkpoint(checkpoint, open_storage(storage), at)
    loaded = found.load()
    facts = {"checkpoint": found.where, **_facts(loaded)}
    if as_json:
        print(strict_json({**facts, "config": loaded.header["config"]}, indent=1))
        return
    rows = table("", "", header=False)
    for name, value in facts.items():
        if value not in (None, [], ""):
            rows.add_row(line((name.replace("_", " "), "dim")), _format(value))
    out.print(rows)


@app.command("import")
def import_(
    official: Annotated[
        str,
        typer.Argument(help="A file step_NUMBER of an official TRM or HRM run, or hf://OWNER/NAME[@REVISION]/FILE."),
    ],
    output: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint file to write.", **OUTPUT_FILE)],
    recipe: RecipeOption = None,
    set_: SetOption = None,
    dataset: DatasetOption = None,
    storage: StorageOption = "runs",
) -> None:
    """Import an official checkpoint; its settings come from a recipe, or from the all_config.yaml next to it.

    Public ones: `trm checkpoint known`.

    Nothing in the file is executed. Checkpoints with an embedding per puzzle (ARC) need the dataset that gave the ids.

    Examples:

    trm checkpoint import step_65104 --recipe sudoku-mlp.readme -o sudoku.safetensors

    trm checkpoint import hf://owner/name@main/step_65104 -o sudoku.safetensors

    trm checkpoint import arc/step_518071 --dataset arc-agi-1-upstream-5d1c -o arc.safetensors
    """
    from orchestrator.cli.configs import base_config
    from orchestrator.cli.lookup import open_by_name
    from orchestrator.cli.views.console import out
    from orchestrator.errors import SweepError
    from orchestrator.storage import open_storage
    from trm_data.benchmarks import resolve_benchmark
    from trm_data.files import write_output
    from trm_data.sources.files import parse_address
    from trm_model.checkpoints.official import import_official, local_official, settings_of

    if set_ and recipe is None:
        raise SweepError("--set changes a recipe, and none is given", "Add --recipe NAME")
    path = local_official(official, needs_settings=recipe is None)
    config = settings_of(path, None if recipe is None else base_config(recipe, set_, None))
    seq_len = None if recipe is None else resolve_benchmark(config.data.benchmark).side ** 2
    ids: dict[str, Any] = {}
    if dataset is not None:
        data = open_by_name(dataset, open_storage(storage))
        copies = int(data.num_listed.max(initial=0)) if data.is_listed else 0
        seq_len = data.seq_len
        ids = {"id_map_hash": data.id_map_hash(copies), "num_ids": data.num_identifiers(copies)}
        config = config.model_copy(update={"data": _reading(data.manifest.request.plain(), copies)})
    number = re.search(r"step_(\d+)$", path.name)
    ids["knows_dataset"] = recipe is not None or dataset is not None
    ids["origin"] = str(parse_address(official)) if "://" in official else None
    model, content = import_official(path, config, seq_len=seq_len, step=int(number[1]) if number else 0, **ids)
    write_output(output, content)
    table = model.puzzle_embedding
    rows = "" if table is None else f", {len(table.weight):,} puzzle embeddings"
    out.print(f"{output}: {sum(p.numel() for p in model.parameters()):,} weights{rows}")


@app.command()
def known(as_json: JsonOption = False) -> None:
    """List public repositories of weights, with the score that is reported for them.

    None has been downloaded or scored for this list; the names of their files are in the repositories.

    Example: trm checkpoint known
    """
    from orchestrator.cli.views.console import line, out
    from trm_model.checkpoints.known import KNOWN

    if as_json:
        print(strict_json([each._asdict() for each in KNOWN], indent=1))
        return
    for each in KNOWN:
        out.print(line((each.address, "bold")), soft_wrap=True)
        out.print(f"  {each.name}, {each.benchmark}: {each.score:g} %, reported by {each.source}")
    out.print("Import one with a file of its repository: trm checkpoint import hf://OWNER/NAME/FILE", style="dim")


@app.command()
def export(
    checkpoint: CheckpointArgument,
    output: Annotated[
        Path, typer.Option("--out", "-o", help="File to write; all_config.yaml goes next to it.", **OUTPUT_FILE)
    ],
    at: AtOption = "last",
    weights: WeightsOption = "ema",
    trust: TrustOption = None,
    storage: StorageOption = "runs",
) -> None:
    """Write a checkpoint as the official code saves it: a state dict, and the all_config.yaml next to it.

    Example: trm checkpoint export demo/3f2a91 -o official/step_300
    """
    from orchestrator.cli.views.console import out
    from orchestrator.records.checkpoints import find_checkpoint
    from orchestrator.storage import open_storage
    from trm_model.checkpoints.official import export_official
    from trm_model.checkpoints.trained import load_trained

    trust_files(trust)
    found = find_checkpoint(checkpoint, open_storage(storage), at)
    trained = load_trained(found.load(), weights)
    export_official(trained.model, trained.config, output)
    out.print(f"{output}: {weights} weights of {found.where}")


def _reading(request: dict[str, Any], num_augmentations: int) -> DataConfig:
    from trm_data.config import DataConfig

    return DataConfig.parse({**request, "num_augmentations": num_augmentations})


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint is, as plain data."""
    from trm_model.config import TrialConfig

    header = checkpoint.header
    config = TrialConfig.parse(header["config"], "checkpoint")
    sizes: dict[str, int] = {}
    for name, value in checkpoint.tensors.items():
        section = name.split("/")[0]
        sizes[section] = sizes.get(section, 0) + value.nbytes
    progress = header.get("progress", {})
    return {
        "step": checkpoint.step,
        "recipe": config.recipe,
        "model": _model(config),
        "kind": "weights only" if header.get("weights_only") else "complete: a run can resume from it",
        "imported_from": header.get("imported_from"),
        "imported_sha256": header.get("imported_sha256"),
        "benchmark": config.data.benchmark,
        "fingerprint": header.get("fingerprint"),
        "vocabulary": header["vocab_size"],
        "grid_cells": header["seq_len"],
        "puzzle_embeddings": header["num_identifiers"],
        "puzzle_id_map": header["id_map_hash"],
        "averages": sorted({name.split("/")[1] for name in checkpoint.tensors if name.startswith("ema/")}),
        "best_step": progress.get("best_step"),
        "best_exact_accuracy": progress.get("best_score") if progress.get("best_step") is not None else None,
        "puzzles_presented": header.get("puzzles_presented"),
        "train_flops": header.get("train_flops"),
        "num_parameters": sum(v.numel() for n, v in checkpoint.tensors.items() if _is_weight(n)),
        "bytes": sizes,
        "torch": header.get("torch"),
    }


def _is_weight(name: str) -> bool:
    return name.startswith("model/") and not name.startswith(("model/start_", "model/puzzle_embedding"))


def _model(config: TrialConfig) -> str:
    model = config.model
    depth = f"T={model.cycles} n={model.latent_steps} N_sup={model.supervision_steps}"
    return f"{model.variant}, {model.mixer}, width {model.hidden_size}, {model.num_layers} layers, {depth}"


def _format(value: object) -> str:
    from orchestrator.sweep.text import num_bytes

    if isinstance(value, dict):
        return ", ".join(f"{name} {num_bytes(size)}" for name, size in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
