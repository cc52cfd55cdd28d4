"""Show addresses without the credentials that they may contain."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_SECRET = re.compile(r"password|passwd|pwd|token|secret|signature|credential|^sig$|key|^auth", re.IGNORECASE)
"""Names of query parameters whose values are never shown. Presigned URLs: X-Amz-Signature, X-Goog-Credential, sig."""
_PARAMETER = re.compile(r"([?&;#]|^)([^=&;?#]*)=([^&;#]*)")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")


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
    # A password may contain an unescaped `/` or `@`: everything up to the last `@` goes.
    location = location.rpartition("@")[2]
    if "@" in query.partition("&")[0].partition("=")[0] or not _has_valid_port(f"{scheme}://{location}"):
        return f"{scheme}://..."
    return f"{scheme}://{location}{_PARAMETER.sub(_hide_value, query)}"


def _hide_value(parameter: re.Match[str]) -> str:
    before, name, value = parameter.groups()
    return f"{before}{name}={'...' if _SECRET.search(name) else hide_credentials(value)}"


def _has_valid_port(url: str) -> bool:
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    return True


def hide_credentials(text: str) -> str:
    """Apply `shown_address` to every URL in a text, such as the message of another library's error."""
    return _URL.sub(lambda match: shown_address(match[0]), text)


def shown_webhook(url: str) -> str:
    """Return a webhook's scheme and host: its path is the secret."""
    return f"{urlsplit(url).scheme}://{urlsplit(url).hostname}/..."
