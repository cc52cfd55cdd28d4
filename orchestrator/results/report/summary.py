"""Write the summary paragraph at the top of a report, which claims no more than the data show."""

from __future__ import annotations

from orchestrator.records.schema import Status
from orchestrator.results.leaderboard import Entry, Table, rank_rows
from orchestrator.results.report.views import Study
from orchestrator.sweep.text import plural

_NO_BREAK = "\N{NO-BREAK SPACE}"


def summarise(study: Study, table: Table | None) -> str:
    """Describe the best confirmed configuration with its interval, the others, and how it was found."""
    return " ".join(sentence for sentence in (_finding(study, table), _search(study)) if sentence).replace(
        " %", _NO_BREAK + "%"
    )


def _finding(study: Study, table: Table | None) -> str:
    own = [entry for entry in table.entries if entry.own] if table else []
    if table is None or not own:
        return "No result is confirmed yet: nothing here has been scored on the test split."
    best, rest = own[0], own[1:]
    name = f"\N{LEFT DOUBLE QUOTATION MARK}{best.system}\N{RIGHT DOUBLE QUOTATION MARK}"
    sentences = [f"The configuration {name} solves {best.score:.1f} % of {best.items:,} held-out puzzles"]
    sentences[0] += f"{_certainty(best)}."
    if table.best is not None:
        low, high = table.best.interval
        sentences.append(
            f"It is the best of {table.best.candidates} on this test set; corrected for that choice, the interval "
            f"with at least 95 % confidence is {low:.1f} to {high:.1f}."
        )
    if table.tied:
        others = [entry for entry in table.tied if entry is not best]
        sentences.append(f"It is not better than {_names(others)}, with the same score.")
    apart = _separated(best, rest, table)
    close = [entry for entry in rest if entry not in apart and entry not in table.tied]
    if apart:
        sentences.append(f"The data separate it from {_names(apart)}.")
    if close:
        sentences.append(f"It does not differ significantly from {_names(close)}.")
    return " ".join(sentences)


def _separated(best: Entry, rest: list[Entry], table: Table) -> list[Entry]:
    """Return the rows that are significantly below the best one, corrected for all pairs because it was picked."""
    rows = [entry for entry in (best, *rest) if entry.ranks is not None]
    if not rows or rows[0] is not best:
        return []
    ranges = rank_rows(rows, table.benchmark, simultaneous=True)
    return [entry for entry, ranks in zip(rows[1:], ranges[1:], strict=True) if ranks[0] > ranges[0][1]]


def _certainty(entry: Entry) -> str:
    own = entry.own
    if own is None or own.seed_interval is None:
        return ", from one seed: that says nothing yet about other seeds"
    low, high = own.seed_interval
    return f" (mean of {len(own.scores)} seeds; 95 % interval over seeds {low:.1f} to {high:.1f})"


def _names(entries: list[Entry], most: int = 3) -> str:
    named = [f"{entry.system} ({entry.score:.1f} %)" for entry in entries[:most]]
    if len(entries) > most:
        named.append(f"{len(entries) - most} more")
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _search(study: Study) -> str:
    counted = [trial for trial in study.trials if not trial.record.is_superseded]
    explored = [trial for trial in counted if trial.stage == "explore"]
    cells = [trial for trial in counted if trial.stage == "study"]
    sentences = []
    if explored:
        stopped = sum(trial.status is Status.STOPPED for trial in explored)
        early = f" and stopped {stopped} of them early" if stopped else ""
        sentences.append(f"The search explored {plural(len(explored), 'trial')} on validation puzzles{early}.")
    if cells:
        families = len({trial.family for trial in cells})
        over = sum(trial.status.is_final for trial in cells)
        how = ", each to its end" if over == len(cells) else f"; {over} of them have ended"
        sentences.append(f"The study ran {plural(families, 'configuration')} in {plural(len(cells), 'trial')}{how}.")
    broken = sum(trial.status.is_failure for trial in counted)
    if broken:
        sentences.append(f"{plural(broken, 'trial')} failed, diverged or ran out of memory.")
    return " ".join(sentences)
