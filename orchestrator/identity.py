"""What makes two trials the same trial.

A trial's id is a hash of everything that can change its result and of nothing else: not where it runs, how often it is
evaluated or checkpointed, how it may be stopped, or what it is called.
"""

from __future__ import annotations

from trm_data.config import DataRequest
from trm_data.settings import digest
from trm_model.config import TrialConfig

IDENTITY_VERSION = 1
"""Raised when the code comes to mean something else by the same configuration."""


def trial_id(config: TrialConfig, fingerprint: str) -> str:
    """12 hexadecimal digits. The dataset enters by its fingerprint, so a request's spelling does not matter."""
    plain = config.plain()
    del plain["runtime"], plain["recipe"]
    plain["model"] = config.model.identity()
    plain["data"] = {name: value for name, value in plain["data"].items() if name not in DataRequest.model_fields}
    del plain["evaluation"]["batch_size"]
    return digest({"version": IDENTITY_VERSION, "fingerprint": fingerprint, "config": plain}, length=12)
