"""Describe a dataset: `manifest.json`, written last, so that a folder without one is not a dataset."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator

from trm_data.config import MANIFEST, Augmentation, DataRequest, Family
from trm_data.dataset.schema import SPLITS, Ids
from trm_data.errors import ConfigError, DataError
from trm_data.files import load_json, write_atomic
from trm_data.own_code import KIND, parse_address, short
from trm_data.own_kinds import is_readable
from trm_data.puzzles.kinds import kind_of
from trm_data.run_source import has_content, trusting
from trm_data.settings import Settings

PUZZLES, EXAMPLES = "puzzles.arrow", "examples.arrow"
AUGMENTATIONS, PLACES = "augmentations.arrow", "places.arrow"
FORMAT = 1
"""Version of the folder layout. A newer one is refused."""

_OWN_KEYS = {"fingerprint", "builder_version"}
_RESTORE = "Move the folder away and build the dataset again"


class UnknownKindError(DataError):
    """Report a dataset whose puzzles only code understands that this process does not trust, or that is not here."""


class Manifest(Settings):
    """Hold identity, shape and provenance of a dataset."""

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
    """sha256 of every Arrow file, by its name in the folder."""
    facts: dict[str, Any]
    """Facts about the source: hashes, rows dropped, options of the build."""

    @field_validator("files")
    @classmethod
    def _check_files(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if not re.fullmatch(r"[a-z_]+\.arrow", name):
                raise ValueError(f"{name!r} is not a name of a dataset's file")
        return files

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
            values = load_json(path.read_bytes())
        except FileNotFoundError:
            raise DataError(
                f"{folder} is not a dataset (it has no {MANIFEST})", "Build one with `trm data build`"
            ) from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}", "Name a built dataset") from error
        except ValueError:
            raise DataError(f"{path} is damaged", _RESTORE) from None
        if not isinstance(values, dict) or not _OWN_KEYS & values.keys():
            # Many programs write a manifest.json: users must not be advised to delete theirs.
            raise DataError(f"{path} is not the manifest of a dataset", "Build one with `trm data build`")
        version = values.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise DataError(f"{path} has format {version}, this version reads {FORMAT}", "Upgrade, or build it again")
        try:
            manifest = cls.model_validate(values, context={})  # what is stored is not trusted
            _require_kind(manifest.family, folder)
            contradiction = manifest._contradiction()
        except ValidationError as error:
            contradiction = str(error.errors()[0]["msg"])
        if contradiction is not None:
            raise DataError(f"{path} is damaged: {contradiction}", _RESTORE)
        return manifest

    def _contradiction(self) -> str | None:
        """Return what cannot be true of a built dataset, or None. The kernels rely on all of it."""
        (height, width), kind = self.grid_shape, kind_of(self.family)
        if height != width or height not in kind.sides:
            return f"there is no {self.family} of {height}x{width} cells"
        if self.vocab_size != kind.vocab_size(height):
            return f"vocab_size={self.vocab_size} is not that of {self.family} {height}x{height}"
        if self.augmentation != kind.augmentation or (self.ids != "shared") != kind.has_tasks:
            return f"augmentation {self.augmentation} and ids {self.ids} do not fit {self.family}"
        if any(set(numbers) != set(SPLITS) or min(numbers.values()) < 0 for numbers in (self.counts, self.examples)):
            return f"counts and examples need a number for each of {', '.join(SPLITS)}"
        needed = {PUZZLES, EXAMPLES} | ({AUGMENTATIONS} if kind.has_tasks else set())
        possible = {PUZZLES, EXAMPLES, AUGMENTATIONS} | ({PLACES} if self.ids == "upstream" else set())
        if not needed <= set(self.files) <= possible:
            return f"its files are {', '.join(sorted(self.files))}, not {', '.join(sorted(needed))}"
        return None


def _require_kind(family: str, folder: Path) -> None:
    """Raise DataError where the puzzles are of a kind that only the manifest names, and say how to go on."""
    if not is_readable(family):
        address = parse_address(family)
        file = known = Path(address.path)
        change = ""
        if not has_content(file, address.sha256) and (folder / KIND.file).is_file():
            known, change = folder / KIND.file, f"; {file} has changed or is gone"
        raise UnknownKindError(
            f"{folder} has puzzles of the kind {short(family)}, whose code this command does not trust{change}",
            f"Read {known}, then {trusting(known)}",
        )
    try:
        kind_of(family)
    except ConfigError as error:
        raise UnknownKindError(f"{folder}: {error.what}", error.remedy) from None
