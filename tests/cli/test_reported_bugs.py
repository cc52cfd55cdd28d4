"""Bugs of running sweeps, met through the command line alone, so that another installed version can be tested too.

    TRM_PROGRAM=/path/to/bin/trm pytest --noconftest tests/cli/test_reported_bugs.py -m slow

Every test fails with commit a9a5703. Nothing of the package is imported.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.support.program import TINY, Program

pytestmark = pytest.mark.slow

SWEEP = """
from orchestrator.sweep import Confirm, Sweep, Variant, choice, uniform
from trm_model.recipes import get_recipe

base = get_recipe("sudoku-mini")
sweep = Sweep({arguments})
"""
FAILING = """
from trm_model.recursion import Recursion


class Mine(Recursion):
    def cycle(self, states, input_BLD, rotary, steps_without_gradient):
        raise RuntimeError("[/pytorch/third_party/gloo/pair.cc:1] Connection closed by peer [127.0.0.1]")
"""
RUN = ["sweep", "run", *TINY, "--max-steps", "2", "--tracking", "none"]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, str]:
    """A sweep of four trials of which two ran, and what the command printed."""
    program = Program(tmp_path_factory.mktemp("with space"))
    options = ["--vary", "T=1,2", "--seeds", "2", "--name", "four", "--max-trials", "2", "--storage", "my runs"]
    return program, program.run(*RUN, *options)


def refuses_sweep(program: Program, arguments: str, *more: str) -> str:
    (program.folder / "sweep.py").write_text(SWEEP.format(arguments=arguments))
    return program.refuses("sweep", "plan", "sweep.py", "--storage", "runs", *more)


SEARCH = 'kind="search", base=base, trials=4, '


def test_a_metric_that_nothing_measures_is_refused(program: Program) -> None:
    line = refuses_sweep(program, f'name="s", {SEARCH} space={{"T": choice(1, 2)}}, metric="exact_acuracy"')
    assert "exact_accuracy" in line


def test_a_range_without_an_end_is_refused(program: Program) -> None:
    line = refuses_sweep(program, f'name="s", {SEARCH} space={{"lr": uniform(5e-3, float("inf"))}}')
    assert "finite" in line


def test_a_reserved_name_is_refused(program: Program) -> None:
    assert "train" in refuses_sweep(program, f'name="train", {SEARCH} space={{"T": choice(1, 2)}}')


def test_two_variants_of_one_name_are_refused(program: Program) -> None:
    variants = 'variants=(Variant(name="a", settings={"T": 1}), Variant(name="a", settings={"T": 2}))'
    assert "'a'" in refuses_sweep(program, f'name="s", kind="study", base=base, {variants}')


def test_more_cores_than_the_machine_has_do_not_fit(program: Program) -> None:
    printed = program.run("sweep", "plan", "--recipe", "sudoku-mini", "--vary", "T=1", "--cpus", "1000")
    assert "would not fit: nothing" not in printed


def test_a_module_beside_a_sweep_file_is_imported(program: Program) -> None:
    (program.folder / "helper_of_mine.py").write_text("VALUES = (1, 2)\n")
    arguments = 'name="s", kind="study", base=base, space={"T": choice(*helper_of_mine.VALUES)}'
    (program.folder / "sweep.py").write_text("import helper_of_mine\n" + SWEEP.format(arguments=arguments).lstrip())
    program.run("sweep", "plan", "sweep.py", "--storage", "runs", code=0)


def test_a_row_whose_source_has_no_number_is_refused_by_line(program: Program) -> None:
    header = "benchmark,system,kind,role,params,split,metric,protocol,score,items,source,detail,date,evidence"
    row = "sudoku-extreme,Mine,system,headline,,test,exact_accuracy,single,50.0,1000,arXiv ,,2026-01-01,claimed"
    (program.folder / "rows.csv").write_text(f"{header}\n{row}\n")
    printed = program.run("leaderboard", "--baselines", "rows.csv", "--storage", "runs")
    assert "Traceback" not in printed and "rows.csv" in printed


def test_two_of_four_trials_are_not_a_complete_sweep(interrupted: tuple[Program, str]) -> None:
    program, printed = interrupted
    assert "2 of 4" in printed
    assert "2 of 4" in program.run("sweep", "status", "four", "--storage", "my runs", code=0)


def test_printed_commands_can_be_pasted(interrupted: tuple[Program, str]) -> None:
    program, printed = interrupted
    commands = [line.partition("trm ")[2] for line in printed.splitlines() if "trm " in line]
    named = [shlex.split(command) for command in commands if "--storage" in command]
    assert named and all((program.folder / words[words.index("--storage") + 1]).is_dir() for words in named)


def test_a_damaged_record_is_named_and_the_others_are_shown(interrupted: tuple[Program, str]) -> None:
    program, _ = interrupted
    file = sorted((program.folder / "my runs").rglob("start.json"))[0]
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[: len(whole) // 2])
        printed = program.run("sweep", "status", "four", "--storage", "my runs")
    finally:
        file.write_bytes(whole)
    assert "Traceback" not in printed and "start.json" in printed and "four" in printed


def test_nothing_new_is_not_an_extension(interrupted: tuple[Program, str]) -> None:
    program, _ = interrupted
    assert "is extended" not in program.run("sweep", "extend", "four", "--vary", "T=1", "--storage", "my runs")


def test_failed_trials_are_an_error_with_their_own_words(program: Program) -> None:
    file = program.folder / "mine.py"
    file.write_text(FAILING)
    options = ["--vary", "T=1,2", "--set", f"model.recursion={file}:Mine", "--name", "failing", "--storage", "runs"]
    printed = program.run(*RUN, *options, "--no-canary", code=1)
    assert "Traceback" not in printed and "[/pytorch/third_party/gloo/pair.cc:1]" in printed.replace("\n", "")
