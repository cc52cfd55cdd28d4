"""Reproduce the random numbers of the official ARC builder, and so its identifiers.

It draws everything from numpy's legacy global generator: per subset a shuffle of the tasks, per task the augmentations,
then for every augmented task the untranslated example and two offsets per translated one. Official checkpoints hold one
embedding per identifier in that order. These kernels are the Mersenne Twister and the masked rejection that numpy's
legacy functions use; the tests check the sha256 of the files of official builds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trm_data.jit import Bytes, Ints, Words, i64, jit
from trm_data.puzzles.arc import SIDE, insert, task_sums, view_hash
from trm_data.puzzles.symmetry import is_turned, rank

State = NDArray[np.uint32]
SEED = 42
_RETRIES = 5
_N, _M = 624, 397


def seeded(seed: int = SEED) -> State:
    """Return the state of `np.random.seed(seed)`: 624 words and the position."""
    _, words, position, *_ = np.random.RandomState(seed).get_state(legacy=True)
    return np.append(np.asarray(words, np.uint32), np.uint32(position))


@jit
def _next(state: State) -> int:
    if state[_N] == _N:
        for i in range(_N):
            word = (state[i] & np.uint32(0x80000000)) | (state[(i + 1) % _N] & np.uint32(0x7FFFFFFF))
            state[i] = state[(i + _M) % _N] ^ (word >> np.uint32(1))
            if word & np.uint32(1):
                state[i] ^= np.uint32(0x9908B0DF)
        state[_N] = 0
    word = state[state[_N]]
    state[_N] += 1
    word ^= word >> np.uint32(11)
    word ^= (word << np.uint32(7)) & np.uint32(0x9D2C5680)
    word ^= (word << np.uint32(15)) & np.uint32(0xEFC60000)
    drawn: int = i64(word ^ (word >> np.uint32(18)))
    return drawn


@jit
def interval(state: State, most: int) -> int:
    """Draw uniformly from [0, most]; draw nothing for `most` = 0."""
    if most == 0:
        return 0
    mask = most
    for shift in (1, 2, 4, 8, 16):
        mask |= mask >> shift
    while True:
        value = _next(state) & mask
        if value <= most:
            return value


@jit
def shuffle(state: State, items: Any) -> None:
    """Shuffle like `np.random.shuffle`."""
    for i in range(items.size - 1, 0, -1):
        j = interval(state, i)
        items[i], items[j] = items[j], items[i]


@jit
def _codes(state: State, sums: Words, count: int, out: Words) -> int:
    """Write to `out` the augmentations that the official builder keeps of one task, and return how many."""
    table = np.zeros(4 * count + 7, np.uint64)
    scratch = np.empty(10, np.int64)
    colours = np.empty(9, np.int64)
    insert(table, view_hash(sums, 0, scratch))
    found = 0
    for _ in range(_RETRIES * count):
        turn = interval(state, 7)
        colours[:] = np.arange(9)
        shuffle(state, colours)
        code = turn + 8 * rank(colours)
        if insert(table, view_hash(sums, code, scratch)):
            out[found] = code
            found += 1
            if found == count:
                break
    return found


def draw_codes(state: State, inputs: Bytes, labels: Bytes, shapes: Bytes, count: int) -> Words:
    """Advance `state` over one task and return its augmentations."""
    if count == 0:
        return np.empty(0, np.uint64)
    out = np.empty(count, np.uint64)
    return out[: _codes(state, task_sums(inputs, labels, shapes), count, out)]


@jit
def _places(state: State, shapes: Bytes, first: Ints, codes: Words, listed: Ints, out: NDArray[np.uint16]) -> int:
    written = 0
    for p in range(first.size - 1):
        size = first[p + 1] - first[p]
        for copy in range(1 + listed[p + 1] - listed[p]):
            turned = copy > 0 and is_turned(i64(codes[listed[p] + copy - 1] % np.uint64(8)))
            corner = interval(state, size - 1)
            for e in range(size):
                top, left = 0, 0
                if e != corner:
                    shape = shapes[first[p] + e]
                    height, width = i64(max(shape[0], shape[2])), i64(max(shape[1], shape[3]))
                    if turned:
                        height, width = width, height
                    top = interval(state, SIDE - height)
                    left = interval(state, SIDE - width)
                out[written] = top * 32 + left
                written += 1
    return written


def draw_places(state: State, shapes: Bytes, sizes: Ints, num_codes: Ints, codes: Words) -> NDArray[np.uint16]:
    """Return the translations of all training examples, drawn after all augmentations.

    Args:
        shapes: (E, 4) of the training examples, puzzle after puzzle; sizes: (P), examples per puzzle.
        num_codes: (P); codes: listed augmentations, puzzle after puzzle.

    Returns:
        32 * top + left, puzzle after puzzle, copy after copy, example after example.
    """
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    listed = np.concatenate([np.zeros(1, np.int64), np.cumsum(num_codes)])
    out = np.empty(int((sizes * (1 + num_codes)).sum()), np.uint16)
    _places(state, shapes, first, codes, listed, out)
    return out
