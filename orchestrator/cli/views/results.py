"""Verify a bundle and show what was found."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import get_args

from orchestrator.cli.lookup import open_by_name
from orchestrator.cli.views.console import BuildBar, err, out
from orchestrator.cli.views.evaluate import Bar
from orchestrator.evaluation.bundle_files import BundleFolder
from orchestrator.evaluation.verify import Compared, TrialCheck, Verification, verify_bundle
from orchestrator.storage import open_storage
from orchestrator.sweep.text import percent, plural
from trm_data.errors import ConfigError, nearest
from trm_data.settings import strict_json

_MOST_DIFFERENCES = 5


def verify_and_show(path: Path, storage: str, dataset: str | None, compare: str, device: str, as_json: bool) -> int:
    """Verify a bundle, print the result, and return the exit code: 0 confirmed, 1 not.

    Raises:
        ConfigError: `compare` is unknown.
    """
    if compare not in get_args(Compared):
        raise ConfigError(f"unknown --compare {compare!r}", nearest(compare, get_args(Compared)))
    folder = BundleFolder(path)
    folder.check()  # before a dataset is built for it
    if unlisted := folder.unlisted():
        more = f" and {plural(len(unlisted) - 1, 'other file')}" if len(unlisted) > 1 else ""
        err.print(f"note: the manifest does not list {unlisted[0]}{more}, which nothing here verifies", soft_wrap=True)
    store = open_storage(storage)
    given = None if dataset is None else open_by_name(dataset, store)
    with BuildBar() as build_progress, Bar(len(folder.manifest.trials)) as bar:
        found = verify_bundle(
            path,
            store,
            dataset=given,
            compare=compare,  # type: ignore[arg-type]  # checked above
            device=device,
            build_progress=build_progress,
            progress=bar.update,
        )
    if as_json:
        print(strict_json(_plain(found), indent=1))
    else:
        for trial in found.trials:
            _show_trial(trial)
        out.print(str(found), style="bold")
    return 0 if found.is_confirmed else 1


def _show_trial(trial: TrialCheck) -> None:
    equal = trial.items - len(trial.differences)
    out.print(
        f"{trial.trial_id} ({trial.family}): {equal:,} of {trial.items:,} {trial.split} items of {trial.dataset} "
        f"equal, exact accuracy {percent(trial.score)}"
    )
    for metric, (then, now) in trial.scores.items():
        out.print(f"  {metric}: the bundle states {percent(then)}, its weights score {percent(now)}")
    for difference in trial.differences[:_MOST_DIFFERENCES]:
        out.print(f"  {difference}")
    if len(trial.differences) > _MOST_DIFFERENCES:
        out.print(f"  ... and {plural(len(trial.differences) - _MOST_DIFFERENCES, 'more item')} (all of them: --json)")
    for words in trial.environment:
        err.print(f"  note: {words}", style="dim")


def _plain(found: Verification) -> dict[str, object]:
    trials = [
        asdict(trial) | {"confirmed": trial.is_confirmed, "differences": [one._asdict() for one in trial.differences]}
        for trial in found.trials
    ]
    return {
        "bundle": str(found.path),
        "confirmed": found.is_confirmed,
        "items": found.items,
        "equal": found.equal,
        "trials": trials,
    }
