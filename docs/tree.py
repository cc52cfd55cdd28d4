"""Write the list of files in docs/development/layout.md: one line per file, from the first line of its docstring.

python docs/tree.py
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- tree: `python docs/tree.py` writes it, a test checks it -->\n", "<!-- /tree -->"
OTHER = {
    ".github/workflows/ci.yml": "CI on GitHub: calls .ci/run",
    ".pre-commit-config.yaml": "the checks of `make lint` at every commit",
    "CITATION.cff": "how to cite",
    ".ci/run": "what continuous integration runs",
    ".gitignore": "",
    "CHANGELOG.md": "what changed for users",
    "LICENSE": "MIT",
    "Makefile": "demo, test, test-slow, claims, mutation, lint",
    "README.md": "",
    "constraints.txt": "one known good set of versions",
    "mkdocs.yml": "the documentation site",
    "pyproject.toml": "package, dependencies, tools",
    "docs/development/slow-tests.json": "when slow tests and tests for GPUs last ran",
    "docs/images/leaderboard.png": "",
    "infra/aws/README.md": "AWS: quotas, rights, costs, steps",
    "infra/aws/iam-head.json": "rights of the head",
    "infra/aws/iam-launch.json": "rights of the user who launches",
    "infra/aws/iam-worker.json": "rights of the workers",
    "infra/aws/ray-cluster.yaml": "CPU head, L40S and H100 workers, spot, from zero",
    "infra/aws/ray-single.yaml": "one GPU machine that is head and worker",
    "infra/catalogue/gpus.csv": "GPU facts with sources",
    "infra/catalogue/hosts.csv": "prices of machines without GPUs",
    "infra/catalogue/prices.csv": "prices with sources and dates",
    "infra/catalogue/quotas.csv": "AWS quota codes",
    "infra/cloud.toml": "what a launch may rent; the files beside it are rendered from it",
    "infra/sky/sky.yaml": "the same sweep as a task for SkyPilot",
    "orchestrator/cloud/render/sweep.sbatch": "template of Slurm's batch script",
    "infra/images/Dockerfile.cpu": "image for machines without GPUs",
    "infra/images/Dockerfile.cuda": "image for machines with NVIDIA GPUs",
    "infra/kubernetes/rayjob.yaml": "the same sweep as a KubeRay job",
    "infra/mlflow/compose.yaml": "MLflow server with PostgreSQL and S3",
    "tests/mutation/equivalent.toml": "mutants that change no behaviour, with the reason",
    "infra/slurm/sweep.sbatch": "the same sweep in a Slurm allocation",
}
SKIPPED = (".gitignore", "README.md", "docs/images/")


def tree() -> str:
    """Return the tree as a Markdown code block."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
    files = [name for name in listed.stdout.splitlines() if not name.startswith(SKIPPED) and _is_shown(name)]
    lines: list[str] = []
    folder = ""
    for name in sorted(files, key=_order):
        parent, _, leaf = name.rpartition("/")
        if parent != folder:
            folder = parent
            lines.append(f"{parent}/")
        lines.append(f"{'  ' if parent else ''}{leaf:<28} {_purpose(name)}".rstrip())
    return "```\n" + "\n".join(lines) + "\n```\n"


def _order(name: str) -> tuple[str, str]:
    """Return a sort key: folder by folder, the files of the top first."""
    folder, _, leaf = name.rpartition("/")
    return folder, leaf


def _is_shown(name: str) -> bool:
    if name.endswith("__init__.py"):
        return bool((ROOT / name).read_text().strip())
    return name.endswith((".py", ".md")) or name in OTHER


def _purpose(name: str) -> str:
    path = ROOT / name
    if name in OTHER:
        return OTHER[name]
    if name.endswith(".py"):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        return text.split("\n")[0].rstrip(".")
    return next((line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("# ")), "")


def updated(page: str) -> str:
    """Return the page with a new list of files."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + tree() + END + after


if __name__ == "__main__":
    path = ROOT / "docs/development/layout.md"
    path.write_text(updated(path.read_text()))
