"""Fixtures that every area uses."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.cluster import heterogeneous_cluster
from tests.support.infra import s3_bucket, s3_endpoint
from tests.support.run_report import RunReport
from tests.support.tracking import first_use, migrated

__all__ = ["first_use", "heterogeneous_cluster", "migrated", "s3_bucket", "s3_endpoint"]

hypothesis.settings.register_profile("untimed", deadline=None)  # the first example may have to compile a kernel
hypothesis.settings.load_profile("untimed")

LONGEST = (
    *("test_run.py", "test_cluster_sweep.py", "test_chaos.py", "test_cluster_placement.py", "test_tune.py"),
    *(
        "test_private_sweep.py",
        "test_arc.py",
        "test_train.py",
        "test_distributed.py",
        "test_outage.py",
        "test_lease.py",
    ),
    *("test_mlflow.py", "test_wrong_input.py", "test_sqlite.py", "test_older_storage.py", "test_own_recursion.py"),
    *("test_recursion_file.py", "test_export.py", "test_sweep_commands.py", "test_server.py", "test_launch.py"),
    *("test_model.py", "test_attempt.py", "test_recompute.py", "test_live.py", "test_older_model.py", "test_pages.py"),
)
"""Files that take 20 s or more, the longest first."""


def pytest_configure(config: pytest.Config) -> None:
    """Write a report of the run where the environment names a file; not in pytest-xdist's workers."""
    file = os.environ.get("TEST_REPORT")
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(RunReport(Path(file)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by duration, the longest first, so that two workers end together.

    `-n 2 --dist loadfile` makes module fixtures once; `--no-loadscope-reorder` keeps this order.
    """
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_testnodedown(node: Any, error: object | None) -> None:
    """Print how a process of pytest-xdist has ended, if it died: what it wrote at its end is lost with its captures."""
    if error:
        status = node.gateway._io.popen.wait(timeout=60)
        meaning = "its connection was closed" if status == 0 else "a negative number is that of a signal"
        print(f"\n{node.gateway.id}: exit status {status} ({meaning})", file=sys.stderr)


SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture
def fork_server_name() -> str:
    """Return the name of a fork server of this test's own."""
    return f"trm-test-{uuid.uuid4()}"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the repository; it is not part of the project."""
    if not SHARED.is_dir():
        pytest.skip("the reference data folder is not beside the repository")
    return SHARED
