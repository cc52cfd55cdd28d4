"""Download files from Hugging Face, `hf://owner/name[@revision]/file[?endpoint=...]`, with `huggingface_hub`.

A revision is a branch, a tag, a commit, or `refs/pr/1` of a pull request; one with other slashes is written with `%2F`.
The package is imported only here: nothing else needs it, and nothing needs it for other sources.
"""

from __future__ import annotations

import hashlib
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote
from urllib.request import getproxies

from trm_data.addresses import split_address
from trm_data.errors import DataError, first_line
from trm_data.sources.download import check_size

_INSTEAD = {
    "dataset": "Go online, or give --source a folder that holds train.csv and test.csv",
    "model": "Check the address and the network, or download the file elsewhere and name it",
}


_ADDRESS = re.compile(r"hf://([^/]+/[^/@]+)(?:@(refs/pr/\d+|refs/convert/[^/]+|[^/]*))?(?:/(.*))?")


def parts(base: str) -> tuple[str, str | None, str]:
    """Return repository, revision and file of `hf://owner/name[@revision]/file`; what is missing is empty."""
    found = _ADDRESS.fullmatch(base)
    repository, revision, file = found.groups("") if found else ("", "", "")
    return repository, unquote(revision) or None, file


def fetch(base: str, query: str, kind: str = "dataset") -> Path:
    """Return the local copy of `hf://owner/name[@revision]/file`, downloaded if it is not in the hub's cache.

    Args:
        kind: of the repository, `dataset` or `model`.

    Raises:
        DataError: the package is missing, the hub cannot be reached, the file does not exist, or it arrived corrupt.
    """
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError:
        raise DataError("reading hf:// needs the package huggingface_hub", "Run pip install huggingface_hub") from None
    repository, revision, file = parts(base)
    if not repository or not file:
        raise DataError(f"{base} names no file", "Write hf://OWNER/NAME/FILE")
    endpoint = parse_qs(query).get("endpoint", [None])[0]
    offline = not _resolves(endpoint or constants.ENDPOINT)  # else it would try for half a minute
    try:
        path = Path(
            huggingface_hub.hf_hub_download(
                repository,
                file,
                repo_type=kind,
                revision=revision,
                endpoint=endpoint,
                local_files_only=offline,
                tqdm_class=_limited_progress(base),
            )
        )
    except (errors.EntryNotFoundError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise DataError(f"cannot reach the hub for {base}", _INSTEAD[kind]) from None
        if isinstance(error, errors.RevisionNotFoundError):
            what = f"{base}: {repository} has no revision {revision or 'main'!r} on the hub"
            raise DataError(what, "Name one of its branches, tags or commits") from None
        raise DataError(f"{base} does not exist on the hub", _INSTEAD[kind]) from None
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise DataError(f"cannot download {base}: {first_line(error)}", _INSTEAD[kind]) from None
    _check(path, base)
    return path


def _limited_progress(base: str) -> type[Any]:
    """Return a progress bar that raises DataError at the limit for a download: the hub's client has none."""
    from huggingface_hub.utils.tqdm import tqdm

    class Limited(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._received: int = options.get("initial") or 0
            check_size(base, max(self._received, options.get("total") or 0))
            super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]

        def update(self, n: Any = 1) -> Any:
            self._received += n or 0
            check_size(base, self._received)
            return super().update(n)

    return Limited


def _resolves(endpoint: str) -> bool:
    """Return whether the hub's name resolves on this machine; behind a proxy only the proxy can tell."""
    url = split_address(endpoint)
    if getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(url.hostname, url.port))
    except (OSError, ValueError):  # ValueError: its port is not a number
        return False


def _check(path: Path, base: str) -> None:
    """Compare a file with the sha256 that the hub's cache uses as the name of large files."""
    wanted = path.resolve().name
    if len(wanted) != 64:
        return
    with path.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != wanted:
            path.resolve().unlink()
            raise DataError(f"the download of {base} is corrupt; it was removed", "Try again")
