"""Complete recipes, sweeps and trials in a shell. Only folders are listed: no record is read, no library is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path

import typer

MAX_CANDIDATES = 500
SWEEP_FILES = (".py", ".yaml", ".yml", ".jsonl")
WORDS = ("last", "best")

Completer = Callable[[typer.Context, str], list[str]]


def _silent(find: Callable[[Path, str], Iterable[str]]) -> Completer:
    """Return a completer that offers what begins with the typed text; an error means that it offers nothing."""

    @wraps(find)
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            folder = Path(str(ctx.params.get("storage") or "runs")) / "sweeps"
            found = dict.fromkeys(word for word in find(folder, incomplete) if word.startswith(incomplete))
            return list(found)[:MAX_CANDIDATES]
        except Exception:  # an unreadable folder must not print into the line that the user types
            return []

    complete.__annotations__ = {"ctx": typer.Context, "incomplete": str, "return": list[str]}
    del complete.__wrapped__  # typer would read the parameters of `find`
    return complete


def _recorded(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/sweep.json"))


@_silent
def recipe_names(folder: Path, incomplete: str) -> Iterable[str]:
    """Offer the names of recipes."""
    from trm_model.recipes import RECIPES

    return sorted(RECIPES)


@_silent
def sweep_names(folder: Path, incomplete: str) -> Iterable[str]:
    """Offer the recorded sweeps of a local storage."""
    return _recorded(folder)


@_silent
def sweeps_to_run(folder: Path, incomplete: str) -> Iterable[str]:
    """Offer recorded sweeps, packaged sweeps, sweep files, and the folders that may contain them."""
    from orchestrator.sweep.packaged import packaged_sweeps

    typed, _, start = incomplete.rpartition("/")
    here = sorted(Path(typed or ("/" if incomplete.startswith("/") else ".")).glob(f"{start}*"))
    files = [path for path in here if path.suffix in SWEEP_FILES]
    folders = [f"{path}/" for path in here if path.is_dir()] if incomplete else []
    return [*_recorded(folder), *packaged_sweeps(), *map(str, files), *folders]


@_silent
def trial_addresses(folder: Path, incomplete: str) -> Iterable[str]:
    """Offer `SWEEP/last` and `SWEEP/best`, and behind `SWEEP/` the ids of its trials."""
    sweep, slash, _ = incomplete.partition("/")
    names = [sweep] if slash else ["train", *_recorded(folder)]
    found = [f"{name}/{word}" for name in names if (folder / name / "trials").is_dir() for word in WORDS]
    if slash:
        found += [f"{sweep}/{path.name}" for path in sorted((folder / sweep / "trials").iterdir())]
    return found


def trial_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the trials of the sweep that the command names before them."""
    name = ctx.params.get("name")
    found = trial_addresses(ctx, f"{name}/{incomplete}") if isinstance(name, str) else []
    return [address.partition("/")[2] for address in found]
