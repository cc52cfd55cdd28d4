"""Import modules in a fork server before its first fork. Touches no device: a CUDA context does not survive a fork.

The garbage collector is disabled meanwhile: it would repeatedly scan the imported objects, which all stay (0.6 of 3.6
s). They are then frozen, so that a collection in a trial copies no shared page.
"""

from __future__ import annotations

import gc

gc.disable()

import orchestrator.worker.attempt  # noqa: E402, F401

gc.freeze()
gc.enable()
