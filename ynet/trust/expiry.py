"""The validity of certificates, and warnings 30, 7 and 1 days before the end, and before the beginning.

A certificate that is not valid yet was made while a clock was ahead. It is as useless as an expired one.
"""

import datetime as dt
from collections.abc import Hashable
from typing import NamedTuple

DAYS = (30, 7, 1)
DAY = dt.timedelta(days=1)


class Life(NamedTuple):
    """A certificate's validity period."""

    begins: dt.datetime
    ends: dt.datetime

    def has(self, now: dt.datetime) -> bool:
        """Return whether the certificate is valid at `now`."""
        return self.begins <= now <= self.ends


def days_left(ends: dt.datetime, now: dt.datetime) -> float:
    """Return the days from `now` to `ends`; negative after the end."""
    return (ends - now) / DAY


def reached(life: Life, now: dt.datetime) -> int | None:
    """Return the smallest threshold that was passed, in days; 0 while it is not valid; None with more than 30 left."""
    if not life.has(now):
        return 0
    left = days_left(life.ends, now)
    return min((days for days in DAYS if left < days), default=None)


def in_words(life: Life, now: dt.datetime) -> str:
    """Format the validity period for people."""
    left, day = days_left(life.ends, now), life.ends.strftime("%Y-%m-%d %H:%M UTC")
    if now < life.begins:
        return f"not in force before {life.begins:%Y-%m-%d %H:%M UTC}: a clock is wrong, or was when it was made"
    if left < 0:
        return f"ended on {day}"
    return f"good until {day}, {left:.0f} days" if left >= 2 else f"good until {day}, {left * 24:.0f} hours"


class Warnings:
    """Reports each threshold of each certificate once."""

    def __init__(self) -> None:
        self._told: dict[Hashable, tuple[Life, int, bool]] = {}

    def new(self, whose: Hashable, life: Life, now: dt.datetime) -> str | None:
        """Return the warning that is due for a certificate; None where there is none, or it was returned before."""
        threshold, has_begun = reached(life, now), life.begins <= now
        if threshold is None or self._told.get(whose) == (life, threshold, has_begun):
            return None
        self._told[whose] = (life, threshold, has_begun)
        return in_words(life, now)
