"""What a zygote imports before its first fork. Touches no device: a CUDA context does not survive a fork.

The garbage collector rests meanwhile: it would search what is imported, which all stays, again and again (0.6 of
3.6 s). Afterwards that is kept out of its sight in every trial, so that a collection copies no page that is shared.
"""

from __future__ import annotations

import gc

gc.disable()

import orchestrator.worker.attempt  # noqa: E402, F401

gc.freeze()
gc.enable()
