"""Filters: which cases of a gallery a query is about."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from ynet.errors import UserError
from ynet.federation.protocol import MAX_LABEL

MAX_VALUES = 16
"""Labels, and attributes, that one filter may name."""
DATE = "date"
"""The manifest's column that `since` and `until` look at, ISO 8601: YYYY-MM-DD, or a time that begins so."""


@dataclass(frozen=True)
class Filters:
    """What a case must be to be found; an empty one admits all. A case without a readable date has none.

    A site answers a filter by label where it tells labels, one by attribute or date where its settings name that.
    """

    labels: tuple[str, ...] = ()  # any of them
    split: str = ""  # train or test
    attributes: tuple[tuple[str, str], ...] = ()  # (name, value), all of them
    since: str = ""  # YYYY-MM-DD, this day too
    until: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it filters by, without the values: what an audit log may hold."""
        return tuple(
            kind
            for kind, given in (
                ("label", self.labels),
                ("split", self.split),
                ("attribute", self.attributes),
                ("date", self.since or self.until),
            )
            if given
        )

    def admits(self, label: str | None, split: str, attributes: Mapping[str, str]) -> bool:
        """Whether a case passes."""
        return (
            (not self.labels or label in self.labels)
            and self.split in ("", split)
            and all(attributes.get(name) == value for name, value in self.attributes)
            and self._admits_date(attributes.get(DATE, ""))
        )

    def _admits_date(self, date: str) -> bool:
        if not self.since and not self.until:
            return True
        day = date[:10]
        return is_day(day) and (not self.since or self.since <= day) and (not self.until or day <= self.until)


def check(filters: Filters) -> Filters:
    """The same filters. Raises UserError when they cannot be meant."""
    if isinstance(filters.labels, str) or not all(len(pair) == 2 for pair in filters.attributes):
        raise _unfit("labels are no list, or attributes no pairs", 'write ("G2",) and (("grade", "G2"),)')
    if filters.split not in ("", "train", "test"):
        raise _unfit(f"the split is {filters.split[:40]!r}", "say train or test, or leave it out")
    for flag, day in (("since", filters.since), ("until", filters.until)):
        if day and not is_day(day):
            raise _unfit(f"{flag} is {day[:40]!r}", "write the day as YYYY-MM-DD")
    if filters.since and filters.until and filters.since > filters.until:
        raise _unfit(f"it ends on {filters.until}, before it begins", "exchange the two days")
    if max(len(filters.labels), len(filters.attributes)) > MAX_VALUES:
        raise _unfit(f"it names more than {MAX_VALUES} labels or attributes", "ask several queries")
    texts = [*filters.labels, *(text for pair in filters.attributes for text in pair)]
    if not all(text.isprintable() and len(text) <= MAX_LABEL for text in texts):
        raise _unfit(f"a label or an attribute is no text of at most {MAX_LABEL} characters", "correct it")
    return filters


def attribute_of(given: str) -> tuple[str, str]:
    """The name and the value of NAME=VALUE. Raises UserError."""
    name, equals, value = given.partition("=")
    if not (name and equals):
        raise _unfit(f"{given[:60]!r} is no NAME=VALUE", "say --attribute grade=G2")
    return name, value


def is_day(text: str) -> bool:
    """Whether it is YYYY-MM-DD, a day that there is."""
    try:
        return len(text) == 10 and dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _unfit(why: str, do: str) -> UserError:
    return UserError("the filter cannot be used", why, do)
