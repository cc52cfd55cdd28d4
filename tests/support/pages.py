"""Execute the examples of a page of the documentation, in order, and compare what they print with what the page shows.

    python -m tests.support.pages docs/how-to/notebook.md    # prints every example with its output

The forms of a fenced block:

- `console`: a line that begins with `$ ` is a command (continued after a backslash), what follows is its output
- `python`: a script of its own; a `text` block that follows is its output
- any language with `title="NAME"`: a file that is written

`...` in an output stands for anything. `<!-- numbers vary -->` before a block lets every number and duration be another
one, and columns be of another width.
`<!-- not run: REASON -->` before a block leaves it out.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|numbers vary)(?:: (?P<reason>[^\n]+))? -->\n)?"
    r"```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LOOSE = ((r"[━─]+", "─"), (r"\b[0-9a-f]{8,}\b", "0"), (r"\d[\d,.]*", "0"), (r"0 (?:s|min|h)( 0 (?:s|min))?\b", "0 s"))
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class Example:
    """Hold one command or script, and the output that the page shows."""

    source: str
    language: str
    expected: str = ""
    title: str | None = None
    skipped: str | None = None
    """Why it is not run."""
    numbers_vary: bool = False

    def matches(self, shown: str) -> bool:
        """Compare an output with the one of the page."""
        wanted, found = self.expected, shown
        for pattern, plain in _LOOSE if self.numbers_vary else ():
            wanted, found = (re.sub(pattern, plain, text) for text in (wanted, found))
        return doctest.OutputChecker().check_output(wanted.strip() + "\n", found.strip() + "\n", _FLAGS)


def examples(text: str) -> Iterator[Example]:
    """Yield the examples of a page."""
    script: Example | None = None
    for block in _BLOCK.finditer(text):
        reason = (block["reason"] or "no reason") if block["mark"] == "not run" else None
        varies = block["mark"] == "numbers vary"
        language, body = block["language"], block["body"]
        if language == "text" and script is not None:
            script.expected, script.numbers_vary = body, varies
        if script is not None:
            yield script
            script = None
        if block["title"]:
            yield Example(body, language, title=block["title"])
        elif language == "python":
            script = Example(body, language, skipped=reason)
        elif language == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command = re.match(r"(?:.*\\\n)*.*\n", part)
                assert command
                yield Example(command[0].strip(), language, part[command.end() :], None, reason, varies)
    if script is not None:
        yield script


def execute(example: Example, folder: Path) -> str:
    """Run an example in a folder and return what it prints. Raises AssertionError if it fails."""
    if example.title is not None:
        (folder / example.title).write_text(example.source)
        return ""
    command = [sys.executable, "-c", example.source] if example.language == "python" else ["bash", "-c", example.source]
    environment = {**os.environ, "COLUMNS": "110", "PATH": f"{_programs(folder)}:{os.environ['PATH']}", "NO_COLOR": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "datasets")])
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = done.stdout.decode(errors="replace").replace(str(folder), "~/puzzles").split("\n")
    output = "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines)
    assert done.returncode == 0, f"{example.source}\n{output}"
    return output


def _programs(folder: Path) -> Path:
    """Return a folder with the program `trm` of this working tree."""
    programs = folder / ".programs"
    if not programs.exists():
        programs.mkdir()
        (programs / "python").symlink_to(sys.executable)
        code = "from orchestrator.cli import main; main()"
        (programs / "trm").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{code}" "$@"\n')
        (programs / "trm").chmod(0o755)
    return programs


def main() -> None:
    """Print the examples of a page with their outputs."""
    with tempfile.TemporaryDirectory() as folder:
        for example in examples(Path(sys.argv[1]).read_text()):
            print(f"--- {example.title or example.source}", flush=True)
            if example.skipped is None:
                shown = execute(example, Path(folder))
                print(f"{shown}\n=== {example.title is not None or example.matches(shown)}", flush=True)


if __name__ == "__main__":
    main()
