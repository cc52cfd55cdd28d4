"""Define measurements of language models and read their results.

<storage>/llm/<measurement>/
    measurement.json     the `Plan`, written before the first request
    asked/ answers/      see `answers.py`
    result.json          the scores of the largest part of which every question is answered
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress

from pydantic import field_validator

from orchestrator.records.schema import Timestamp
from orchestrator.records.stored import DamagedRecordError, read_settings
from orchestrator.storage import Storage
from orchestrator.storage.base import to_json_bytes
from trm_data.settings import Settings, digest

logger = logging.getLogger(__name__)

FOLDER = "llm"
PROMPT_VERSION = 1
"""Increased with every change of the prompts: their answers belong to another measurement."""


class Plan(Settings):
    """Identify a measurement: with any other value, answers belong to another measurement."""

    benchmark: str
    fingerprint: str
    split: str
    endpoint: str
    model: str
    max_tokens: int
    temperature: float | None = None
    reasoning_effort: str | None = None
    prompt_version: int = PROMPT_VERSION

    @field_validator("model")
    @classmethod
    def _is_printable(cls, model: str) -> str:
        if not model.isprintable():
            raise ValueError("contains a character that cannot be printed")
        return model

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.model.lower()).strip("-") or "model"
        return f"{slug[:40]}-{digest(self.plain(), 10)}"


class Measured(Settings):
    """Hold the result of a language model on the first puzzles of a dataset's split."""

    name: str
    plan: Plan
    generated: bool
    puzzles: int
    """Scored: this many, from the start of the split. An ARC task is one puzzle."""
    puzzles_in_split: int
    items: int
    """Grids to answer: as many as puzzles, or the test inputs of the ARC tasks."""
    attempts: int
    metrics: dict[str, float]
    per_item: str
    """Whether the first attempt is exact, packed as in a trial's record."""
    per_task: dict[str, list[float]]
    usd: float
    """Cost of the answers that were scored, in US dollars."""
    answers: int
    tokens_in: int
    tokens_out: int
    estimated: bool
    """Whether some tokens were not counted by the endpoint."""
    truncated: int
    """First attempts cut off at the token limit."""
    unreadable: int
    """First attempts that end by themselves and hold no whole grid."""
    ended_s: Timestamp


def measurement_folder(storage: Storage, plan: Plan) -> Storage:
    """Return the folder of a measurement."""
    return storage.sub(f"{FOLDER}/{plan.name}")


def store(folder: Storage, measured: Measured) -> None:
    """Write `result.json`, unless one with more puzzles exists; one that is damaged is replaced."""
    with suppress(KeyError, DamagedRecordError):
        if _measured(folder, "result.json").puzzles > measured.puzzles:
            return
    folder.write("result.json", to_json_bytes(measured.plain()))


def read_measurements(storage: Storage) -> list[Measured]:
    """Read every measurement that has a result; files that cannot be read are skipped and named in the log."""
    found = []
    for key in storage.list(FOLDER):
        if key.count("/") == 2 and key.endswith("/result.json"):
            try:
                found.append(_measured(storage, key))
            except KeyError:
                continue  # it has just been deleted
            except DamagedRecordError as error:
                logger.warning("skipped %s: %s", error.file, error.reason)
    return found


def _measured(folder: Storage, key: str) -> Measured:
    return read_settings(folder, key, Measured)
