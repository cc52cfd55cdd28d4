"""Fixtures that every area uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster_fixtures import heterogeneous_cluster
from tests.infra_fixtures import s3_bucket, s3_endpoint

__all__ = ["heterogeneous_cluster", "s3_bucket", "s3_endpoint"]

LONG_FIRST = ("test_sweep_run.py", "test_cluster_sweep.py", "test_cli_arc.py", "test_data_sudoku.py")
"""Files that take longest start first, so that two workers end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG_FIRST.index(item.path.name) if item.path.name in LONG_FIRST else len(LONG_FIRST))


SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the repository; it is not part of the project."""
    if not SHARED.is_dir():
        pytest.skip("the reference data folder is not beside the repository")
    return SHARED
