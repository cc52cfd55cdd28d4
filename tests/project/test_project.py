"""The repository itself: layout, README, packaging, and that every claim names a test that runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import claims

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
    *sorted((ROOT / "infra").glob("**/*.md")),
]


@pytest.mark.parametrize("folder", ["datasets", "sweeps", "infra"])
def test_folders_that_carry_another_librarys_name_are_no_packages(folder: str) -> None:
    assert (ROOT / folder).is_dir() and not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_every_page_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    broken = [t for t in targets if not t.startswith(("http://", "https://")) and not (page.parent / t).exists()]
    assert not broken


def test_commands_of_the_readme_exist_with_their_options() -> None:
    surface = {line.split(" --")[0]: line for line in (ROOT / "tests/golden/cli.txt").read_text().splitlines()}
    texts = [README, *(page.read_text() for page in (ROOT / "docs" / "how-to").glob("*.md"))]
    texts.append((ROOT / "docs" / "first-session.md").read_text())
    commands = re.findall(r"(?:^(?:\$ )?|`)(trm \w[^`\n|>#]*)", "\n".join(texts), re.MULTILINE)
    assert len(commands) > 40
    for command in commands:
        known = [name for name in surface if f"{command} ".startswith(f"{name} ")]
        assert known, command
        options = re.findall(r"--[a-z-]+", command)
        assert set(options) <= set(re.findall(r"--[a-z-]+", surface[max(known, key=len)])), command
    for target in re.findall(r"^make (\S+)", README, re.MULTILINE):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def test_readme_names_the_platforms_before_the_first_command() -> None:
    before = README[: README.index("```")]
    assert all(each in before for each in ("Linux", "WSL2", "macOS", "Python 3.11"))


def test_layout_page_names_every_file() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import tree
    finally:
        sys.path.remove(str(ROOT / "docs"))
    page = (ROOT / "docs/development/layout.md").read_text()
    assert tree.updated(page) == page, "run: python docs/tree.py"


def test_call_paths_of_the_layout_page_exist() -> None:
    page = (ROOT / "docs/development/layout.md").read_text()
    named = re.findall(r"`([\w/]+\.py):(\w+)`", page)
    assert len(named) > 30
    for file, function in named:
        assert re.search(rf"def {function}\(", (ROOT / file).read_text()), f"{file}:{function}"


def test_files_that_contributing_names_exist() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`([\w.-]+(?:/[\w.-]*)+)`", page)
    assert len(named) > 60
    assert not [path for path in named if not (ROOT / path).exists()]
    for row in re.findall(r"^\|.*\|$", page, re.MULTILINE):
        files = [(ROOT / path).read_text() for path in re.findall(r"`([\w/.-]+\.py)`", row)]
        for name in re.findall(r"`(\w+)`(?=[,)])", row) if files else []:
            assert any(re.search(rf"\b{name}\b", text) for text in files), f"no file of this row has {name}: {row[:60]}"


def test_packages_of_the_layout_page_are_those_of_the_code() -> None:
    page = (ROOT / "docs/development/layout.md").read_text()
    first = page.partition("## Packages of `trm_model`")[0]
    named = set(re.findall(r"^\| \d+ \| `(\w+)`", first, re.MULTILINE))
    there = {path.parent.name for path in (ROOT / "orchestrator").glob("*/__init__.py")}
    assert named == there | {"errors"}


def test_every_recipe_constructs_and_says_what_it_is() -> None:
    from trm_model.recipes import RECIPES

    for name, recipe in RECIPES.items():
        assert recipe().recipe in ("", name)
        assert recipe.__doc__, name


def test_every_claim_names_tests_and_records_that_exist() -> None:
    page = (ROOT / "docs" / "development" / "claims.md").read_text()
    named = {test for claim in claims.claims_of(page) for test in claim.tests}
    assert len(named) > 200 and len(claims.claims_of(page)) > 150
    assert set(re.findall(r"`(tests/[\w/]+\.py::[\w:]+)`", page)) == named
    for test in named:
        marks = claims.marks_of(test)
        assert not any(re.search(r"mark\.(skip|xfail)", mark) for mark in marks), f"{test} is skipped"
    for record in re.findall(r"`(benchmarks/[\w./-]+|docs/results/[\w./-]+)`", page):
        assert (ROOT / record).exists(), record


def test_wheel_holds_the_packages_with_their_facts_and_templates(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"orchestrator", "trm_model", "trm_data"}
    assert "orchestrator/_catalogue/gpus.csv" in names
    assert any(name.startswith("orchestrator/results/report/templates/") for name in names)
    assert any(name.startswith("orchestrator/results/baselines/data/") for name in names)
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "sweeps", "infra"], capture_output=True, text=True)
    assert listed.stdout
    for name in listed.stdout.split():
        packed = re.sub("^(infra|sweeps)/", r"_\1/", name).replace("_infra/catalogue/", "_catalogue/")
        assert f"orchestrator/{packed}" in names, name


def test_packaged_sweep_is_planned_by_name_from_the_wheel_in_an_empty_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    code = "import sys; from orchestrator.cli import main; main(sys.argv[1:])"

    def trm(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path / "empty",
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )

    [wheel] = tmp_path.glob("*.whl")
    version = trm("--version")
    assert version.stdout == f"trm {wheel.name.split('-')[1]}\n", version.stderr
    [entry_points] = (tmp_path / "site").glob("*.dist-info/entry_points.txt")
    assert "trm = orchestrator.cli:main" in entry_points.read_text().splitlines()
    planned = trm("sweep", "plan", "demo", "--set", "train.max_steps=2")
    assert planned.returncode == 0 and planned.stdout.startswith("demo (search)"), planned.stderr
    wrong = trm("sweep", "run", "sweeps/demo.py")
    assert wrong.returncode == 2 and "'demo' is a packaged sweep: trm sweep run demo" in wrong.stderr
    where = "from orchestrator.errors import project_file as f; print(f('infra/aws/README.md'))"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "site/orchestrator/_infra/aws/README.md"
