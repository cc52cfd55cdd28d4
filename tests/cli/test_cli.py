"""The command line as a newcomer meets it: what there is, and one clear line for every mistake."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.app import COMMANDS, build_app
from tests.support.arc_tasks import task, write_tasks
from tests.support.commands import call
from trm_data.errors import first_line

GOLDEN = Path(__file__).parents[1] / "golden"
GOOD_6X6 = "123456456123231564564231312645645312"


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Puzzle lists with one mistake each."""
    (tmp_path / "short.txt").write_text("." * 81 + "\n" + "." * 80 + "\n")
    (tmp_path / "letters.txt").write_text("x" * 81 + "\n")
    (tmp_path / "runs").mkdir()
    return tmp_path


MISTAKES = [
    ("swep", "sweep"),
    ("sweep rum", "run"),
    ("sweep run --recpie sudoku-mini", "--recipe"),
    ("sweep run", "--recipe"),
    ("sweep run {tmp}/nowhere.py", "no sweep file"),
    ("sweep run --recipe sudoku-mni --vary T=1,2", "'sudoku-mini'"),
    ("sweep run --recipe sudoku-mini --vary Nsup=1,2", "'N_sup'"),
    ("sweep run --recipe sudoku-mini --vary T=1,x", "--vary T='x'"),
    ("sweep run --recipe sudoku-mini --vary T", "--vary T=1,2"),
    ("sweep run --recipe sudoku-mini --vary T=1 --gpu L40S|", "--gpu"),
    ("sweep run --recipe sudoku-mini --vary T=1 --gpu L40", "Did you mean 'L40S'?"),
    ("sweep run --recipe sudoku-mini --vary T=1 --gpu L40S|H1000", "Did you mean 'H100'?"),
    ("sweep run --recipe sudoku-mini --vary T=1 --seeds 0", "--seeds"),
    ("sweep run --recipe sudoku-mini --vary T=1 --address 127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
    ("sweep run --recipe sudoku-mini --vary T=1 --address nowhere", "not HOST:PORT"),
    ("sweep plan --recipe sudoku-mini --vary model.cycels=1", "'model.cycles'"),
    ("sweep plan demo --set sampler=tpe", "--set sampler: it belongs to the sweep as a whole"),
    ("sweep plan --recipe sudoku-mini --vary seeds=1,2", "--vary seeds: it belongs to the sweep as a whole"),
    ("sweep resume nowhere", "no sweep 'nowhere'"),
    ("sweep status nowhere", "no sweep 'nowhere'"),
    ("sweep stop nowhere", "no sweep 'nowhere'"),
    ("train --recipe sudoku-min", "'sudoku-mini'"),
    ("train --set train.max_step=3", "'train.max_steps'"),
    ("train --set train.batch_size=0", "train.batch_size=0"),
    ("data build sudoku-66", "'sudoku-6x6'"),
    ("data build sudoku-9x9 --source {tmp}/nowhere.txt", "nowhere.txt"),
    ("data build sudoku-9x9 --source {tmp}/short.txt", "2"),
    ("data build sudoku-9x9 --source {tmp}/letters.txt", "letters.txt"),
    ("data show sudoku-4x4 --puzzle 9999", "9999"),
    ("data build arc-agi-1 --set idz=upstream", "'ids'"),
    ("data verify sudoku-44", "'sudoku-4x4'"),
    ("leaderboard arc-agi1", "'arc-agi-1'"),
    ("leaderboard --format htlm", "'htlm'"),
    ("leaderboard arc-agi-2 --split public", "'public-eval'"),
    ("sweep run --recipe sudoku-mini --vary T=0", "--vary T=0: input should be greater"),
    ("sweep run --recipe sudoku-mini --vary T=3..1", "--vary T: low=3 must be below high=1"),
    ("train --set T=0", "--set T=0: input should be greater"),
    ("ablate nowhere --control T=1", "no sweep 'nowhere'"),
    ("ablate nowhere --control T=1 --format latx", "unknown --format 'latx'. Did you mean 'latex'"),
    ("ablate nowhere --control T=1 --plot x.png", "cannot draw a plot as '.png'. Name a file that ends in .svg"),
]


@pytest.mark.parametrize(("line", "hint"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_mistake_is_one_line_with_the_remedy_and_exit_code_2(
    line: str, hint: str, lists: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = line.format(tmp=lists).split()
    if arguments[:1] not in (["swep"], ["train"]) and arguments[:2] not in (["sweep", "rum"],):
        arguments += ["--storage", str(lists / "runs")] if "--recpie" not in arguments else []
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert hint in err
    assert not list((lists / "runs").glob("sweeps/*")), "a refused command leaves nothing behind"


def test_published_rows_are_listed_and_a_bad_file_is_named_with_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys, "baselines", "list", "sudoku-extreme")
    assert code == 0 and "TRM-MLP" in out and "87.4" in out
    rows = out.splitlines()
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("\n".join(rows[:3]) + "\n")
    bad.write_text("\n".join([*rows[:2], rows[2].replace(",0.0,", ",101.0,")]) + "\n")
    assert call(capsys, "baselines", "check", str(good))[0] == 0
    code, _, err = call(capsys, "baselines", "check", str(bad))
    assert code == 2 and "bad.csv" in err and "101" in err and err.count("\n") == 1


def test_an_even_draw_over_orders_of_magnitude_is_said_with_the_way_to_draw_their_logarithm(
    capsys: pytest.CaptureFixture[str], lists: Path
) -> None:
    line = ["sweep", "plan", "--recipe", "sudoku-mini", "--trials", "4", "--storage", str(lists / "runs"), "--vary"]
    _, _, err = call(capsys, *line, "lr=1e-4..1e-2")
    assert "nine in ten draws are above 0.00109" in err and "--vary lr=log:0.0001..0.01" in err
    for quiet in ("lr=log:1e-4..1e-2", "lr=1e-3..1e-2", "T=1..200"):
        assert "nine in ten" not in call(capsys, *line, quiet)[2]


def test_port_in_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = call(capsys, "ui", "--port", str(port), "--storage", str(tmp_path))
    assert code == 2 and err == f"error: port {port} is in use. Name another: --port {port + 10}\n"


@pytest.fixture
def full_disk(tmp_path: Path) -> Path:
    """A file system of 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder  # type: ignore[misc]
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_is_one_line_and_leaves_no_half_dataset(full_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "data", "build", "sudoku-6x6", "--num-train", "2000", "--storage", str(full_disk))
    assert code == 3 and err.count("\n") == 1 and "No space left" in err
    assert not list(full_disk.glob("datasets/*/manifest.json"))


def test_export_onto_a_full_disk_is_one_line_and_leaves_nothing(
    full_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a process of its own: without space, a file that is mapped into memory ends it with a signal."""
    storage = ["--storage", str(tmp_path / "runs")]
    build = ["data", "build", "sudoku-6x6", "--num-train", "2000", "--num-validation", "0", "--num-test", "4"]
    built = json.loads(call(capsys, *build, *storage, "--json")[1])
    code = "from orchestrator.cli import main; main()"
    command = [sys.executable, "-c", code, "data", "export", built["name"], str(full_disk / "out"), *storage]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3 and done.stderr.count("\n") == 1 and "No space left" in done.stderr
    assert list(full_disk.iterdir()) == []


def test_reason_of_a_foreign_error_is_one_line_even_where_it_says_nothing() -> None:
    assert first_line(OSError("\n  disk full \nlong story")) == "disk full"
    assert first_line(EOFError()) == "EOFError"
    assert first_line(ValueError(" \n ")) == "ValueError"


def test_help_has_examples_and_imports_nothing_heavy() -> None:
    code = "import sys\nfrom orchestrator.cli import main\n"
    code += "try: main(['sweep', 'run', '--help'])\nexcept SystemExit: pass\n"
    code += "print('HEAVY', sorted({'torch', 'ray', 'mlflow', 'optuna', 'numba', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "trm sweep run demo" in done.stdout
    assert "HEAVY []" in done.stdout, "help must not import heavy libraries"


def test_data_builds_lists_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = ["--storage", str(tmp_path)]
    sizes = ["--num-train", "20", "--num-validation", "4", "--num-test", "4"]
    code, out, _ = call(capsys, "data", "build", "sudoku-4x4", *sizes, *storage, "--json")
    assert code == 0 and json.loads(out)["counts"] == {"train": 20, "validation": 4, "test": 4}
    code, out, _ = call(capsys, "data", "list", *storage, "--json")
    built = json.loads(out)["built"]
    assert code == 0 and [row["benchmark"] for row in built] == ["sudoku-4x4-generated"]
    name, picture = built[0]["name"], tmp_path / "puzzle.png"
    code, _, _ = call(capsys, "data", "show", name, *storage, "--out", str(picture))
    assert code == 0 and picture.read_bytes().startswith(b"\x89PNG")
    assert call(capsys, "data", "fingerprint", name, *storage)[1].strip() == built[0]["fingerprint"]


def test_command_after_a_build_names_the_storage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "my runs")
    build = ["data", "build", "sudoku-4x4", "--num-train", "4", "--num-validation", "0", "--num-test", "4"]
    code, out, _ = call(capsys, *build, "--storage", place)
    (name,) = (path.parent.name for path in Path(place, "datasets").glob("[!.]*/manifest.json"))
    assert code == 0 and f"draw one: trm data show {name} --storage '{place}'" in out


def test_exported_dataset_is_imported_as_the_same_puzzles_and_damage_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(tmp_path / "runs")]
    sizes = ["--num-train", "20", "--num-validation", "0", "--num-test", "4"]
    built = json.loads(call(capsys, "data", "build", "sudoku-4x4", *sizes, *storage, "--json")[1])
    assert call(capsys, "data", "verify", built["name"], *storage)[0] == 0
    folder = str(tmp_path / "official")
    assert call(capsys, "data", "export", built["name"], folder, "--augmentations", "2", *storage)[0] == 0
    code, out, err = call(capsys, "data", "import-official", folder, *storage, "--json")
    assert code == 0, err
    assert json.loads(out)["counts"]["train"] == 20
    examples = tmp_path / "runs" / "datasets" / built["name"] / "examples.arrow"
    content = bytearray(examples.read_bytes())
    content[len(content) // 2] ^= 1
    examples.chmod(0o644)
    examples.write_bytes(content)
    code, out, _ = call(capsys, "data", "verify", built["name"], *storage)
    assert code == 1 and "content has changed" in out


def test_plan_prints_cells_seeds_steps_and_time_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--recipe", "sudoku-mini", "--vary", "T=1,2", "--vary", "n=2,4", "--seeds", "3", "--max-steps", "50"]
    code, out, _ = call(capsys, "sweep", "plan", *options, "--storage", str(tmp_path))
    assert code == 0 and "12 trials" in out and "T=2 n=4" in out and "estimated time" in out and "would not fit" in out
    assert "seeds needed for a difference of: 1 pt" in out and "assumed spread over seeds" in out
    assert not list(tmp_path.iterdir())
    code, out, _ = call(capsys, "sweep", "plan", *options, "--storage", str(tmp_path), "--json")
    plan = json.loads(out)
    assert plan["num_trials"] == 12 and plan["total_steps"] == 600
    seeds = plan["seeds_needed"]
    assert seeds["comparisons"] == 3 and not seeds["spread"]["is_recorded"] and seeds["seeds"] == 3
    assert [one["points"] for one in seeds["needed"]] == [1, 2, 5, 10]
    flops = {cell["family"]: cell["train_flops"] for cell in plan["cells"]}
    assert flops["T=1 n=2"] < flops["T=2 n=2"] < flops["T=2 n=4"]


@pytest.mark.parametrize(
    "options",
    [
        ["--recipe", "sudoku-mini", "--vary", "T=1,2", "--seeds", "3", "--set", "wd=0.5", "--set", "lr=1e-3"],
        ["--recipe", "sudoku-mini", "--gpu", "L40S|H100", "--share-gpus", "--max-concurrent", "2", "--name", "a.b"],
        ["SWEEP", "--max-steps", "20"],
    ],
)
def test_plan_names_the_command_that_runs_it(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The words of the command are those that were planned, so it can be pasted into a shell."""
    (tmp_path / "a sweep.py").write_text(
        "from orchestrator import Sweep, get_recipe\nsweep = Sweep(name='s', base=get_recipe('sudoku-mini'))\n"
    )
    options = [str(tmp_path / "a sweep.py") if word == "SWEEP" else word for word in options]
    where = ["--storage", str(tmp_path / "my runs")]
    code, out, _ = call(capsys, "sweep", "plan", *options, *where)
    assert code == 0 and "not built yet: 1 of 1" in out and "concurrent trials: " in out and "factor of" in out
    [command] = re.findall(r"Run it: (.*)", out)
    words = shlex.split(command)
    assert words[:3] == ["trm", "sweep", "run"] and sorted(words[3:]) == sorted([*options, *where])
    plan = str(tmp_path / "plan.jsonl")
    _, out, _ = call(capsys, "sweep", "plan", *options, *where, "--out", plan)
    [command] = re.findall(r"Run it: (.*)", out)
    where_to_run = [word for word in options if word in ("--share-gpus", "--max-concurrent", "2")]
    assert sorted(shlex.split(command)) == sorted(["trm", "sweep", "run", plan, *where, *where_to_run])


@pytest.mark.parametrize(("gpu", "meant"), [("L40", "L40S"), ("nne", "none"), ("H100|L40", "L40S")])
def test_plan_allows_an_unknown_gpu_and_asks_whether_another_is_meant(
    gpu: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--recipe", "sudoku-mini", "--vary", "T=1", "--gpu", gpu, "--storage", str(tmp_path))
    code, out, err = call(capsys, "sweep", "plan", *options)
    assert code == 0 and f"is unknown, and no node has that label. Did you mean {meant!r}?" in out, err
    code, _, err = call(capsys, "sweep", "run", *options)
    assert code == 2 and f"Did you mean {meant!r}?" in err


def test_command_that_runs_a_plan_names_its_recursion_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.py"
    own.write_text("from trm_model import Recursion\nclass Own(Recursion): ...\n")
    options = ["--recipe", "sudoku-mini", "--set", "model.recursion=own.py:Own"]
    _, out, _ = call(capsys, "sweep", "plan", *options, "--out", "plan.jsonl")
    assert f"Run it: trm sweep run plan.jsonl --trust {own}\n" in out
    _, out, _ = call(capsys, "sweep", "plan", *options)
    assert f"Run it: trm sweep run {shlex.join(options)}\n" in out


def test_plan_names_the_cells_that_fit_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--recipe", "arc-agi-1", "--vary", "n=4,40", "--gpu", "L40S", "--storage", str(tmp_path), "--json"]
    _, out, _ = call(capsys, "sweep", "plan", *options)
    misfits = {cell["family"]: cell["does_not_fit"] for cell in json.loads(out)["cells"]}
    assert "L40S" in misfits["n=40"]


def test_build_and_list_say_how_many_test_inputs_are_in_no_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = {"training/a": task(1), "evaluation/b": task(2, tests=3, unanswered=2)}
    source = write_tasks(tmp_path / "in", tasks)
    storage = ["--storage", str(tmp_path / "runs")]
    build = ["data", "build", "arc-agi-1", "--source", str(source), "--num-validation", "0"]
    for command in (build, ["data", "list"]):
        code, out, err = call(capsys, *command, *storage)
        assert code == 0 and "2 test inputs without a known answer are in no score" in " ".join(out.split()), err
    code, out, _ = call(capsys, "data", "list", "--json", *storage)
    assert json.loads(out)["built"][0]["unanswered"] == {"train": 0, "validation": 0, "test": 2}


def test_data_list_names_damaged_datasets_and_lists_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "datasets"
    build = ["data", "build", "sudoku-4x4", "--num-train", "8", "--num-validation", "0", "--num-test", "4"]
    assert call(capsys, *build, "--storage", str(tmp_path))[0] == 0
    (whole,) = root.glob("[!.]*/manifest.json")
    for name, content in (("empty", ""), ("newer", "{}"), ("list", "[]"), ("no-text", None)):
        (root / name).mkdir()
        (root / name / "manifest.json").write_bytes(b"\xff" if content is None else content.encode())
    code, out, err = call(capsys, "data", "list", "--storage", str(tmp_path))
    assert code == 0 and whole.parent.name in out and "8 train" in out
    assert "4 damaged datasets skipped:" in err
    assert all(f"{root / name}: " in err for name in ("empty", "newer", "list", "no-text"))
    found = json.loads(call(capsys, "data", "list", "--json", "--storage", str(tmp_path))[1])
    assert len(found["built"]) == 1 and len(found["damaged"]) == 4


def test_surface_is_the_recorded_one() -> None:
    """Growing the command line is a decision: change tests/golden/cli.txt with it."""
    import typer.main

    lines = []
    for name, command in _walk(typer.main.get_command(build_app()), "trm"):
        options = sorted(option for parameter in command.params for option in parameter.opts if option.startswith("--"))
        lines.append(" ".join([name, *options]))
    assert "\n".join(lines) + "\n" == (GOLDEN / "cli.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["cloud", "render"], "error: Missing argument 'sweep'. See `trm cloud render --help`"),
        (["sweep", "statuz"], "error: No such command 'statuz'. Did you mean 'status'? See `trm sweep --help`"),
        (
            ["sweep", "status", "--jso"],
            "error: No such option: --jso (Possible options: --json). See `trm sweep status --help`",
        ),
    ],
)
def test_wrong_usage_names_the_help_of_that_command(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, *arguments)
    assert (code, err.strip()) == (2, line)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["sweep", "plan"], ["sweep"]),
        (["-vv", "train", "--help"], ["train"]),
        (["--help"], list(COMMANDS)),
        (["swep", "plan"], list(COMMANDS)),
        ([], list(COMMANDS)),
    ],
)
def test_only_the_command_that_is_called_is_built(arguments: list[str], found: list[str]) -> None:
    import typer.main

    assert set(typer.main.get_command(build_app(arguments)).commands) == set(found)  # type: ignore[attr-defined]


def test_no_help_text_loses_words_in_angle_brackets() -> None:
    """Markdown takes `<word>` for HTML and leaves it out."""
    import typer.main

    lost = []
    for name, command in _walk(typer.main.get_command(build_app()), "trm"):
        texts = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
        lost += [f"{name}: {text}" for text in texts if re.search(r"<[^\s<>=][^<>]*>", text or "")]
    assert lost == []


def _walk(command: object, name: str):  # type: ignore[no-untyped-def]
    children = getattr(command, "commands", None)
    if not children:
        yield name, command
        return
    for child in sorted(children):
        yield from _walk(children[child], f"{name} {child}")
