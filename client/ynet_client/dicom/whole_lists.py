"""Read a PACS's list page by page, and judge whether all of it was told: a list that is cut may look whole."""

import datetime as dt
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from ynet.errors import UserError

Item = dict[str, Any]
"""One result, in the DICOM JSON model."""
MOST_PAGES = 20_000


class Doubt(Enum):
    """Why a list may not be whole."""

    CUT = "it says that it cuts its answers (a warning, or status 206)"
    REPEATED = "it ignores `offset`: it tells the same again as the next page, so that a limit of its own would hide"
    SHIFTED = "its pages overlap, so that others may have been missed between them"
    FEWER = "it counts more of them than it tells"
    ENDLESS = f"it has not come to an end after {MOST_PAGES} pages"
    OTHERS = "it tells what was not asked for, so that a smaller question cannot be asked"
    UNDATED = "what it tells has no date by which a smaller question could be asked"


class Page(NamedTuple):
    """One answer of a PACS to a search."""

    items: list[Item]
    is_cut: bool  # status 206, or a warning: there may be more


class Listing(NamedTuple):
    """What the pages of one search brought."""

    found: Mapping[str, Item]  # by key, each once
    doubt: Doubt | None  # None: it is whole
    longest: int  # items in the longest page


def read(ask: Callable[[int], Page], key: Callable[[Item], str], said: int | None = None) -> Listing:
    """Ask for page after page until one is empty or brings nothing new. `ask` takes the offset.

    `said`: how many results the PACS counts, where it does; when they are there, no further page is asked for.
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
        if said is not None and len(found) >= said and not is_cut:
            return Listing(found, None, longest)
    return Listing(found, Doubt.ENDLESS, longest)


def _doubt(is_cut: bool, is_repeated: bool, has_shifted: bool) -> Doubt | None:
    if is_cut:
        return Doubt.CUT
    if has_shifted:
        return Doubt.SHIFTED
    return Doubt.REPEATED if is_repeated else None


def partial(doubt: Doubt) -> UserError:
    """The error of a list that may not be whole."""
    do = (
        "ask for less at once (a date, a patient: --query ...&StudyDate=20240101-20240131),"
        " or ask its admin to raise the limit of QIDO-RS and to heed `offset`"
    )
    return UserError("the PACS does not tell all that it holds, or cannot be known to", doubt.value, do)


class Span(NamedTuple):
    """Days of studies, both ends included; None: open."""

    first: dt.date | None
    last: dt.date | None

    @classmethod
    def of(cls, text: str) -> "Span | None":
        """From a query's StudyDate: YYYYMMDD, YYYYMMDD-, -YYYYMMDD, YYYYMMDD-YYYYMMDD; None where it is none."""
        first, dash, last = text.partition("-")
        try:
            ends = tuple(day(end) if end else None for end in (first, last if dash else first))
        except ValueError:
            return None
        return cls(*ends)

    def text(self) -> str:
        """As QIDO-RS takes it."""
        first, last = (f"{end:%Y%m%d}" if end else "" for end in self)
        return first if first == last else f"{first}-{last}"

    def holds(self, one: dt.date) -> bool:
        """Whether a day lies in it."""
        return (self.first is None or self.first <= one) and (self.last is None or one <= self.last)

    def split(self, days: list[dt.date]) -> list["Span"]:
        """Smaller spans that cover it, by the days of what was found in it; none where it is a single day."""
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
    """YYYYMMDD as a date. Raises ValueError."""
    return dt.datetime.strptime(text, "%Y%m%d").date()
