"""Collect what is uploaded: the tracked files of the project, as they are in the working tree, and the plan.

Untracked files stay here: keys, notebooks, results, whatever `.gitignore` says or forgets. A program that was installed
from a wheel uploads the files of that wheel.
"""

from __future__ import annotations

import subprocess
import tarfile
import tomllib
from hashlib import sha256
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from orchestrator.cloud.backend import CloudError
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import functions_of, starts_of
from orchestrator.sweep.text import num_bytes, plural
from trm_data.own_code import classes_in

SECRETS = (".env", ".pem", ".key", "id_rsa", "id_ed25519", "credentials", "auth_token", ".netrc")
"""Ends of names of files that are not uploaded even where somebody tracks them."""


DISTRIBUTION = "trm-orchestrator"
PACKAGES = ("orchestrator", "trm_model", "trm_data")
ROOT = Path(__file__).resolve().parents[3]
"""Folder of the repository; that of all packages where this one is installed from a wheel."""


class Project(NamedTuple):
    """Describe the files that are uploaded."""

    root: Path
    files: tuple[str, ...]
    """Paths below the root."""
    held_back: tuple[str, ...]
    """Tracked files whose names look like secrets."""
    num_untracked: int
    installed: str = ""
    """Name and version of the wheel that the files come from; empty for a clone."""

    @property
    def num_bytes(self) -> int:
        """Return the size of all files."""
        return sum((self.root / name).stat().st_size for name in self.files)

    @property
    def constraints(self) -> str:
        """Return the path, below the root, of the file with the versions that are installed."""
        return "orchestrator/_infra/constraints.txt" if self.installed else "constraints.txt"

    def __str__(self) -> str:
        if self.installed:
            return f"{plural(len(self.files), 'file')} of {self.installed} ({num_bytes(self.num_bytes)}) and the plan"
        text = f"{plural(len(self.files), 'tracked file')} of {self.root} ({num_bytes(self.num_bytes)}) and the plan"
        if self.held_back:
            text += f"; not {', '.join(self.held_back)}, which may be secret"
        return f"{text}; {plural(self.num_untracked, 'untracked file')} not uploaded" if self.num_untracked else text


def find_project(root: Path = ROOT) -> Project:
    """Return the project that this program runs from, or the one of another folder.

    Raises:
        CloudError: which files belong to it is not known.
    """
    if not (root / "pyproject.toml").is_file():
        return _installed_project()
    tracked = _git(root, "ls-files", "-z")
    untracked = _git(root, "ls-files", "-z", "--others", "--exclude-standard")
    present = [name for name in tracked if (root / name).is_file() and not (root / name).is_symlink()]
    held_back = tuple(name for name in present if name.rpartition("/")[2].endswith(SECRETS))
    files = tuple(name for name in present if name not in held_back)
    return Project(root, files, held_back, len(untracked))


def _installed_project() -> Project:
    found = _wheel()
    names = [str(file) for file in found.files or () if file.parts[0] in PACKAGES and file.suffix != ".pyc"]
    root = Path(str(found.locate_file("")))
    present = tuple(name for name in names if (root / name).is_file())
    return Project(root, present, (), 0, f"{DISTRIBUTION} {found.version}, as installed")


def _wheel() -> Distribution:
    try:
        return distribution(DISTRIBUTION)
    except PackageNotFoundError:
        raise CloudError(
            f"which files belong to this program is not known: {ROOT} is no clone and has no {DISTRIBUTION} installed",
            "Install it with pip, or run `trm` from a clone of the repository",
        ) from None


def _git(root: Path, *arguments: str) -> list[str]:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        raise CloudError(
            f"{root} is not a git repository, so which files belong to it is not known",
            "Clone the repository, and install git",
        ) from None
    return [name for name in done.stdout.decode(errors="surrogateescape").split("\0") if name]


def pack(project: Project, archive: Path) -> None:
    """Write the files as a tar archive, without owners."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(archive, "w") as tar:
        for name in project.files:
            tar.add(project.root / name, name, recursive=False, filter=anonymous)


def requirements(project: Project) -> list[str]:
    """Return the packages that the project requires, as pip takes them."""
    if project.installed:
        return [each for each in _wheel().requires or () if "extra ==" not in each]
    found = tomllib.loads((project.root / "pyproject.toml").read_text())
    listed: list[str] = found["project"]["dependencies"]
    return listed


def environment_name(project: Project, python: str, torch: str = "") -> str:
    """Return a name that changes with the requirements, the pins, the version of Python and the build of torch."""
    pins = (project.root / project.constraints).read_text()
    return sha256("\n".join([python + torch, *requirements(project), pins]).encode()).hexdigest()[:12]


def require_portable(sweep: Sweep) -> None:
    """Raise CloudError for a sweep that reads files of this machine that are not uploaded.

    Raises:
        CloudError: names the file and where it may lie instead.
    """
    sources = {sweep.base.data.source, *(variant.settings.get("data.source") for variant in sweep.variants)}
    sources |= {address.partition("#")[0] for address in starts_of(sweep.plain())}
    for source in sources:
        if isinstance(source, str) and "://" not in source and Path(source).exists():
            raise CloudError(
                f"the sweep reads {source}, which is not uploaded",
                "Put it where the machine can read it: s3://, https://, hf://",
            )
    found = [*classes_in(plain := sweep.plain()), *functions_of(plain)]
    if found:
        raise CloudError(
            f"the sweep runs the code of {found[0]}, which is not uploaded",
            "Make it a variant of the project, or run the sweep by hand on the machine",
        )
