"""Two minutes of chaos pass the audit; `make chaos SEED=n MINUTES=15` is the long form."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_minutes_of_chaos_pass_the_audit() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seed", "1", "--minutes", "2"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0 and "passed (seed 1)" in done.stdout
