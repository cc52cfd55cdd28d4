"""Write rendered files: a comment, then YAML in the order in which it was built."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

WIDTH = 120


class _Dumper(yaml.SafeDumper):
    """Write long texts as blocks, short collections of plain values in one line, and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value in full wherever it stands."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists below their key."""
        return super().increase_indent(flow, False)


def _scalar(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


def _mapping(dumper: yaml.SafeDumper, value: dict[Any, Any]) -> yaml.Node:
    return dumper.represent_mapping(
        "tag:yaml.org,2002:map", value.items(), flow_style=_is_short([*value.values()], value)
    )


def _sequence(dumper: yaml.SafeDumper, value: Sequence[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=_is_short(value, value))


def _is_short(values: Sequence[Any], whole: object) -> bool:
    """Return whether a collection holds plain values only, and is short enough for one line."""
    plain = not any(isinstance(each, dict | list) or (isinstance(each, str) and len(each) > 40) for each in values)
    return plain and len(str(whole)) <= 90


_Dumper.add_representer(str, _scalar)
_Dumper.add_representer(dict, _mapping)
_Dumper.add_representer(list, _sequence)


def yaml_text(header: str, value: Mapping[str, Any]) -> str:
    """Return a YAML document below a comment."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.strip().splitlines())
    return comment + yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, width=WIDTH, allow_unicode=True)


def driver_command(trm: str, sweep: str, arguments: Sequence[str], *, address: str, storage: str) -> str:
    """Return the command of a driver, quoted for a shell.

    Args:
        trm: the program, as the machine's shell finds it.
        sweep: a sweep file, or the name of a packaged sweep.
        arguments: further options of `trm sweep run`.
        address: of Ray; may name a variable of the shell, so it is not quoted.
        storage: address of the storage.
    """
    words = [trm, "sweep", "run", shlex.quote(sweep), *(shlex.quote(each) for each in arguments)]
    return " ".join([*words, "--address", address, "--storage", shlex.quote(storage)])
