"""How long a certificate is still good, and when to say so: 30, 7 and 1 days before its end."""

import datetime as dt
from collections.abc import Hashable

DAYS = (30, 7, 1)
DAY = dt.timedelta(days=1)


def days_left(ends: dt.datetime, now: dt.datetime) -> float:
    """Days from `now` to `ends`; below 0 when it is over."""
    return (ends - now) / DAY


def reached(ends: dt.datetime, now: dt.datetime) -> int | None:
    """The last of the thresholds that was passed, in days; 0 after the end; None while more than 30 days are left."""
    left = days_left(ends, now)
    if left < 0:
        return 0
    return min((days for days in DAYS if left < days), default=None)


def in_words(ends: dt.datetime, now: dt.datetime) -> str:
    """How long it is good, as it is shown."""
    left, day = days_left(ends, now), ends.strftime("%Y-%m-%d %H:%M UTC")
    if left < 0:
        return f"ended on {day}"
    return f"good until {day}, {left:.0f} days" if left >= 2 else f"good until {day}, {left * 24:.0f} hours"


class Warnings:
    """Which thresholds of which certificates were told: each once."""

    def __init__(self) -> None:
        self._told: dict[Hashable, tuple[dt.datetime, int]] = {}

    def new(self, whose: Hashable, ends: dt.datetime, now: dt.datetime) -> str | None:
        """What is to be said of a certificate now; None when nothing is, or it was said. A new end begins anew."""
        threshold = reached(ends, now)
        if threshold is None or self._told.get(whose) == (ends, threshold):
            return None
        self._told[whose] = (ends, threshold)
        return in_words(ends, now)
