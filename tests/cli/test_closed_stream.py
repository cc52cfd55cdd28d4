"""Commands that are started with standard streams closed."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

CODE = """
import os, sys
from orchestrator.cli import main
try:
    main(["--version"])
except SystemExit as ended:
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        assert stream is not None and os.fstat(number)
        os.write(int(sys.argv[1]), b"ok ")
    print("more", file=sys.stderr, flush=True)
    sys.exit(ended.code)
"""


@pytest.mark.parametrize(("closed", "left"), [("2>&-", "stdout"), (">&-", "stderr"), ("<&- 2>&-", "stdout")])
def test_streams_that_are_closed_are_the_null_device(closed: str, left: str) -> None:
    number = 1 if left == "stdout" else 2
    words = shlex.join([sys.executable, "-c", CODE, str(number)])
    done = subprocess.run(["bash", "-c", f"{words} {closed}"], capture_output=True, text=True)
    assert done.returncode == 0 and getattr(done, left).count("ok ") == 3, done
