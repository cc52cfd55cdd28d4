"""Verdicts about changes: what is tested, how it is corrected, and that the words never outrun the data."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from orchestrator.records.schema import TrialRecord
from orchestrator.results import stats
from orchestrator.results.ablation import Effect, compare_with_control, published_delta, show_p
from orchestrator.results.baselines import load_baselines
from orchestrator.results.power import WelchPower, seeds_needed
from orchestrator.results.report import Report
from orchestrator.results.report.ablation_formats import TEXT_FORMATS, caption, to_rich, verdicts
from orchestrator.results.report.effect_plot import draw
from orchestrator.results.seed_test import SeedTest
from tests.support.results import DATASET, ablation_records, make_config, make_record
from trm_data.errors import UserError


def runs(family: str, cycles: int, scores: tuple[float, ...], items: int = 10_000) -> list[TrialRecord]:
    configs = [make_config(cycles=cycles, seed=seed) for seed in range(len(scores))]
    return [
        make_record(c, score=s, stage="study", family=family, items=items) for c, s in zip(configs, scores, strict=True)
    ]


def effects(records: list[TrialRecord], control: str = "base") -> dict[str, Effect]:
    return {
        effect.name: effect for effect in compare_with_control(records, control, baselines=load_baselines()).effects
    }


def augmentation_records() -> list[TrialRecord]:
    """Recorded scores of parts-6x6, where only the correction for six comparisons makes 21.3 points insignificant."""
    records = runs("base", 3, (0.954, 0.971, 0.973)) + runs("no augmentation", 1, (0.690, 0.778, 0.793))
    for cycles, family in enumerate("abcde", 5):
        records += runs(family, cycles, tuple(0.95 + (cycles - 5 + seed) / 300 for seed in range(3)))
    return records


def test_ablation_finds_large_effects_and_refuses_small_ones() -> None:
    found = effects(ablation_records())
    assert list(found) == ["one-step gradient", "no EMA", "single latent", "T=2 n=4"]
    assert found["one-step gradient"].is_separated and found["no EMA"].is_separated
    assert found["no EMA"].verdict == (
        "9.0 points below the control (p 0.005 by Welch's test over seeds, Holm for 4 comparisons)."
    )
    assert found["T=2 n=4"].verdict == (
        "Not separated from the control (p 0.340 by Welch's test over seeds, Holm for 4 comparisons). A true "
        "difference of 3.1 points would be detected with 80 % power; about 37 seeds of each would detect the "
        "difference seen, if it is the true one."
    )
    assert found["T=2 n=4"].compute_saved == pytest.approx(1 - 10 / 21)


def test_ablation_tests_seeds_with_welch_and_corrects_with_holm() -> None:
    found = list(effects(ablation_records()).values())
    # The second smallest of four p values is tested at 0.05 / 3, and its interval has that level.
    welch = stats.welch((87.4, 84.2, 89.2, 86.0), (95.2, 96.0, 94.8, 96.6), confidence=1 - 0.05 / 3)
    ema = next(effect for effect in found if effect.name == "no EMA")
    assert ema.method == "Welch" and ema.p_value == pytest.approx(welch.p_value)
    assert ema.interval == pytest.approx(welch.interval)
    raw = [effect.p_value or 0.0 for effect in found]
    assert [effect.p_adjusted for effect in found] == pytest.approx(stats.holm(raw))


def test_ablation_shows_the_papers_delta_for_the_same_change_only() -> None:
    found = effects(ablation_records())
    deltas = {name: effect.published and round(effect.published.difference, 1) for name, effect in found.items()}
    assert deltas == {"one-step gradient": -30.9, "no EMA": -7.5, "single latent": -15.5, "T=2 n=4": -5.5}
    rows = load_baselines()
    other_control = {"model.cycles": (2, 4), "model.latent_steps": (4, 8)}
    two_changes = {"optimizer.ema_rate": (0.99, 0.0), "model.mixer": ("mlp", "attention")}
    attention = {"model.mixer": ("mlp", "attention"), "model.positions": ("none", "rotary")}
    assert published_delta(other_control, rows) is None and published_delta(two_changes, rows) is None
    delta = published_delta(attention, rows)
    assert delta is not None and round(delta.difference, 1) == -12.7 and "Table 1" in delta.source


@pytest.mark.parametrize(
    ("cycles", "latent_steps", "score"), [(2, 2, 73.7), (1, 2, 63.2), (2, 4, 81.9), (4, 8, 84.2), (6, 6, 85.8)]
)
def test_each_depth_of_the_papers_table_3_is_found_by_its_own_settings(
    cycles: int, latent_steps: int, score: float
) -> None:
    rows = load_baselines()
    scores = {row.system: row.score for row in rows if row.role == "ablation" and row.benchmark == "sudoku-extreme"}
    changed = {"model.cycles": (3, cycles), "model.latent_steps": (6, latent_steps)}
    delta = published_delta({path: pair for path, pair in changed.items() if pair[0] != pair[1]}, rows)
    assert delta is not None and delta.system == f"TRM-MLP T={cycles} n={latent_steps}"
    assert delta.difference == pytest.approx(scores[delta.system] - scores["TRM-MLP T=3 n=6"])
    assert scores[delta.system] == score
    other = {"model.cycles": (3, cycles), "model.latent_steps": (6, latent_steps + 1)}
    assert published_delta(other, rows) is None


def test_ablation_with_one_seed_has_no_verdict() -> None:
    effect = effects(runs("base", 3, (0.9,)) + runs("a", 1, (0.5,)))["a"]
    assert effect.p_value is None and effect.interval is None and effect.method == "none"
    assert effect.verdict == "No verdict about the configuration: one of the two has a single run."
    assert effect.difference == pytest.approx(-40)


def test_ablation_of_equal_runs_names_what_would_have_shown() -> None:
    effect = effects(runs("base", 3, (0.90, 0.92, 0.91)) + runs("a", 1, (0.92, 0.90, 0.91)))["a"]
    assert not effect.is_separated and effect.seeds_needed is None
    assert (
        effect.verdict == "Not separated from the control (p 1.000 by Welch's test over seeds). A true difference of "
        "3.5 points would be detected with 80 % power."
    )


def test_ablation_of_runs_without_spread_is_not_certain() -> None:
    effect = effects(runs("base", 3, (0.5, 0.5), items=10) + runs("a", 1, (0.4, 0.4), items=10))["a"]
    assert effect.p_value is not None and effect.p_value > 0.05 and effect.interval is not None


def test_ablation_of_two_seeds_with_equal_scores_is_not_certain_on_many_puzzles_either() -> None:
    found = effects(runs("base", 3, (0.95, 0.95), items=1_000) + runs("a", 1, (0.92, 0.92), items=1_000))
    assert not found["a"].is_separated


def test_ablation_pairs_by_seed_only_where_the_seeds_move_together() -> None:
    shared = (0.90, 0.84, 0.88, 0.80, 0.93, 0.86, 0.82, 0.91)
    lower = tuple(score - 0.02 + shift / 1000 for score, shift in zip(shared, (3, -2, 1, 0, -3, 2, 1, -1), strict=True))
    together = effects(runs("base", 3, shared) + runs("a", 1, lower))
    apart = effects(runs("base", 3, shared) + runs("a", 1, (0.86, 0.91, 0.80, 0.88, 0.79, 0.90, 0.88, 0.81)))
    assert together["a"].method == "paired by seed" and together["a"].is_separated
    assert apart["a"].method == "Welch"
    assert effects(runs("base", 3, shared[:4]) + runs("a", 1, shared[:4]))["a"].method == "Welch"


@pytest.mark.parametrize("records", [ablation_records(), augmentation_records()], ids=["parts", "augmentation"])
def test_interval_of_a_difference_leaves_out_zero_exactly_if_it_is_significant(records: list[TrialRecord]) -> None:
    for effect in effects(records).values():
        assert effect.interval is not None
        assert effect.is_separated == (not effect.interval.low <= 0 <= effect.interval.high)


def test_difference_stays_within_what_is_possible() -> None:
    """Recorded scores of parts-6x6: attention against the control; Welch's interval alone reaches below -100."""
    found = effects(runs("base", 3, (0.954, 0.971, 0.973)) + runs("attention", 1, (0.001, 0.0, 0.129)))
    assert found["attention"].interval is not None and found["attention"].interval.low == -100.0
    found = effects(runs("base", 3, (0.001, 0.0, 0.129)) + runs("better", 1, (0.954, 0.971, 0.973)))
    assert found["better"].interval is not None and found["better"].interval.high == 100.0


def test_difference_that_no_affordable_number_of_runs_detects_is_said_so() -> None:
    effect = effects(runs("base", 3, (0.9, 0.1)) + runs("a", 1, (0.8, 0.0)))["a"]
    assert effect.detectable is None and "So few seeds detect no difference with 80 % power" in effect.verdict
    assert "Caution: seeds differ by 80.0 points" in effect.verdict


def test_no_separated_difference_lies_far_below_what_is_called_detectable() -> None:
    """Bug F4: 21.3 points were not significant next to 12.2 points 'would have shown', by another test."""
    effect = effects(augmentation_records())["no augmentation"]
    assert not effect.is_separated and effect.comparisons == 6
    assert effect.p_value is not None and effect.p_value < 0.05  # the correction alone decides
    assert effect.detectable is None or effect.detectable > abs(effect.difference)


def test_one_setting_more_than_are_named_is_one_setting() -> None:
    paths = ("model.cycles", "model.latent_steps", "optimizer.lr", "optimizer.ema_rate", "train.batch_size")
    changes: dict[str, tuple[object, object]] = dict.fromkeys(paths, (1, 2))
    effect = next(iter(effects(ablation_records()).values()))
    assert replace(effect, changes=changes).change.endswith(", 1 more setting")


def test_ablation_needs_a_confirmed_control_with_company() -> None:
    records = ablation_records()
    with pytest.raises(UserError, match=r"no confirmed result of a configuration 'bas'\. Did you mean 'base'"):
        compare_with_control(records, "bas")
    with pytest.raises(UserError, match=r"configuration 'BASE'\. Did you mean 'base'"):
        compare_with_control(records, "BASE")
    cycles = [replace(r, family="T=1" if r.family == "base" else r.family) for r in records]
    with pytest.raises(UserError, match=r"configuration 'T=9'\. Known: T=1, "):
        compare_with_control(cycles, "T=9")
    with pytest.raises(UserError, match="'base' is alone on its test set"):
        compare_with_control([r for r in records if r.family == "base"], "base")
    other = [
        replace(r, dataset=DATASET.model_copy(update={"fingerprint": "ffff"}), trial_id=r.trial_id + "f")
        for r in records
    ]
    with pytest.raises(UserError, match="'base' was scored on 2 test sets"):
        compare_with_control([*records, *other], "base")


def test_ablation_appears_on_the_page_and_in_markdown() -> None:
    from datetime import UTC, datetime

    page = Report(records=ablation_records(), now=datetime(2026, 1, 1, tzinfo=UTC), control="base").html()
    page = page.replace("\N{NO-BREAK SPACE}", " ")
    assert "Difference from base (95.7 %, 4 seeds)" in page and "37 seeds of each would detect" in page
    assert "TRM paper, TRM-MLP no EMA: -7.5 points" in page
    markdown = TEXT_FORMATS["markdown"](compare_with_control(ablation_records(), "base"))
    assert "| no EMA | ema 0.99 -\\> 0 | 86.7 | 83.3-90.1 | 4 | -9.0\\* | -13.5 to -4.4 | 0.005 | 1.00 |" in markdown


@pytest.mark.parametrize(("score", "bound"), [(0.0, "floor of 0 %"), (1.0, "ceiling of 100 %")])
def test_no_power_is_claimed_where_all_runs_are_at_a_bound(score: float, bound: str) -> None:
    """Bug E19: three seeds that solve nothing 'would have shown' a difference of a fraction of a point."""
    effect = effects(runs("base", 3, (score,) * 3, items=1_000) + runs("a", 1, (score,) * 3, items=1_000))["a"]
    assert effect.detectable is None and effect.seeds_needed is None
    assert effect.verdict == (
        "Not separated from the control (p 1.000 by Welch's test over seeds). Both are at the "
        f"{bound}, where seeds do not show their spread: the power is not known."
    )
    above = abs(score - 0.004)
    one = effects(runs("base", 3, (above, above, score)) + runs("a", 1, (score,) * 3))["a"]
    assert not one.is_separated and f"It is at the {bound}" in one.verdict and "80 % power" not in one.verdict
    inside = effects(runs("base", 3, (0.5, 0.52, 0.51)) + runs("a", 1, (0.5, 0.51, 0.5)))["a"]
    assert inside.bounds == (None, None) and "80 % power" in inside.verdict


def test_every_verdict_names_the_configuration_and_its_change() -> None:
    found = verdicts(compare_with_control(ablation_records(), "base"))
    starts = [sentence.partition(": ")[0] for sentence in found]
    assert starts[1] == "no EMA (ema 0.99 -> 0)" and starts[3] == "T=2 n=4 (T 3 -> 2, n 6 -> 4)"
    assert all(
        verdict == "No verdict about the configuration: one of the two has a single run."
        for verdict in (
            text.partition(": ")[2]
            for text in verdicts(compare_with_control(runs("base", 3, (0.9,)) + runs("a", 1, (0.5,)), "base"))
        )
    )


def test_caption_says_what_was_compared_with_which_test_correction_and_seeds() -> None:
    records = ablation_records()
    text = caption(compare_with_control(records, "base", baselines=load_baselines()))
    assert text.startswith(
        "Exact accuracy in % on sudoku-6x6-generated, test split (500 scored): means over training runs, 4 seeds each"
    )
    assert "difference from base, tested by Welch's t test over seeds" in text
    assert "adjusted for 4 comparisons by Holm's procedure" in text and "scored on this test set 20 times" in text
    fewer = [record for record in records if record.family in ("base", "no EMA") or record.config.seed == 0]
    text = caption(compare_with_control(fewer, "base"))
    assert "1 to 4 seeds" in text and "One comparison was made" in text and "Holm" not in text
    assert "one-step gradient, single latent, T=2 n=4: not tested, because a side has a single run." in text
    shared = (0.90, 0.84, 0.88, 0.80, 0.93, 0.86, 0.82, 0.91)
    together = runs("base", 3, shared) + runs("a", 1, (*(score - 0.02 for score in shared[:7]), 0.88))
    assert "tested by the paired t test over seeds" in caption(compare_with_control(together, "base"))


def test_ablation_as_csv_and_json_has_every_number_of_the_comparison() -> None:
    found = compare_with_control(ablation_records(), "base", baselines=load_baselines())
    control, *rows = csv.DictReader(io.StringIO(TEXT_FORMATS["csv"](found)))
    assert control["system"] == "base" and control["difference"] == "" and control["score"] == "95.65"
    ema = next(row for row in rows if row["system"] == "no EMA")
    assert (ema["seeds"], ema["difference"], ema["paper_difference"]) == ("4", "-8.95", "-7.5")
    assert float(ema["p_adjusted"]) == pytest.approx(0.00489, abs=1e-5) and ema["correction"] == "Holm"
    assert float(ema["difference_low"]) == pytest.approx(-13.5455) and ema["comparisons"] == "4"
    deep = json.loads(TEXT_FORMATS["json"](found))
    assert deep["caption"] == caption(found) and deep["control"]["system"] == "base"
    effect = next(effect for effect in deep["effects"] if effect["name"] == "T=2 n=4")
    assert effect["changes"] == {"model.cycles": [3, 2], "model.latent_steps": [6, 4]}
    assert effect["compute_ratio"] == pytest.approx(10 / 21) and effect["entry"]["own"]["seeds"] == [0, 1, 2, 3]


def test_ablation_as_latex_is_a_table_with_its_caption() -> None:
    text = TEXT_FORMATS["latex"](compare_with_control(ablation_records(), "base"))
    assert r"\caption{Exact accuracy in \% on sudoku-6x6-generated" in text and r"\toprule" in text
    assert r"no EMA & ema 0.99 -\textgreater{} 0 & 86.7 & 83.3 to 90.1 & 4 & $-9.0$* & $-13.5$ to $-4.4$" in text


def test_names_of_an_ablation_cannot_change_what_a_program_does() -> None:
    name = "=x | \\write18{id}\n$y$"
    records = [replace(r, family=name) if r.family == "no EMA" else r for r in ablation_records()]
    found = compare_with_control(records, "base")
    rows = list(csv.DictReader(io.StringIO(TEXT_FORMATS["csv"](found))))
    assert any(row["system"].startswith("'=x") for row in rows)
    assert r"\write18" not in TEXT_FORMATS["latex"](found) and r"\$y\$" in TEXT_FORMATS["latex"](found)
    cells = [line.count(" | ") for line in TEXT_FORMATS["markdown"](found).splitlines() if line.startswith("|")]
    assert len(set(cells)) == 1
    assert "=x | \\write18{id} $y$" in "".join(ET.fromstring(draw(found, "svg")).itertext())


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_ablation_fits_its_terminal_with_whole_numbers(width: int) -> None:
    found = compare_with_control(ablation_records(), "base", baselines=load_baselines())
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(to_rich(found))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "one-step gradient" in text and "-26.7*" in text and "0.005" in text and "95.7" in text
    assert "-35.4 to -18.0" in text or width < 100
    assert "T 3 -> 2, n 6 -> 4" in text or width < 200


def test_forest_plot_is_a_vector_file_with_text_and_the_same_for_the_same_results() -> None:
    found = compare_with_control(ablation_records(), "base", baselines=load_baselines())
    svg = draw(found, "svg")
    words = " ".join(ET.fromstring(svg).itertext())
    assert "one-step gradient" in words and "-9.0, p 0.005 (4 / 4 seeds)" in words and "Difference from base" in words
    assert svg == draw(found, "svg")
    pdf = draw(found, "pdf")
    assert (
        pdf.startswith(b"%PDF") and b"/Type3" not in pdf and b"/Subtype /Type3" not in pdf and pdf == draw(found, "pdf")
    )


def scores_by_seed(scores: Sequence[float]) -> dict[int, float]:
    return dict(enumerate(scores))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 8])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_choice_of_test_keeps_false_alarms_at_its_level(seeds: int, correlation: float) -> None:
    """Two equal configurations: the choice between Welch and pairing looks at the data, and must not cost much."""
    rng = np.random.default_rng(11)
    cover = np.array([[1, correlation], [correlation, 1]])
    alarms = 0
    for first, second in rng.multivariate_normal([90, 90], cover, (3_000, seeds)).transpose(0, 2, 1).tolist():
        test = SeedTest(scores_by_seed(first), scores_by_seed(second), 0.01)
        alarms += test.compare(0.05).p_value < 0.05
    assert alarms / 3_000 <= 0.06


def holm_detects(truth: float, level_of: str, comparisons: int, rounds: int, seeds: int = 3) -> float:
    """Share of simulated ablations in which Holm's procedure finds one true difference among `comparisons`; the other
    changes have no effect (`null`) or a huge one (`huge`)."""
    rng, spreads, hits = np.random.default_rng(2), (1.0, 2.0), 0
    others = 0.0 if level_of == "null" else 1_000.0
    for _ in range(rounds):
        control = rng.normal(0, spreads[0], seeds)
        means = [truth, *[others] * (comparisons - 1)]
        p_values = [
            stats.welch(rng.normal(mean, spreads[1], seeds).tolist(), control.tolist()).p_value for mean in means
        ]
        hits += stats.holm(p_values)[0] < 0.05
    return hits / rounds


@pytest.mark.parametrize(("others", "level"), [("null", 0.05 / 6), ("huge", 0.05)])
def test_stated_power_is_that_of_the_corrected_test(others: str, level: float) -> None:
    """What a verdict calls detectable with 80 % power is significant after Holm's correction in 77 to 83 %."""
    truth = WelchPower((2.0, 1.0), (3, 3), level).detectable()
    assert 0.77 <= holm_detects(truth, others, comparisons=6, rounds=1_000) <= 0.83


@pytest.mark.slow
@pytest.mark.parametrize("difference", [2.3, 5.2])
def test_stated_number_of_seeds_has_the_stated_power(difference: float) -> None:
    needed = seeds_needed(difference, lambda n: WelchPower((2.0, 1.0), (n, n), 0.05 / 6))
    assert needed is not None
    assert holm_detects(difference, "null", 6, 4_000, needed) >= 0.78
    assert holm_detects(difference, "null", 6, 4_000, needed - 1) <= 0.82


def test_p_value_below_a_thousandth_is_no_number() -> None:
    shown = [show_p(value) for value in (0.0, 0.00099, 0.001, 0.0314, 1.0)]
    assert shown == ["< 0.001", "< 0.001", "0.001", "0.031", "1.000"]
