"""Fixtures that every area uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster_fixtures import heterogeneous_cluster
from tests.infra_fixtures import s3_bucket, s3_endpoint
from tests.tracking_fixtures import first_use, migrated

__all__ = ["first_use", "heterogeneous_cluster", "migrated", "s3_bucket", "s3_endpoint"]

RAY = ("test_cluster_placement.py", "test_cluster_sweep.py", "test_sweep_chaos.py", "test_sweep_run.py")
"""Files that start Ray: one after the other, since two at a time starve each other; first, since they take longest."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For two workers (`-n 2 --dist loadgroup`): a file stays on one of them, so module fixtures are made once."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.path.name in RAY else item.path.name))
    items.sort(key=lambda item: item.path.name not in RAY)


SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the repository; it is not part of the project."""
    if not SHARED.is_dir():
        pytest.skip("the reference data folder is not beside the repository")
    return SHARED
