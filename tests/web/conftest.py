"""A real browser for the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.chromium import Browser, browser, find_chromium


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for the tests of a module."""
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    folder = tmp_path_factory.mktemp("chromium")
    with browser(chromium, folder) as found:
        found.downloads = folder
        yield found
