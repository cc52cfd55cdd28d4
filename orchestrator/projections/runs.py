"""A run as MLflow has it, what a record adds to it, and who brings that there. Pure: no tracker here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from orchestrator.projections import view
from orchestrator.record import Row, TrialRecord

ENDED = {"FINISHED", "FAILED", "KILLED"}
"""States of MLflow's with a time of end."""


@dataclass(slots=True)
class Run:
    """A run as MLflow has it."""

    run_id: str
    status: str
    tags: dict[str, str]


class Update(NamedTuple):
    """What a run is to say of its trial."""

    record: TrialRecord
    rows: Sequence[Row]
    """All of them; those that the run has already are the first."""
    status: str
    """In MLflow's words."""
    tags: Mapping[str, str]

    def changes(self, run: Run | None) -> bool:
        """Whether the run does not say all of it yet."""
        if run is None or view.PROJECTED not in run.tags or run.status != self.status:
            return True
        return view.num_projected(run.tags) < len(self.rows) or any(run.tags.get(k) != v for k, v in self.tags.items())


class Writer(Protocol):
    """Writes trials into one experiment."""

    def write(self, run: Run | None, update: Update) -> Run:
        """Bring a trial's run up to date, or make one. An update that was cut short may be written again."""


def dataset_input(record: TrialRecord) -> Any:
    """The dataset of a trial, an entity of MLflow's."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    facts = record.dataset
    source = CodeDatasetSource({"source": str(facts.get("source", "")), "counts": str(facts.get("counts", {}))})
    dataset = MetaDataset(source, name=str(facts["benchmark"]), digest=str(facts["fingerprint"])[: view.DIGEST_LEN])
    return DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", "training")])


def params(record: TrialRecord) -> list[Any]:
    """Every setting of a trial, as entities of MLflow's."""
    from mlflow.entities import Param

    return [Param(name, value) for name, value in view.flatten(record.config.plain()).items()]


def milliseconds(time_s: float) -> int:
    """A time as MLflow keeps it."""
    return round(time_s * 1000)
