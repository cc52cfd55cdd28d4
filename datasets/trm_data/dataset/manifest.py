"""What a dataset says about itself: `manifest.json`, written last, so that a folder without one is no dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from trm_data.config import DataRequest, Family
from trm_data.dataset.schema import Ids
from trm_data.errors import DataError
from trm_data.files import write_atomic
from trm_data.settings import Settings

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of the folder layout. A newer one is refused."""

Augmentation = Literal["none", "sudoku", "dihedral", "arc"]


class Manifest(Settings):
    """Identity, shape and provenance of a dataset."""

    format: int = FORMAT
    builder_version: int
    benchmark: str
    """The name under which results are ranked; generated puzzles end in `-generated`."""
    generated: bool
    family: Family
    fingerprint: str
    """sha256 of the request, the source bytes and the builder version."""
    request: DataRequest
    source: str
    licence: str
    vocab_size: int
    grid_shape: tuple[int, int]
    augmentation: Augmentation
    ids: Ids
    counts: dict[str, int]
    """Puzzles per split: those with at least one example in it."""
    examples: dict[str, int]
    """(input, label) pairs per split."""
    files: dict[str, str]
    """sha256 of every Arrow file."""
    facts: dict[str, Any]
    """What the source had to say: hashes, rows dropped, options of the build."""

    def write(self, folder: Path) -> None:
        """Write `manifest.json`."""
        write_atomic(folder / MANIFEST, json.dumps(self.plain(), indent=1, sort_keys=True).encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read `manifest.json`.

        Raises:
            DataError: no dataset, damaged, or made by a newer version.
        """
        path = folder / MANIFEST
        try:
            values = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise DataError(
                f"{folder} is no dataset (it has no {MANIFEST})", "Build one with `trm data build`"
            ) from None
        except ValueError:
            raise DataError(f"{path} is damaged", "Delete the dataset's folder and build it again") from None
        version = values.get("format") if isinstance(values, dict) else None
        if isinstance(version, int) and version > FORMAT:
            raise DataError(f"{path} has format {version}, this version reads {FORMAT}", "Upgrade, or build it again")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise DataError(
                f"{path} is damaged: {error.errors()[0]['msg']}", "Delete the dataset's folder and build it again"
            ) from None
