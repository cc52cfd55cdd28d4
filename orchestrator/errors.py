"""Errors of the orchestrator that a user can mend.

UserError (trm_data.errors)
+-- SweepError         a sweep definition, its name, its state
+-- ClusterError       a Ray cluster that cannot be used
"""

from __future__ import annotations

from trm_data.errors import UserError


class SweepError(UserError):
    """A sweep that cannot be planned, run or resumed as it is."""


class ClusterError(UserError):
    """A Ray cluster that cannot be reached or cannot hold what was asked for."""
