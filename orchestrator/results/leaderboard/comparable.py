"""Decide which results may be ranked together: the key of a table, from published rows and from own runs.

Rows of one table share benchmark, scored puzzles, metric, protocol, test-time compute, training set and what counts as
correct. Test-time compute and training set are classes with a ceiling: a row belongs to the standard class of its
benchmark if it uses *no more* than the benchmark customarily allows (16 supervision steps, one answer; on ARC a vote
over at most 1,000 views; the published training set). Whatever uses more has a class that names how much, and what a
source does not state is a class of its own, as are the weights of a checkpoint that a run started from.
"""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.records.schema import TrialRecord
from orchestrator.results.baselines import AS_PRINTED, Baseline, Protocol
from trm_model.start_file import start_sha256


class Benchmark(NamedTuple):
    """Describe a published test set, and what results on it customarily use."""

    title: str
    test_split: str
    """The split on which this project's `test` score is comparable with published ones."""
    items: int | None
    """Puzzles of that split; None where no source states it."""
    train_puzzles: int | None
    """The published training set; for ARC the tasks of both public sets and ConceptARC, as TRM and HRM train on."""
    votes: int = 1
    """Views per puzzle that customarily vote."""
    passes: int = 16
    """Supervision steps at evaluation in the TRM and HRM papers."""
    seed_spread: float = 0.0
    """Measured standard deviation over seeds, in points; assumed for published results of which only one run is known.
    Sudoku-Extreme: 4 seeds of TRM (SiC, arXiv 2601.19085). None has been published for the others."""


PUBLISHED = {
    "sudoku-extreme": Benchmark("Sudoku-Extreme", "test", 422_786, 1_000, seed_spread=1.3),
    "maze-hard": Benchmark("Maze-Hard", "test", 1_000, 1_000),
    "arc-agi-1": Benchmark("ARC-AGI-1", "public-eval", 400, 960, votes=1_000),
    "arc-agi-2": Benchmark("ARC-AGI-2", "public-eval", 120, 1_280, votes=1_000),
    "maze-unique": Benchmark("Maze-Unique", "test", 1_000, 1_000),
    "n-queens-8": Benchmark("N-Queens 8x8", "test", None, None),
    "n-queens-10": Benchmark("N-Queens 10x10", "test", None, None),
    "ppbench": Benchmark("Pencil Puzzle Bench", "golden-300", 300, None),
}
SPLIT_TITLES = {
    "test": "test split",
    "public-eval": "public evaluation",
    "semi-private": "semi-private evaluation",
    "private": "private evaluation",
    "unstated-subset": "subset of unstated size",
    "one-percent-of-test": "1 % of the test split",
    "own-9x9-test": "authors' own 9x9 test",
    "own-250k-subset": "authors' own subset of 250,000",
    "frm-1k-of-test": "1,000 of the test split (FRM)",
    "heim-1k-of-test": "1,000 of the test split (T. Heim)",
    "sotaku-25k-of-test": "25,000 of the test split (Sotaku)",
    "w4m-13k-of-test": "13,000 of the test split (W4M)",
    "five-types": "five puzzle types",
    "golden-300": "300 golden puzzles",
    "own-golden-49": "49 golden puzzles of five types",
    "own-validation": "author's own validation split",
    AS_PRINTED: "as printed in TRM Table 5",
}
METRIC_TITLES = {
    "exact_accuracy": "exact accuracy",
    "peak_exact_accuracy": "best exact accuracy of a run",
    "pass@1": "one attempt",
    "pass@2": "two attempts",
}
PROTOCOL_TITLES = {"ensemble": "ensembles", "search": "search"}
_UNTRAINED = ("llm", "human")
"""Kinds that were not trained on the benchmark and have no supervision steps."""


class TableKey(NamedTuple):
    """Hold what rows must share to be ranked together."""

    benchmark: str
    split: str
    metric: str
    protocol: Protocol
    compute: str = ""
    """Test-time compute beyond the benchmark's custom, in words; empty for what is customary."""
    training: str = ""
    """Training set beyond the published one, or the weights that training started from, in words; else empty."""
    scoring: str = ""
    """What counts as correct, in words; empty for the stored answer, with which the benchmarks' own code compares."""
    fingerprint: str = ""
    """Of the dataset, where the test set is not a published one."""


_ANY_VALID = "any valid answer counts"


def ranked_name(benchmark: str, *, is_generated: bool) -> str:
    """Return the benchmark's name in tables; generated puzzles never have the name of a published set."""
    return f"{benchmark}-generated" if is_generated and not benchmark.endswith("-generated") else benchmark


def published_key(row: Baseline) -> TableKey:
    """Return the key of a published row."""
    standard = PUBLISHED.get(row.benchmark)
    custom = (standard.passes, standard.votes) if standard else (row.passes or 1, row.votes or 1)
    if row.kind in _UNTRAINED:
        compute, training = _compute_class(1, 1, row.samples, custom), ""
    else:
        votes = row.votes if custom[1] > 1 else row.votes or 1  # where voting is unusual, sources do not mention it
        compute = _compute_class(row.passes, votes, row.samples, custom)
        training = _training_class(row.train_puzzles, standard.train_puzzles if standard else None)
    scoring = _ANY_VALID if row.correct == "valid" else ""
    return TableKey(row.benchmark, row.split, row.metric, row.protocol, compute, training, scoring)


def own_key(record: TrialRecord, benchmark: str, metric: str, puzzles: int) -> TableKey:
    """Return the key of a result that was measured here, on `puzzles` puzzles of the test split.

    Args:
        benchmark: its name in tables.
    """
    standard = PUBLISHED.get(benchmark)
    custom = (standard.passes, standard.votes) if standard else (record.config.model.supervision_steps, 1)
    passes, votes, samples = own_compute(record)
    compute = _compute_class(passes, votes, samples, custom)
    protocol: Protocol = "ensemble" if samples > 1 or votes > custom[1] else "single"
    # Of generated puzzles the fingerprint in the key covers the training set too.
    training = _training_class(num_trained(record), standard.train_puzzles) if standard else ""
    training = ", ".join(filter(None, [start_words(record), training]))
    key = measured_key(benchmark, record.dataset.fingerprint, metric, puzzles, record.dataset.counts["test"])
    scoring = _ANY_VALID if record.dataset.several_answers else ""
    return key._replace(protocol=protocol, compute=compute, training=training, scoring=scoring)


def own_compute(record: TrialRecord) -> tuple[int, int, int]:
    """Return the supervision steps, votes and samples with which a trial was scored."""
    evaluation = record.config.evaluation
    stated = evaluation.supervision_steps or record.config.model.supervision_steps
    passes = (record.result and record.result.supervision_steps) or stated
    return passes, evaluation.votes, evaluation.rollouts if evaluation.noise > 0 else 1


def start_words(record: TrialRecord) -> str:
    """Return that a trial started from the weights of a checkpoint, whose own training set is not known; else empty."""
    address = record.config.train.start_from
    return "" if address is None else f"started from other weights (sha256 {start_sha256(address)[:12]})"


def num_trained(record: TrialRecord) -> int:
    """Return the number of puzzles that a trial was trained on."""
    return sum(record.dataset.counts.get(split, 0) for split in record.config.data.train_splits)


def measured_key(benchmark: str, fingerprint: str, metric: str, puzzles: int, puzzles_in_split: int) -> TableKey:
    """Return the key of a result with customary test-time compute that was measured by this project's code.

    It belongs to the published split if the whole published test set was scored, else to a table of those puzzles.
    """
    published = PUBLISHED.get(benchmark)
    known = published.items if published else None
    if puzzles != (known or puzzles_in_split):
        split = f"{puzzles:,} of {known or puzzles_in_split:,} test items"
        return TableKey(benchmark, split, metric, "single", fingerprint=fingerprint)
    if published and known:
        return TableKey(benchmark, published.test_split, metric, "single")
    return TableKey(benchmark, "test", metric, "single", fingerprint=fingerprint)


def _compute_class(passes: int | None, votes: int | None, samples: int | None, custom: tuple[int, int]) -> str:
    """Describe what exceeds the custom (supervision steps, votes), and what is not stated."""
    if passes is None and samples is None:
        return "test-time compute not stated"
    parts = []
    if passes is None:
        parts.append("supervision steps not stated")
    elif passes > custom[0]:
        parts.append(f"{passes} supervision steps")
    if votes is None:
        parts.append("votes not stated")
    elif votes > custom[1]:
        parts.append(f"vote over {votes:,} views")
    if samples is None:
        parts.append("samples not stated")
    elif samples > 1:
        parts.append(f"{samples} samples")
    return ", ".join(parts)


def _training_class(puzzles: int | None, standard: int | None) -> str:
    if puzzles is None:
        return "training set not stated"
    if standard is not None and puzzles > standard:
        return f"{puzzles:,} training puzzles"
    return ""
