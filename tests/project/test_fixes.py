"""The list of fixes that can be reverted stays in step with the code; `make fixes` runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.mutation.fixes import ROOT, Fix, load

FIXES = load()


def test_no_fix_is_listed_twice() -> None:
    names = [fix.id for fix in FIXES]
    assert FIXES
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("fix", FIXES, ids=lambda fix: fix.id)
def test_listed_fix_is_in_the_code_and_names_tests_that_exist(fix: Fix) -> None:
    assert fix.bug
    assert fix.tests
    for file, text in fix.reverted(ROOT).items():
        assert text != (ROOT / file).read_text()
        if file.endswith(".py"):
            compile(text, file, "exec")
    for test in fix.tests:
        path, *names = test.partition("[")[0].split("::")
        text = Path(ROOT, path).read_text()
        for name in names:
            assert re.search(rf"^\s*(def|class) {name}\b", text, re.MULTILINE), test
