"""Arguments of the Python API that cannot be right: one line that names the field and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import Budget, Sweep, choice, get_recipe, log_uniform
from tests.support.sweeps import study
from trm_data import DataRequest
from trm_data.errors import UserError


def sweep(**changes: Any) -> Sweep:
    return Sweep(**{"name": "a", "base": get_recipe("sudoku-mini"), **changes})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sweep(space={"T": [1, 2]}), "space: T=[1, 2] is not a domain: write choice(1, 2)"),
        (lambda: choice([1, 2]), "Give the values as arguments: choice(1, 2)"),
        (lambda: sweep(seed=3), "unknown setting 'seed'. Did you mean 'seeds'?"),
        (lambda: sweep(kind="grid"), "kind='grid': input should be 'search' or 'study'"),
        (lambda: sweep(kind="search", trials=2, sampler="TPE"), "sampler='TPE': input should be 'tpe'"),
        (lambda: sweep(base="sudoku-mini"), "base='sudoku-mini': input should be"),
        (lambda: sweep(stopping={"rule": "never"}), "stopping.rule='never': input should be"),
        (lambda: sweep(trials=2), "'trials' is for kind='search'"),
        (lambda: sweep(name="a b"), "Sweep: name='a b' must be letters"),
        (lambda: sweep(space={"learning_rate": choice(1e-3)}), "Did you mean 'lr'?"),
        (lambda: sweep(space={"cycels": choice(1)}), "Did you mean 'model.cycles'?"),
        (lambda: sweep(space={"t": choice(1)}), "Did you mean 'T'?"),
        (lambda: sweep(space={"X": choice(1)}), "short names: T, n, N_sup"),
        (lambda: log_uniform(1e-2, 1e-4), "low=0.01 must be below high=0.0001"),
        (lambda: Budget(hours=5), "Budget: unknown setting 'hours'"),  # type: ignore[call-arg]
        (lambda: DataRequest(bench="sudoku-4x4"), "DataRequest: unknown setting 'bench'"),  # type: ignore[call-arg]
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_field(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as raised:
        call()
    assert message in str(raised.value) and "\n" not in str(raised.value) and "pydantic" not in str(raised.value)


@pytest.mark.parametrize("tracking", ["localhost:5000", "mlflow.db", "http://", "sqlite://"])
def test_a_tracker_that_is_no_address_is_refused_before_anything_runs(tracking: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tracker"):
        orchestrator.run(study(), tmp_path / "runs", tracking=tracking)
    assert not (tmp_path / "runs").exists()


def test_a_storage_that_does_not_exist_is_named_instead_of_an_empty_result(tmp_path: Path) -> None:
    for call in (orchestrator.load_results, orchestrator.leaderboard):
        with pytest.raises(UserError, match="no such folder"):
            call(storage=tmp_path / "sudoku-extreme")
