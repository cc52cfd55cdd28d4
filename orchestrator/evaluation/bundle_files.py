"""Define the files of a bundle, and read them without trusting them.

    <bundle>/
        MANIFEST.json                      size and sha256 of every other file; written last
        README.txt
        sweep.json                         the sweep's definition, if there is one
        trials/<trial id>/trial.json       settings and dataset, as in the records
        trials/<trial id>/result.json      the score
        trials/<trial id>/outcomes.arrow   answer and outcome of every item
        trials/<trial id>/weights.safetensors   the weights that were scored
        trials/<trial id>/provenance.json  code version, library versions and devices of each attempt
        trials/<trial id>/recursion.py     source of a custom recursion, as text: nothing executes it
        trials/<trial id>/kind.py          source of a custom kind of puzzle, likewise

A bundle may come from anybody: every file is read once, without following links, and is used only if it is the one that
the manifest describes.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any

from pydantic import Field

from orchestrator.records.schema import Count, RecordPart
from orchestrator.storage.base import to_json_bytes
from trm_data.errors import ConfigError, UserError
from trm_data.files import load_json
from trm_data.settings import Settings

MANIFEST = "MANIFEST.json"
FORMAT = 1
PARTS = ("trial.json", "result.json", "outcomes.arrow", "weights.safetensors", "provenance.json")
"""Files that every trial of a bundle has."""
_MOST_MANIFEST_BYTES = 2**26
_PART = r"\w[\w.-]*"
_NAME = re.compile(rf"{_PART}(/{_PART})*", re.ASCII)
_AGAIN = "Get the bundle again from its author"


class BundleError(UserError):
    """Raised for a bundle that cannot be written, or is not what its manifest describes."""


class FileEntry(Settings):
    """Describe one file of a bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    num_bytes: Count


class Manifest(RecordPart):
    """Hold the content of `MANIFEST.json`."""

    format: int
    sweep: str
    trials: tuple[str, ...]
    files: dict[str, FileEntry]
    written_by: str = ""


def describe(data: bytes) -> FileEntry:
    """Return the entry of a file with this content."""
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))


class BundleFolder:
    """Read a bundle.

    Raises:
        BundleError: it is not a bundle, a newer version wrote it, or its manifest names files that it may not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = self._read_manifest()
        for name in self.manifest.files:
            if not _NAME.fullmatch(name):
                raise BundleError(f"{path} lists a file outside of it: {name!r}", "Do not use it")
        if not self.manifest.trials:
            raise BundleError(f"{path} has no trial", _AGAIN)
        for trial in self.manifest.trials:
            for part in PARTS:
                if f"trials/{trial}/{part}" not in self.manifest.files:
                    raise BundleError(f"{path} does not list {part} of trial {trial!r}", _AGAIN)

    def check(self) -> None:
        """Compare every file with the manifest.

        Raises:
            BundleError: a file is missing, is a link, or has another content.
        """
        for name in self.manifest.files:
            self.read(name)

    def unlisted(self) -> list[str]:
        """Return the files of the folder that the manifest does not list, and that nothing vouches for."""
        there = {Path(folder, name).relative_to(self.path) for folder, _, names in os.walk(self.path) for name in names}
        return sorted({path.as_posix() for path in there} - self.manifest.files.keys() - {MANIFEST})

    def read(self, name: str) -> bytes:
        """Return a listed file.

        Raises:
            BundleError: it is missing, is a link, or has another content than listed.
        """
        wanted = self.manifest.files[name]
        data = self._read(name, wanted.num_bytes)
        if (found := describe(data)) != wanted:
            other = "size" if found.sha256 == wanted.sha256 else "sha256"
            raise BundleError(f"{self.path}: {name} is not the file that {MANIFEST} lists (other {other})", _AGAIN)
        return data

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a listed file that holds a JSON object. Raises BundleError."""
        return self._parse(self.read(name), name)

    def _read_manifest(self) -> Manifest:
        if self.path.is_file():
            raise BundleError(f"{self.path} is a file, not the folder of a bundle", "Unpack it, and name the folder")
        if not self.path.is_dir():
            raise BundleError(f"no bundle {str(self.path)!r}: there is no such folder", "Name the folder of a bundle")
        values = self._parse(self._read(MANIFEST, _MOST_MANIFEST_BYTES), MANIFEST)
        found = values.get("format")
        if found != FORMAT:
            what = f"{self.path} is a bundle of format {str(found)[:20]!r}, this version reads {FORMAT}"
            raise BundleError(what, "Install the version that wrote it, or a newer one")
        try:
            return Manifest.parse(values, MANIFEST)
        except ConfigError as error:
            raise BundleError(f"{self.path}: {MANIFEST} is damaged: {error.what}", _AGAIN) from None

    def _parse(self, data: bytes, name: str) -> dict[str, Any]:
        try:
            value = load_json(data)
        except ValueError as error:
            raise BundleError(f"{self.path}: {name} is damaged: no JSON ({error})", _AGAIN) from None
        if not isinstance(value, dict):
            raise BundleError(f"{self.path}: {name} is damaged: no JSON object", _AGAIN)
        return value

    def _read(self, name: str, most_bytes: int) -> bytes:
        """Return a file of at most that many bytes; nothing on its path below the bundle may be a link."""
        *folders, file = name.split("/")
        opened = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for folder in folders:
                opened, outer = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened), opened
                os.close(outer)
            # Without O_NONBLOCK, a named pipe would be waited for.
            handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened)
            with os.fdopen(handle, "rb") as content:
                if not stat.S_ISREG(os.fstat(content.fileno()).st_mode):
                    raise BundleError(f"{self.path}: {name} is not a regular file", "Do not use it")
                data = content.read(most_bytes + 1)
        except FileNotFoundError:
            raise BundleError(f"{self.path}: {name} is missing", _AGAIN) from None
        except OSError as error:
            what = f"{self.path}: {name} is a link or cannot be read ({error.strerror})"
            raise BundleError(what, "Do not use it") from None
        finally:
            os.close(opened)
        if len(data) > most_bytes:
            raise BundleError(f"{self.path}: {name} is larger than {MANIFEST} lists", _AGAIN)
        return data


def manifest_bytes(sweep: str, trials: list[str], files: dict[str, FileEntry], written_by: str) -> bytes:
    """Return the content of a bundle's manifest."""
    entries = dict(sorted(files.items()))
    made = Manifest(format=FORMAT, sweep=sweep, trials=tuple(trials), files=entries, written_by=written_by)
    return to_json_bytes(made.plain())
