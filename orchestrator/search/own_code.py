"""Call what a search names of the user's own, so that its errors are told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trm_data.errors import ConfigError
from trm_data.own_code import is_address, short


@contextmanager
def explained(what: str, address: str) -> Iterator[None]:
    """Name the user's code in what it raises; errors of code that is built in stay as they are.

    Args:
        what: it is: "sampler".

    Raises:
        ConfigError: the code failed, or wanted to end the process.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if not is_address(address):
            raise
        raise ConfigError(
            f"the {what} {short(address)} fails: {type(error).__name__}: {error}",
            f"Correct the file, and give the sweep another name: its {what} has changed",
        ) from error
