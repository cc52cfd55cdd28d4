"""The paragraph at the top of a report: what was found, in words that claim no more than the data."""

from __future__ import annotations

from orchestrator.records.schema import Status
from orchestrator.results.leaderboard import Entry, Table
from orchestrator.results.report.views import Study

_NO_BREAK = "\N{NO-BREAK SPACE}"


def summarise(study: Study, table: Table | None) -> str:
    """The best confirmed configuration with its interval, its rivals, and how it was found."""
    return " ".join(sentence for sentence in (_finding(study, table), _search(study)) if sentence).replace(
        " %", _NO_BREAK + "%"
    )


def _finding(study: Study, table: Table | None) -> str:
    own = [entry for entry in table.entries if entry.own] if table else []
    if not own:
        return "No result is confirmed yet: nothing here has been scored on the test split."
    best, rest = own[0], own[1:]
    puzzles = f"{best.items:,} held-out puzzles"
    words = f"The configuration \N{LEFT DOUBLE QUOTATION MARK}{best.system}\N{RIGHT DOUBLE QUOTATION MARK} solves "
    words += f"{best.score:.1f} % of {puzzles}{_certainty(best)}."
    apart = [entry for entry in rest if best.ranks and entry.ranks and best.ranks[1] < entry.ranks[0]]
    close = [entry for entry in rest if entry not in apart]
    if apart:
        words += f" The data separate it from {_names(apart)}."
    if close:
        words += (
            f" They cannot separate it from {_names(close)}."
            if apart
            else f" The data cannot separate it from {_names(close)}."
        )
    return words


def _certainty(entry: Entry) -> str:
    own = entry.own
    if own is None or own.seed_interval is None:
        return ", from one seed: that says nothing yet about other seeds"
    low, high = own.seed_interval
    return f" (mean of {len(own.scores)} seeds; 95 % interval over seeds {max(0.0, low):.1f} to {min(100.0, high):.1f})"


def _names(entries: list[Entry], most: int = 3) -> str:
    named = [f"{entry.system} ({entry.score:.1f} %)" for entry in entries[:most]]
    if len(entries) > most:
        named.append(f"{len(entries) - most} more")
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _search(study: Study) -> str:
    explored = [trial for trial in study.trials if trial.stage == "explore"]
    cells = [trial for trial in study.trials if trial.stage == "study"]
    sentences = []
    if explored:
        stopped = sum(trial.status is Status.STOPPED for trial in explored)
        early = f" and stopped {stopped} of them early" if stopped else ""
        sentences.append(f"The search explored {len(explored)} trials on validation puzzles{early}.")
    if cells:
        families = len({trial.family for trial in cells})
        sentences.append(f"The study ran {families} configurations in {len(cells)} trials, each to its end.")
    broken = sum(trial.status in (Status.FAILED, Status.DIVERGED, Status.OUT_OF_MEMORY) for trial in study.trials)
    if broken:
        sentences.append(f"{broken} trial{'s' if broken > 1 else ''} failed, diverged or ran out of memory.")
    return " ".join(sentences)
