"""Rank own results together with published ones, one table per class of comparable results (see `comparable`).

Invariants. Rows of one table were scored on the same puzzles with the same metric. Only confirmed results enter: the
confirm stage of a search or any cell of a study, finished, scored on the test split. Results on generated puzzles, or
on a part of a published test set, have a table of their own.
"""

from __future__ import annotations

from orchestrator.results.leaderboard.build import build_leaderboard, rank_rows, select, tell_apart
from orchestrator.results.leaderboard.comparable import METRIC_TITLES, PUBLISHED, SPLIT_TITLES
from orchestrator.results.leaderboard.confirmed import is_confirmed, label, refusal, refusals, settings_of
from orchestrator.results.leaderboard.rows import Entry, Provenance, Table

__all__ = [
    "METRIC_TITLES",
    "PUBLISHED",
    "SPLIT_TITLES",
    "Entry",
    "Provenance",
    "Table",
    "build_leaderboard",
    "is_confirmed",
    "label",
    "rank_rows",
    "refusal",
    "refusals",
    "select",
    "settings_of",
    "tell_apart",
]
