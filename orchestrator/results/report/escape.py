"""Escape text for the formats that results are written in. HTML is escaped by `markup.tag` and by the templates.

Names come from sweep files, storages and CSV files that others wrote, so none may change what a reader's program does:
run a spreadsheet formula, end a table cell, or add a command of TeX.
"""

from __future__ import annotations

import re

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}  # other characters in TeX's default fonts
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters by which spreadsheets recognise a formula (OWASP, CSV injection); some accept full-width ones."""
_MARKDOWN = re.compile(r"([\\`*|<>\[\]~$]|(?<!\w)_|_(?!\w)|&(?=#?\w+;))")
_REFERENCE = re.compile(r"((?<!\w)@(?=\w)|#(?=\d))")
"""GitHub links `@name` and `#1` after it has read the Markdown, so that a backslash does not keep it from it."""
_SEPARATOR = re.compile(rf";(?=[\s\"]*[{re.escape(''.join(_FORMULA))}])")
"""Before a formula, where a spreadsheet of a language with decimal commas splits the line at semicolons."""


def one_line(text: str) -> str:
    """Replace line breaks by spaces and drop other characters that cannot be printed (terminal escapes, for one)."""
    return "".join(character for character in re.sub(r"\s+", " ", text) if character.isprintable())


def latex(text: str) -> str:
    """Escape text for LaTeX outside math.

    A cell that begins with `[` or `*` would be an argument of the `\\\\` or `\\midrule` before it.
    """
    escaped = "".join(_LATEX.get(character, character) for character in one_line(text)).lstrip()
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped.startswith(("[", "*")) else escaped


def markdown(text: str) -> str:
    """Escape text for a line or a table cell of GitHub's Markdown."""
    escaped = _REFERENCE.sub(r"\1<!-- -->", _MARKDOWN.sub(r"\\\1", one_line(text)))
    return f"\\{escaped}" if escaped.startswith("#") else escaped


def csv_cell(value: object) -> object:
    """Return text as one line, after an apostrophe if a spreadsheet would run it as a formula; numbers unchanged."""
    if not isinstance(value, str):
        return value
    text = _SEPARATOR.sub(";'", one_line(value))
    return f"'{text}" if text.lstrip(' "').startswith(_FORMULA) else text
