"""Call the methods of a puzzle kind of the user's own: they cannot write into their arguments, what they return is
checked, and what they raise names the kind, the method and the line."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np

from trm_data.errors import DataError, UserError
from trm_data.own_code import KIND
from trm_data.run_source import told

_OURS = KIND.package
_GIVE_CELLS = ("view", "_undo")


def guard(kind: Any) -> Any:
    """Return the instance of a user's class with every method guarded that is not defined in this package."""
    cls = type(kind)
    base = next(each for each in cls.__mro__ if each.__name__ == KIND.base and _is_ours(each))
    for name in [name for name in dir(base) if not name.startswith("__")]:
        owner = next(each for each in cls.__mro__ if name in vars(each))
        method = getattr(kind, name) if inspect.isfunction(inspect.getattr_static(base, name)) else None
        if callable(method) and not _is_ours(owner):
            file = getattr(sys.modules.get(owner.__module__), "__file__", None)
            object.__setattr__(kind, name, _guarded(kind, name, method, file))
    return kind


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in (_OURS, "builtins")


def _guarded(kind: Any, name: str, method: Callable[..., Any], file: str | None) -> Callable[..., Any]:
    what, check = f"{name} of the puzzle kind {kind.name}", _CHECKS.get(name)

    @contextmanager
    def explained() -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            is_write = isinstance(error, ValueError) and "read-only" in str(error)
            remedy = "Its arguments cannot be changed: write into a copy" if is_write else "Correct the class"
            raise DataError(f"{what} fails: {told(error, file)}", remedy) from error

    def explained_items(items: Iterator[Any]) -> Iterator[Any]:
        with explained():
            yield from items

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _read_only(args), _read_only(kwargs)
        with explained():
            result = method(*args, **kwargs)
        if inspect.isgenerator(result):
            return explained_items(result)
        if check is not None and (wanted := check(result, *args, **kwargs)):
            raise DataError(f"{what} returned {_described(result)}, not {wanted}", "Correct the class")
        return _cells(result) if name in _GIVE_CELLS else result

    return call


def _read_only(value: Any) -> Any:
    """Return a value whose arrays cannot be written: views of the same cells."""
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    elif type(value) in (list, tuple):
        return type(value)(map(_read_only, value))
    elif type(value) is dict:
        return {key: _read_only(each) for key, each in value.items()}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{each.name: _read_only(getattr(value, each.name)) for each in _of(value)})
    return value


def _of(value: Any) -> list[dataclasses.Field[Any]]:
    return [each for each in dataclasses.fields(value) if isinstance(getattr(value, each.name), np.ndarray)]


def _cells(result: Any) -> Any:
    """Return arrays as the callers use them: of bytes, in order, and their own."""
    if isinstance(result, tuple):
        return tuple(map(_cells, result))
    cells = np.ascontiguousarray(result, np.uint8)
    return cells if cells.flags.writeable else cells.copy()


def _described(result: Any) -> str:
    if isinstance(result, np.ndarray):
        return f"an array of shape {result.shape} and type {result.dtype}"
    size = f" of {len(result)}" if isinstance(result, list | tuple) else ""
    return "None" if result is None else f"a {type(result).__name__}{size}"


def _is_array(result: Any, shape: tuple[int, ...], kinds: str) -> bool:
    return isinstance(result, np.ndarray) and result.shape == shape and result.dtype.kind in kinds


def _check_verdict(result: Any, *_: Any) -> str:
    return "" if result is not None and np.ndim(result) == 0 else "True or False"


def _check_verdicts(result: Any, inputs: Any, *_: Any, **__: Any) -> str:
    is_right = result is None or _is_array(result, (len(inputs),), "b")
    return "" if is_right else f"an array of {len(inputs)} truth values, one per answer"


def _check_numbers(result: Any, inputs: Any, *_: Any, **__: Any) -> str:
    is_right = result is None or (_is_array(result, (len(inputs),), "iuf") and bool((result >= 0).all()))
    return "" if is_right else f"an array of {len(inputs)} numbers from 0, one per puzzle"


def _check_keys(result: Any, inputs: Any, *_: Any, **__: Any) -> str:
    is_right = isinstance(result, list) and len(result) == len(inputs) and all(isinstance(k, Hashable) for k in result)
    return "" if is_right else f"a list of {len(inputs)} keys, one per puzzle"


def _check_views(result: Any, inputs: Any, labels: Any, shapes: Any, rows: Any, *_: Any, **__: Any) -> str:
    shape = (len(rows), inputs.shape[1])
    is_right = isinstance(result, tuple) and len(result) == 2 and all(_is_array(each, shape, "iu") for each in result)
    return "" if is_right else f"two arrays of whole numbers of shape {shape}"


def _check_undone(result: Any, cells: Any, *_: Any, **__: Any) -> str:
    return "" if _is_array(result, cells.shape, "iu") else f"an array of whole numbers of shape {cells.shape}"


_CHECKS: dict[str, Callable[..., str]] = {
    "is_valid": _check_verdict,
    "valid": _check_verdicts,
    "num_solutions": _check_numbers,
    "keys": _check_keys,
    "view": _check_views,
    "_undo": _check_undone,
}
"""By method: says what it has to return; empty if that is what it returned."""
