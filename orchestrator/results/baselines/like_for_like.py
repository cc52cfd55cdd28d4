"""Compare the TRM paper's Table 5, whose column mixes two evaluation sets, with the scores on each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.results.baselines import AS_PRINTED, Baseline

SPLITS = ("public-eval", "semi-private")
_TRM_PAPER = "arXiv 2510.04871v1"
_ARC_PRIZE = {
    "DeepSeek R1": "Deepseek R1",
    "Claude 3.7 16K": "Claude 3.7 (16K)",
    "o3-mini-high": "o3-mini (High)",
    "Gemini 2.5 Pro 32K": "Gemini 2.5 Pro (Thinking 32K)",
    "Grok-4-thinking": "Grok 4 (Thinking)",
    "Bespoke (Grok-4)": "Bespoke Grok-4 refinement (J. Berman)",
    "HRM": "HRM (ARC Prize verification run)",
    "TRM-Att": "TRM (ARC Prize verification run)",
}
"""The paper's name of a system: the leaderboard's name of the same."""


class Printed(NamedTuple):
    """Hold one line of Table 5."""

    printed: Baseline
    printed_split: str
    """The evaluation set that the printed score belongs to."""
    measured: dict[str, Baseline | None]
    """By split: the leaderboard's own run, else the paper's figure, else None."""


def like_for_like(benchmark: str, baselines: Sequence[Baseline]) -> list[Printed]:
    """Return the lines of Table 5 for an ARC benchmark, lowest first as printed; none for other benchmarks."""
    rows = [row for row in baselines if row.benchmark == benchmark and row.metric == "pass@2"]
    paper = [row for row in rows if row.source == _TRM_PAPER]
    return [_line(row, rows) for row in sorted(paper, key=lambda row: (row.kind != "llm", row.score))]


def _line(row: Baseline, rows: Sequence[Baseline]) -> Printed:
    name = _ARC_PRIZE.get(row.system)
    measured = {split: next((r for r in rows if r.system == name and r.split == split), None) for split in SPLITS}
    printed_split = "semi-private" if row.split == AS_PRINTED else row.split
    if measured[printed_split] is None:
        measured[printed_split] = row
    return Printed(row, printed_split, measured)
