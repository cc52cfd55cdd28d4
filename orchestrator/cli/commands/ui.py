"""`trm ui`: serve MLflow, the leaderboard page and Optuna's dashboard on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import StorageOption


def ui(
    storage: StorageOption = "runs",
    port: Annotated[
        int,
        typer.Option(
            "--port", min=1, max=65533, help="Port of MLflow; the page and Optuna's dashboard get the next two."
        ),
    ] = 5000,
) -> None:
    """Serve MLflow, the leaderboard page and, where there are searches, Optuna's dashboard until Ctrl-C.

    They listen on localhost only, because none of them has authentication.

    Examples:

    trm ui

    trm ui --port 5050
    """
    from orchestrator.cli.views.console import out
    from orchestrator.web.server import serve

    serve(storage, port, lambda line: out.print(line, markup=False))
