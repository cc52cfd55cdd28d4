"""Find the places of a module that can be changed, and make one small change: a mutant."""

from __future__ import annotations

import ast
import copy
import difflib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ORDERED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
LOGGERS = ("log", "logger", "_log", "_logger", "logging", "warnings")


@dataclass(frozen=True)
class Mutant:
    """Hold one change of one module; offsets are bytes of its source."""

    path: str
    line: int
    operator: str
    start: int
    end: int
    replacement: str
    lines: tuple[int, int]
    """First and last line of the statement, for a compound statement of its head."""
    at_import: bool
    """The code runs when the module is imported, so no test is seen to execute it."""
    compiled: bool
    """The code runs in a function that numba compiles, whose lines no test is seen to execute."""

    def apply(self, source: bytes) -> bytes:
        """Return the changed source."""
        return source[: self.start] + self.replacement.encode() + source[self.end :]

    def diff(self, source: bytes) -> str:
        """Return the changed lines, each with - or +."""
        before, after = source.decode().splitlines(), self.apply(source).decode().splitlines()
        shown = difflib.unified_diff(before, after, n=0, lineterm="")
        return "\n".join(line for line in shown if not line.startswith(("---", "+++", "@@")))

    def key(self, source: bytes) -> str:
        """Return a name of this change that does not depend on where in the file it stands."""
        return hashlib.sha256(f"{self.path}\n{self.operator}\n{self.diff(source)}".encode()).hexdigest()[:12]


def draw(root: Path, paths: list[str], seed: int, count: int) -> list[Mutant]:
    """Return `count` mutants of the modules, drawn without replacement: the same for the same sources and seed."""
    every = [mutant for path in sorted(paths) for mutant in mutants_of(path, (root / path).read_bytes())]
    return random.Random(seed).sample(every, min(count, len(every)))


def mutants_of(path: str, source: bytes) -> list[Mutant]:
    """Return every mutant of a module, in the order of its source."""
    found: dict[tuple[object, ...], Mutant] = {}
    for mutant in _Finder(path, source).module():
        found.setdefault((mutant.start, mutant.end, mutant.replacement), mutant)
    return sorted(found.values(), key=lambda m: (m.start, m.end, m.replacement))


class _Finder:
    """Walk a module and yield its mutants."""

    def __init__(self, path: str, source: bytes) -> None:
        self._path, self._source = path, source
        self._tree = ast.parse(source)
        self._offsets = [0]
        for line in source.splitlines(keepends=True):
            self._offsets.append(self._offsets[-1] + len(line))
        self._lines = (1, 1)
        self._depth = 0
        self._compiled = False

    def module(self) -> Iterator[Mutant]:
        yield from self._statements(self._tree.body)

    def _statements(self, body: list[ast.stmt], guarded: bool = False) -> Iterator[Mutant]:
        for index, node in enumerate(body):
            if index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue  # a docstring
            if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert):
                continue
            yield from self._statement(node, guarded)

    def _statement(self, node: ast.stmt, guarded: bool) -> Iterator[Mutant]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from self._function(node)
            return
        if isinstance(node, ast.ClassDef):
            yield from self._statements(node.body)
            return
        blocks = _blocks(node)
        last = min((block[0].lineno for block in blocks if block), default=(node.end_lineno or node.lineno) + 1) - 1
        lines = (node.lineno, max(node.lineno, last))
        self._lines = lines
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        yield from self._removals(node, guarded)
        yield from self._special(node)
        for child in _expressions(node):
            self._lines = lines
            yield from self._expression(child)
        for block in blocks:
            yield from self._statements(block, guarded=isinstance(node, ast.If | ast.For | ast.While))

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Mutant]:
        self._lines = (node.lineno, node.body[0].lineno - 1)
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if isinstance(default, ast.Constant):
                yield from self._constant(default, "default argument", at_import=True)
        outer = self._compiled
        self._compiled = outer or any("jit" in ast.unparse(decorator) for decorator in node.decorator_list)
        self._depth += 1
        yield from self._statements(node.body)
        self._depth -= 1
        self._compiled = outer

    def _removals(self, node: ast.stmt, guarded: bool) -> Iterator[Mutant]:
        called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await)
        if called and (ast.unparse(node).split(".")[0] in LOGGERS or "super()." in ast.unparse(node)):
            return
        assigned = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript)
        ends = isinstance(node, ast.Return) and guarded
        kept = isinstance(node, ast.AugAssign | ast.Continue | ast.Break | ast.Raise | ast.Delete)
        if called or assigned or ends or kept:
            yield self._mutant(node, "removed statement", "pass")

    def _special(self, node: ast.stmt) -> Iterator[Mutant]:
        """Yield the mutants of statements as such: changed operators of assignments, inverted conditions, returns."""
        if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC and not _is_text(node.value):
            changed = copy.deepcopy(node)
            changed.op = ARITHMETIC[type(node.op)]()
            yield self._mutant(node, "arithmetic", ast.unparse(changed))
        if isinstance(node, ast.If | ast.While):
            yield self._mutant(node.test, "inverted condition", f"(not ({ast.unparse(node.test)}))")
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
            first, second = node.value.elts
            yield self._mutant(node.value, "swapped return", f"({ast.unparse(second)}, {ast.unparse(first)})")
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Compare | ast.BoolOp):
            yield self._mutant(node.value, "inverted return", f"(not ({ast.unparse(node.value)}))")

    def _expression(self, node: ast.expr | ast.comprehension) -> Iterator[Mutant]:
        if isinstance(node, ast.JoinedStr):
            return  # Python 3.11 gives no positions inside
        if isinstance(node, ast.Constant):
            yield from self._constant(node, "constant")
        elif isinstance(node, ast.Compare):
            yield from self._comparison(node)
        elif isinstance(node, ast.BoolOp):
            yield from self._boolean(node)
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            if not (_is_text(node.left) or _is_text(node.right) or _is_union(node)):
                changed = copy.deepcopy(node)
                changed.op = ARITHMETIC[type(node.op)]()
                yield self._mutant(node, "arithmetic", f"({ast.unparse(changed)})")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            operator = "removed not" if isinstance(node.op, ast.Not) else "sign"
            yield self._mutant(node, operator, f"({ast.unparse(node.operand)})")
        elif isinstance(node, ast.IfExp):
            parts = [ast.unparse(part) for part in (node.orelse, node.test, node.body)]
            yield self._mutant(node, "swapped alternatives", "(({}) if ({}) else ({}))".format(*parts))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield self._mutant(node.func, "min, max, any, all", CALLS[node.func.id])
        elif isinstance(node, ast.comprehension):
            for condition in node.ifs:
                yield self._mutant(condition, "inverted condition", f"(not ({ast.unparse(condition)}))")
        for child in _expressions(node):
            yield from self._expression(child)

    def _comparison(self, node: ast.Compare) -> Iterator[Mutant]:
        for index, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                changed = copy.deepcopy(node)
                changed.ops[index] = other()
                yield self._mutant(node, "comparison", f"({ast.unparse(changed)})")
            if isinstance(operator, ORDERED) and not _is_text(node.comparators[index]):
                bound = node.comparators[index]
                for sign in "+-":
                    yield self._mutant(bound, "boundary", f"({ast.unparse(bound)} {sign} 1)")

    def _boolean(self, node: ast.BoolOp) -> Iterator[Mutant]:
        changed = copy.deepcopy(node)
        changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield self._mutant(node, "boolean", f"({ast.unparse(changed)})")
        for index in range(len(node.values)):
            shorter = copy.deepcopy(node)
            del shorter.values[index]
            kept = shorter if len(shorter.values) > 1 else shorter.values[0]
            yield self._mutant(node, "boolean", f"({ast.unparse(kept)})")

    def _constant(self, node: ast.Constant, operator: str, at_import: bool = False) -> Iterator[Mutant]:
        value = node.value
        others: list[object] = []
        if isinstance(value, bool):
            others = [not value]
        elif isinstance(value, int):
            others = [value + 1, *([value - 1] if value > 0 else [])]
        elif isinstance(value, float):
            others = [value * 2, value / 2] if value else [1.0]
        for other in others:
            yield self._mutant(node, operator, repr(other), at_import)

    def _mutant(self, node: ast.expr | ast.stmt, operator: str, replacement: str, at_import: bool = False) -> Mutant:
        start = self._offsets[node.lineno - 1] + node.col_offset
        end = self._offsets[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        outside = at_import or not self._depth
        place = (self._path, node.lineno, operator, start, end, replacement)
        return Mutant(*place, self._lines, outside, self._compiled and not outside)


def _blocks(node: ast.stmt) -> list[list[ast.stmt]]:
    """Return the bodies of a compound statement."""
    blocks = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
    blocks += [handler.body for handler in getattr(node, "handlers", [])]
    blocks += [case.body for case in getattr(node, "cases", [])]
    return blocks


def _expressions(node: ast.AST) -> Iterator[ast.expr | ast.comprehension]:
    """Yield the expressions right below a node, without annotations, messages of errors and calls of loggers."""
    if isinstance(node, ast.Raise):
        return
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[0] in (*LOGGERS, "cast"):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.expr | ast.comprehension):
                yield child
            elif isinstance(child, ast.withitem) or (isinstance(child, ast.keyword) and child.arg != "strict"):
                yield from _expressions(child)  # zip's `strict` guards what other code ensures


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _is_union(node: ast.BinOp) -> bool:
    """Return whether this is a union of types, as in isinstance(x, A | B)."""
    names = [part for part in (node.left, node.right) if isinstance(part, ast.Name | ast.Attribute)]
    classes = [n for n in names if (n.id if isinstance(n, ast.Name) else n.attr)[:1].isupper()]
    builtin = [n for n in names if isinstance(n, ast.Name) and n.id in ("int", "str", "float", "bool", "list", "dict")]
    return isinstance(node.op, ast.BitOr) and bool(classes or builtin)
