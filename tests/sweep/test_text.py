"""Numbers as people read them: every unit begins where the one below it ends."""

from __future__ import annotations

import pytest

from orchestrator.sweep.text import (
    about,
    aligned,
    amount,
    device_time,
    duration,
    num_bytes,
    percent,
    plural,
    readable,
    within,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (47 * 3600 + 59 * 60, "47 h 59 min"),
        (48 * 3600, "2 d 0 h"),
        (100 * 3600, "4 d 4 h"),
    ],
)
def test_duration_has_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.99, "less than 1 s"),
        (1, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (59.4 * 60, "59 min"),
        (59.6 * 60, "1 h"),
        (47.4 * 3600, "47 h"),
        (47.6 * 3600, "2 days"),
        (99 * 86400, "99 days"),
        (100 * 86400, "100 days"),
        (123 * 86400, "120 days"),
        (47_123 * 86400, "47,000 days"),
    ],
)
def test_predicted_time_has_one_unit_and_at_most_two_digits(seconds: float, text: str) -> None:
    assert about(seconds) == text


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.05, "3 min of one GPU"), (3599 / 3600, "1 h of one GPU"), (1, "1 GPU-hours"), (2_849, "2,800 GPU-hours")],
)
def test_device_time_is_in_hours_from_one_hour_on(hours: float, text: str) -> None:
    assert device_time(hours, "GPU") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0312, "0.031"), (3.14, "3.1"), (9.96, "10"), (10.4, "10"), (99.4, "99"), (100, "100"), (2_849, "2,800")],
)
def test_amount_has_two_digits(value: float, text: str) -> None:
    assert amount(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.2444, "0.244"), (99.94, "99.9"), (100.4, "100"), (-99.94, "-99.9"), (-100.4, "-100"), (2_800.4, "2,800")],
)
def test_readable_number_has_three_digits_or_no_decimals(value: float, text: str) -> None:
    assert readable(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (3_249_000, "3.2 MB"), (5e9, "5.0 GB"), (4.2e15, "4200.0 TB")],
)
def test_bytes_are_in_powers_of_a_thousand(count: float, text: str) -> None:
    assert num_bytes(count) == text


def test_shares_counts_and_errors() -> None:
    assert (percent(0.9749), percent(0.0), percent(None)) == ("97.5 %", "0.0 %", "-")
    assert [plural(count, "trial") for count in (0, 1, 2, 1_000)] == ["0 trials", "1 trial", "2 trials", "1,000 trials"]
    assert [within(spread) for spread in (0.0, 0.3, 0.99, 1.0, 9.0)] == [
        "give or take 0 %",
        "give or take 30 %",
        "give or take 99 %",
        "within a factor of 2",
        "within a factor of 10",
    ]


def test_table_shows_sixteen_rows_and_counts_the_others() -> None:
    rows = [[f"n{index}", str(index)] for index in range(18)]
    assert aligned(["name", "x"], rows[:2], right=["x"]) == ["name  x", "n0    0", "n1    1"]
    whole, longer = aligned(["name", "x"], rows[:16], right=["x"]), aligned(["name", "x"], rows)
    assert len(whole) == 17 and whole[-1] == "n15   15" and whole[1] == "n0     0"
    assert len(longer) == 18 and longer[16] == "n15   15" and longer[-1] == "... and 2 more"
