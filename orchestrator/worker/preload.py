"""Modules that a fork server imports before its first fork. Touches no device: a CUDA context does not survive a fork.

The garbage collector is disabled meanwhile: it would search what is imported, which all stays, again and again (0.6 of
3.6 s). What has been imported is then frozen, so that a collection in a trial copies no page that is shared.
"""

from __future__ import annotations

import gc

gc.disable()

import orchestrator.worker.attempt  # noqa: E402, F401

gc.freeze()
gc.enable()
