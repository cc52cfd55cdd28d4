"""`trm results`: bundle results with their weights, and verify such a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.lookup import DatasetOption
from orchestrator.cli.options import JsonOption, StorageOption, TrustOption, trust_files

app = typer.Typer(help="Bundle results for others, and verify a bundle.", no_args_is_help=True)


@app.command()
def bundle(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a sweep.", show_default=False)],
    to: Annotated[Path, typer.Option("--out", help="New folder for the bundle, not an archive.")],
    trial: Annotated[
        str | None,
        typer.Argument(
            metavar="[TRIAL]", help="The start of a trial's id; all confirmed trials if left out.", show_default=False
        ),
    ] = None,
    storage: StorageOption = "runs",
) -> None:
    """Write settings, weights, outcomes per item, code version and hashes into one folder that others can verify.

    Examples:

    trm results bundle demo --out demo-bundle

    trm results bundle demo 3f9a0c --out best-bundle
    """
    from orchestrator.cli.views.console import err, line, out
    from orchestrator.errors import command_line
    from orchestrator.evaluation.bundle import write_bundle
    from orchestrator.storage import storage_to_read
    from orchestrator.sweep.text import num_bytes, plural

    written = write_bundle(name, storage_to_read(storage), path=to, trial=trial)
    for left_out, reason in written.left_out.items():
        err.print(f"left out {left_out}: {reason}", soft_wrap=True)
    size = num_bytes(written.num_bytes)
    out.print(line(f"{plural(len(written.trials), 'trial')}, {size}: ", (str(written.path), "bold")), soft_wrap=True)
    out.print(f"verify it: {command_line('results', 'verify', str(written.path))}", soft_wrap=True)


@app.command()
def verify(
    path: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.", show_default=False, exists=True)
    ],
    compare: Annotated[
        str, typer.Option("--compare", help="answers (every cell), or solved (only whether an item is solved).")
    ] = "answers",
    dataset: DatasetOption = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    trust: TrustOption = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Score the weights of a bundle again on the same puzzles, and compare item by item. Exit code 1 if one differs.

    Nothing of the bundle is executed. The dataset is found in the storage, or generated again.

    Examples:

    trm results verify demo-bundle

    trm results verify demo-bundle --dataset my-puzzles-3f9c2a71 --compare solved
    """
    from orchestrator.cli.views.results import verify_and_show

    trust_files(trust)
    raise typer.Exit(verify_and_show(path, storage, dataset, compare, device, as_json))
