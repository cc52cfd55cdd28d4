"""End a cluster from its head, cleanly and completely. The timer runs it last.

    python -m orchestrator.cloud.aws.end REGION CLUSTER STORAGE SWEEP ADDRESS

The order: the driver, with last checkpoints; Ray's autoscaler on the head, which would start new workers in the place
of those that end; the workers, until AWS lists none any more; the head itself. It ends by shutting down, which
terminates it: it needs no right for that, and no network.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil

from orchestrator.records.index import find_definition, request_stop, sweep_folder
from orchestrator.resources.aws.clients import client
from orchestrator.resources.aws.instances import CLUSTER_TAG, end_instances
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.lease import driver_of
from trm_data.errors import UserError

logger = logging.getLogger(__name__)

STOP_S = 75.0
"""Seconds for last checkpoints; the timer waits for two minutes."""
MONITOR = re.compile(r"/ray/autoscaler/.*monitor\.py$")
"""Program of Ray's autoscaler."""
SHUT_DOWN = ("sudo", "shutdown", "-h", "now")
COMMAND_S = 60.0


def end_cluster(
    end_workers: Callable[[], Sequence[str]] | None,
    storage: Storage,
    sweep: str,
    *,
    address: str,
    shut_down: Sequence[str] = SHUT_DOWN,
    limit_s: float = STOP_S,
) -> bool:
    """Stop the driver, end the autoscaler, end the workers, and shut the machine down, whatever failed before.

    Return whether this machine is shutting down: the timer runs the command again until it is.

    Args:
        end_workers: ends all workers and verifies that they are gone; None for a single machine.
        address: HOST:PORT of Ray on this machine.
    """
    try:
        stop_driver(storage, sweep, "the timer on the head", limit_s)
    except UserError as error:  # StorageError, or a sweep that is damaged
        logger.warning("the driver was not stopped cleanly: %s", error)
    try:
        if end_workers is not None:
            if not end_autoscaler(address):
                logger.error("no autoscaler of Ray at %s was found: if it runs, it may start workers again", address)
            logger.info("ended %s", ", ".join(end_workers()) or "no worker")
    except UserError as error:
        logger.warning("workers may be left: %s", error)
    finally:
        is_off = _shut_down(shut_down)
    return is_off


def end_autoscaler(address: str) -> int:
    """Kill the autoscaler of the Ray that listens on the port of an address, and no other. Return how many there were.

    `ray stop` would end every Ray of this user.
    """
    port, found = address.rpartition(":")[2], []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            serves = any(word.startswith("--gcs-address=") and word.endswith(f":{port}") for word in words)
            if serves and any(map(MONITOR.search, words)):
                process.kill()
                found.append(process)
    psutil.wait_procs(found, timeout=COMMAND_S)
    return len(found)


def _shut_down(command: Sequence[str]) -> bool:
    """Shut this machine down; return whether that was accepted: if not, it bills on."""
    try:
        subprocess.run(command, check=True, timeout=COMMAND_S)
    except (OSError, subprocess.SubprocessError) as error:
        logger.error("this machine could not be shut down and bills on: %s", error)
        return False
    return True


def stop_driver(storage: Storage, sweep: str, reason: str, limit_s: float) -> bool:
    """Ask a driver to stop cleanly and wait for it. Return whether none is left."""
    folder = sweep_folder(storage, sweep)
    if find_definition(storage, sweep) is None or driver_of(folder, if_silent="watch") is None:
        return True
    request_stop(folder, reason)
    deadline_s = time.monotonic() + limit_s
    while driver_of(folder, if_silent="watch") is not None:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.5)
    return True


def main(arguments: Sequence[str]) -> int:
    """End the cluster that the arguments name; with an empty region, this machine only. Return the exit code."""
    region, cluster, url, sweep, address = arguments
    ending = None if not region else lambda: end_instances(client("ec2", region), {CLUSTER_TAG: cluster}, but_head=True)
    return 0 if end_cluster(ending, open_storage(url), sweep, address=address) else 1


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sys.exit(main(sys.argv[1:]))
