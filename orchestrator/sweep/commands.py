"""Write the commands that resume a sweep: they name the files of the user's own code, which a record alone does not
let run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import command_line
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import functions_of
from trm_data.own_code import classes_in, parse_address


def trust_words(values: Mapping[str, Any]) -> list[str]:
    """Return the options `--trust FILE` for all code that plain values of a sweep or of a setting name."""
    found = [*classes_in(values), *functions_of(values)]
    paths = dict.fromkeys(parse_address(address).path for address in found)
    return [word for path in paths for word in ("--trust", path)]


def resume_command(sweep: Sweep, storage: str, address: str | None) -> str:
    """Return the command that runs what is left of a recorded sweep of a storage, quoted for a shell.

    Args:
        address: the Ray cluster on which it ran last: `records.index.last_address`.
    """
    words = [*trust_words(sweep.plain()), *(["--address", address] if address else [])]
    return command_line("sweep", "resume", sweep.name, *words, storage=storage)


def repair_advice(sweep: Sweep, storage: str, address: str | None) -> str:
    """Return what to do after trials have failed. Code of the user's own that is edited is another trial's."""
    retry = command_line("sweep", "retry", sweep.name, storage=storage)
    again = f"{retry} && {resume_command(sweep, storage, address)}"
    files = trust_words(sweep.plain())[1::2]
    if not files:
        return f"Fix it, then: {again}"
    return (
        f"If {' or '.join(files)} has to be edited, that makes other trials: start the sweep again with --name NEW "
        f"--reuse, which takes over finished trials that both have. If something else failed: {again}"
    )
