"""Compile kernels and draw counter-based random numbers.

`mix` replaces a stateful generator: the same inputs give the same 64 bits in any process, in any order. That is what
makes a batch a pure function of (seed, step, slot) and an augmentation a pure function of (puzzle, number).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from trm_data.files import private_folder

F = TypeVar("F", bound=Callable[..., Any])
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
i64: Any = np.int64  # conversions inside kernels, where numba checks the types instead of mypy
u64: Any = np.uint64

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


class _Kernel:
    """Compile a function when it is first called, or used by another one that is.

    Most commands call none, and numba takes 110 MB of memory and a quarter of a second to load.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        return self._dispatcher(*arguments)

    def __reduce__(self) -> str:
        return self._function.__qualname__

    @property
    def _numba_type_(self) -> Any:
        """Type of the kernel where another one names it."""
        return self._dispatcher._numba_type_

    @cached_property
    def _dispatcher(self) -> Any:
        import numba

        compiled = numba.njit(cache=True, nogil=True)
        try:
            return compiled(self._function)
        except RuntimeError:
            numba.config.CACHE_DIR = str(private_folder("numba"))
            return compiled(self._function)


def jit(function: F) -> F:
    """Compile with numba when the function is first called: cached on disk, without the interpreter lock.

    The cache lies beside the code, or else below the home folder. Where neither can be written, as in a container with
    a read-only file system, numba raises RuntimeError; the cache is then in the user's private temporary folder.
    """
    return cast(F, _Kernel(function))


@jit
def scramble(x: np.uint64) -> np.uint64:
    """Return the finalizer of splitmix64: a bijection whose output bits all depend on all input bits."""
    x = (x ^ (x >> _S30)) * _M1
    x = (x ^ (x >> _S27)) * _M2
    return x ^ (x >> _S31)


@jit
def mix(state: np.uint64, value: np.uint64) -> np.uint64:
    """Fold `value` into `state`; not symmetric, so `mix(mix(s, a), b)` differs from `mix(mix(s, b), a)`."""
    return scramble(scramble(state + _GAMMA) ^ value)


@jit
def below(state: Words, bound: int) -> int:
    """Return the next number in [0, bound) of the stream held in `state[0]`. The bias of the modulo is below 1e-15
    here."""
    state[0] += _GAMMA
    drawn: int = i64(scramble(state[0]) % u64(bound))
    return drawn


@jit
def shuffle(state: Words, items: Any) -> None:
    """Shuffle in place (Fisher-Yates)."""
    for i in range(items.size - 1, 0, -1):
        j = below(state, i + 1)
        items[i], items[j] = items[j], items[i]


@jit
def stream(seed: int, index: int) -> Words:
    """Return an independent stream for item `index` of a seeded sequence."""
    state = np.empty(1, np.uint64)
    state[0] = mix(u64(seed), u64(index))
    return state
