"""Change how Ray behaves in this process, through interfaces that it does not document.

Where a version of Ray lacks one, a warning says what follows, and the run continues.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

from trm_data.addresses import holds_secret

logger = logging.getLogger(__name__)


def reload_token() -> None:
    """Make Ray read its token again: it caches the first one that it reads in a process."""
    if "ray" not in sys.modules:
        return
    with _private_interface("its authentication token is not read again"):
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # without stubs

        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()


def listen_on_loopback() -> AbstractContextManager[None]:
    """Let a private Ray use 127.0.0.1 as its address, so that its servers listen on no other interface.

    `ray.init` replaces a loopback address by the machine's; only this constant, which macOS and Windows set, prevents
    that.
    """
    return _replaced(
        "ray._private.ray_constants", "ENABLE_RAY_CLUSTER", lambda _: False, "it listens on all interfaces"
    )


def keep_secrets_off_command_lines() -> AbstractContextManager[None]:
    """Keep Tune from copying AWS keys of the driver into the runtime environment of its actors.

    A runtime environment is on the command line of every worker, which all users of a machine can read. Workers have
    the environment of their node anyway: of a private Ray, that is the driver's.
    """
    return _replaced(
        "ray.tune.execution.class_cache",
        "ENV_VARS_TO_PROPAGATE",
        lambda names: {name for name in names if not holds_secret(name)},
        "AWS keys in the environment are on the command lines of its workers",
    )


def leave_sigterm_alone() -> AbstractContextManager[None]:
    """Keep `ray.init` from installing its handler of SIGTERM, which ends the driver without a last checkpoint."""
    return _replaced(
        "ray._private.utils",
        "set_sigterm_handler",
        lambda _: lambda handler: None,
        "SIGTERM ends a sweep without last checkpoints",
    )


def start_no_other_ray() -> AbstractContextManager[None]:
    """Keep Ray from starting by itself, with its default settings, when a thread of Tune calls it after its end."""
    return _replaced(
        "ray._private.auto_init_hook",
        "enable_auto_connect",
        lambda _: False,
        "a second Ray may start if the first one dies",
    )


def keep_reports_in_the_log() -> AbstractContextManager[None]:
    """Write what a private Ray reports of its own processes into the log of the driver instead of to the terminal.

    Ray has no setting for this printer (`log_to_driver` is for the output of workers): the death of a raylet prints 45
    lines of its log, twice, around the one line of this program that says what to do.
    """
    reported: set[str] = set()

    def note(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        text = "\n".join(map(str, data.get("lines", ())))
        if text not in reported:
            reported.add(text)
            logger.info("Ray reports: %s", text)

    return _replaced(
        "ray._private.worker", "print_to_stdstream", lambda _: note, "it prints the log of a raylet that has died"
    )


def in_sessions_of_their_own() -> AbstractContextManager[None]:
    """Start the processes of a private Ray in sessions of their own while the block runs.

    A signal to the whole process group (`timeout`, a shell, a closed terminal) then reaches the driver alone, which
    needs Ray for its trials to write a last checkpoint. If the driver is killed, the kernel kills Ray's processes:
    Ray requests that (PR_SET_PDEATHSIG), and it does not depend on the session.
    """
    return _replaced(
        "ray._private.services",
        "ConsolePopen",
        lambda popen: partial(popen, start_new_session=True),
        "a signal to the driver's process group also ends Ray",
    )


@contextmanager
def _replaced(module: str, name: str, change: Callable[[Any], Any], consequence: str) -> Iterator[None]:
    """Change a private attribute of Ray while the block runs; warn of the consequence where this version lacks it."""
    with ExitStack() as stack:
        with _private_interface(consequence):
            owner = importlib.import_module(module)
            before = getattr(owner, name)
            setattr(owner, name, change(before))
            stack.callback(setattr, owner, name, before)
        yield


@contextmanager
def _private_interface(consequence: str) -> Iterator[None]:
    """Warn instead of failing if this version of Ray lacks a private interface that the block uses."""
    try:
        yield
    except (ImportError, AttributeError) as error:
        logger.warning("Ray %s has changed: %s (%s)", importlib.metadata.version("ray"), consequence, error)
