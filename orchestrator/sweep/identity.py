"""Define the identity of trials and sweeps: which settings determine a result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from orchestrator.sweep.settings import LOCAL_PATHS
from trm_data.benchmarks import complete
from trm_data.config import DataRequest
from trm_data.errors import ConfigError
from trm_data.own_code import identity_of, is_address
from trm_data.settings import canonical_json, digest
from trm_model.config import TrialConfig
from trm_model.start_file import replace_starts, start_identity

IDENTITY_VERSION = 1
"""Increased when the same configuration no longer means the same training."""
ID_DIGITS = 12


def trial_id(config: TrialConfig, fingerprint: str) -> str:
    """Return the identity of a trial: 12 hexadecimal digits.

    The dataset enters by its fingerprint, so two requests for the same puzzles make the same trial.
    """
    return digest(_identity(config, fingerprint), length=ID_DIGITS)


def seeded_ids(config: TrialConfig, fingerprint: str) -> Callable[[int], str]:
    """Return a function from a seed to the identity of the trial that has it instead of the configuration's."""
    identity = _identity(config, fingerprint)
    identity["config"]["seed"] = mark = "<seed>"
    before, after = canonical_json(identity).split(canonical_json(mark))
    start = hashlib.sha256(before.encode())

    def id_of(seed: int) -> str:
        whole = start.copy()
        whole.update(f"{seed}{after}".encode())
        return whole.hexdigest()[:ID_DIGITS]

    return id_of


def _identity(config: TrialConfig, fingerprint: str) -> dict[str, Any]:
    plain = config.plain()
    del plain["runtime"], plain["recipe"]
    plain |= {"model": config.model.identity(), "train": config.train.identity()}
    plain["data"] = {name: value for name, value in plain["data"].items() if name not in DataRequest.model_fields}
    del plain["evaluation"]["batch_size"]
    return {"version": IDENTITY_VERSION, "fingerprint": fingerprint, "config": plain}


def expected_id(config: TrialConfig) -> str:
    """Return what is equal for configurations that make the same trial, where no dataset is built yet.

    A sweep scores all of its trials on the same split, whatever `evaluation.split` says.
    """
    evaluation = config.evaluation.model_copy(update={"split": "test"})
    request = config.data.request()
    if not is_address(request.benchmark):  # a file of a record's author is not loaded to count trials
        with suppress(ConfigError):
            request = complete(request)  # an explicit default is the same dataset
    return trial_id(config.model_copy(update={"evaluation": evaluation}), digest(request.identity()))


def changes_result(path: str) -> bool:
    """Return whether a setting, named by its path, is part of a trial's identity in a sweep."""
    return not path.startswith("runtime.") and path not in {"recipe", "evaluation.batch_size", "evaluation.split"}


def may_repeat(path: str) -> bool:
    """Return whether two values of a setting, named by its path, may give the same result."""
    return not changes_result(path) or path.startswith("data.") or path in {"train.start_from", "train.new_embeddings"}


def sweep_identity(plain: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that identify a sweep: everything except where and how fast it runs.

    Puzzle files are identified by name: their content is part of the dataset's fingerprint; their folder is not.

    Args:
        plain: the sweep as plain values, which are changed.
    """
    plain = replace_starts(plain, start_identity)
    for operational in ("resources", "resource_rules", "max_concurrent", "budget"):
        del plain[operational]
    del plain["base"]["runtime"]
    for section, name in ((plain["base"]["data"], "benchmark"), (plain, "sampler"), (plain["stopping"], "rule")):
        section[name] = identity_of(section[name])
    for path in LOCAL_PATHS:
        group, leaf = path.split(".")
        if (address := plain["base"][group][leaf]) is not None:
            plain["base"][group][leaf] = str(address).rstrip("/").rsplit("/", 1)[-1]
    return plain
