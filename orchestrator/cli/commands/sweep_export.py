"""`trm sweep export`: write results as a file."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import OUTPUT_FILE, StorageOption, SweepArgument
from orchestrator.errors import SweepError
from trm_data.errors import nearest


def export(
    name: SweepArgument,
    kind: Annotated[str, typer.Option("--format", help="csv, json, latex or parquet.")] = "csv",
    to: Annotated[
        Path | None, typer.Option("--out", help="File to write; standard output if left out.", **OUTPUT_FILE)
    ] = None,
    storage: StorageOption = "runs",
) -> None:
    """Write the trials of a sweep as a table: CSV, JSON and Parquet with every setting, LaTeX with one row per family.

    Examples:

    trm sweep export demo --out demo.csv

    trm sweep export demo --format latex

    trm sweep export demo --format parquet --out demo.parquet
    """
    from orchestrator.cli.views.console import err
    from orchestrator.results.dataframe import FORMATS, as_text, load_results
    from orchestrator.sweep.text import plural
    from trm_data.files import write_output

    if kind not in FORMATS:
        raise SweepError(f"unknown format {kind!r}", nearest(kind, FORMATS))
    if kind == "parquet" and to is None:
        raise SweepError("parquet is not text", "Name a file with --out")
    frame = load_results(name, storage)
    if kind == "parquet":
        assert to is not None
        held = io.BytesIO()
        frame.to_parquet(held, index=False)
        write_output(to, held.getvalue())
    elif to is None:
        sys.stdout.write(as_text(frame, kind))
    else:
        write_output(to, as_text(frame, kind).encode())
    if to is not None:
        err.print(f"wrote {to}: {plural(len(frame), 'trial')}", soft_wrap=True)
