"""How long a certificate is good, and when that is said."""

import datetime as dt

import pytest

from ynet.trust import expiry

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def life(days_left: float) -> expiry.Life:
    return expiry.Life(NOW - dt.timedelta(days=1), NOW + dt.timedelta(days=days_left))


@pytest.mark.parametrize(
    ("left", "threshold"),
    [(90, None), (30, None), (29.99, 30), (7, 30), (6.99, 7), (1, 7), (0.99, 1), (0, 1), (-0.01, 0)],
)
def test_the_thresholds_are_thirty_seven_and_one_day_and_the_end(left: float, threshold: int | None) -> None:
    assert expiry.reached(life(left), NOW) == threshold


def test_each_threshold_is_told_once_and_a_new_certificate_begins_anew() -> None:
    warnings, one = expiry.Warnings(), life(40)
    hours = range(0, 42 * 24, 6)
    told = [warnings.new("A", one, NOW + dt.timedelta(hours=hour)) for hour in hours]
    assert [line for line in told if line] == [
        "good until 2026-02-10 00:00 UTC, 30 days",
        "good until 2026-02-10 00:00 UTC, 7 days",
        "good until 2026-02-10 00:00 UTC, 18 hours",
        "ended on 2026-02-10 00:00 UTC",
    ]
    assert warnings.new("A", life(130), NOW + dt.timedelta(days=42)) is None
    assert warnings.new("B", one, NOW + dt.timedelta(days=42))


def test_one_that_is_not_in_force_yet_is_told_as_one_that_has_ended_and_once() -> None:
    warnings, early = expiry.Warnings(), expiry.Life(NOW + dt.timedelta(days=60), NOW + dt.timedelta(days=150))
    assert expiry.reached(early, NOW) == 0
    told = warnings.new("A", early, NOW)
    assert told == "not in force before 2026-03-02 00:00 UTC: a clock is wrong, or was when it was made"
    assert warnings.new("A", early, NOW + dt.timedelta(days=1)) is None
    assert warnings.new("A", early, NOW + dt.timedelta(days=61)) is None
    assert str(warnings.new("A", early, NOW + dt.timedelta(days=151))).startswith("ended")
