"""Made-up and damaged input on every surface: it is read rightly, or refused in one line with exit code 2.

`make test` runs a few fixed examples of each test, `make fuzz MINUTES=10` as many random ones as fit. What it has found
is an `@example` of its test.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.sweep.settings import flatten
from tests.support.arc_tasks import task, write_tasks
from tests.support.fuzz import (
    BYTES,
    EITHER,
    JSON,
    NUMBERS,
    ODD_TEXTS,
    SCALARS,
    VALUES,
    ByteEdit,
    Edits,
    JsonEdit,
    call,
    check,
    dump,
    edit_bytes,
    edit_document,
    edit_json,
    files,
    fuzz,
    replaced,
)
from tests.support.older import unpack_older
from trm_data.benchmarks import list_benchmarks
from trm_model.recipes import get_recipe

BASELINES = Path(__file__).parents[2] / "orchestrator/results/baselines/data"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with two sweeps, a dataset and a checkpoint."""
    return unpack_older("storage", tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(scope="module")
def dataset(storage: Path) -> Path:
    """The only dataset of the storage."""
    (found,) = (storage / "datasets").iterdir()
    return found


@pytest.fixture(scope="module")
def checkpoint(storage: Path) -> Path:
    """The only checkpoint of the storage."""
    return next(storage.rglob("checkpoints/*"))


def refused_or_built(benchmark: str, source: Path, folder: Path, *more: str) -> None:
    """Build a dataset from a source; if it is refused, nothing is left behind."""
    runs = folder / "runs"
    outcome = check(call("data", "build", benchmark, "--source", str(source), "--storage", str(runs), *more))
    built = [path for path in files(runs) if path.startswith("datasets/")] if runs.exists() else []
    assert bool(built) == (outcome.code == 0), f"partial output: {built}"
    if outcome.code == 0:
        (manifest,) = (path for path in built if path.endswith("manifest.json"))
        assert check(call("data", "verify", str((runs / manifest).parent))).code == 0


ROWS = [
    "1..4.2..3..1....",
    "1234341221434321",
    "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79",
    "534678912672195348198342567859761423426853791713924856961537284287419635345286179",
]
HEADERS = ["source,question,answer,rating", "quizzes,solutions", "question,answer", "# note", "p:1:s"]
ONE_TRAINING = ("--num-train", "1", "--num-validation", "0", "--num-test", "0")
ROW = st.sampled_from(ROWS)
LINES = st.one_of(
    st.sampled_from([*ROWS, *HEADERS]),
    st.text(alphabet='0123456789.,_#" \t', max_size=90),
    st.text(max_size=20),
    st.tuples(ROW, ROW, SCALARS).map(lambda row: ",".join(map(str, row))),
    st.tuples(SCALARS, ROW, ROW, SCALARS).map(lambda row: ",".join(map(str, row))),
)


def joined(start: str, lines: list[str], end: str) -> bytes:
    return (start + end.join(lines)).encode("utf-8", "surrogatepass")


TEXTS = st.one_of(
    st.builds(joined, st.sampled_from(["", "\ufeff"]), st.lists(LINES, max_size=8), st.sampled_from(["\n", "\r\n"])),
    BYTES.map(lambda edits: edit_bytes("\n".join(ROWS).encode(), edits)),
    st.binary(max_size=100),
)


@fuzz
@given(TEXTS, st.sampled_from(["list.txt", "list.csv"]), st.sampled_from(["sudoku-4x4", "sudoku-9x9"]))
def test_puzzle_lists(content: bytes, name: str, benchmark: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (source := Path(folder, name)).write_bytes(content)
        refused_or_built(benchmark, source, Path(folder), *ONE_TRAINING)


@fuzz
@given(TEXTS, TEXTS, st.sampled_from(["sudoku-extreme", "maze-hard"]))
def test_published_tables(train: bytes, test: bytes, benchmark: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (source := Path(folder, "pair")).mkdir()
        (source / "train.csv").write_bytes(train)
        (source / "test.csv").write_bytes(test)
        refused_or_built(benchmark, source, Path(folder), "--num-train", "1", "--num-validation", "0")


TASKS = {"training/a": task(1), "training/b": task(2), "evaluation/c": task(3)}


@fuzz
@given(EITHER, st.sampled_from(list(TASKS)))
def test_folders_of_arc_tasks(edits: Edits, damaged: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = write_tasks(Path(folder, "arc"), TASKS)
        (source / f"{damaged}.json").write_bytes(edit_document(TASKS[damaged], edits))
        refused_or_built("arc-agi-1", source, Path(folder), "--num-validation", "0")


def kaggle(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the challenges and the solutions of one task."""
    whole = task(seed)
    answers = [each["output"] for each in whole["test"]]
    asked = [{"input": each["input"]} for each in whole["test"]]
    return {f"task{seed}": {**whole, "test": asked}}, {f"task{seed}": answers}


@fuzz
@given(EITHER, st.sampled_from(["training", "evaluation"]), st.sampled_from([0, 1]))
def test_kaggle_files_of_arc_tasks(edits: Edits, damaged: str, which: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, subset in enumerate(("training", "evaluation")):
            for index, content in enumerate(kaggle(number)):
                is_damaged = (subset, index) == (damaged, which)
                path = Path(folder, f"arc-agi_{subset}_{('challenges', 'solutions')[index]}.json")
                path.write_bytes(edit_document(content, edits) if is_damaged else dump(content))
        refused_or_built("arc-agi-1", Path(folder, "arc-agi"), Path(folder), "--num-validation", "0")


@fuzz
@given(JSON, BYTES, st.sampled_from(["manifest.json", "examples.arrow", "puzzles.arrow"]), st.booleans())
def test_files_of_a_dataset(
    dataset: Path, values: list[JsonEdit], edits: list[ByteEdit], name: str, is_signed: bool
) -> None:
    """Signed: with the hash of the changed file in the manifest, as an attacker would write it."""
    with tempfile.TemporaryDirectory() as folder:
        changed = shutil.copytree(dataset, Path(folder, "changed"), ignore=lambda *_: [".checked.json"])
        manifest = json.loads((changed / "manifest.json").read_text())
        if name == "manifest.json":
            (changed / name).write_bytes(dump(edit_json(manifest, values)))
        else:
            made = edit_bytes((changed / name).read_bytes(), edits)
            (changed / name).write_bytes(made)
            if is_signed:
                manifest["files"][name] = hashlib.sha256(made).hexdigest()
                (changed / "manifest.json").write_text(json.dumps(manifest))
        check(call("data", "verify", str(changed)), also=(1,))
        check(call("data", "show", str(changed), "--out", str(Path(folder, "x.png"))))
        check(call("data", "list", "--storage", folder))


def edit_header(whole: bytes, edits: list[JsonEdit], is_inner: bool) -> bytes:
    """Return a safetensors file with another header, or with other facts of the run in it."""
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    if is_inner:
        facts = json.loads(header["__metadata__"]["trm"])
        header["__metadata__"]["trm"] = json.dumps(edit_json(facts, edits))
    else:
        header = edit_json(header, edits)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + whole[8 + length :]


@fuzz
@given(JSON, BYTES, st.sampled_from(["facts", "header", "bytes"]))
@example([JsonEdit("remove", 92, None)], [], "facts")  # a header without id_map_hash: KeyError
def test_checkpoints(checkpoint: Path, values: list[JsonEdit], edits: list[ByteEdit], what: str) -> None:
    whole = checkpoint.read_bytes()
    made = edit_bytes(whole, edits) if what == "bytes" else edit_header(whole, values, what == "facts")
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder, "model.safetensors")).write_bytes(made)
        out = Path(folder, "out")
        check(call("checkpoint", "show", str(path)))
        check(call("solve", str(path), ROWS[0]), also=(1,))
        if check(call("checkpoint", "export", str(path), "-o", str(out))).code == 2:
            assert not out.exists()


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file as the official trainer writes it, with some tensors of a model."""
    path = tmp_path_factory.mktemp("official") / "step_1"
    names = ("inner.H_init", "inner.L_init", "inner.lm_head.weight", "inner.q_head.bias")
    torch.save({f"_orig_mod.model.{name}": torch.zeros(8) for name in names}, path)
    return path.read_bytes()


@fuzz
@given(BYTES)
def test_official_checkpoints(official: bytes, edits: list[ByteEdit]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, "step_1"), Path(folder, "out.safetensors")
        path.write_bytes(edit_bytes(official, edits))
        if check(call("checkpoint", "import", str(path), "--recipe", "sudoku-mini", "-o", str(out))).code == 2:
            assert not out.exists()


SETTINGS = sorted(flatten(get_recipe("sudoku-mini").plain()))
DOMAINS = ["choice(1, 2)", "choice()", "uniform(0, 1)", "log_uniform(0, 1)", "integers(1, 10**9)", "uniform(1, nan)"]
LITERALS = VALUES.map(repr) | st.sampled_from(DOMAINS)
FIELDS = ["name", "kind", "base", "space", "seeds", "trials", "variants", "only_if", "forbidden", "sampler", "stopping"]
FIELDS += ["confirm", "metric", "minimise", "warm_start", "equal", "resources", "resource_rules"]


@fuzz
@given(
    st.dictionaries(st.sampled_from(FIELDS), LITERALS, max_size=3),
    st.dictionaries(st.sampled_from(["T", "n", "N_sup", *SETTINGS]), LITERALS, max_size=2),
)
def test_sweep_files(fields: dict[str, str], space: dict[str, str]) -> None:
    cells = "{" + ", ".join(f"{name!r}: {value}" for name, value in space.items()) + "}"
    given = {"name": "'fuzz'", "base": "get_recipe('sudoku-mini')", "space": cells, **fields}
    text = "from orchestrator.sweep import Sweep, choice, integers, log_uniform, uniform\n"
    text += "from trm_model.recipes import get_recipe\nnan, inf = float('nan'), float('inf')\n"
    text += f"sweep = Sweep({', '.join(f'{name}={value}' for name, value in given.items())})\n"
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder, "sweep.py")).write_bytes(text.encode("utf-8", "backslashreplace"))
        check(call("sweep", "plan", str(path), "--storage", str(Path(folder, "runs"))))


@pytest.fixture(scope="module")
def plan_lines(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    path = tmp_path_factory.mktemp("plan") / "plan.jsonl"
    arguments = ["sweep", "plan", "--recipe", "sudoku-mini", "--vary", "T=1,2", "--out", str(path)]
    assert call(*arguments, "--storage", str(storage)).code == 0
    return [json.loads(line) for line in path.read_text().splitlines()]


@fuzz
@given(EITHER, st.integers(0, 2))
def test_plan_files(plan_lines: list[Any], edits: Edits, number: int) -> None:
    lines = list(map(dump, plan_lines))
    lines[number] = edit_document(plan_lines[number], edits)
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder, "plan.jsonl")).write_bytes(b"\n".join(lines))
        check(call("sweep", "plan", str(path), "--storage", str(Path(folder, "runs"))))


READERS = (
    "sweep status",
    "sweep status compared",
    "sweep status cut --json",
    "sweep export compared --format csv",
    "sweep export cut --format latex",
    "leaderboard",
    "leaderboard --format json",
    "ablate compared --control T=1 --format markdown",
    "trial show {trial}",
    "sweep prune cut --keep-bytes 1 --dry-run",
)


@fuzz
@given(
    st.integers(0, 999),
    EITHER,
    st.lists(st.sampled_from(READERS), min_size=1, max_size=3),
)
def test_records(storage: Path, which: int, edits: Edits, commands: list[str]) -> None:
    names = sorted(path for path in storage.glob("sweeps/**/*.json*") if not path.name.startswith(("index", ".")))
    path = names[which % len(names)]
    text = path.read_bytes()
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in text.splitlines()]
        number = which % len(lines)
        made = b"\n".join([*map(dump, lines[:number]), edit_document(lines[number], edits)])
    else:
        made = edit_document(json.loads(text), edits)
    trial = next((part for part in path.parts if len(part) == 12 and part.isalnum()), "0")
    with replaced(path, made):
        for command in commands:
            check(call(*command.format(trial=trial).split(), "--storage", str(storage)))


@fuzz
@given(
    st.sampled_from(sorted(path.name for path in BASELINES.glob("*.csv"))),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30), SCALARS), max_size=3),
    st.just([]) | BYTES,
)
def test_baselines(name: str, cells: list[tuple[int, int, Any]], edits: list[ByteEdit]) -> None:
    rows = [line.split(",") for line in (BASELINES / name).read_text().splitlines()[:6]]
    for row, column, value in cells:
        rows[row % len(rows)][column % len(rows[row % len(rows)])] = str(value)
    made = edit_bytes("\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass"), edits)
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder, name)).write_bytes(made)
        code = check(call("baselines", "check", str(path)), also=(1,)).code
        shown = check(call("leaderboard", "--baselines", str(path), "--format", "latex", "--storage", folder)).code
        assert (code == 0) == (shown == 0)


TEXT_VALUES = st.one_of(SCALARS.map(str), VALUES.map(lambda value: json.dumps(value)), st.sampled_from(ODD_TEXTS))
PLAN = "sweep plan --recipe sudoku-mini --vary T=1,2"
ADD = "baselines add --source x --date 2026"
SURFACES = (
    "train --show-config --set {setting}={value}",
    "sweep plan --recipe sudoku-mini --vary {setting}={value}",
    f"{PLAN} --set {{setting}}={{value}}",
    f"{PLAN} --seeds {{value}}",
    f"{PLAN} --trials {{value}}",
    f"{PLAN} --max-steps {{value}}",
    f"{PLAN} --name {{value}}",
    f"{PLAN} --gpu {{value}}",
    f"{PLAN} --cpus {{value}}",
    "sweep plan --recipe {value} --vary T=1,2",
    "sweep status {value}",
    "trial show {value}",
    "trial show compared/{value}",
    "ablate compared --control {value}",
    "sweep export {value}",
    "sweep export compared --format {value}",
    "sweep prune cut --dry-run --keep-bytes {value}",
    "sweep rename cut {value} --yes",
    "data fingerprint {value}",
    "data show {value}",
    "leaderboard --split {value}",
    "leaderboard --gco2-per-kwh {value}",
    "solve cut/{value} 1..4.2..3..1....",
    f"{ADD} --benchmark sudoku-extreme --system {{value}} --score 1",
    f"{ADD} --benchmark sudoku-extreme --system x --score {{value}}",
    f"{ADD} --benchmark {{value}} --system x --score 1 --detail {{value}}",
)


@fuzz
@given(st.sampled_from(SURFACES), st.sampled_from([*SETTINGS, "T", "n", "N_sup", "D"]), TEXT_VALUES)
def test_values_of_the_command_line(storage: Path, command: str, setting: str, value: str) -> None:
    value = value.replace("\x00", "")  # no argument of a process can hold one
    words = [word.format(setting=setting, value=value) for word in command.split()]
    with tempfile.TemporaryDirectory() as folder:
        is_changing = "rename" in command or "add" in command
        copied = shutil.copytree(storage, Path(folder, "runs")) if is_changing else storage
        check(call(*words, "--storage", str(copied)))


OPTIONS = ["--num-train", "--num-validation", "--num-test", "--blanks", "--seed"]


@fuzz
@given(st.sampled_from([each.name for each in list_benchmarks()]), st.sampled_from(OPTIONS), NUMBERS)
@example("sudoku-4x4", "--seed", 10**30)  # OverflowError of the generator
def test_fingerprints_of_requests(benchmark: str, option: str, value: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        setting = option.removeprefix("--").replace("-", "_").replace("seed", "build_seed")
        words = [
            "--set",
            f"data.benchmark={benchmark}",
            "--set",
            "data.blanks=null",
            "--set",
            f"data.{setting}={value}",
        ]
        check(call("train", "--show-config", *words, "--storage", folder))
        small = [word for name in OPTIONS[:3] if name != option for word in (name, "1")]
        check(call("data", "build", "sudoku-4x4", *small, option, str(value), "--storage", folder))


@fuzz
@given(TEXTS | ROW.map(str.encode))
def test_puzzles_to_solve(checkpoint: Path, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder, "puzzle.txt")).write_bytes(content)
        check(call("solve", str(checkpoint), str(path)), also=(1,))
