"""Configure which puzzles to build, and how a training run reads them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from trm_data.own_code import KIND, identity_of, pin_named
from trm_data.settings import Settings, is_parsed

Family = str
"""The kind of a puzzle: `sudoku`, `maze`, `arc`, ..., the name of an entry point, or the pinned address of a class."""
Augmentation = Literal["none", "sudoku", "dihedral", "arc"]
"""The symmetries from which augmented copies are drawn, as manifests name them, see `puzzles/symmetry.py`."""

MANIFEST = "manifest.json"
"""Written last into the folder of a dataset: a folder without one is not a dataset."""


class DataRequest(Settings):
    """Describe what to build. Its canonical JSON, the source bytes and the builder version make a dataset's
    fingerprint."""

    benchmark: str = "sudoku-6x6"
    """A name that `trm data list` shows: sudoku-4x4|6x6|9x9 (generated), sudoku-extreme, maze-hard, arc-agi-1, ..., or
    a kind of puzzle of your own, `path/to/file.py:ClassName` (records hold it as they hold `model.recursion`)."""
    source: str | None = None
    """A puzzle list, folder or address; None takes the benchmark's own first source."""
    blanks: int | None = Field(None, ge=1, le=10**9)
    """Generated Sudoku: number of empty cells."""
    min_rating: int | None = Field(None, ge=1, le=10**9)
    """Generated hard Sudoku: least rating of a puzzle, the guesses that the solver needs."""
    shortest_path: int | None = Field(None, ge=2, le=10**9)
    """Generated mazes: least number of edges of the shortest path."""
    num_train: int | None = Field(None, ge=1, le=10**9)
    """Number of training puzzles; None means the benchmark's own."""
    num_validation: int | None = Field(None, ge=0, le=10**9)
    num_test: int | None = Field(None, ge=0, le=10**9)
    extra_training: str | None = None
    """ARC: more training tasks (ConceptARC, for instance), a folder or the prefix of a Kaggle JSON pair."""
    allow_overlaps: tuple[str, ...] = ()
    """Extra tasks that may hold test pairs of the benchmark, by name (`all` names every one); others are refused."""
    ids: Literal["native", "upstream"] = "native"
    """ARC: upstream makes the official builder's identifiers, augmentations and translations (seed 42), which official
    checkpoints need; native ones can be cut to any number of augmentations."""
    upstream_augmentations: int | None = Field(None, ge=0, le=2**31)
    """How many augmentations the official build had; 1000 if not given. Only with ids=upstream."""
    build_seed: int = Field(0, ge=0, le=2**63 - 1)
    """Seed of the generator, the draw and the split: never of the training."""

    def identity(self) -> dict[str, Any]:
        """Return plain values that determine the puzzles: a kind of one's own by class and content, not by path."""
        return self.plain() | {"benchmark": identity_of(self.benchmark)}

    @field_validator("benchmark", mode="before")
    @classmethod
    def _pin_kind(cls, value: Any, info: ValidationInfo) -> Any:
        return value if is_parsed(info) else pin_named(value, KIND)


class DataConfig(DataRequest):
    """Describe what to build, and how its puzzles are read in training."""

    num_augmentations: int = Field(0, ge=0, le=2**31)
    """Augmented copies per training puzzle in addition to the original; a view, so it never changes the dataset."""
    translation: Literal["fixed", "fresh", "none"] = "fixed"
    """ARC: where an augmented example lies in the 30x30 frame. fixed: as published, drawn once per augmented example;
    fresh: drawn again at every visit; none: always top left."""
    train_splits: tuple[Literal["train", "validation"], ...] = ("train",)
    """`("train", "validation")` where a confirmed run trains on everything but the test split."""

    def request(self) -> DataRequest:
        """Return the part that determines what is built."""
        return DataRequest.parse(self.model_dump(include=set(DataRequest.model_fields)))
