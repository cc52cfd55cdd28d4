"""`trm ui`: the MLflow interface and the leaderboard page on this machine, until Ctrl-C."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import StorageOption


def ui(
    storage: StorageOption = "runs",
    port: Annotated[
        int, typer.Option("--port", min=1, max=65534, help="Port of MLflow; the page gets the next.")
    ] = 5000,
) -> None:
    """Serve MLflow's interface and the leaderboard page on localhost until Ctrl-C.

    Examples:

    trm ui

    trm ui --port 5050
    """
    from orchestrator.cli.serving import serve

    serve(storage, port)
