"""Puzzles on the page: which trials' are shown, how large they may be, and what a damaged file does."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.schema import TrialRecord
from orchestrator.results.leaderboard import build_leaderboard
from orchestrator.results.report import Report
from orchestrator.results.report.gallery import Gallery, GallerySource, galleries, stored_galleries
from orchestrator.storage import LocalStorage
from tests.support.results import arc_gallery, demo_gallery, demo_records, maze_gallery

NOW = datetime(2026, 11, 21, 22, 0, tzinfo=UTC)
RECORDS = demo_records()


def found(source: GallerySource, most_bytes: int = 300_000) -> list[Gallery]:
    return galleries(build_leaderboard(None, RECORDS, [])[0].entries, RECORDS, source, most_bytes)


def changed(**changes: Any) -> GallerySource:
    def read(record: TrialRecord) -> bytes:
        value = json.loads(demo_gallery(record))
        value["puzzles"][0] |= changes
        return json.dumps(value).encode()

    return read


def named(**facts: Any) -> GallerySource:
    return lambda record: json.dumps(json.loads(demo_gallery(record)) | facts).encode()


def test_kind_that_the_page_does_not_know_is_drawn_with_its_own_colours() -> None:
    colours = ["#F4F1EA", "#1E93FF"]
    own = found(named(family="latin-4x4", colours=colours))[0]
    assert (own.family, own.colours) == ("latin-4x4", tuple(colours))
    assert found(named(family="sudoku", colours=colours))[0].colours == ()


def test_gallery_shows_the_best_of_each_architecture() -> None:
    shown = found(demo_gallery)
    assert [(gallery.system, gallery.seed) for gallery in shown] == [("best", 0), ("hrm", 0), ("direct", 0)]
    assert [puzzle["exact"] for puzzle in shown[0].puzzles] == [True, False] * 4
    (record,) = [r for r in RECORDS if r.family == "best" and r.config.seed == 0]
    wanted = json.loads(demo_gallery(record))["puzzles"][1]
    shown_puzzle = shown[0].puzzles[1]
    for name in ("input", "label"):
        assert [int(character, 12) for character in shown_puzzle[name]] == wanted[name]
    answers: list[str] = []
    for text in shown_puzzle["answers"]:
        answers.append(text or answers[-1])
    assert [[int(character, 12) for character in text] for text in answers] == wanted["answers"]
    assert shown_puzzle["halt"] == pytest.approx(wanted["halt"], abs=1e-3)


def test_gallery_of_a_later_seed_is_taken_where_the_first_has_none() -> None:
    shown = found(lambda record: demo_gallery(record) if record.config.seed == 2 else None)
    assert {gallery.seed for gallery in shown} == {2}


@pytest.mark.parametrize(
    "source",
    [
        lambda _: None,
        lambda _: b"{",
        lambda _: b"{}",
        changed(input=[1] * 35),
        changed(label=[36] * 36),
        named(colours=["red;"]),
        named(family="<b>"),
        changed(answers=[]),
        changed(halt=[0.5]),
    ],
    ids=["none", "cut", "empty", "size", "cells", "colours", "family", "no answer", "halts"],
)
def test_page_without_a_sound_gallery_is_a_page_without_one(source: GallerySource) -> None:
    assert found(source) == []
    page = Report(records=RECORDS, now=NOW, baselines=[], gallery=source).html()
    assert "step by step" not in page and "data-puzzle" not in page


def test_later_fields_of_a_gallery_are_ignored() -> None:
    assert len(found(changed(rating=3))) == 3


@pytest.mark.parametrize("make", [demo_gallery, maze_gallery, arc_gallery], ids=["sudoku", "maze", "arc"])
def test_gallery_keeps_to_its_size_with_solved_and_failed_puzzles(make: GallerySource) -> None:
    whole = sum(len(gallery.data) for gallery in found(make))
    assert whole <= 300_000
    cut = found(make, whole // 2)
    assert sum(len(gallery.data) for gallery in cut) <= whole // 2
    assert all({puzzle["exact"] for puzzle in gallery.puzzles} == {True, False} for gallery in cut)
    assert found(make, 10) == []


def test_gallery_cannot_leave_its_element() -> None:
    records = [replace(record, family="</script><b>") if record.family == "best" else record for record in RECORDS]
    page = Report(records=records, now=NOW, baselines=[], gallery=demo_gallery).html()
    assert "</script><b>" not in page
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', page)
    found = [json.loads(block) for block in blocks]
    assert [block.get("family") for block in found] == [None, "sudoku", "sudoku", "sudoku"]


def test_galleries_are_read_from_the_records(tmp_path: Path) -> None:
    source = stored_galleries(LocalStorage(tmp_path))
    record = RECORDS[-1]
    assert source(record) is None
    folder = tmp_path / "sweeps" / record.sweep / "trials" / record.trial_id
    folder.mkdir(parents=True)
    (folder / "gallery.json").write_bytes(demo_gallery(record))
    assert source(record) == demo_gallery(record)
