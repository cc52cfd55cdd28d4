"""Show text without the credentials that it may contain: in messages, logs, records, pages and trackers.

Every text that leaves a process passes `hide_credentials`: `UserError`, `first_line`, `reason_of` and the log handlers
apply it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, quote, unquote, urlsplit

_SECRET = re.compile(
    r"password|passwd|pwd|^pass$|token|secret|signature|credential|^sig$|key|^auth|jwt|bearer|webhook", re.IGNORECASE
)
"""Names of query parameters whose values are never shown. Presigned URLs: X-Amz-Signature, X-Goog-Credential, sig."""
_QUOTE = r"[\"'`](?![,:;.)\]}<>\s\"'`]|$)"
"""A quotation mark within a password: the one that ends a quoted address precedes punctuation, a space or the end."""
_PARAMETER = re.compile(r"([?&;#]|^)([^=&;?#]*)=([^&;#]+)")
_QUOTED_PARAMETER = re.compile(rf"([?&;])([\w.~%+-]+)=((?:[^&;#\s\"'`<>()]|{_QUOTE}|[()](?![,:;.)\]}}\s\"'`]|$))+)")
"""In a path without scheme and host, as HTTP libraries quote it: `Max retries exceeded with url: /x?token=...`."""
_ASSIGNMENT = re.compile(
    rf"(?<![\w?&;%.-])(passw(?:or)?d|pwd|secret|api_?key|access_?key)=((?:[^&;,#\s\"'`<>()]|{_QUOTE})+)", re.IGNORECASE
)
"""In the options of a database, `host=db password=...`, and of a command."""
_URL = re.compile(
    r"(?:(?<![A-Za-z0-9+.-])[A-Za-z0-9+.-]+)?://"
    rf"(?:[^\s/@\"'`]*:(?:[^\s\"'`<>]|{_QUOTE}){{0,256}}@"  # a password may contain an unescaped quotation mark
    rf"|[^\s/@:\"'`]*:(?!\d+\b|PORT\b)(?:[^@\n\"'`]|{_QUOTE}){{1,128}}@)?"  # or a space
    r"[^\s\"'<>]*[^\s\"'<>.,;:)\]]"
)
"""The full stop of a sentence that ends with an address is not one of its characters."""
_BARE_USER = re.compile(
    r"(?<![^\s\"'`=(<\[{,;|])"
    r"(?!(?:sha256|mailto):|[/\\]{0,3}[A-Za-z]:[\\/]|(?:\d{4}-\d\d-\d\dT)?\d{1,2}:\d\d\b)"  # a path of Windows, a time
    r"(?P<slashes>[/\\]{0,3})(?:"
    rf"[^\s\"'`=(<\[{{,;|/\\:@]{{1,256}}:(?!//|\d{{1,5}}[,/])(?:[^\s\"'`<>]|{_QUOTE}){{1,256}}"
    r"|[^\s\"'`=(<\[{,;|/\\:]{1,256}:(?!\d{1,5}[,/])[^\s\"'`<>/]{1,256}"  # me@example.com:password@host
    r"|:[^\s\"'`/@]{1,256}"  # a password without a user
    r")@(?!sha256:)(?=[^\s\"'`@])"
)
"""`user:password@` in an address without `://`: it was left out, or one of its characters is missing."""
_SECRET_VARIABLE = re.compile(
    r"(PASSWORD|PASSWD|PASSPHRASE|TOKEN|SECRET|CREDENTIALS?|CONNECTION_?STRING|API_?KEY|ACCESS_KEY|PRIVATE_KEY)"
    r"(?![A-Z])(?!.*_(PATH|FILE|DIR|URI|URL)$)"
    r"|(_KEY|_PAT|_PWD|(?<!BY)PASS|_DSN|_AUTH|_JWT|COOKIE)$|WEB_?HOOK(?!.*_(PATH|FILE|DIR|HOST|PORT)$)",
    re.IGNORECASE,
)
"""Names of environment variables that hold a secret, and not the path of a file with one."""
_OPEN_SCHEMES = ("http", "https", "s3", "hf")
"""Schemes whose addresses always name a host."""
_SHORTEST_SECRET = 8
"""Characters from which the value of such a variable is looked for: shorter ones are part of ordinary words."""


def shown_address(url: str) -> str:
    """Return an address as it may be printed, logged and recorded.

    The user and the password are left out, and so are the values of query parameters that look like credentials.
    An address whose password contains an unescaped `?` hides where the host begins, and is cut after the scheme.
    In an address without `://`, what looks like `user:password@` is replaced.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _QUOTED_PARAMETER.sub(_hide_quoted, _hide_bare_users(url))
    location = re.split(r"[?#]", rest, maxsplit=1)[0]
    query = rest[len(location) :]
    if "@" in query.partition("&")[0].partition("=")[0]:
        return f"{scheme}://..."
    location = _hide_bare_users(_without_user(location))
    if scheme.lower() in _OPEN_SCHEMES and location.startswith("/") and "@" in location.strip("/").partition("/")[0]:
        return f"{scheme}://..."
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
    without a host too, and so are `user:password@` of an address without a scheme, `password=...`, and the values of
    this process's environment variables with names like `MLFLOW_TRACKING_TOKEN` or `AWS_SECRET_ACCESS_KEY`.
    """
    for secret in _secrets(os.environ):
        text = text.replace(secret, "...")
    text = _URL.sub(lambda match: shown_address(match[0]), text) if "://" in text else text
    text = _hide_bare_users(text)
    if "=" in text:
        text = _QUOTED_PARAMETER.sub(_hide_quoted, text)
        text = _ASSIGNMENT.sub(r"\1=...", text)
    return text


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


def _hide_bare_users(text: str) -> str:
    return _BARE_USER.sub(r"\g<slashes>...@", text) if "@" in text and ":" in text else text


def _is_secret(parameter: str) -> bool:
    """Return whether the name of a query parameter, however often its characters are escaped, is that of a secret."""
    while (plain := unquote(parameter)) != parameter:
        parameter = plain
    return _SECRET.search(parameter) is not None


def _hide_value(parameter: re.Match[str]) -> str:
    before, name, value = parameter.groups()
    if _is_secret(name):
        return f"{before}{name}=..."
    if "://" in value:  # an address within the address: `endpoint_override=http://host`
        return f"{before}{name}={shown_address(value)}"
    return f"{before}{name}={'...' if has_credentials(unquote(value)) else value}"


def _hide_quoted(parameter: re.Match[str]) -> str:
    before, name, _ = parameter.groups()
    return f"{before}{name}=..." if _is_secret(name) else parameter[0]


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
    found |= {quote(value, safe="") for value in found}  # as it stands in an address
    return sorted((value for value in found if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)
