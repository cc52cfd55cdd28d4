"""Read the identifiers of augmented ARC tasks in the forms of the official builders.

007bbfb7|||t3|||0123456789          TRM: the dihedral transform, and the new colour of each colour
007bbfb7_t3_0123456789              HRM, the first form
007bbfb7_t3_-7226911240713043426    HRM, the later form: Python's hash of the tuple of the colours
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from trm_data.puzzles.symmetry import arc_code, parse_augmentation

_HRM = re.compile(r"(.+)_t([0-7])_(-?\d+)")
_COLOURS = re.compile(r"0[1-9]{9}")


def may_be_of_hrm(identifiers: Sequence[str]) -> bool:
    """Return whether HRM's builder can have written these identifiers; without augmentations TRM's are the same."""
    tasks = {match[1] for name in identifiers if (match := _HRM.fullmatch(name))}
    return tasks <= set(identifiers) and not any("|||" in name for name in identifiers)


def parse_names(identifiers: Sequence[str]) -> list[tuple[str, int]]:
    """Return (task, code) of every identifier.

    Raises:
        ValueError: one is not an identifier of an ARC task.
    """
    if not may_be_of_hrm(identifiers):
        return [parse_augmentation(name) for name in identifiers]
    found = [_HRM.fullmatch(name) for name in identifiers]
    colours = _permutations(match[3] for match in found if match)
    return [
        (match[1], _code(match, colours)) if match else (name, 0)
        for name, match in zip(identifiers, found, strict=True)
    ]


def _code(match: re.Match[str], colours: dict[str, tuple[int, ...]]) -> int:
    if match[3] not in colours:
        raise ValueError(match[0][:80])
    return arc_code(int(match[2]), np.array(colours[match[3]], np.uint8))


def _permutations(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the new colour of each colour by how identifiers write it; what is not a permutation is left out."""
    written = set(texts)
    plain = {text: tuple(map(int, text)) for text in written if _COLOURS.fullmatch(text) and len(set(text)) == 10}
    hashes = {int(text): text for text in written - plain.keys() if len(text) <= 20}
    return plain | ({hashes[key]: colours for key, colours in _hashed() if key in hashes} if hashes else {})


def _hashed() -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield every permutation of the colours that keeps black, with its hash, which is the same in every process."""
    for rest in itertools.permutations(range(1, 10)):
        colours = (0, *rest)
        yield hash(colours), colours
