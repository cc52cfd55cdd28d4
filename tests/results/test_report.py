"""The page: complete, self-contained, well-formed, honest in words, and written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from orchestrator.records.schema import Row, Status, TrialRecord
from orchestrator.resources.usage import Cost
from orchestrator.results.baselines import load_baselines
from orchestrator.results.leaderboard import build_leaderboard
from orchestrator.results.leaderboard.cost import Grid
from orchestrator.results.report import Report, explorer, markup, scatter
from orchestrator.results.report.formats import amounts
from orchestrator.results.report.importance import importances
from orchestrator.results.report.markup import Scale, compact, dollars, duration, flops, points, tag
from orchestrator.results.report.page import source_link
from orchestrator.results.report.scatter import pareto
from orchestrator.results.report.summary import summarise
from orchestrator.results.report.trial_plots import effect, leading
from orchestrator.results.report.views import studies
from orchestrator.sweep.settings import configure
from tests.support.results import demo_records, large_records, make_config, make_record
from trm_data.errors import UserError

NOW = datetime(2026, 11, 21, 22, 0, tzinfo=UTC)
VOID = {"meta", "link", "input", "br"}


class Checker(HTMLParser):
    """Balances the tags and collects what the tests ask about."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.references: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if name not in VOID:
            self.open.append(name)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if values.get("role") == "img":
            self.images.append(values)
        self.references += [str(values[key]) for key in ("src", "href") if values.get(key)]

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


@pytest.fixture(scope="module")
def page() -> str:
    return Report(records=demo_records(), now=NOW).html()


@pytest.fixture(scope="module")
def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    return checker


def test_page_is_well_formed_and_every_id_is_its_own(checked: Checker) -> None:
    assert checked.open == []
    assert len(checked.ids) == len(set(checked.ids)) > 5


def test_page_loads_nothing_from_anywhere(page: str, checked: Checker) -> None:
    fetched = [
        r
        for r in checked.references
        if not r.startswith(("#", "data:", "https://arxiv.org/", "https://github.com/", "https://arcprize.org/"))
    ]
    assert fetched == [] and "@import" not in page and not re.search(r"url\((?!#)", page) and "<script src" not in page
    assert all(f'id="{r[1:]}"' in page for r in checked.references if r.startswith("#"))


def test_page_says_what_was_found_with_its_interval(checked: Checker) -> None:
    text = re.sub(r"\s+", " ", " ".join(checked.text))  # \s matches the no-break space too
    assert "solves 96.3 % of 500 held-out puzzles (mean of 3 seeds; 95 % interval over seeds 93.6 to 98.8)" in text
    assert "The data separate it from hrm (86.8 %) and direct (31.9 %)." in text
    assert "The search explored 12 trials on validation puzzles and stopped 2 of them early." in text
    assert "12 trials of the search stage" in text and "2026-11-21 22:00 UTC" in text


def test_page_shows_every_row_its_provenance_and_every_baseline(checked: Checker) -> None:
    text = " ".join(checked.text)
    assert all(record.trial_id in text for record in demo_records() if record.stage == "confirm")
    assert "3f9c2a71d0b84e55a6c1" in text and "748ea00c55aa" in text and "node-7 (cpu)" in text
    assert '"hidden_size": 64' in text
    shown = [row for row in load_baselines() if row.role != "ablation" and row.split != "as-printed"]
    assert all(row.system in text for row in shown)


def test_page_plots_have_words_for_a_screen_reader(checked: Checker) -> None:
    labels = [str(image.get("aria-label")) for image in checked.images]
    assert len(labels) >= 5 and all(len(label) > 20 for label in labels)


def test_page_plots_are_well_formed_xml(page: str) -> None:
    drawings = re.findall(r"<svg[^>]*role=\"img\".*?</svg>(?=</div>)", page, flags=re.DOTALL)
    assert len(drawings) >= 5
    for drawing in drawings:
        ET.fromstring(drawing)


def test_page_escapes_what_users_write() -> None:
    record = replace(
        make_record(make_config(), score=0.5, stage="confirm"), family="<script>alert(1)</script>&", sweep="<b>"
    )
    page = Report(records=[record], now=NOW, baselines=[]).html()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page and "<b>" not in page


def test_page_without_records_shows_the_published_results() -> None:
    page = Report(records=[], now=NOW).html()
    assert "Published results" in page and "TRM-MLP" in page and "All trials" not in page


def test_page_of_a_young_sweep_claims_nothing() -> None:
    young = [
        replace(r, status=Status.RUNNING, result=None, rows=r.rows[:1]) for r in demo_records() if r.stage == "explore"
    ]
    page = Report(records=young, now=NOW, baselines=[]).html()
    assert "No result is confirmed yet" in page and "Confirmed results" not in page


def test_page_survives_a_trial_without_any_row() -> None:
    bare = replace(demo_records()[0], status=Status.PENDING, result=None, rows=[], attempts=[])
    assert "pending" in Report(records=[bare], now=NOW, baselines=[]).html()


def test_page_ignores_a_non_finite_score() -> None:
    record = demo_records()[0]
    broken = replace(
        record, status=Status.DIVERGED, result=None, rows=[Row(1, 0.0, "validation", {"exact_accuracy": float("nan")})]
    )
    page = Report(records=[broken], now=NOW, baselines=[]).html()
    assert "1 trial failed, diverged or ran out of memory." in page and ">nan<" not in page


@pytest.mark.parametrize("source", ["", " ", "arXiv", "arXiv ", "a book", "github.com"])
def test_a_source_without_an_address_has_no_link(source: str) -> None:
    assert source_link(source) == ""
    assert source_link("arXiv 2510.04871v1") == "https://arxiv.org/abs/2510.04871v1"


def test_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "report.html"
    Report(records=demo_records(), now=NOW, baselines=[]).write(target)
    assert target.read_text().endswith("</html>") and list(target.parent.iterdir()) == [target]
    with pytest.raises(UserError, match="cannot write"):
        Report(records=[], now=NOW, baselines=[]).write(target.parent)
    assert list(tmp_path.iterdir()) == [target.parent]


def test_summary_does_not_claim_what_seeds_cannot_show() -> None:
    def run(family: str, cycles: int, scores: tuple[float, ...]) -> list:
        configs = [make_config(cycles=cycles, seed=seed) for seed in range(len(scores))]
        return [make_record(c, score=s, stage="study", family=family) for c, s in zip(configs, scores, strict=True)]

    records = run("deep", 3, (0.95, 0.85, 0.91)) + run("shallow", 1, (0.90, 0.82, 0.87))
    table = build_leaderboard(None, records, [])[0]
    words = summarise(studies(records)[0], table).replace("\N{NO-BREAK SPACE}", " ")
    assert "It does not differ significantly from shallow (86.3 %)" in words
    assert "It is the best of 2 on this test set; corrected for that choice" in words
    assert "ran 2 configurations in 6 trials" in words
    assert "ran 2 configurations in 6 trials, each to its end" in words
    started = replace(records[0], trial_id="f" * 12, status=Status.RUNNING, result=None)
    unfinished = summarise(studies([*records, started])[0], table)
    assert "ran 2 configurations in 7 trials; 6 of them have ended" in unfinished
    nothing = run("deep", 3, (0.0, 0.0)) + run("shallow", 1, (0.0, 0.0))
    tied = summarise(studies(nothing)[0], build_leaderboard(None, nothing, [])[0])
    assert "the best of" not in tied and "It is not better than shallow (0.0" in tied
    single = run("deep", 3, (0.95,))
    assert "one seed: that says nothing yet" in summarise(studies(single)[0], build_leaderboard(None, single, [])[0])


@pytest.mark.parametrize(
    ("gap", "words"), [(0.0065, "It does not differ significantly from T=2"), (0.012, "The data separate it from T=2")]
)
def test_summary_calls_a_picked_winner_better_only_if_all_pairs_are_corrected(gap: float, words: str) -> None:
    """Each row's range of ranks, which is corrected for the other five rows alone, separates the best in both cases."""
    records = []
    for cycles in range(1, 7):
        mean = 0.95 - (gap + cycles / 2_000 if cycles > 1 else 0)
        for seed in range(5):
            config, score = make_config(cycles=cycles, seed=seed), mean + (seed - 2) / 500
            family = f"T={cycles}"
            records.append(make_record(config, score=score, stage="study", family=family, items=1_000_000))
    table = build_leaderboard(None, records, [])[0]
    assert [entry.ranks for entry in table.entries[:2]] == [(1, 1), (2, 6)]
    assert words in summarise(studies(records)[0], table)


def test_importance_needs_enough_complete_trials_and_finds_the_cause() -> None:
    few = studies(demo_records()[:6])[0]
    assert importances(few.compared, few.varied) is None
    configs = [make_config(cycles=c, latent=n) for c in (1, 2, 3, 4) for n in (2, 3, 4, 6)]
    records = [make_record(config, score=0.2 * config.model.cycles) for config in configs]
    study = studies(records)[0]
    found = importances(study.compared, study.varied)
    assert found is not None and found.evaluator == "fANOVA" and found.trials == 16
    assert next(iter(found.shares)) == "T" and found.shares["T"] > 0.9
    assert sum(found.shares.values()) == pytest.approx(1)
    assert all(low <= high for low, high in found.intervals.values()) and found.intervals["T"][0] > 0.5


def test_a_page_of_few_trials_says_so_instead_of_ranking_settings() -> None:
    explored = [record for record in demo_records() if record.stage == "explore"]
    page = Report(records=explored[:6], now=NOW, baselines=[]).html()
    complete = sum(record.status is Status.FINISHED for record in explored[:6])
    assert f"{complete} complete trials: what a setting explains needs at least 8." in page
    assert "bar-track" not in page.partition("</style>")[2]


def test_figures_hold_the_data_that_they_download(page: str) -> None:
    blocks = re.findall(r'<script type="application/json" class="data">(.*?)</script>', page)
    tables = [json.loads(block) for block in blocks]
    confirmed = next(table for table in tables if table[0][0] == "system")
    assert [row[0] for row in confirmed[1:]] == ["best", "hrm", "direct"] and confirmed[1][2] == pytest.approx(
        96.33, abs=0.1
    )
    assert confirmed[1][3] < confirmed[1][2] < confirmed[1][4]
    assert any(table[0] == ["setting", "share", "low_90", "high_90"] for table in tables)
    assert 'data-settings="[&#34;T&#34;, &#34;n&#34;]"' in page


def test_ticks_of_compute_count_in_giga(page: str) -> None:
    """Bug E12: the axis of FLOP said "500 B"."""
    entries = [e for e in build_leaderboard(None, demo_records(), [])[0].entries if e.own]
    drawing = scatter.cost_scatter(entries, "train_flops", named=(), y_title="score")
    ticks = re.findall(r'class="tick middle">([^<]*)<', drawing)
    assert ticks and all(re.fullmatch(r"[\d.]+ [kMGTP]?", tick) for tick in ticks)
    assert markup.axes(markup.Scale(1e9, 1e12, log=True), None, x_format="si").count(" G<") >= 1


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_importance_is_the_share_of_the_variance_that_a_setting_explains(noise: float) -> None:
    """The scores are a sum of two effects with variances in the ratio 4 to 1; the other setting has none."""
    rng = np.random.default_rng(0)
    cells = [(c, n, a) for c in (1, 2, 3, 4) for n in (1, 2, 3, 4) for a in (0, 5, 9)]
    configs = [configure(make_config(cycles=c, latent=n), {"data.num_augmentations": a}) for c, n, a in cells]
    scores = [0.1 + 0.1 * c + 0.05 * n + noise * float(rng.normal()) for c, n, _ in cells]
    (study,) = studies([make_record(config, score=score) for config, score in zip(configs, scores, strict=True)])
    found = importances(study.compared, study.varied)
    assert found is not None
    assert found.shares["T"] == pytest.approx(0.8, abs=0.06) and found.shares["n"] == pytest.approx(0.2, abs=0.06)
    assert found.shares["aug"] < 0.03
    assert found.intervals["T"][0] <= found.shares["T"] <= found.intervals["T"][1]


def test_importance_of_values_without_an_order() -> None:
    """Names are split one against the rest: the middle one, by name, is the one that differs."""
    names = ("adam_atan2", "adamw", "muon")
    configs = [configure(make_config(cycles=c), {"optimizer.name": name}) for c in (1, 2, 3, 4) for name in names]
    records = [make_record(c, score=0.9 if c.optimizer.name == "adamw" else 0.3) for c in configs]
    (study,) = studies(records)
    found = importances(study.compared, study.varied)
    assert found is not None and found.shares["optimizer.name"] == pytest.approx(1)


def test_the_page_holds_and_reads_the_curves_of_some_of_many_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "MAX_LINES", 5)
    (study,) = studies(large_records(40, 3))
    found = explorer.document(study)
    assert len(found["trials"]) == 40 and len(found["curves"]) == 5
    best = max((trial for trial in found["trials"] if trial["stage"] == "explore"), key=lambda trial: trial["score"])
    assert best["lead"]
    assert explorer.document(study, "/live")["curves"] == {}, "the live page asks for the curves that it draws"


def test_curves_hold_both_splits_with_seconds_and_flops() -> None:
    record = demo_records()[-1]
    rows = [replace(row, split="train", metrics={"loss": 1.0, "train_s": 2.0 * row.step}) for row in record.rows]
    curves = explorer.curves_of(replace(record, rows=[*record.rows, *rows]))
    assert curves["train"]["s"] == [2.0 * row.step for row in record.rows] and set(curves["train"]["loss"]) == {1}
    assert curves["validation"]["step"] == [row.step for row in record.rows]
    exact = [100 * row.metrics["exact_accuracy"] for row in record.rows]
    assert curves["validation"]["exact"] == pytest.approx(exact, rel=1e-3)
    assert record.result is not None and record.result.train_flops is not None


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    record = make_record(make_config(), score=0.9, points=500)
    curve = explorer.curves_of(record)["validation"]
    assert len(curve["step"]) == len(curve["exact"]) == 64
    assert (curve["step"][0], curve["step"][-1]) == (record.rows[0].step, record.rows[-1].step)


def test_a_trial_without_a_result_has_its_flops_per_step_from_its_rows() -> None:
    rows = [Row(step, 0.0, "train", {"flops_per_s": 3e9, "train_s": step / 10}) for step in (10, 20, 30)]
    running = replace(demo_records()[0], result=None, status=Status.RUNNING, rows=rows)
    assert explorer.flops_per_step(running) == pytest.approx(3e8)
    assert explorer.flops_per_step(replace(running, rows=[])) is None


def test_the_vendored_library_is_the_one_that_its_table_names() -> None:
    folder = Path(explorer.__file__).parent / "vendor"
    assert hashlib.sha256((folder / "d3.min.js").read_bytes()).hexdigest() in (folder / "README.md").read_text()


def test_importance_of_few_noisy_trials_has_ranges_that_overlap() -> None:
    """Bug E18: with ten trials two tools named other settings; the ranges show that neither is known."""
    rng = np.random.default_rng(0)
    configs = [make_config(cycles=c, latent=n) for c in (1, 2, 3) for n in (2, 3, 4)]
    records = [make_record(config, score=float(rng.uniform(0.3, 0.9))) for config in configs]
    (study,) = studies(records)
    found = importances(study.compared, study.varied)
    assert found is not None
    (first, second) = found.shares
    assert found.intervals[first][0] < found.intervals[second][1]


def test_study_names_varied_settings_by_letter_and_leaves_controls_out() -> None:
    study = studies(demo_records())[0]
    assert study.varied == ("T", "n", "N_sup", "aug")
    assert {trial.variant for trial in study.compared} == {"trm"} and len(study.compared) == 12


def test_study_takes_a_default_for_the_value_that_it_stands_for() -> None:
    kept, said, changed = (
        configure(make_config(seed=seed), {"model.shared_network": value})
        for seed, value in enumerate((None, True, False))
    )
    records = [make_record(config, score=0.5, stage="study", split="test") for config in (kept, said, changed)]
    (study,) = studies(records)
    assert study.varied == ("model.shared_network",)
    assert [trial.settings["model.shared_network"] for trial in study.trials] == [True, True, False]
    (study,) = studies(records[:2])
    assert study.varied == ()


def test_study_of_variants_leaves_out_what_follows_from_the_variant() -> None:
    configs = [make_config(variant=variant) for variant in ("trm", "hrm")]
    (study,) = studies([make_record(config, score=0.5, stage="study", split="test") for config in configs])
    assert study.varied == ("model.variant",)


def test_study_never_compares_validation_scores_with_test_scores() -> None:
    cells = [make_record(make_config(cycles=cycles), score=0.5, stage="study") for cycles in (1, 2, 3)]
    few = studies([*demo_records(), *cells])[0].compared
    many = studies([*demo_records()[:2], *cells])[0].compared
    assert {trial.split for trial in few} == {"validation"} and {trial.split for trial in many} == {"test"}


def test_setting_with_many_values_gets_a_numeric_axis() -> None:
    base = make_config()
    rates = [1e-4 * 1.4**index for index in range(12)]
    configs = [base.model_copy(update={"optimizer": base.optimizer.model_copy(update={"lr": lr})}) for lr in rates]
    records = [make_record(config, score=0.4 + index / 40) for index, config in enumerate(configs)]
    study = studies(records)[0]
    drawing = effect(study.compared, "lr", "lr, learning rate")
    assert study.varied == ("lr",) and drawing.count("<circle") == 12
    assert ">0.0001<" in drawing and ">0.001<" in drawing and "mean-bar" not in drawing
    assert "Learning rate" in Report(records=records, now=NOW, baselines=[]).html()


def test_pareto_keeps_only_what_nothing_beats() -> None:
    assert pareto([(1, 10), (2, 5), (3, 30), (3, 20), (4, 30)]) == [(1, 10), (3, 30)]
    assert pareto([]) == []


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Scale(0, 100), [0, 20, 40, 60, 80, 100]),
        (Scale(0, 1200), [0, 250, 500, 750, 1000]),
        (Scale(1e12, 1e15, log=True), [1e12, 1e13, 1e14, 1e15]),
        (Scale.over([5.0]), [4.6, 4.8, 5.0, 5.2, 5.4]),
    ],
)
def test_scale_has_round_ticks_inside(scale: Scale, ticks: list[float]) -> None:
    assert scale.ticks() == pytest.approx(ticks)
    assert all(0 <= scale.at(tick) <= 100 for tick in ticks)


def test_numbers_are_written_as_people_read_them() -> None:
    assert [compact(v) for v in (148_000, 7e6, 1.7e12, 12, None)] == ["148 K", "7 M", "1.7 T", "12", "\u2013"]
    assert [flops(v) for v in (1.512e14, 0, 2e21)] == ["151 TFLOP", "0 FLOP", "2 ZFLOP"]
    assert [duration(v) for v in (10.08, 200, 18_400, None)] == ["10.1 s", "3.33 min", "5.11 h", "\u2013"]
    assert duration(2_800 * 3600) == "2,800 h" and dollars(12_345.6) == "$12,345.60"
    assert [dollars(v) for v in (0.39465, 0.0036, 17)] == ["$0.39", "$0.0036", "$17.00"]
    assert [points(v) for v in (87.4, 46.58, 0.0)] == ["87.4", "46.58", "0.0"]


def test_numbers_change_their_unit_where_the_next_one_begins() -> None:
    counts = (0, 999.4, 999.6, 1_000, 999_499, 999_500, 7e9, 1.7e12, -2_000)
    assert [compact(v) for v in counts] == ["0", "999", "1 K", "1 K", "999 K", "1 M", "7 B", "1.7 T", "-2 K"]
    work = [flops(v) for v in (999, 1e3, 1e6, 1e9, 5.24e15, 1e18, 1e24)]
    assert work == ["999 FLOP", "1 KFLOP", "1 MFLOP", "1 GFLOP", "5.24 PFLOP", "1 EFLOP", "1,000 ZFLOP"]
    assert [duration(v) for v in (89.9, 90, 5_399, 5_400)] == ["89.9 s", "1.5 min", "90 min", "1.5 h"]
    assert [dollars(v) for v in (0, 0.094, 0.1)] == ["$0", "$0.094", "$0.10"]


def test_amounts_of_a_run_are_in_thousands_from_a_thousand_on_and_unknown_ones_are_left_out() -> None:
    grid = Grid(436.0, "w")
    assert amounts(Cost(1, 0.44, 0.08), grid) == "$0.44, 80 Wh, 35 g CO2"
    assert amounts(Cost(1, None, 0.98), grid) == "980 Wh, 427 g CO2" and amounts(Cost(1, 3.0, None), grid) == "$3.00"
    assert amounts(Cost(1, 3.0, 1.0), None) == "$3.00, 1 kWh"
    assert amounts(Cost(1, 3.0, 10.0), grid, solved=2.0) == "$1.50, 5 kWh, 2.2 kg CO2"
    assert [amounts(Cost(1, None, kwh), None) for kwh in (9.94, 10.0, 12.4)] == ["9.9 kWh", "10 kWh", "12 kWh"]
    assert amounts(Cost(1, 3.0, 1.0), grid, solved=0.0) == amounts(None, grid) == ""


def test_tag_escapes_text_and_attributes_but_not_markup() -> None:
    assert (
        tag("a", "<", tag("b", "x"), href='"&', aria_label="l")
        == '<a href="&quot;&amp;" aria-label="l">&lt;<b>x</b></a>'
    )


@pytest.mark.slow
def test_the_page_of_a_thousand_trials_of_two_hundred_points_takes_at_most_four_megabytes() -> None:
    """At most four, the plotting library included."""
    records = large_records(1_000, 200)
    page = Report(records=records, now=NOW).html()
    assert len(page.encode()) <= 4_000_000


def test_the_page_names_the_best_explored_trial_that_the_search_has_chosen() -> None:
    """Equal scores are told apart as a search does it: by cells, then by cost."""

    def explored(seed: int, cell: float, trial_flops: float) -> TrialRecord:
        metrics = {"exact_accuracy": 0.0, "cell_accuracy": cell}
        record = make_record(make_config(seed=seed), score=0.0, stage="explore", metrics=metrics)
        assert record.result is not None
        return replace(record, result=record.result.model_copy(update={"train_flops": trial_flops}))

    records = [explored(0, 0.2, 1e9), explored(1, 0.3, 3e9), explored(2, 0.3, 2e9)]
    (study,) = studies(records)
    assert leading(study.trials) == {records[2].trial_id}
