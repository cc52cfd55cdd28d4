"""Draw the forest plot of an ablation as a file for a paper: SVG or PDF, with matplotlib.

The page has an interactive plot of its own (`interval_plots.forest`). matplotlib is imported when a file is drawn.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.results.ablation import Ablation, Effect, show_p
from orchestrator.results.leaderboard import METRIC_TITLES
from orchestrator.results.report import escape
from trm_data.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = {".svg": "svg", ".pdf": "pdf"}
"""Formats by the ending of a file."""
_WIDTH, _ROW_HEIGHT, _MARGIN = 7.0, 0.36, 1.0
"""Inches: of the figure, of a row, and of what is above and below the rows."""
_LONGEST_NAME = 44
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, which can be searched and edited
    "pdf.fonttype": 42,  # TrueType: conferences refuse Type 3 fonts
    "svg.hashsalt": "trm",  # the same results give the same file
    "font.size": 9,
    "axes.spines.left": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def check_ending(path: Path) -> None:
    """Raise ConfigError for a file that is neither .svg nor .pdf."""
    if path.suffix not in FORMATS:
        raise ConfigError(
            f"cannot draw a plot as {path.suffix or path.name!r}", "Name a file that ends in .svg or .pdf"
        )


def draw(ablation: Ablation, form: str) -> bytes:
    """Return the forest plot as an `svg` or `pdf` file: differences from the control with their intervals.

    A filled dot is significant after the correction, an open one is not; a diamond is the TRM paper's own difference.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    effects = ablation.effects
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a name may have any character
        figure = Figure(figsize=(_WIDTH, _MARGIN + _ROW_HEIGHT * len(effects)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color="0.5", linewidth=0.8, zorder=0)
        for row, effect in enumerate(effects):
            _draw_row(axes, row, effect)
        axes.set_ylim(len(effects) - 0.4, -0.6)
        axes.set_yticks(range(len(effects)), [_name(effect) for effect in effects], parse_math=False)
        axes.tick_params(axis="y", length=0)
        metric = METRIC_TITLES.get(ablation.table.metric, ablation.table.metric)
        words = f"Difference from {escape.one_line(ablation.control.system)} ({ablation.control.score:.1f} %) in points"
        axes.set_xlabel(f"{words} of {metric}", parse_math=False)
        _label_rows(axes, effects)
        target = io.BytesIO()
        figure.savefig(target, format=form, metadata={"Date" if form == "svg" else "CreationDate": None})
    return target.getvalue()


def _draw_row(axes: Axes, row: int, effect: Effect) -> None:
    if effect.interval is not None:
        axes.plot(effect.interval, (row, row), color="C0", linewidth=2, solid_capstyle="butt", alpha=0.6)
    if effect.published is not None:
        axes.plot(effect.published.difference, row, "D", color="C1", markersize=5, zorder=2)
    fill = "C0" if effect.is_separated else "white"
    axes.plot(effect.difference, row, "o", markeredgecolor="C0", markerfacecolor=fill, markersize=6, zorder=3)


def _label_rows(axes: Axes, effects: tuple[Effect, ...]) -> None:
    """Write difference, adjusted p value and seeds to the right of the rows."""
    for row, effect in enumerate(effects):
        p_value = "" if effect.p_adjusted is None else f", p {show_p(effect.p_adjusted)}"
        text = f"{effect.difference:+.1f}{p_value} ({effect.seeds[0]} / {effect.seeds[1]} seeds)"
        axes.annotate(
            text, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=8, annotation_clip=False
        )


def _name(effect: Effect) -> str:
    name = escape.one_line(effect.name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"
