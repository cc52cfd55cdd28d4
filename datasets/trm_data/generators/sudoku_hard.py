"""Generate hard Sudoku: islands of minimal puzzles climb in rating by small changes and emit those that are hard
enough.

Random minimal puzzles are almost never hard (0.004 % need 20 guesses), but the neighbours of hard puzzles often are.
An island holds a small population. A step takes a member, removes one or two clues, adds clues until the solution is
unique again, removes every clue that is not needed, rates the result and replaces a member that is not harder. A
puzzle with the requested rating is emitted, moved by a random symmetry.

Relatives share clues and sometimes their solution, so every split has islands of its own: no puzzle has a relative
in another split. An island is a pure function of (seed, number); threads only divide the islands among themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trm_data.generators.sudoku import Distinct, GeneratedSudoku, random_grid
from trm_data.jit import Bytes, Ints, Words, below, i64, jit, shuffle, stream
from trm_data.puzzles import sudoku, sudoku_forms
from trm_data.puzzles.augment import sudoku_rows
from trm_data.puzzles.symmetry import sudoku_order

_SHARE = 1250  # puzzles per island; reaching the rating costs as much as some 400 puzzles
_POPULATION = 48


@jit
def _minimize(state: Words, puzzle: Bytes, units: Ints) -> None:
    """Remove every clue that is not needed, in random order."""
    order = np.arange(puzzle.size)
    shuffle(state, order)
    for place in range(puzzle.size):
        cell = i64(order[place])
        if puzzle[cell] and not sudoku.needs_clue(puzzle, cell, units):
            puzzle[cell] = 0


@jit
def _change(state: Words, puzzle: Bytes, units: Ints, first: Bytes, second: Bytes) -> None:
    """Remove one or two clues and add others until the solution is unique again.

    A removed clue is added again only as a last resort: otherwise half of the children would equal their parents.
    """
    gone = np.zeros(puzzle.size, np.bool_)
    for _ in range(2 if below(state, 8) == 0 else 1):  # the closer the relative, the more often it is hard too
        cell = below(state, puzzle.size)
        while puzzle[cell] == 0:
            cell = below(state, puzzle.size)
        puzzle[cell] = 0
        gone[cell] = True
    order = np.arange(puzzle.size)
    while sudoku.solve_two(puzzle, units, first, second) == 2:
        shuffle(state, order)
        added = i64(-1)
        for place in range(puzzle.size):
            cell = i64(order[place])
            if first[cell] != second[cell]:
                added = cell
                if not gone[cell]:
                    break
        puzzle[added] = first[added] if below(state, 2) else second[added]


@jit
def _island(seed: int, number: int, want: int, rating: int, units: Ints, puzzles: Bytes, ratings: Ints) -> None:
    """Fill `puzzles` (want, size) with puzzles rated at least `rating`, which differ as far as their clues show."""
    state = stream(seed, number)
    size = puzzles.shape[1]
    members = np.zeros((_POPULATION, size), np.uint8)
    rated = np.zeros(_POPULATION, np.int64)
    first, second, child = np.empty(size, np.uint8), np.empty(size, np.uint8), np.empty(size, np.uint8)
    for m in range(_POPULATION):
        random_grid(state, units, members[m])
        _minimize(state, members[m], units)
        rated[m] = sudoku.solve(members[m], 1, units, first)[1]
    found, most = 0, 2 * rating  # beyond that an island does not climb: harder puzzles only take longer
    while found < want:
        child[:] = members[below(state, _POPULATION)]
        _change(state, child, units, first, second)
        place = below(state, _POPULATION)
        if 2 * sudoku.solve(child, 1, units, first)[1] + 4 < min(rated[place], rating):
            continue  # minimizing costs twenty searches and rarely doubles a rating
        _minimize(state, child, units)
        guesses = sudoku.solve(child, 1, units, first)[1]
        known = False
        for i in range(found if guesses >= rating else 0):
            known |= np.array_equal(puzzles[i], child)
        if known:  # it would only bring the population back to where it has been
            continue
        if min(guesses, most) >= rated[place]:
            members[place], rated[place] = child, min(guesses, most)
        if guesses >= rating:
            puzzles[found], ratings[found] = child, guesses
            found += 1


def _isomorphs(puzzles: Bytes, shape: sudoku.Shape, seed: int) -> Bytes:
    order = sudoku_order(*shape[:3])
    codes = np.random.Generator(np.random.Philox(seed)).integers(0, order, len(puzzles), np.uint64)
    moved = np.empty_like(puzzles)
    sudoku_rows(puzzles + np.uint8(1), codes, *shape[:3], False, moved)
    return moved - np.uint8(1)


def generate_hard(
    sizes: list[int], rating: int, seed: int, progress: Callable[[int], None] = lambda done: None
) -> list[GeneratedSudoku]:
    """Generate minimal 9x9 puzzles of at least this rating for every split, no two equivalent, no relatives across
    splits."""
    shape = sudoku.shape(9)
    jobs: list[tuple[int, int, int]] = []
    for split, size in enumerate(sizes):
        islands = -(-size // _SHARE)
        share = -(-size * 21 // 20 // max(islands, 1)) + 2  # some spare, because equivalent puzzles are dropped
        jobs += [(split, len(jobs) + i, share) for i in range(islands)]

    def settle(job: tuple[int, int, int]) -> tuple[Bytes, Ints]:
        _, number, share = job
        puzzles, ratings = np.zeros((share, 81), np.uint8), np.zeros(share, np.int64)
        _island(seed, number, share, rating, shape.units, puzzles, ratings)
        return puzzles, ratings

    done = 0
    results: list[list[tuple[Bytes, Ints]]] = [[] for _ in sizes]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (split, _, share), result in zip(jobs, pool.map(settle, jobs), strict=True):
            results[split].append(result)
            done += share
            progress(min(done, sum(sizes)))
    distinct = Distinct(shape)
    return [_select(results[split], size, shape, distinct, seed + split) for split, size in enumerate(sizes)]


def _select(
    islands: list[tuple[Bytes, Ints]], size: int, shape: sudoku.Shape, distinct: Distinct, seed: int
) -> GeneratedSudoku:
    """Select `size` inequivalent puzzles, taken from the islands in turn."""
    puzzles = np.concatenate([p for p, _ in islands] or [np.zeros((0, 81), np.uint8)])
    ratings = np.concatenate([r for _, r in islands] or [np.zeros(0, np.int64)])
    puzzles = _isomorphs(puzzles, shape, seed)
    solutions, _, _ = sudoku.solve_all(puzzles, shape.units)
    names = sudoku_forms.invariants(puzzles, *shape[:3]).tolist()
    turn = np.argsort(np.concatenate([np.arange(len(p)) for p, _ in islands] or [np.zeros(0, np.int64)]), kind="stable")
    kept = [i for i in turn.tolist() if distinct.is_new(puzzles[i], solutions[i], names[i])][:size]
    return GeneratedSudoku(puzzles[kept], solutions[kept], ratings[kept])
