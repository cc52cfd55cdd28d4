"""`trm eval`: score checkpoints in several ways, without training them again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.completion import trial_addresses
from orchestrator.cli.lookup import AtOption, DatasetOption
from orchestrator.cli.options import OUTPUT_FOLDER, JsonOption, StorageOption, TrustOption, trust_files
from trm_data.settings import strict_json

if TYPE_CHECKING:
    from orchestrator.evaluation.checkpoints import Scored

CheckpointsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="CHECKPOINT...",
        help="Files, SWEEP/TRIAL of the storage, or train/last, SWEEP/best.",
        show_default=False,
        autocompletion=trial_addresses,
    ),
]
VaryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--vary",
        metavar="NAME=V,V...|LOW..HIGH",
        help="D (steps), votes, K (rollouts), noise, choose, halt, weights, embedding: --vary D=16,64 or D=1..16.",
    ),
]
SplitOption = Annotated[str | None, typer.Option("--split", help="train, validation or test; as trained if left out.")]


def evaluate(
    checkpoints: CheckpointsArgument,
    vary: VaryOption = None,
    dataset: DatasetOption = None,
    split: SplitOption = None,
    max_puzzles: Annotated[
        int | None, typer.Option("--max-puzzles", min=1, help="Score only the first puzzles of the split.")
    ] = None,
    weights: Annotated[str | None, typer.Option("--weights", help="ema, raw, or the rate of an average.")] = None,
    embedding: Annotated[
        str,
        typer.Option(
            "--embedding",
            help="What stands for a puzzle's trained embedding: zero, one drawn from the table, another puzzle's.",
            metavar="trained|blank|random|swapped",
        ),
    ] = "trained",
    at: AtOption = "last",
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Puzzles per forward pass.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of noise and drawn embeddings; by default the trial's.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    output: Annotated[
        Path | None, typer.Option("--out", help="Folder for per-item outcomes and submissions.", **OUTPUT_FOLDER)
    ] = None,
    trust: TrustOption = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Score checkpoints: every combination of the values, a row each. Several checkpoints also vote together.

    Examples:

    trm eval demo/3f2a91 --split test --vary D=4,16,64 --vary votes=1,10

    trm eval model.safetensors --dataset sudoku-9x9 --vary K=1,10,100 --vary noise=0.1,0.3 --vary choose=halt,majority

    trm eval demo/3f2a91 --vary steps=1,2,4..16

    trm eval arc/9c01d2 --vary votes=1,10,100 --out answers

    trm eval arc/9c01d2 --vary embedding=trained,blank,random,swapped

    trm eval demo/3f2a91 demo/77b0c3 demo/e91f00
    """
    from orchestrator.api.submit import is_submission
    from orchestrator.cli.lookup import dataset_for
    from orchestrator.cli.views.evaluate import Bar, show, write_files
    from orchestrator.evaluation.checkpoints import expand, score
    from orchestrator.records.checkpoints import find_checkpoint
    from orchestrator.storage import open_storage
    from orchestrator.sweep.settings import split_assignments
    from trm_model.checkpoints.trained import check_dataset_is_known
    from trm_model.config import TrialConfig

    trust_files(trust)
    store = open_storage(storage)
    found = [find_checkpoint(address, store, at) for address in checkpoints]
    loaded = {one.where: one.load() for one in found}
    configs = [TrialConfig.parse(one.header["config"], where) for where, one in loaded.items()]
    given = {"max_puzzles": max_puzzles, "batch_size": batch_size}
    update: dict[str, int | None] = {name: value for name, value in given.items() if value is not None}
    if is_submission(configs[0]):  # which scores one puzzle after training, since it answers all of them next
        update.setdefault("max_puzzles", None)
    base = configs[0].evaluation.model_copy(update=update)
    values = split_assignments(vary, "--vary", example="D=16,64")
    cells = expand(base, weights or base.weights, [config.model for config in configs], values, embedding)
    if dataset is None and found[0].dataset is None:
        check_dataset_is_known(loaded[found[0].where].header, found[0].where)
    data = dataset_for(found[0], configs[0], dataset, store)
    rows: list[Scored] = []
    with Bar(len(cells) * len(loaded)) as bar:
        for row in score(cells, loaded, data, split or base.split, device=device, seed=seed, progress=bar.update):
            rows.append(row)
            if output is not None:
                write_files(rows, output, len(loaded) > 1)
    if as_json:
        print(strict_json([row.plain() for row in rows], indent=1))
    else:
        show(rows, data)
