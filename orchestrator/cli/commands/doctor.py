"""`trm doctor`: check this machine and the services that a sweep needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, StorageOption
from trm_data.settings import strict_json


def doctor(
    storage: StorageOption = "runs",
    address: Annotated[str | None, typer.Option("--address", help="HOST:PORT of a Ray cluster to check.")] = None,
    tracking: Annotated[str | None, typer.Option("--tracking", help="MLflow tracking URI to check.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check versions, devices, memory, disk, storage, cluster and tracker; exit code 1 if something is missing.

    Examples:

    trm doctor

    trm doctor --address 10.0.0.5:6379 --storage s3://bucket/trm --tracking http://mlflow:5000
    """
    from orchestrator.cli.doctor import examine
    from orchestrator.cli.views.console import line, out, table

    checks = examine(storage, tracking, address)
    if as_json:
        print(strict_json([asdict(check) for check in checks], indent=1))
    else:
        styles = {"ok": "green", "warn": "yellow", "fail": "red"}
        rows = table("", "", "", header=False)
        for check in checks:
            remedy = f"\n{check.remedy}" if check.remedy and check.status != "ok" else ""
            status = line((check.status, styles[check.status]))
            rows.add_row(status, check.name, line(check.found, (remedy, "dim")))
        out.print(rows)
    raise typer.Exit(1 if any(check.status == "fail" for check in checks) else 0)
