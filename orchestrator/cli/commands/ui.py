"""`trm ui`: serve the sweeps of a storage, MLflow and Optuna's dashboard on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import StorageOption


def ui(
    storage: StorageOption = "runs",
    port: Annotated[
        int,
        typer.Option(
            "--port", min=1, max=65533, help="Port of the start page; MLflow and Optuna's dashboard get the next two."
        ),
    ] = 5000,
) -> None:
    """Serve a page of all sweeps, which follows them while they run, MLflow, and Optuna's dashboard until Ctrl-C.

    They listen on localhost only, because none of them has authentication. Of a storage on S3, MLflow and Optuna show
    copies in the user's cache.

    Examples:

    trm ui

    trm ui --storage s3://bucket/runs --port 5050
    """
    from orchestrator.cli.views.console import out
    from orchestrator.web.server import serve

    serve(storage, port, lambda line: out.print(line, markup=False))
