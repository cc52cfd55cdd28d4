"""Count the votes of many answers to one item, from augmented views or noisy rollouts.

Shapes: B batch, C grid cells. An answer found through an augmentation is first undone, so that equal answers are
equal bytes. Votes live in one `Votes` object per evaluation: nothing leaks from one evaluation or checkpoint into the
next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trm_data.errors import DataError
from trm_data.jit import Bytes, Ints, Words, jit, mix
from trm_data.puzzles.arc import SIDE
from trm_data.puzzles.augment import arc_extent

_ODD = np.uint64(0x9E3779B97F4A7C15)  # spreads item numbers over 64 bits
Choose = Literal["majority", "halt"]


@jit
def _hashes(cells: Bytes, out: Words) -> None:
    for b in range(len(cells)):
        state = np.uint64(0)
        for start in range(0, cells.shape[1], 8):
            word = np.uint64(0)
            for i in range(start, min(start + 8, cells.shape[1])):
                word = (word << np.uint64(8)) | np.uint64(cells[b, i])
            if word:
                state = mix(state, word ^ (np.uint64(start) << np.uint64(52)))
        out[b] = state


def hashes(cells: Bytes) -> Words:
    """Return (B) a 64-bit hash of each answer."""
    out = np.empty(len(cells), np.uint64)
    _hashes(np.ascontiguousarray(cells), out)
    return out


@dataclass(slots=True)
class _Candidate:
    """Hold one distinct answer to an item."""

    answer: bytes
    count: int = 0
    scores: float = 0.0
    best: float = -np.inf

    def take(self, count: int, scores: float, best: float) -> None:
        """Count further votes for this answer."""
        self.count += count
        self.scores += scores
        self.best = max(self.best, best)

    @property
    def mean_score(self) -> float:
        return self.scores / self.count


class Votes:
    """Hold the answers of one evaluation, per item, and the rule by which one is chosen."""

    def __init__(self, choose: Choose = "majority") -> None:
        self.choose = choose
        self._items: dict[int, dict[int, _Candidate]] = {}

    def add(self, items: Ints, answers: Bytes, halt_logits: NDArray[np.floating]) -> None:
        """Count undone answers (B, C). A vote's score is the sigmoid of its halt logit."""
        scores = 1 / (1 + np.exp(-halt_logits.astype(np.float64)))
        names = hashes(answers)
        pairs = names ^ (items.astype(np.uint64) * _ODD)
        _, first, place = np.unique(pairs, return_index=True, return_inverse=True)
        counts, sums = np.bincount(place), np.bincount(place, scores)
        bests = np.full(len(first), -np.inf)
        np.maximum.at(bests, place, scores)
        for unique in np.argsort(first).tolist():  # in the order of arrival, which decides between equals
            row = int(first[unique])
            candidates = self._items.setdefault(int(items[row]), {})
            candidate = candidates.setdefault(int(names[row]), _Candidate(answers[row].tobytes()))
            candidate.take(int(counts[unique]), float(sums[unique]), float(bests[unique]))

    def take(self, other: Votes) -> None:
        """Add all votes of another evaluation of the same items, which stays as it is."""
        for item, theirs in other._items.items():
            candidates = self._items.setdefault(item, {})
            for name, one in theirs.items():
                candidates.setdefault(name, _Candidate(one.answer)).take(one.count, one.scores, one.best)

    @property
    def items(self) -> list[int]:
        """Return the items that have votes, in order."""
        return sorted(self._items)

    def ranking(self, item: int) -> list[_Candidate]:
        """Return distinct answers, best first: by count, then mean score; or by the best score (`choose="halt"`)."""
        candidates = self._items[item].values()
        if self.choose == "halt":
            return sorted(candidates, key=lambda candidate: candidate.best, reverse=True)
        return sorted(candidates, key=lambda candidate: (candidate.count, candidate.mean_score), reverse=True)

    def answer(self, item: int) -> Bytes:
        """Return the winning answer, (C)."""
        return np.frombuffer(self.ranking(item)[0].answer, np.uint8)


def places(votes: Votes, items: Ints, labels: Bytes) -> NDArray[np.float64]:
    """Return (B) the rank from 0 of each item's label (undone, (B, C)) among its answers; inf if none is right."""
    found = np.full(len(items), np.inf)
    for row, item in enumerate(items.tolist()):
        label = labels[row].tobytes()
        for place, candidate in enumerate(votes.ranking(item)):
            if candidate.answer == label:
                found[row] = place
                break
    return found


def submission(votes: Votes, tasks: Mapping[str, Sequence[int]], tries: int = 2) -> dict[str, list[dict[str, Any]]]:
    """Return answers in Kaggle's form: per task and test input `attempt_1`, `attempt_2`. `tasks` lists a task's
    items in order."""
    return {name: [_attempts(votes.ranking(item), tries) for item in items] for name, items in tasks.items()}


def _attempts(ranking: list[_Candidate], tries: int) -> dict[str, list[list[int]]]:
    grids = [_grid(candidate.answer) for candidate in ranking[:tries]]
    grids += grids[-1:] * (tries - len(grids))
    return {f"attempt_{number}": grid for number, grid in enumerate(grids, 1)}


def _grid(answer: bytes) -> list[list[int]]:
    cells = np.frombuffer(answer, np.uint8)
    if cells.size != SIDE * SIDE:
        raise DataError(f"an answer of {cells.size} cells is not an ARC answer, which has {SIDE}x{SIDE}")
    height, width = arc_extent(cells)
    colours: list[list[int]] = (cells.reshape(SIDE, SIDE)[:height, :width].astype(int) - 2).tolist()
    return colours
