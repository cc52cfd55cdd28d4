"""The S3 endpoint of a chaos run: a proxy process that can be killed, refuses requests and cuts answers off.

    python -m tests.chaos.endpoint PORT TARGET FOLDER SEED

It stands before moto, which holds its buckets in memory and so is never killed itself. `FOLDER/shares.json` says which
shares of the requests are refused and cut off; `FOLDER/requests.jsonl` lists what was disturbed, and the writes of
attempts that were carried out. The processes that write append to it what they try (`tests.chaos.clock`), with the
true time: an account of what happened that does not depend on the records.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.support.refusing import refusing_proxy

SHARES, LOG = "shares.json", "requests.jsonl"


class Disturbance:
    """Decides about every request, and logs."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._log = (folder / LOG).open("a", buffering=1)

    def refuses(self, method: str, path: str) -> bool:
        """Whether a request is refused before it is carried out."""
        is_refused = self._draw("refused")
        if is_refused:
            self._write(kind="refused")
        return is_refused

    def cuts(self, method: str, path: str) -> bool:
        """Whether the answer to a request that was carried out is cut off."""
        # Not before: a client that is killed while it sends a request has written nothing.
        if method == "PUT" and "/attempts/" in path:
            self._write(kind="arrived", path=path.partition("?")[0])
        is_cut = self._draw("cut")
        if is_cut:
            self._write(kind="cut")
        return is_cut

    def _draw(self, what: str) -> bool:
        try:
            share = float(json.loads((self._folder / SHARES).read_text()).get(what, 0.0))
        except (OSError, ValueError):  # it is just being written
            share = 0.0
        with self._lock:
            return self._random.random() < share

    def _write(self, **values: Any) -> None:
        with self._lock:
            self._log.write(json.dumps({"time_s": time.time(), **values}) + "\n")


def main() -> None:
    """Serve until SIGTERM."""
    port, target, folder, seed = sys.argv[1:]
    disturbance = Disturbance(Path(folder), int(seed))
    with refusing_proxy(target, disturbance.refuses, disturbance.cuts, int(port)):
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
