"""The library functions `leaderboard` and `ablate`, what a notebook shows of them, and what they save."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from orchestrator import ablate, leaderboard
from orchestrator.records.schema import TrialRecord
from orchestrator.results import notebook
from orchestrator.results.notebook import AblationResult, Leaderboard
from orchestrator.storage import LocalStorage
from tests.support.results import ablation_records, demo_records
from trm_data.errors import ConfigError, UserError


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStorage:
    """A storage whose sweeps are made up."""
    sweeps: dict[str, list[TrialRecord]] = {"demo": demo_records(), "ablation": ablation_records()}
    monkeypatch.setattr(notebook, "read_sweep_trials", lambda _: sweeps["demo"])
    monkeypatch.setattr(notebook, "load_definition", lambda _, name: sweeps[name])
    monkeypatch.setattr(notebook, "read_trials", lambda _, name: sweeps[name])
    return LocalStorage(tmp_path / "runs")


def test_leaderboard_shows_what_was_measured_here_or_one_benchmark(storage: LocalStorage) -> None:
    own = leaderboard(storage=storage)
    assert [table.benchmark for table in own.tables] == ["sudoku-6x6-generated"] and "| 1 | **best**" in str(
        own
    ).replace("**1**", "1")
    published = leaderboard("maze-hard", storage)
    assert all(table.benchmark == "maze-hard" for table in published.tables) and len(published.tables) > 1
    with pytest.raises(UserError, match="no leaderboard for benchmark 'maze-hrd'"):
        leaderboard("maze-hrd", storage)


def test_leaderboard_is_shown_and_saved(storage: LocalStorage, tmp_path: Path) -> None:
    own = leaderboard(storage=storage)
    html = own._repr_html_()
    assert "96.3" in html and "@scope (.fragment)" in html and "<script" not in html
    for ending, expected in ((".html", "<table"), (".csv", "rank_first"), (".md", "| Rank |"), (".tex", "tabular")):
        own.save(tmp_path / f"own{ending}")
        assert expected in (tmp_path / f"own{ending}").read_text()
    own.save(str(tmp_path / "own.json"))
    assert json.loads((tmp_path / "own.json").read_text())[0]["entries"][0]["system"] == "best"
    with pytest.raises(ConfigError, match=r"cannot save as '\.htm'\. Did you mean '\.html'"):
        own.save(tmp_path / "own.htm")
    assert Leaderboard(())._repr_html_()


def test_ablation_is_shown_and_saved(storage: LocalStorage, tmp_path: Path) -> None:
    found = ablate("ablation", storage, control="base")
    assert isinstance(found, AblationResult) and found.effects[0].name == "one-step gradient"
    assert "Not separated from the control" in found._repr_html_() and "| no EMA | ema" in str(found)
    root = ET.fromstring(found._repr_svg_())
    assert root.tag.endswith("svg") and "one-step gradient" in "".join(root.itertext())
    for ending in (".svg", ".html", ".md", ".csv", ".json", ".tex"):
        found.save(tmp_path / f"effects{ending}")
        assert "no EMA" in (tmp_path / f"effects{ending}").read_text()
    found.save(tmp_path / "effects.pdf")
    assert (tmp_path / "effects.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ConfigError, match=r"cannot save as '\.png'"):
        found.save(tmp_path / "effects.png")


def test_reports_import_no_torch() -> None:
    code = (
        "import sys\n"
        "import orchestrator.results.notebook, orchestrator.results.report, orchestrator.results.dataframe\n"
        "import orchestrator.results.leaderboard, orchestrator.results.report.storage_page\n"
        "print(sorted({'torch', 'ray', 'mlflow', 'statsmodels', 'optuna', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
