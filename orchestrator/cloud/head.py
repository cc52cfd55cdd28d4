"""Do on the head what the client asks for through `ssh`, one verb a call.

python -m orchestrator.cloud.head start FOLDER STORAGE NAME PROCESS WORD...
python -m orchestrator.cloud.head end|receipt|waiting FOLDER STORAGE NAME
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.cloud import deployments, processes
from orchestrator.cloud.backend import CloudError, Receipt
from orchestrator.cloud.receipt import receipt
from orchestrator.records.index import find_definition
from orchestrator.records.reader import read_trials
from orchestrator.storage import Storage, open_storage
from trm_data.errors import UserError

START_S = 60.0
"""Seconds for which `waiting` waits for a driver to write the definition of its sweep."""


def main(arguments: Sequence[str]) -> int:
    """Run one verb. Return 0, or 2 with one line on standard error."""
    verb, place, url, name = arguments[:4]
    folder, storage = Path(place), open_storage(url)
    try:
        if verb == "start":
            _start(folder, arguments[4], list(arguments[5:]))
        elif verb == "end":
            print(processes.end_driver(storage, name, folder, "ended by `trm cloud down`"))
            processes.end(folder, processes.TIMER, 5.0)
        elif verb == "receipt":
            print(json.dumps(_receipt(folder, storage, name).plain()))
        elif verb == "waiting":
            deadline_s = time.monotonic() + START_S
            while find_definition(storage, name) is None and processes.is_alive(folder, processes.DRIVER):
                if time.monotonic() > deadline_s:
                    break
                time.sleep(0.5)
        else:
            print(f"error: unknown verb {verb}", file=sys.stderr)
            return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _start(folder: Path, process: str, words: list[str]) -> None:
    """Start a process. One timer is enough; a second driver is an error.

    Raises:
        CloudError: the driver runs already.
    """
    if not processes.is_alive(folder, process):
        print(processes.start(folder, process, words))
    elif process == processes.DRIVER:
        raise CloudError("the driver of this sweep is running already", "Watch it with `trm cloud logs -f`")


def _receipt(folder: Path, storage: Storage, name: str) -> Receipt:
    """Return the account of a deployment, with a warning where nothing would end it."""
    deployment = deployments.load(storage, name)
    found = receipt(deployment, read_trials(storage, name), time.time())
    if deployment.state in ("up", "submitted") and not processes.is_alive(folder, processes.TIMER):
        warning = "the timer is not running, so that no limit is enforced: `trm cloud submit` starts it again"
        found = found.model_copy(update={"unknown": (*found.unknown, warning)})
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
