"""Run a sweep from Python in a process of its own: Ray in the process of the tests could end it later."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from orchestrator import Sweep

CODE = """
import json, sys
from pathlib import Path
from orchestrator import Sweep, run
from trm_data.errors import UserError
from trm_data.own_code import trust

if __name__ == "__main__":
    definition, *trusted = sys.argv[1:]
    for file in trusted:
        trust(Path(file))
    try:
        print(run(Sweep.from_record(json.loads(definition)), "runs", tracking="none", callbacks=()).status.value)
    except UserError as error:
        sys.exit(str(error))
"""


def run_sweep(sweep: Sweep, *trusted: Path) -> tuple[str, str]:
    """Run a sweep in the storage `runs` of the working directory. Return its status and the error, one of them empty.

    Args:
        trusted: files whose code may run, as `--trust` names them.
    """
    words = [sys.executable, "-c", CODE, json.dumps(sweep.plain()), *map(str, trusted)]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout.strip(), done.stderr.strip() if done.returncode else ""
