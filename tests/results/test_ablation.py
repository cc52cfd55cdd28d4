"""Verdicts about changes: what is tested, how it is corrected, and that the words never outrun the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.records.schema import TrialRecord
from orchestrator.results import stats
from orchestrator.results.ablation import Effect, ablate, compare_checkpoints, published_delta
from orchestrator.results.baselines import load_baselines
from orchestrator.results.report import render_report
from orchestrator.results.report.formats import ablation_to_markdown
from tests.support.results import DATASET, ablation_records, make_config, make_record
from trm_data.errors import UserError


def runs(family: str, cycles: int, scores: tuple[float, ...], items: int = 10_000) -> list[TrialRecord]:
    configs = [make_config(cycles=cycles, seed=seed) for seed in range(len(scores))]
    return [
        make_record(c, score=s, stage="study", family=family, items=items) for c, s in zip(configs, scores, strict=True)
    ]


def effects(records: list[TrialRecord], control: str = "base") -> dict[str, Effect]:
    return {effect.name: effect for effect in ablate(records, control, baselines=load_baselines()).effects}


def test_ablation_finds_large_effects_and_refuses_small_ones() -> None:
    found = effects(ablation_records())
    assert list(found) == ["one-step gradient", "no EMA", "single latent", "T=2 n=4"]
    assert found["one-step gradient"].is_separated and found["no EMA"].is_separated
    assert found["no EMA"].verdict == "9.0 points below the control (adjusted p 0.005)."
    assert (
        found["T=2 n=4"].verdict == "4 seeds cannot separate these; 30 would, if the true difference is the one seen."
    )
    assert found["T=2 n=4"].compute_saved == pytest.approx(1 - 10 / 21)


def test_ablation_tests_seeds_with_welch_and_corrects_with_holm() -> None:
    found = list(effects(ablation_records()).values())
    welch = stats.welch((87.4, 84.2, 89.2, 86.0), (95.2, 96.0, 94.8, 96.6))
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


def test_ablation_with_one_seed_has_no_verdict() -> None:
    effect = effects(runs("base", 3, (0.9,)) + runs("a", 1, (0.5,)))["a"]
    assert effect.p_value is None and effect.interval is None and effect.method == "none"
    assert effect.verdict == "One run on a side: no verdict about the configuration."
    assert effect.difference == pytest.approx(-40)


def test_ablation_of_equal_runs_names_what_would_have_shown() -> None:
    effect = effects(runs("base", 3, (0.90, 0.92, 0.91)) + runs("a", 1, (0.92, 0.90, 0.91)))["a"]
    assert not effect.is_separated and effect.seeds_needed is None
    assert (
        effect.verdict
        == "3 seeds cannot separate these; a true difference of 3.1 points would have shown 4 times in 5."
    )


def test_ablation_of_runs_without_spread_is_not_certain() -> None:
    effect = effects(runs("base", 3, (0.5, 0.5), items=10) + runs("a", 1, (0.4, 0.4), items=10))["a"]
    assert effect.p_value is not None and effect.p_value > 0.05 and effect.interval is not None


def test_ablation_pairs_by_seed_only_where_the_seeds_move_together() -> None:
    shared = (0.90, 0.84, 0.88, 0.80, 0.93, 0.86, 0.82, 0.91)
    lower = tuple(score - 0.02 + shift / 1000 for score, shift in zip(shared, (3, -2, 1, 0, -3, 2, 1, -1), strict=True))
    together = effects(runs("base", 3, shared) + runs("a", 1, lower))
    apart = effects(runs("base", 3, shared) + runs("a", 1, (0.86, 0.91, 0.80, 0.88, 0.79, 0.90, 0.88, 0.81)))
    assert together["a"].method == "paired by seed" and together["a"].is_separated
    assert apart["a"].method == "Welch"
    assert effects(runs("base", 3, shared[:4]) + runs("a", 1, shared[:4]))["a"].method == "Welch"


def test_ablation_needs_a_confirmed_control_with_company() -> None:
    records = ablation_records()
    with pytest.raises(UserError, match=r"no confirmed result of a configuration 'bas'\. Did you mean 'base'"):
        ablate(records, "bas")
    with pytest.raises(UserError, match="'base' is alone on its test set"):
        ablate([r for r in records if r.family == "base"], "base")
    other = [
        replace(r, dataset=DATASET.model_copy(update={"fingerprint": "ffff"}), trial_id=r.trial_id + "f")
        for r in records
    ]
    with pytest.raises(UserError, match="'base' was scored on 2 test sets"):
        ablate([*records, *other], "base")


def test_ablation_appears_on_the_page_and_in_markdown() -> None:
    from datetime import UTC, datetime

    page = render_report(ablation_records(), now=datetime(2026, 1, 1, tzinfo=UTC), control="base")
    assert "Difference from base (95.7 %, 4 seeds)" in page and "30 would, if the true difference" in page
    assert "TRM paper, TRM-MLP no EMA: -7.5 points" in page
    markdown = ablation_to_markdown(ablate(ablation_records(), "base"))
    assert "| no EMA | -9.0 | -12.1 to -5.8 | 4 / 4 | 0.005 |" in markdown


def test_checkpoints_are_compared_item_by_item_and_labelled_as_such() -> None:
    first, second = ablation_records()[0], ablation_records()[4]
    found = compare_checkpoints(first, second, np.random.default_rng(0))
    assert found.items == 500 and found.only_first > found.only_second and found.p_value < 0.001
    assert "These two checkpoints: +8.8 points on 500 shared puzzles" in found.words
    assert found.words.endswith("It says nothing about other seeds.")
    with pytest.raises(UserError, match="different puzzles"):
        compare_checkpoints(
            first, replace(second, dataset=DATASET.model_copy(update={"fingerprint": "ffff"})), np.random.default_rng(0)
        )
    with pytest.raises(UserError, match="no outcome per puzzle"):
        compare_checkpoints(first, replace(second, result=None), np.random.default_rng(0))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 8])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_choice_of_test_keeps_false_alarms_at_its_level(seeds: int, correlation: float) -> None:
    """Two equal configurations: the choice between Welch and pairing looks at the data, and must not cost much."""
    from orchestrator.results.ablation import _compare
    from orchestrator.results.leaderboard import build_leaderboard

    entry = build_leaderboard(None, runs("base", 3, (0.9,) * seeds), [])[0].entries[0]
    assert entry.own is not None
    rng = np.random.default_rng(11)
    cover = np.array([[1, correlation], [correlation, 1]])
    alarms = 0
    for pair in rng.multivariate_normal([90, 90], cover, (3_000, seeds)).transpose(0, 2, 1).tolist():
        first, second = (replace(entry.own, scores=tuple(scores)) for scores in pair)
        comparison, _ = _compare(first, second, 0.01)
        alarms += comparison is not None and comparison.p_value < 0.05
    assert alarms / 3_000 <= 0.06
