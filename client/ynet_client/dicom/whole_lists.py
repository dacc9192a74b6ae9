"""Page through a PACS's search results, and detect a list that the PACS has truncated without saying so."""

import datetime as dt
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from ynet.errors import UserError

Item = dict[str, Any]
"""One result, in the DICOM JSON model."""
MOST_PAGES = 20_000


class Doubt(Enum):
    """Why a list may be incomplete."""

    CUT = "it says that its answers are truncated (a warning, or status 206)"
    REPEATED = "it ignores `offset` and repeats the same page, so a limit of its own would go unnoticed"
    SHIFTED = "its pages overlap, so results between them may be missing"
    FEWER = "it counts more of them than it lists"
    ENDLESS = f"its list has not ended after {MOST_PAGES} pages"
    OTHERS = "it lists results outside the query, so the query cannot be split into smaller ones"
    UNDATED = "its results have no study date by which the query could be split into smaller ones"


class Page(NamedTuple):
    """One answer of a PACS to a search."""

    items: list[Item]
    is_cut: bool  # status 206, or a warning: there may be more


class Listing(NamedTuple):
    """The results of all pages of one search."""

    found: Mapping[str, Item]  # by key, without repetitions
    doubt: Doubt | None  # None: the list is complete
    longest: int  # items in the longest page


def read(ask: Callable[[int], Page], key: Callable[[Item], str], expected: int | None = None) -> Listing:
    """Request pages until one is empty or has no new result.

    `ask` takes the offset of a page. `expected` is the number of results by the PACS's own count, if it gives one; no
    further page is requested once that many have arrived.
    """
    found: dict[str, Item] = {}
    offset, longest, is_cut, has_shifted = 0, 0, False, False
    for _ in range(MOST_PAGES):
        page = ask(offset)
        keyed = {key(item): item for item in page.items}
        new = keyed.keys() - found.keys()
        is_cut = page.is_cut or (is_cut and not new)
        if not new:
            return Listing(found, _doubt(is_cut, bool(keyed), has_shifted), longest)
        has_shifted = has_shifted or len(new) < len(keyed)
        found |= keyed
        offset, longest = offset + len(page.items), max(longest, len(page.items))
        if expected is not None and len(found) >= expected and not is_cut:
            return Listing(found, None, longest)
    return Listing(found, Doubt.ENDLESS, longest)


def _doubt(is_cut: bool, is_repeated: bool, has_shifted: bool) -> Doubt | None:
    if is_cut:
        return Doubt.CUT
    if has_shifted:
        return Doubt.SHIFTED
    return Doubt.REPEATED if is_repeated else None


def partial(doubt: Doubt) -> UserError:
    """Return the error for a list that may be incomplete."""
    do = (
        "narrow the query (by date or patient: --query ...&StudyDate=20240101-20240131),"
        " or ask its admin to raise the limit of QIDO-RS and to support `offset`"
    )
    return UserError("the PACS does not list everything that it holds, or may not", doubt.value, do)


class Span(NamedTuple):
    """A range of study dates, both ends included; None is an open end."""

    first: dt.date | None
    last: dt.date | None

    @classmethod
    def of(cls, text: str) -> "Span | None":
        """Parse a query's StudyDate: YYYYMMDD, YYYYMMDD-, -YYYYMMDD or YYYYMMDD-YYYYMMDD; None if it is not a date."""
        first, dash, last = text.partition("-")
        try:
            ends = tuple(day(end) if end else None for end in (first, last if dash else first))
        except ValueError:
            return None
        return cls(*ends)

    def text(self) -> str:
        """Return the range as QIDO-RS writes it."""
        first, last = (f"{end:%Y%m%d}" if end else "" for end in self)
        return first if first == last else f"{first}-{last}"

    def holds(self, one: dt.date) -> bool:
        """Return whether a day lies in the range."""
        return (self.first is None or self.first <= one) and (self.last is None or one <= self.last)

    def split(self, days: list[dt.date]) -> list["Span"]:
        """Split the range into smaller ones by the days of the results found in it; none for a single day."""
        days = sorted(days)
        if self.first is not None and self.first == self.last:
            return []
        middle = days[(len(days) - 1) // 2]
        if days[0] == days[-1]:
            parts = [Span(self.first, middle - _DAY), Span(middle, middle), Span(middle + _DAY, self.last)]
        else:
            middle = middle if middle < days[-1] else max(one for one in days if one < middle)
            parts = [Span(self.first, middle), Span(middle + _DAY, self.last)]
        return [part for part in parts if part.first is None or part.last is None or part.first <= part.last]


_DAY = dt.timedelta(days=1)


def day(text: str) -> dt.date:
    """Parse YYYYMMDD. Raises ValueError."""
    return dt.datetime.strptime(text, "%Y%m%d").date()
