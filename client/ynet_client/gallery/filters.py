"""Filters: the cases of a gallery that a query is limited to."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from ynet.errors import UserError
from ynet.federation.protocol import MAX_LABEL

MAX_VALUES = 16
"""The largest number of labels, and of attributes, in one filter."""
DATE = "date"
"""The manifest's column that `since` and `until` compare with, ISO 8601: YYYY-MM-DD, or a time that begins so."""


@dataclass(frozen=True)
class Filters:
    """The conditions that a case must meet; an empty filter admits all. Without a valid date no date filter admits it.

    A site answers a filter by label if it discloses labels, and one by attribute or date if its settings name it.
    """

    labels: tuple[str, ...] = ()  # any of them
    split: str = ""  # train or test
    attributes: tuple[tuple[str, str], ...] = ()  # (name, value), all of them
    since: str = ""  # YYYY-MM-DD, this day too
    until: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of conditions, without values, as an audit log may hold them."""
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
        """Return whether a case meets all conditions."""
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
    """Return the filters. Raises UserError when they are invalid."""
    if isinstance(filters.labels, str) or not all(len(pair) == 2 for pair in filters.attributes):
        raise _unfit("labels are not a list, or attributes are not pairs", 'write ("G2",) and (("grade", "G2"),)')
    if filters.split not in ("", "train", "test"):
        raise _unfit(f"the split is {filters.split[:40]!r}", "use train or test, or leave it out")
    for flag, day in (("since", filters.since), ("until", filters.until)):
        if day and not is_day(day):
            raise _unfit(f"{flag} is {day[:40]!r}", "write the day as YYYY-MM-DD")
    if filters.since and filters.until and filters.since > filters.until:
        raise _unfit(f"it ends on {filters.until}, before it begins", "swap the two days")
    if max(len(filters.labels), len(filters.attributes)) > MAX_VALUES:
        raise _unfit(f"it names more than {MAX_VALUES} labels or attributes", "send several queries")
    texts = [*filters.labels, *(text for pair in filters.attributes for text in pair)]
    if not all(text.isprintable() and len(text) <= MAX_LABEL for text in texts):
        raise _unfit(f"a label or an attribute is not a text of at most {MAX_LABEL} characters", "correct it")
    return filters


def attribute_of(given: str) -> tuple[str, str]:
    """Split NAME=VALUE. Raises UserError."""
    name, equals, value = given.partition("=")
    if not (name and equals):
        raise _unfit(f"{given[:60]!r} is not NAME=VALUE", "use --attribute grade=G2")
    return name, value


def is_day(text: str) -> bool:
    """Return whether a text is a valid day, YYYY-MM-DD."""
    try:
        return len(text) == 10 and dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _unfit(why: str, do: str) -> UserError:
    return UserError("the filter cannot be used", why, do)
