"""How long a certificate is still good, and when to say so: 30, 7 and 1 days before its end, and before its beginning.

One that is not in force yet was made while a clock was ahead. It is as bad as one that has ended.
"""

import datetime as dt
from collections.abc import Hashable
from typing import NamedTuple

DAYS = (30, 7, 1)
DAY = dt.timedelta(days=1)


class Life(NamedTuple):
    """When a certificate is in force."""

    begins: dt.datetime
    ends: dt.datetime

    def has(self, now: dt.datetime) -> bool:
        """Whether it is in force."""
        return self.begins <= now <= self.ends


def days_left(ends: dt.datetime, now: dt.datetime) -> float:
    """Days from `now` to `ends`; below 0 when it is over."""
    return (ends - now) / DAY


def reached(life: Life, now: dt.datetime) -> int | None:
    """The last of the thresholds that was passed, in days; 0 while it is not in force; None with more than 30 left."""
    if not life.has(now):
        return 0
    left = days_left(life.ends, now)
    return min((days for days in DAYS if left < days), default=None)


def in_words(life: Life, now: dt.datetime) -> str:
    """How long it is good, as it is shown."""
    left, day = days_left(life.ends, now), life.ends.strftime("%Y-%m-%d %H:%M UTC")
    if now < life.begins:
        return f"not in force before {life.begins:%Y-%m-%d %H:%M UTC}: a clock is wrong, or was when it was made"
    if left < 0:
        return f"ended on {day}"
    return f"good until {day}, {left:.0f} days" if left >= 2 else f"good until {day}, {left * 24:.0f} hours"


class Warnings:
    """Which thresholds of which certificates were told: each once."""

    def __init__(self) -> None:
        self._told: dict[Hashable, tuple[Life, int, bool]] = {}

    def new(self, whose: Hashable, life: Life, now: dt.datetime) -> str | None:
        """What is to be said of a certificate now; None when nothing is, or it was said. A new one begins anew."""
        threshold, has_begun = reached(life, now), life.begins <= now
        if threshold is None or self._told.get(whose) == (life, threshold, has_begun):
            return None
        self._told[whose] = (life, threshold, has_begun)
        return in_words(life, now)
