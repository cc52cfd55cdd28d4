"""Keep the old import path of `Recursion` for users' files. New code uses `from trm_model import Recursion`."""

from __future__ import annotations

import warnings

from trm_model.model.recursion import Recursion

__all__ = ["Recursion"]

warnings.warn(
    "trm_model.recursion is now trm_model.model.recursion: write `from trm_model import Recursion`",
    DeprecationWarning,
    stacklevel=2,
)
