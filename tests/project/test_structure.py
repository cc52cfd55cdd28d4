"""The structure of the code: sizes, cycles, words, imports, and how the test run itself behaves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "orchestrator": ROOT / "orchestrator",
    "trm_model": ROOT / "trm_model",
    "trm_data": ROOT / "datasets/trm_data",
}
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
LONG_FUNCTIONS = {
    "orchestrator.cli.commands.sweep:plan": "its parameters are the options of the command",
    "orchestrator.cli.commands.sweep:run": "its parameters are the options of the command",
    "orchestrator.cli.commands.evaluate:evaluate": "its parameters are the options of the command",
    "orchestrator.cli.commands.baselines:run_llm": "its parameters are the options of the command",
    "trm_model.training.loop:train": "the training loop, read from top to bottom in one place",
}
"""Functions above the limit, with the reason."""
WORDS = (
    *("Treasury", "Announcer", "Starts", "Dispatcher", "Seat", "[Zz]ygote", "Pace", "Watcher", "Ending", "Happening"),
    *("Earlier", "Shorter", "DriverLock", r"(?<!['\"])rope", "bell", "stands in line", "in vain", "anew", "given up"),
)
"""The private vocabulary that the field's terms have replaced."""
NO_VERB = re.compile(
    r"(The|An?|What|Whether|How|Which|Where|Why|When|One|All|Of|From|With|Without|Some|This|These|That|Those|It|Every"
    r"|Everything|Anything|Nothing|As|At|In|On|For|By|Number|Seconds|Bytes|Returns|Raises)\b"
)
"""First words with which no docstring starts: it starts with a verb in the imperative."""


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()


def test_docstrings_start_with_a_verb() -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    wrong = [
        f"{name}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}"
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, documented) and (text := ast.get_docstring(node)) and NO_VERB.match(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_and_functions_are_small() -> None:
    long_modules = [name for name, path in MODULES.items() if len(path.read_text().splitlines()) > MAX_MODULE_LINES]
    long_functions = {
        f"{name}:{node.name}"
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert not long_modules
    assert long_functions == set(LONG_FUNCTIONS)


def test_orchestrator_has_no_flat_modules() -> None:
    flat = {path.name for path in PACKAGES["orchestrator"].glob("*.py")}
    assert flat == {"__init__.py", "errors.py"}


def imports_of(name: str, path: Path) -> Iterator[str]:
    """The modules of ours that a module imports, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for target in names:
            known = next((t for t in (target, target.rpartition(".")[0]) if t in MODULES), None)
            if known is not None and known != name:
                yield known


def test_no_import_cycle_even_inside_functions() -> None:
    # The lazy `__init__` of a package names its public modules; that is not a dependency of the modules on each other.
    graph = {
        name: set(imports_of(name, path)) if path.name != "__init__.py" else set() for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_replaced_words_are_nowhere() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
    pattern = re.compile("|".join(rf"\b{word}\b" for word in WORDS))
    texts = (".py", ".md", ".yaml", ".yml", ".toml", ".j2", ".js", ".css", ".sbatch", ".cff", ".txt", "Makefile")
    found = [
        f"{name}:{number}: {match.group()}"
        for name in listed.stdout.splitlines()
        if name.endswith(texts) and ROOT / name != Path(__file__) and (ROOT / name).is_file()
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1)
        if (match := pattern.search(line))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "module",
    [
        *("orchestrator", "trm_model", "trm_data", "trm_model.cost", "trm_model.recipes"),
        *("orchestrator.resources.estimate", "orchestrator.sweep.definition"),
        *("orchestrator.results.report.page", "orchestrator.results.leaderboard"),
    ],
)
def test_import_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'mlflow')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_packages_load_next_to_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import orchestrator, trm_model, trm_data\n"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(tops - set(sys.stdlib_module_names)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["orchestrator", "trm_data", "trm_model"]


def test_run_whose_worker_dies_ends_and_names_the_test(tmp_path: Path) -> None:
    (tmp_path / "test_dies.py").write_text("import os\ndef test_fine(): pass\ndef test_aborts(): os.abort()\n")
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    recipe = (ROOT / "Makefile").read_text()
    (options,) = re.findall(r"-m pytest (-q -n 2 .*)", recipe)
    command = [sys.executable, "-m", "pytest", *options.split(), "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "crashed while running 'test_dies.py::test_aborts'" in done.stdout
