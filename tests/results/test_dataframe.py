"""Results as a table and as files; plans as files that are run exactly as they are."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import orchestrator
from orchestrator.cli import main
from orchestrator.errors import SweepError
from orchestrator.records.index import new_head, sweep_folder, trial_folder
from orchestrator.records.schema import Attempt, AttemptStart, Status, TrialRecord
from orchestrator.results.dataframe import frame_of, summary
from orchestrator.storage import open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep.trials import search_trial, study_trials
from tests.support.results import ablation_records, demo_records
from tests.support.sweeps import fingerprint, record_of, search, study


def write(folder: Path, sweep: str, records: list[TrialRecord]) -> None:
    storage = open_storage(str(folder))
    sweep_folder(storage, sweep).write("sweep.json", to_json_bytes(study(name=sweep).plain()))
    for record in records:
        trial = trial_folder(storage, sweep, record.trial_id)
        trial.write("trial.json", new_head(record.stage, record.family, record.config, record.dataset).encode())
        if record.result is not None:
            trial.write("attempts/001/start.json", AttemptStart(from_step=0, started_s=1.0).encode())
            trial.write("result.json", record.result.model_copy(update={"ended_s": 9.0}).encode())


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    trials = list(study_trials(study(), fingerprint))
    records = [record_of(trial, Status.FINISHED, value=index / 10) for index, trial in enumerate(trials)]
    unfinished = search_trial(search(), fingerprint, "T=3", {"model.cycles": 3})
    write(tmp_path / "runs", "grid", records)
    write(tmp_path / "runs", "other", [record_of(unfinished, Status.PENDING)])
    return tmp_path / "runs"


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_frame_has_a_row_per_trial_and_a_column_per_setting(storage: Path) -> None:
    frame = orchestrator.load_results(storage=storage)
    assert len(frame) == 9 and set(frame.sweep) == {"grid", "other"}
    grid = orchestrator.load_results("grid", str(storage))
    assert sorted(grid.exact_accuracy) == [index / 10 for index in range(8)]
    assert grid.groupby(["model.cycles", "model.latent_steps"]).seed.agg(list).map(sorted).tolist() == [[0, 1]] * 4
    assert frame[frame.sweep == "other"].exact_accuracy.isna().all()
    with pytest.raises(SweepError, match="'grid'"):
        orchestrator.load_results("grod", storage)


def test_frame_of_a_real_looking_search_counts_what_was_spent_and_summarises_what_was_confirmed() -> None:
    frame = frame_of(demo_records())
    assert frame.loc[frame.status == "finished", "train_flops"].notna().all() and (frame.gpu_hours == 0).all()
    table = summary(frame)
    assert table.family.tolist() == ["best", "hrm", "direct"] and table.seeds.tolist() == [3, 3, 3]
    assert table["mean, %"].iloc[0] == pytest.approx(96.3, abs=0.2)
    assert len(summary(frame_of(ablation_records()))) == 5


def test_frame_has_the_begin_of_the_first_attempt_and_the_device_of_the_last() -> None:
    record = record_of(next(iter(study_trials(study(), fingerprint))), Status.RUNNING)
    starts = [
        AttemptStart(from_step=0, started_s=100.0, device="cpu"),
        AttemptStart(from_step=4, started_s=200.0, device="cuda", gpu_type="L40S", gpu_count=1.0),
    ]
    record = replace(record, attempts=[Attempt(number, start, None) for number, start in enumerate(starts, 1)])
    [row] = frame_of([record]).to_dict("records")
    assert (row["started_s"], row["device"], row["gpu_type"], row["attempts"]) == (100.0, "cuda", "L40S", 2)


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_export_reads_back_as_the_same_table(storage: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"grid.{kind}"
    assert call("sweep", "export", "grid", "--format", kind, "--out", str(file), "--storage", str(storage)) == 0
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[kind]
    back = read(io.BytesIO(file.read_bytes()))
    wanted = orchestrator.load_results("grid", storage)
    assert back.exact_accuracy.tolist() == pytest.approx(wanted.exact_accuracy.tolist())
    assert back["model.cycles"].tolist() == wanted["model.cycles"].tolist()
    assert list(back.columns) == list(wanted.columns)


def test_latex_export_has_a_row_per_family_and_escapes_percent(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("sweep", "export", "grid", "--format", "latex", "--storage", str(storage)) == 0
    text = capsys.readouterr().out
    assert text.count("T=") == 4 and r"\%" in text and r"\toprule" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "cvs"), "'csv'"),
        (("--format", "parquet"), "--out"),
        (("--out", "/dev/null/t.csv"), "/dev/null"),
    ],
)
def test_export_that_cannot_be_written_is_one_line(
    storage: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert call("sweep", "export", "grid", "--storage", str(storage), *arguments) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
