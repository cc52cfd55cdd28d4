"""Say what a Python file may define, from its text alone: nothing is executed."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection


def names_in(module: ast.Module, kind: type[ast.ClassDef | ast.FunctionDef]) -> set[str]:
    """Return all names that the file may define at its top level; `*` if it imports all names of another module."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, kind):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def may_derive(module: ast.Module, name: str, others: Collection[str], seen: tuple[str, ...] = ()) -> bool:
    """Return False where the text shows that a class derives from nothing but builtins and `others`, by top package.

    What the text does not show may derive from what is wanted.
    """
    verdicts = []
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            verdicts += [_may_be_base(module, base, others, (*seen, name)) for base in node.bases] or [False]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            verdicts += [
                _origin(node, alias) not in others
                for alias in node.names
                if name == (alias.asname or alias.name.partition(".")[0])
            ]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return True
    return any(verdicts) if verdicts else not hasattr(builtins, name)


def _may_be_base(module: ast.Module, base: ast.expr, others: Collection[str], seen: tuple[str, ...]) -> bool:
    while isinstance(base, ast.Attribute):  # nn.Module is judged by where nn comes from
        base = base.value
    if not isinstance(base, ast.Name):
        return True
    return base.id not in seen and may_derive(module, base.id, others, seen)


def _origin(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    """Return the top package of what an import statement names; empty for a relative import."""
    imported = (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
    return "" if isinstance(node, ast.ImportFrom) and node.level else imported.partition(".")[0]
