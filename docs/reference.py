"""Generate the reference of the documentation site, and the links that lead out of `docs/`: a hook of MkDocs.

make docs
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import json
import os
import re
import textwrap
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
API = {
    "orchestrator": "Plan, run, record and compare trials.",
    "trm_model": "The models, their training and their checkpoints.",
    "trm_data": "Datasets of puzzles.",
}
MODULES = {
    "reference/sweep.md": (
        "Sweeps",
        "The definition of a sweep: the keys of a YAML file and the fields of a Python object.",
        ["orchestrator.sweep.definition", "orchestrator.sweep.domains", "orchestrator.sweep.budget"],
    ),
    "reference/errors.md": (
        "Errors",
        "What these packages raise for mistakes of a user. The command line prints one line and ends with code 2.",
        ["trm_data.errors", "orchestrator.errors"],
    ),
    "reference/records.md": (
        "Record format",
        "The files of a trial's folder, which every report and tracker is made from.",
        ["orchestrator.records.schema", "orchestrator.records.segments"],
    ),
}
_LINK = re.compile(r"(!?\[[^\]]*\])\((?!https?:|#|mailto:)([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the start page and the reference."""
    pages = {"index.md": (ROOT / "README.md").read_text()}
    pages |= {"reference/cli.md": _command_line(), "reference/settings.md": _settings(), "notebook.md": _notebook()}
    for path, (title, text, modules) in MODULES.items():
        pages[path] = "\n\n".join([f"# {title}", text, *(f"::: {module}" for module in modules)])
    for package, text in API.items():
        pages[f"reference/{package}.md"] = _api(package, text)
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files, **_: Any) -> str:
    """Rewrite links that lead out of `docs/`: to the project's address, or to the name of the file alone."""
    source = ROOT / "README.md" if page.file.src_uri == "index.md" else ROOT / "docs" / page.file.src_uri

    def rewrite(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        if not path:
            return match[0]
        target = (source.parent / path).resolve()
        if target == ROOT / "README.md":
            where = "index.md"
        elif target.suffix == ".ipynb":
            where = "notebook.md"
        elif target.is_relative_to(ROOT / "docs"):
            where = target.relative_to(ROOT / "docs").as_posix()
        elif config.repo_url:
            return f"{text}({config.repo_url.rstrip('/')}/blob/main/{target.relative_to(ROOT).as_posix()}{anchor})"
        else:  # without an address of the project: the file's name, as it lies in a clone
            name = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else path
            label = text.lstrip("!").strip("[]").strip("`")
            return f"`{name}`" if label in name else f"{label} (`{name}`)"
        return f"{text}({os.path.relpath(where, Path(page.file.src_uri).parent)}{anchor})"

    return _LINK.sub(rewrite, markdown)


def _notebook() -> str:
    """Return the notebook with its output as a page."""
    parts: list[str] = []
    for cell in json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            data = {kind: "".join(lines) for kind, lines in output.get("data", {}).items()}
            if html := data.get("text/html", "").strip():
                parts.append(f"<div>{' '.join(html.split())}</div>")  # a blank line would end the block
            elif image := data.get("image/png"):
                parts.append(f'<img alt="plot" src="data:image/png;base64,{image.strip()}">')
            elif plain := data.get("text/plain", "".join(output.get("text", ""))).strip():
                parts.append(f"```text\n{plain}\n```" if "HTML object" not in plain else "")
            if svg := data.get("image/svg+xml", "").strip():
                parts.append(f"<div>{' '.join(svg.split())}</div>")
    return "\n\n".join(parts) + "\n\nThe file is `docs/notebook.ipynb`.\n"


def _command_line() -> str:
    """Return the help of every command, as Typer writes it."""
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from orchestrator.cli.app import build_app

    command = get_command(build_app())
    text = get_docs_for_click(obj=command, ctx=command.context_class(command), name="trm")
    return f"{text}\n".replace("# `trm`", "# Command line", 1)


def _settings() -> str:
    """Return a table of every section of a trial's configuration: setting, type, default, and what it does."""
    from pydantic import BaseModel

    from trm_model.config import ALIASES, TrialConfig

    letters = {path: letter for letter, path in ALIASES.items()}
    single: list[str] = []
    sections: list[str] = []
    for name, field in TrialConfig.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            rows = [_row(kind, part, f"{name}.{part}", letters) for part in kind.model_fields]
            sections += [f"## {name}", _first_lines(kind), _HEAD + "\n".join(rows)]
        else:
            single.append(_row(TrialConfig, name, name, letters))
    intro = (
        "Every setting of a trial. `--set SECTION.NAME=VALUE` sets one, `--vary` compares values, and "
        "`trm train --show-config` prints a complete configuration. The short names are the letters of the paper."
    )
    return "\n\n".join(["# Settings", intro, _HEAD + "\n".join(single), *sections])


_HEAD = "| setting | type | default | what it does |\n|---|---|---|---|\n"


def _row(kind: type[Any], name: str, path: str, letters: dict[str, str]) -> str:
    field, text = kind.model_fields[name], " ".join(_attribute_docs(kind).get(name, "").split())
    default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`"
    annotation = next(found[name] for base in kind.__mro__ if name in (found := inspect.get_annotations(base)))
    limits = ", ".join(_limit(each) for each in field.metadata if _limit(each))
    shown = f"`{path}`" + (f" (`{letters[path]}`)" if path in letters else "")
    cells = [shown, f"`{annotation}`" + (f", {limits}" if limits else ""), default, text]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _limit(constraint: object) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return ", ".join(f"{sign} {getattr(constraint, name)}" for name, sign in signs.items() if hasattr(constraint, name))


def _first_lines(kind: type) -> str:
    return (kind.__doc__ or "").strip().partition("\n\n")[0]


@functools.cache
def _attribute_docs(kind: type) -> dict[str, str]:
    """Return the strings that follow the attributes of a class and of those that it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] not in API:
            continue
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for one, two in itertools.pairwise(tree.body):
            match one, two:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = text
    return found


def _api(package: str, text: str) -> str:
    """Return a page with everything that a package exports, from where it is defined."""
    import importlib

    module = importlib.import_module(package)
    own, elsewhere = [], []
    described = {name for _, _, names in MODULES.values() for name in names}
    for name in sorted(module.__all__, key=str.casefold):
        home = getattr(getattr(module, name), "__module__", package)
        is_own = home.partition(".")[0] == package and home not in described
        own.append(f"::: {home}.{name}") if is_own else elsewhere.append(f"- [`{name}`][{home}.{name}]")
    intro = f"{text} `from {package} import ...` offers these names."
    others = ["And these, which other pages describe:", "\n".join(elsewhere)] if elsewhere else []
    return "\n\n".join([f"# {package}", intro, *others, *own])
