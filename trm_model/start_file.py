"""Name the checkpoint whose weights a run starts from (`train.start_from`), by its address and its content.

Where a command, a sweep file or Python code names it, the address becomes absolute and gets the hash of the content:
`/path/model.safetensors#sha256=<hex>`, `hf://owner/name/file#sha256=<hex>`. Only the hash enters a trial's identity.
"""

from __future__ import annotations

import hashlib
import io
import math
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from trm_data.errors import ConfigError
from trm_data.files import expand_home, load_json
from trm_data.own_code import is_address, named_folder, replace_values, short
from trm_data.sources.files import Address, parse_address, read

SETTING = "train.start_from"
NAME = "checkpoint.safetensors"
"""Of the copy of the checkpoint that a storage keeps."""
STARTS = ("start_from", SETTING)
"""Names under which nested plain settings hold it."""
_LONGEST_HEADER, _PART = 2**28, 2**20
_WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U8": 1, "I8": 1, "BOOL": 1}
"""Bytes of a value, by the name of its type in a header."""
_MARK = "#sha256="


def pin_start(text: str, folder: Path) -> str:
    """Return the address with an absolute path (`folder` is the base of a relative one) and the hash of the content.

    A remote file is downloaded for that, unless the address has the hash already.

    Raises:
        ConfigError: there is no such file, it is not a checkpoint or damaged, or its content has another hash than the
            address.
        DataError: it cannot be downloaded.
    """
    place = parse_address(text)
    if place.is_remote:
        if place.sha256 is not None:
            return text
        return f"{text}{_MARK}{_digest(io.BytesIO(read_remote(place)), str(place))}"
    path = (folder / expand_home(place.base)).resolve()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise ConfigError(f"{SETTING}={place.base!r}: {path} {what}", "Name a checkpoint file, hf://... or s3://...")
    try:
        status = path.stat()
        sha256 = _checked_digest(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise ConfigError(f"{SETTING}: cannot read {path}: {error.strerror}", "Name a readable file") from error
    if place.sha256 not in (None, sha256):
        raise ConfigError(
            f"{SETTING}: {path} has sha256 {sha256[:12]}, not {place.sha256[:12]} as its address says",
            f"Restore the file, or leave out {_MARK[:-1]}",
        )
    return f"{path}{_MARK}{sha256}"


def replace_starts(values: Any, change: Callable[[str], Any]) -> Any:
    """Return nested plain settings with `change` applied to every address in them, as a setting or as a choice."""

    def changed(value: Any) -> Any:
        return change(value) if isinstance(value, str) else value

    return replace_values(values, dict.fromkeys(STARTS, changed))


def pin_named_start(value: Any) -> Any:
    """Return a value of `train.start_from` that the user's own code gives, pinned; one with a hash stays as it is."""
    return value if not isinstance(value, str) or _MARK in value else pin_start(value, named_folder())


def start_sha256(text: str) -> str:
    """Return the hash of the content in an address. Raises ConfigError if it has none."""
    sha256 = parse_address(text).sha256
    if sha256 is None or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise ConfigError(
            f"{SETTING}={text!r} has no hash of the file's content",
            "Name the file with configure(), in a sweep file, with --from or with --set, which add the hash",
        )
    return sha256


def start_identity(value: Any) -> Any:
    """Return `#sha256=<hex>` of a pinned address, which determines the result; any other value unchanged."""
    if not isinstance(value, str) or _MARK not in value:
        return value
    return _MARK + value.rpartition(_MARK)[2].lower()


def short_start(text: str) -> str:
    """Return an address as a message shows it: with the first digits of the hash."""
    base, _, sha256 = text.partition(_MARK)
    return f"{parse_address(base)} (sha256 {sha256[:12]})"


def short_value(value: str) -> str:
    """Return the label of a setting that is a text: of a pinned file, its name and the first digits of its hash."""
    if _MARK not in value or ("://" not in value and is_address(value)):
        return short(value)
    place = parse_address(value)
    return f"{place.stem}@{(place.sha256 or '')[:8]}"


def read_remote(place: Address) -> bytes:
    """Read a file of a checkpoint from a hub of models, S3 or the web."""
    return read(place, hub_kind="model")


@cache
def _checked_digest(path: Path, _modified_ns: int, _size: int) -> str:
    """Return the hash of a checkpoint file; a sweep may name the same one many times."""
    with path.open("rb") as content:
        return _digest(content, str(path))


def read_head(content: BinaryIO) -> bytes:
    """Return the beginning of a checkpoint file: the length of its header, and its header."""
    start = content.read(8)
    return start + content.read(min(int.from_bytes(start, "little"), _LONGEST_HEADER))


def _digest(content: BinaryIO, where: str) -> str:
    """Return the hash of a checkpoint. Loading it checks the rest: see `checkpoints.start.check_head`.

    Raises:
        ConfigError: it has no header of a checkpoint, or other tensors than its header says.
    """
    head = read_head(content)
    try:
        layout = load_json(head[8:])
        checksum = load_json(layout.pop("__metadata__")["trm"]).get("crc32")
    except (ValueError, KeyError, TypeError, AttributeError):
        remedy = "Import it first: trm checkpoint import" if head.startswith(b"PK") else "Name another file"
        raise ConfigError(f"{SETTING}: {where} is not a checkpoint of this program", remedy) from None
    digest, found, size = hashlib.sha256(head), 0, 0
    while part := content.read(_PART):
        digest.update(part)
        found, size = zlib.crc32(part, found), size + len(part)
    damage = _damage(layout, size) or (checksum not in (None, found) and "its tensors do not match their checksum")
    if damage:
        raise ConfigError(f"{SETTING}: {where} is damaged: {damage}", "Restore it from a copy, or name another file")
    return digest.hexdigest()


def _damage(layout: dict[str, Any], size: int) -> str:
    """Return how the tensors of a header differ from `size` bytes of content that follow it; empty if they do not."""
    end = 0
    try:
        for name, tensor in sorted(layout.items(), key=lambda item: item[1]["data_offsets"]):
            begin, stop = tensor["data_offsets"]
            if begin != end or stop - begin != _WIDTHS[tensor["dtype"]] * math.prod(tensor["shape"]):
                return f"tensor {name!r} has another size than its shape says"
            end = stop
    except (ValueError, KeyError, TypeError):
        return "its header describes no tensors"
    return "" if end == size else f"its tensors have {size:,} bytes, and {end:,} by its header"
