"""Fixtures that every area uses."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

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
    "test_chaos.py",
    "test_cluster_placement.py",
    "test_run.py",
    "test_cluster_sweep.py",
    "test_private_sweep.py",
)
"""Files that start Ray."""


def pytest_configure(config: pytest.Config) -> None:
    """Write a report of the run where the environment names a file; not in pytest-xdist's workers."""
    file = os.environ.get("TEST_REPORT")
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(RunReport(Path(file)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that two workers end together (`-n 2 --dist loadfile`: module fixtures are made once)."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


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
