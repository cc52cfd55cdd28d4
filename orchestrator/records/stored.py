"""Read stored JSON. A file that is damaged or was written by a newer version raises an error that names it."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from orchestrator.errors import SweepError
from orchestrator.records.schema import RecordPart
from orchestrator.storage.base import Storage
from trm_data.errors import ConfigError, UserError
from trm_data.files import load_json
from trm_data.settings import Settings

Part = TypeVar("Part", bound=RecordPart)
AnySettings = TypeVar("AnySettings", bound=Settings)


class Damaged(NamedTuple):
    """Describe a stored file that was skipped because it cannot be read."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


NO_FILE = "it is a folder, a link or a pipe, and no file"
_REMEDY = "Restore it from a copy, or use the version that wrote it"


class DamagedRecordError(UserError):
    """Raised for a stored file that is damaged or of an unknown format."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} is damaged or was written by a newer version: {reason}", _REMEDY)
        self.file = file
        self.reason = reason

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str]]:
        return type(self), (self.file, self.reason)


class UnusableRecordError(DamagedRecordError, SweepError):
    """Raised for a sweep whose files are whole, and which nothing reads, runs or changes until the user has done
    something."""

    def __init__(self, file: str, what: str, remedy: str) -> None:
        UserError.__init__(self, what, remedy)
        self.file = file
        self.reason = str(self)

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str]]:  # type: ignore[override]
        return type(self), (self.file, self.what, self.remedy)


def parse_json(data: bytes, file: str) -> dict[str, Any]:
    """Return the object that `data` holds.

    Raises:
        DamagedRecordError: it is not a JSON object; `file` says where it comes from.
    """
    try:
        value = load_json(data)
    except ValueError as error:
        raise DamagedRecordError(file, "it is empty" if not data.strip() else f"no JSON ({error})") from None
    if not isinstance(value, dict):
        raise DamagedRecordError(file, "no JSON object")
    return value


def read_json(folder: Storage, key: str) -> dict[str, Any]:
    """Return a stored JSON object.

    Raises:
        KeyError: there is no such file.
        DamagedRecordError: it is not a JSON object.
    """
    return parse_json(folder.read(key), f"{folder.url}/{key}")


def parse_part(values: dict[str, Any], kind: type[Part], file: str) -> Part:
    """Return a part of a record.

    Raises:
        DamagedRecordError: the values are not those of a `kind`; `file` says where they come from.
    """
    try:
        return kind.parse(values)
    except ConfigError as error:
        raise DamagedRecordError(file, error.what) from None


def read_settings(folder: Storage, key: str, kind: type[AnySettings]) -> AnySettings:
    """Return settings that a file holds.

    Raises:
        KeyError: there is no such file.
        DamagedRecordError: it cannot be read as a `kind`.
    """
    try:
        return kind.parse(read_json(folder, key))
    except ConfigError as error:
        raise DamagedRecordError(f"{folder.url}/{key}", error.what) from None


def read_part(folder: Storage, key: str, kind: type[Part]) -> Part:
    """Return a part of a record.

    Raises:
        KeyError: there is no such file.
        DamagedRecordError: it cannot be read as a `kind`.
    """
    return parse_part(read_json(folder, key), kind, f"{folder.url}/{key}")
