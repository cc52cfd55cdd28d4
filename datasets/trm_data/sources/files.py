"""Read source files from a path, `s3://bucket/key?endpoint_override=...`, `http(s)://...` or `hf://owner/name/file`.

An address may end in `#sha256=<hex>`; then the content must have that hash. A download that breaks off is an error,
never a shorter file, and so is one that is larger than a limit (`download`).
"""

from __future__ import annotations

import hashlib
import http.client
import io
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlunsplit

from trm_data.addresses import shown_address, split_address
from trm_data.errors import DataError
from trm_data.sources import hub
from trm_data.sources.download import receive

_TIMEOUT_S = 60.0


class Address(NamedTuple):
    """Hold a parsed address: `base` is the path or URL without query and fragment."""

    base: str
    query: str
    sha256: str | None

    @property
    def is_remote(self) -> bool:
        """Return whether it is not a local path."""
        return "://" in self.base

    def join(self, name: str) -> Address:
        """Return the file `name` in this folder."""
        return self._replace(base=f"{self.base.rstrip('/')}/{name}", sha256=None)

    def append(self, suffix: str) -> Address:
        """Return the address with `suffix` appended to its last part."""
        return self._replace(base=self.base + suffix, sha256=None)

    @property
    def stem(self) -> str:
        """Return the last part without its extension."""
        return Path(self.base.rstrip("/")).stem

    def __str__(self) -> str:
        """Return the address without parts that may contain credentials: the query, and the part before @."""
        return shown_address(self.base)

    def shown_reason(self, error: Exception) -> str:
        """Return another library's message without the parts that `str` leaves out.

        Libraries quote an address in pieces: `http.client` the path with the query, or the password as a port.
        """
        text = str(error)
        user = split_address(self.base).netloc.rpartition("@")[0] if self.is_remote else ""
        parts = {self.query, user, user.partition(":")[2]}
        for part in sorted(parts | {unquote(part) for part in parts}, key=len, reverse=True):
            text = text.replace(part, "...") if part else text
        return text


def parse_address(text: str) -> Address:
    """Split an address.

    Raises:
        DataError: an unknown scheme or fragment.
    """
    if "://" not in text:
        base, _, fragment = text.partition("#sha256=")
        return Address(base, "", fragment.lower() or None)
    scheme, place, path, query, fragment = split_address(text)
    if not scheme:
        raise DataError(f"{shown_address(text)} is not an address", "Use a path, s3://, hf:// or http(s)://")
    if scheme not in ("s3", "hf", "http", "https"):
        raise DataError(
            f"{text.split('?')[0]}: unknown kind of address {scheme!r}", "Use a path, s3://, hf:// or http(s)://"
        )
    if fragment and not fragment.startswith("sha256="):
        raise DataError(f"{re.split('[?#]', text)[0]}: unknown fragment", "Only #sha256=<hex> has a meaning")
    base = urlunsplit((scheme, place, path, "", ""))
    return Address(base, query, fragment.removeprefix("sha256=").lower() or None)


def read(address: Address, hub_kind: str = "dataset") -> bytes:
    """Read the content of a file.

    Args:
        hub_kind: see `hub.fetch`.

    Raises:
        DataError: it does not exist, cannot be reached, broke off, or has another hash than the address says.
    """
    if address.base.startswith("s3://"):
        content = _read_s3(address)
    elif address.base.startswith("hf://"):
        content = hub.fetch(address.base, address.query, hub_kind).read_bytes()
    elif address.is_remote:
        content = _read_http(address)
    else:
        content = _read_path(Path(address.base))
    if address.sha256 is not None and hashlib.sha256(content).hexdigest() != address.sha256:
        raise DataError(f"{address} is corrupt: its sha256 is not the one in its address", "Fetch it again")
    return content


def open_binary(address: Address) -> io.BytesIO | io.BufferedReader:
    """Return a stream over a file's content; local files and the hub's cache are not read into memory."""
    if address.base.startswith("hf://"):
        return hub.fetch(address.base, address.query).open("rb")
    if address.is_remote or address.sha256:
        return io.BytesIO(read(address))
    try:
        return Path(address.base).open("rb")
    except FileNotFoundError:
        raise _missing(address) from None
    except OSError as error:
        raise DataError(f"cannot read {address}: {error.strerror}", "Name a readable file") from error


def exists(address: Address) -> bool:
    """Return whether `read` would find a file."""
    if address.base.startswith("s3://"):
        from pyarrow import fs

        filesystem, path = _s3(address)
        try:
            return bool(filesystem.get_file_info(path).type == fs.FileType.File)
        except OSError as error:
            raise _unreachable(address, error) from None
    if address.base.startswith("hf://"):
        return bool(hub.parts(address.base)[2])  # whether the file is there shows when it is read
    if not address.is_remote:
        return Path(address.base).is_file()
    try:
        with urllib.request.urlopen(_request(address, "HEAD"), timeout=_TIMEOUT_S):
            return True
    except urllib.error.HTTPError as error:
        with error:  # it holds the connection
            if error.code in (403, 404):
                return False
            raise _unreachable(address, error) from None
    except http.client.InvalidURL:
        return False
    except (urllib.error.URLError, OSError) as error:
        raise _unreachable(address, error) from None


def names(address: Address, recursive: bool = False) -> list[str]:
    """Return the files of a folder, relative to it. Web addresses cannot be listed and have none."""
    if address.base.startswith("s3://"):
        from pyarrow import fs

        filesystem, path = _s3(address)
        try:
            found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=recursive))
        except OSError as error:
            raise _unreachable(address, error) from None
        return sorted(info.path.removeprefix(path).lstrip("/") for info in found if info.type == fs.FileType.File)
    folder = Path(address.base)
    if address.is_remote or not folder.is_dir():
        return []
    paths = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.is_file())


def is_hidden(path: str) -> bool:
    """Return whether a file of a folder, or a folder on the way to it, is hidden, as `.DS_Store` and `._a.json`."""
    return any(part.startswith(".") for part in path.split("/"))


def digest(address: Address, known: tuple[str, ...] = ()) -> str:
    """Return sha256 of a file, or of all files of a folder or prefix with their names; hidden ones are left out.

    Args:
        known: names to look for where a folder cannot be listed.

    Raises:
        DataError: there is no such file or folder.
    """
    if address.base.startswith("hf://"):
        return hashlib.sha256(address.base.encode()).hexdigest()  # found again offline; name a revision to pin it
    if exists(address):
        return file_digest(address)
    found = [address.join(name) for name in names(address, recursive=True) if not is_hidden(name)]
    if not found:
        folder, _, prefix = address.base.rpartition("/")
        parent = address._replace(base=folder or ".")
        found = [parent.join(name) for name in names(parent) if prefix and name.startswith(prefix)]
    if not found:
        found = [place for name in known if exists(place := address.join(name))]
        found += [place for name in known if exists(place := address.append(name))]
    if not found and not address.is_remote and Path(address.base).is_dir():
        raise DataError(f"{address} holds no files", "Name a folder with the files of a source: see trm data list")
    if not found:
        raise _missing(address)
    whole = hashlib.sha256()
    for place in found:
        name = place.base.removeprefix(address.base)
        whole.update(f"{name} {file_digest(place)}\n".encode())
    return whole.hexdigest()


def file_digest(address: Address) -> str:
    """Return sha256 of a file's content."""
    with open_binary(address) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _missing(address: Address | Path) -> DataError:
    return DataError(f"{address} does not exist", "Check the address of the source")


def _unreachable(address: Address, error: Exception) -> DataError:
    reason = address.shown_reason(error)
    return DataError(f"cannot read {address}: {reason}", "Check the address, the network and your permissions")


def _read_path(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "Name a readable file") from error


def _request(address: Address, method: str) -> urllib.request.Request:
    url = address.base + (f"?{address.query}" if address.query else "")
    return urllib.request.Request(url, method=method)


def _read_http(address: Address) -> bytes:
    try:
        with urllib.request.urlopen(_request(address, "GET"), timeout=_TIMEOUT_S) as response:
            announced: int | None = response.length
            content = receive(response.read, address, announced)
    except http.client.IncompleteRead:
        raise DataError(f"the download of {address} broke off", "Try again") from None
    except urllib.error.HTTPError as error:
        with error:
            raise (_missing(address) if error.code == 404 else _unreachable(address, error)) from None
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        raise _unreachable(address, error) from None
    if announced is not None and len(content) != announced:
        raise DataError(f"the download of {address} broke off after {len(content)} bytes", "Try again")
    return content


def _s3(address: Address) -> tuple[Any, str]:
    from pyarrow import fs

    try:
        filesystem, path = fs.FileSystem.from_uri(address.base + (f"?{address.query}" if address.query else ""))
    except (OSError, ValueError) as error:
        raise _unreachable(address, error) from None
    return filesystem, path


def _read_s3(address: Address) -> bytes:
    filesystem, path = _s3(address)
    try:
        with filesystem.open_input_stream(path) as stream:
            return receive(stream.read, address)
    except FileNotFoundError:
        raise _missing(address) from None
    except OSError as error:
        raise _unreachable(address, error) from None
