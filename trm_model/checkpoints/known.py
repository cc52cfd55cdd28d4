"""List public repositories of weights, with the score that is reported for them. None of them has been scored here."""

from __future__ import annotations

from typing import NamedTuple


class Known(NamedTuple):
    """Describe a public repository of weights."""

    name: str
    address: str
    """Of the repository; the name of one of its files has to be added."""
    benchmark: str
    score: float
    """In %, as reported."""
    source: str
    """Who reports it, and how it was scored."""


_ALPHAXIV = "the authors' report (github.com/alphaXiv/TinyRecursiveModels)"
_ARC_PRIZE = "ARC Prize, semi-private set, pass@2"
KNOWN = (
    Known("TRM-MLP", "hf://MaximeILL/GAR_ckpts", "sudoku-extreme", 86.5, "its repository; full test split"),
    Known("TRM-MLP", "hf://alphaXiv/trm-model-sudoku", "sudoku-extreme", 79.37, f"{_ALPHAXIV}, 50k epochs"),
    Known("TRM-MLP, CGAR", "hf://Kaleemullah/trm-cgar-sudoku", "sudoku-extreme", 86.02, "arXiv 2511.08653"),
    Known("EqR", "hf://locuslab/EqR-model", "sudoku-extreme", 86.4, "arXiv 2605.21488, 16 steps"),
    Known("HRM", "hf://sapientinc/HRM-checkpoint-sudoku-extreme", "sudoku-extreme", 54.6, "a reader, 2026-09"),
    Known("TRM-Att", "hf://alphaXiv/trm-model-maze", "maze-hard", 83.67, _ALPHAXIV),
    Known("TRM-Att", "hf://alphaXiv/trm-model-arc-agi-1", "arc-agi-1", 43.0, f"{_ALPHAXIV}, n=4, pass@2"),
    Known("TRM-Att", "hf://arcprize/trm_arc_prize_verification", "arc-agi-1", 40.0, _ARC_PRIZE),
    Known("TRM-Att", "hf://arcprize/trm_arc_prize_verification", "arc-agi-2", 6.2, _ARC_PRIZE),
)
