"""Show text without the credentials that it may contain: in messages, logs, records, pages and trackers.

Every text that leaves a process passes `hide_credentials`: `UserError`, `first_line`, `reason_of` and the log handlers
apply it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

_SECRET = re.compile(
    r"password|passwd|pwd|^pass$|token|secret|signature|credential|^sig$|key|^auth|jwt|bearer", re.IGNORECASE
)
"""Names of query parameters whose values are never shown. Presigned URLs: X-Amz-Signature, X-Goog-Credential, sig."""
_PARAMETER = re.compile(r"([?&;#]|^)([^=&;?#]*)=([^&;#]+)")
_QUOTED_PARAMETER = re.compile(r"([?&;])([\w.~%+-]+)=([^&;#\s\"'<>()]+)")
"""In a path without scheme and host, as HTTP libraries quote it: `Max retries exceeded with url: /x?token=...`."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]*[^\s\"'<>.,;:)\]]")
"""The full stop of a sentence that ends with an address is not one of its characters."""
_SECRET_VARIABLE = re.compile(
    r"(PASSWORD|PASSWD|TOKEN|SECRET|CREDENTIALS?|API_?KEY|ACCESS_KEY|PRIVATE_KEY)(?![A-Z])(?!.*_(PATH|FILE|DIR|URI|URL)$)",
    re.IGNORECASE,
)
"""Names of environment variables that hold a secret, and not the path of a file with one."""
_SHORTEST_SECRET = 8
"""Characters from which the value of such a variable is looked for: shorter ones are part of ordinary words."""


def shown_address(url: str) -> str:
    """Return an address as it may be printed, logged and recorded.

    The user and the password are left out, and so are the values of query parameters that look like credentials.
    An address whose password contains an unescaped `?` hides where the host begins, and is cut after the scheme.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    location = re.split(r"[?#]", rest, maxsplit=1)[0]
    query = rest[len(location) :]
    if "@" in query.partition("&")[0].partition("=")[0]:
        return f"{scheme}://..."
    location = _without_user(location)
    if not _has_valid_port(f"{scheme}://{location}"):
        return f"{scheme}://..."
    return f"{scheme}://{location}{_PARAMETER.sub(_hide_value, query)}"


def split_address(url: str) -> SplitResult:
    """Return the parts of an address. One that cannot be split, as with half a pair of brackets, is a path alone."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", url, "", "")


def has_credentials(url: str) -> bool:
    """Return whether `shown_address` would hide a part of an address."""
    return shown_address(url) != url


def hide_credentials(text: str) -> str:
    """Return a text, such as the message of another library's error, as it may be shown.

    `shown_address` is applied to every URL in it; query parameters that look like credentials are left out of paths
    without a host too, and so are the values of this process's environment variables with names like
    `MLFLOW_TRACKING_TOKEN` or `AWS_SECRET_ACCESS_KEY`.
    """
    for secret in _secrets(os.environ):
        text = text.replace(secret, "...")
    text = _URL.sub(lambda match: shown_address(match[0]), text) if "://" in text else text
    return _QUOTED_PARAMETER.sub(_hide_quoted, text) if "=" in text else text


def holds_secret(variable: str) -> bool:
    """Return whether the name of an environment variable says that its value is a secret."""
    return _SECRET_VARIABLE.search(variable) is not None


def shown_webhook(url: str) -> str:
    """Return a webhook's scheme and host: its path is the secret."""
    parts = split_address(url)
    return f"{parts.scheme}://{parts.hostname}/..."


def _without_user(location: str) -> str:
    """Return `[user[:password]@]host/path` without the user. A path may contain an `@`, as in `name@revision`.

    A password may contain an unescaped `/`: where a colon precedes it, everything up to the last `@` is left out.
    """
    host, slash, path = location.partition("/")
    if "@" in path and ":" in host and "@" not in host:
        return location.rpartition("@")[2]
    return host.rpartition("@")[2] + slash + path


def _hide_value(parameter: re.Match[str]) -> str:
    before, name, value = parameter.groups()
    if _SECRET.search(name):
        return f"{before}{name}=..."
    if "://" in value:  # an address within the address: `endpoint_override=http://host`
        return f"{before}{name}={shown_address(value)}"
    return f"{before}{name}={'...' if has_credentials(unquote(value)) else value}"


def _hide_quoted(parameter: re.Match[str]) -> str:
    before, name, _ = parameter.groups()
    return f"{before}{name}=..." if _SECRET.search(name) else parameter[0]


def _has_valid_port(url: str) -> bool:
    try:
        parts = urlsplit(url)  # refuses half a pair of brackets, too
        if parts.netloc.endswith(":PORT"):  # the placeholder of our own remedies
            return True
        _ = parts.port
    except ValueError:
        return False
    return True


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """Return the values of variables that hold secrets, the longest first: one may contain another."""
    found = {value for name, value in environment.items() if holds_secret(name)}
    return sorted((value for value in found if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)
