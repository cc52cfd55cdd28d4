"""What commit a9a5703, the last before the packages were reorganised, has written; see its README."""

from __future__ import annotations

import tarfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "fixtures" / "a9a5703"


def unpack_older(name: str, target: Path) -> Path:
    """Unpack an archive (`storage` or `model`) below a folder and return it."""
    with tarfile.open(FOLDER / f"{name}.tar.xz") as archive:
        archive.extractall(target, filter="data")
    return target / name
