"""Find the sweeps that come with the package: `trm sweep run demo` needs no file in the current folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path


def _folder() -> Path:
    packed = Path(__file__).parents[1] / "_sweeps"  # in a wheel; a clone has them at its top
    return packed if packed.is_dir() else Path(__file__).parents[2] / "sweeps"


@cache
def packaged_sweeps() -> dict[str, Path]:
    """Return the file of every packaged sweep by its name: `demo`, `reproduce/maze_mlp`."""
    folder = _folder()
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*.py"), key=lambda path: (len(path.parts), path))
        if "__pycache__" not in path.parts
    }


def packaged_name(path: Path) -> str | None:
    """Return the name of the packaged sweep that a path such as `sweeps/demo.py` means; None if there is none."""
    name = path.as_posix().removeprefix("./").removeprefix("sweeps/").removesuffix(".py")
    return name if name in packaged_sweeps() else None
