"""Read and write the expanded plan as a file: JSON lines, the definition first, then every trial known beforehand.

`trm sweep run plan.jsonl` runs exactly the trials that it lists: a deleted line is not run, and if the data, the code
or the settings would change a listed trial, nothing is run. A search lists its controls; what it explores and confirms
is decided while it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from orchestrator.errors import SweepError
from orchestrator.sweep.definition import Sweep, own_fields
from orchestrator.sweep.trials import Fingerprint, PlannedTrial, control_trials, study_trials
from trm_data.errors import ConfigError
from trm_data.files import load_json
from trm_data.settings import canonical_json

SUFFIX = ".jsonl"


def known_trials(sweep: Sweep, fingerprint: Fingerprint) -> Iterator[PlannedTrial]:
    """Yield the trials that are known before anything runs."""
    yield from study_trials(sweep, fingerprint) if sweep.kind == "study" else control_trials(sweep, fingerprint)


def dump_plan(sweep: Sweep, fingerprint: Fingerprint) -> bytes:
    """Return the content of a plan file."""
    content = BytesIO()
    content.write(canonical_json({"sweep": sweep.plain()}).encode() + b"\n")
    for trial in known_trials(sweep, fingerprint):
        content.write(canonical_json(trial.plain()).encode() + b"\n")
    return content.getvalue()


def load_plan(path: Path, fingerprint: Fingerprint) -> Sweep:
    """Return the sweep that runs what the file lists and nothing else.

    Raises:
        SweepError: it cannot be read, or a line would be another trial now.
    """
    try:
        head, *rest = path.read_text(encoding="utf-8-sig").splitlines()
        sweep = Sweep.parse(own_fields(load_json(head)["sweep"]), where=str(path))
        listed = {_trial_of(line, path).trial_id: line for line in rest}
    except OSError as error:
        raise SweepError(f"no plan {str(path)!r}", "Write it: trm sweep plan FILE --out plan.jsonl") from error
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise SweepError(f"{path} is not a plan that this version can read: {error}", "Plan again") from error
    is_same, num_lacking = dict.fromkeys(listed, False), 0
    for trial in known_trials(sweep, fingerprint):
        if (line := listed.get(trial.trial_id)) is None:
            num_lacking += 1
        else:
            is_same[trial.trial_id] = line == canonical_json(trial.plain()) or _trial_of(line, path) == trial
    if changed := next((line for trial_id, line in listed.items() if not is_same[trial_id]), None):
        trial = _trial_of(changed, path)
        named = f"{trial.family!r} seed {trial.config.seed}"
        raise SweepError(
            f"{path} lists {named} as {trial.trial_id}, which would now be another trial",
            "The line, the puzzles or this program changed since: plan again",
        )
    if not num_lacking:
        return sweep
    if sweep.kind == "search":
        count = len(listed) + num_lacking
        raise SweepError(f"{path} lists {len(listed)} of {count} controls", "A search runs all of them: plan again")
    if not listed:
        raise SweepError(f"{path} lists no trial", "Plan again")
    return sweep.model_copy(update={"only": tuple(listed)})


def _trial_of(line: str, path: Path) -> PlannedTrial:
    return PlannedTrial.parse(load_json(line), where=str(path))
