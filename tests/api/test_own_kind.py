"""A kind of puzzle of one's own from an empty folder: trained, solved, swept, ranked and shown on the page."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Status, Sweep, TrialConfig, choice, configure, plan, run, train
from orchestrator.cli.views.live import show_outcome
from orchestrator.errors import SweepError
from orchestrator.execution.options import SweepOutcome, SweepSnapshot, SweepStatus
from orchestrator.records.index import note_address
from orchestrator.records.progress import SweepProgress
from orchestrator.results.leaderboard import build_leaderboard
from orchestrator.results.report.gallery import galleries, stored_galleries
from orchestrator.results.report.storage_page import read_sweep_trials
from orchestrator.storage import open_storage
from orchestrator.storage.base import to_json_bytes
from tests.support.commands import call
from tests.support.llm import TRM
from tests.support.own_kinds import NAME, latin
from trm_data.errors import ConfigError
from trm_data.own_code import distrust_all
from trm_model import get_recipe

SETTING = "data.benchmark"
SHAPE: dict[str, Any] = {
    **{"model.hidden_size": 16, "model.num_heads": 2, "T": 1, "n": 1, "N_sup": 2, "train.max_steps": 4},
    **{"data.num_train": 40, "data.num_validation": 8, "data.num_test": 16},
    **{"runtime.evaluate_every": 2, "train.dtype": "float32"},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    distrust_all()
    (tmp_path / "latin.py").write_text(latin())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny(benchmark: Any = NAME, **changes: Any) -> TrialConfig:
    return configure(get_recipe("mini"), {SETTING: benchmark, **SHAPE, **changes})


def test_trained_solved_and_evaluated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = train(tiny(), "runs", callbacks=())
    assert done.status is Status.FINISHED and done.record.dataset.benchmark == "latin-4x4-generated"
    result = done.record.result
    assert result and result.metrics["exact_accuracy"] == result.metrics["valid_accuracy"]
    assert Path(done.location, "kind.py").read_text() == latin()
    assert train(tiny(), "runs", callbacks=()).record.trial_id == done.record.trial_id
    address, puzzle = f"train/{done.record.trial_id}", "1..4.2..3..1...2"
    distrust_all()
    code, _, err = call(capsys, "solve", address, puzzle)
    assert code == 2 and "--trust" in err and len(err.splitlines()) == 1
    code, out, _ = call(capsys, "solve", address, puzzle, "--trust", "latin.py", "--json")
    (solved,) = json.loads(out)
    assert solved["puzzle"] == ["1..4", ".2..", "3..1", "...2"] and solved["valid"] is (code == 0)
    kept = str(Path(done.location, "kind.py"))
    (folder / "latin.py").unlink()
    distrust_all()
    code, out, _ = call(capsys, "eval", address, "--split", "validation", "--trust", kept, "--json")
    assert code == 0 and "exact_accuracy" in out
    (folder / "latin.py").write_text(latin().replace("< 0.4", "< 0.5"))
    assert train(tiny(), "runs", callbacks=()).record.trial_id != done.record.trial_id


def test_code_that_fails_on_an_answer_ends_the_run_with_its_kind_method_and_line(folder: Path) -> None:
    fails = (
        "        if not ((question == BLANK) | (question == answer)).all():\n            raise IndexError('bad cell')\n"
    )
    text = latin().replace("        kept = ", f"{fails}        kept = ")
    (folder / "latin.py").write_text(text)
    done = train(tiny(), "runs", callbacks=())
    line = text.splitlines().index("            raise IndexError('bad cell')") + 1
    assert done.status is Status.FAILED
    assert f"is_valid of the puzzle kind latin-4x4 fails: IndexError: bad cell (latin.py:{line})" in done.reason


def test_sweep_compares_ranks_and_shows_it(folder: Path) -> None:
    sweep = Sweep(name="own", base=tiny(), space={"T": choice(1, 2)})
    assert plan(sweep, "runs").datasets[0].benchmark.startswith("Latin@")
    changes = {SETTING: NAME, **SHAPE}
    (folder / "own.py").write_text(
        "from orchestrator import Sweep, choice, configure\nfrom trm_model import get_recipe\n"
        f"base = configure(get_recipe('mini'), {changes!r})\n"
        "sweep = Sweep(name='own', base=base, space={'T': choice(1, 2)})\n"
    )
    done = subprocess.run([*TRM, "sweep", "run", "own.py", "--tracking", "none"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    distrust_all()  # nothing below runs the file
    storage = open_storage("runs")
    records = read_sweep_trials(storage)
    (table,) = build_leaderboard("latin-4x4-generated", records, [])
    assert len(table.entries) == 2 and all(entry.own for entry in table.entries)
    assert "any valid answer counts" in table.heading
    (gallery, *_) = galleries(table.entries, records, stored_galleries(storage))
    assert gallery.family == "latin-4x4" and gallery.colours[1] == "#1E93FF" and len(gallery.puzzles[0]["label"]) == 16


def test_recorded_sweep_does_not_run_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "own.yaml").write_text(
        "name: own\nrecipe: mini\nparameters: {T: {values: [1, 2]}}\nset: {data.benchmark: 'latin.py:Latin'}\n"
    )
    for words in (("sweep", "plan", "own.yaml"), ("sweep", "run", "own.yaml")):
        code, _, err = call(capsys, *words)
        assert code == 2 and "--trust" in err and len(err.splitlines()) == 1
    code, out, _ = call(capsys, "sweep", "plan", "own.yaml", "--trust", "latin.py")
    assert code == 0 and "Latin@" in out


def test_kinds_are_compared_along_an_axis_by_class_or_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    import latin as module  # type: ignore[import-not-found]  # the file of the fixture

    by_class = Sweep(name="own", base=tiny(), space={SETTING: choice(module.Latin, "sudoku-4x4")})
    by_file = Sweep(name="own", base=tiny(), space={SETTING: choice(NAME, "sudoku-4x4")})
    assert by_class == by_file and tiny(module.Latin) == tiny()
    assert by_file.space[SETTING].spread()[1] == "sudoku-4x4"
    with pytest.raises(ConfigError, match=r"data\.benchmark=int is not a PuzzleKind"):
        tiny(int)
    with pytest.raises(ConfigError, match="defines no PuzzleKind named 'BLANK'"):
        train(tiny("latin.py:BLANK"), "runs", callbacks=())


def test_commands_that_resume_a_sweep_name_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = folder / "my puzzles"
    own.mkdir()
    (own / "latin.py").write_text(latin())
    sweep = Sweep(name="own", base=tiny("my puzzles/latin.py:Latin"), space={"T": choice(1, 2)})
    storage = open_storage("runs")
    storage.write("sweeps/own/sweep.json", to_json_bytes(sweep.plain()))
    distrust_all()
    resume = f"trm sweep resume own --trust '{own}/latin.py'"
    for words in (("status", "own"), ("extend", "own", "--seeds", "5")):
        code, out, _ = call(capsys, "sweep", *words)
        assert code == 0 and resume in out
    note_address(storage, "own", "head.example:6379")
    resume += " --address head.example:6379"
    assert f"Resume it: {resume}\n" in call(capsys, "sweep", "status", "own")[1]
    for status, shown in (
        (SweepStatus.STOPPED, f"Resume with: {resume}\n"),
        (SweepStatus.FAILING, f"If {own}/latin.py has to be edited, that makes other trials: "),
        (SweepStatus.FAILING, "--name NEW --reuse"),
        (SweepStatus.FAILING, f"trm sweep retry own && {resume}\n"),
    ):
        progress = SweepProgress(2, 1, 1)
        show_outcome(sweep, storage, SweepOutcome(status, SweepSnapshot("own", "exact_accuracy", progress, ())), None)
        assert shown in capsys.readouterr().out
    (own / "latin.py").write_text(latin() + "# edited\n")
    edited = Sweep(name="own", base=tiny("my puzzles/latin.py:Latin"), space={"T": choice(1, 2)})
    with pytest.raises(SweepError, match=r"data\.benchmark: .*sha256=[0-9a-f]+\S* -> .*sha256=[0-9a-f]+") as raised:
        run(edited, storage, tracking="none")
    assert resume in str(raised.value)
