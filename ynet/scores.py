"""What a model scores, and on how many cases. A score that rests on no case is None, and never a number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

COUNT_STEP = 5
"""Counts that leave a site are rounded up to its multiples: none from 1 to 4 is told. 0 stays 0."""

Wire = dict[str, float]
"""Scores as a site sends them: those that are None are left out, counts are coarse, `queries.3` is of class 3."""


@dataclass(frozen=True)
class Scores:
    """Queries against a gallery, all shares in [0, 1]. The floors are scored by the same formulas.

    A ranking is scored on `ranked` queries: those of whose class the gallery has cases, and cases of others beside.
    """

    map10: float | None
    macro_map10: float | None
    macro_map10_over_k: float | None  # divided by K
    map10_over_k: float | None  # divided by K, over all queries alike: what the paper's table has
    macro_hr10: float | None
    macro_rr10: float | None
    macro_map10_random: float | None  # floor: a random ranking
    macro_map10_majority: float | None  # floor: the most frequent class first, whatever is asked
    map10_random: float | None
    map10_majority: float | None
    dice: float | None  # over the queries with a mask
    iou: float | None
    empty_kept: float | None  # over the queries whose mask is empty
    balanced_accuracy: float | None  # of the class that the first K results hold most of; over the ranked queries
    distinct_codes: int  # in the gallery
    queries: int
    gallery: int
    ranked: int
    masks: int  # queries whose mask is not empty
    empty_masks: int
    queries_per_class: Mapping[str, int]  # every class of the plan
    gallery_per_class: Mapping[str, int]

    def to_metrics(self) -> dict[str, Any]:
        """All of them by name, as JSON has them."""
        return asdict(self)

    def to_wire(self, *, tells_classes: bool) -> Wire:
        """As they leave a site; `tells_classes`: with the counts by class."""
        found: Wire = {name: value for name in SHARES if (value := getattr(self, name)) is not None}
        found |= {name: getattr(self, name) for name in TOTALS}
        found |= {name: coarse(getattr(self, name)) for name in COARSE}
        for name, key in PER_CLASS.items() if tells_classes else ():
            counts: Mapping[str, int] = getattr(self, name)
            found |= {f"{key}.{place}": coarse(count) for place, count in enumerate(counts.values())}
        return found


PER_CLASS = {"queries_per_class": "queries", "gallery_per_class": "gallery"}
COARSE = ("ranked", "masks", "empty_masks")
TOTALS = ("distinct_codes", "queries", "gallery")
SHARES = tuple(one.name for one in fields(Scores) if one.name not in (*PER_CLASS, *COARSE, *TOTALS))
RESTS_ON = {"macro_map10": "ranked", "balanced_accuracy": "ranked", "dice": "masks"}
"""Of the scores that are followed over the rounds, the count of the queries that each is a mean over."""


def coarse(count: int) -> int:
    """A count as it leaves a site."""
    return -(-count // COUNT_STEP) * COUNT_STEP


def from_wire(record: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """What a site has sent, as JSON has it: every score, None where it sent none; counts None where it told none.

    An older site tells no counts, and 0 for a score of nothing; figures of a later one are kept. Raises ValueError,
    TypeError.
    """
    found: dict[str, Any] = {
        name: round(float(value), 6)
        for name, value in record.items()
        if not isinstance(value, list) and math.isfinite(value) and name.partition(".")[0] not in PER_CLASS.values()
    }
    found |= {name: _share(record.get(name)) for name in SHARES}
    found |= {name: _count(record.get(name)) for name in (*TOTALS, *COARSE)}
    return found | {name: _by_class(record, key, classes) for name, key in PER_CLASS.items()}


def _share(value: Any) -> float | None:
    if value is None:
        return None
    share = round(float(value), 6)
    if not 0 <= share <= 1:
        raise ValueError("a score is none")
    return share


def _count(value: Any) -> int | None:
    if value is None:
        return None
    count = int(value)
    if count != value or not 0 <= count < 2**53:
        raise ValueError("a count is none")
    return count


def _by_class(record: Mapping[str, Any], key: str, classes: Sequence[str]) -> dict[str, int] | None:
    counts = {name: _count(record.get(f"{key}.{place}")) for place, name in enumerate(classes)}
    known = {name: count for name, count in counts.items() if count is not None}
    return known if len(known) == len(classes) else None


def shown(scores: Mapping[str, Any], name: str) -> str:
    """A score and the coarse count that it rests on, in words: `0.731 of <= 25`, `none of 0`."""
    value, count = scores.get(name), scores.get(RESTS_ON[name])
    text = "none" if value is None else f"{value:.3f}"
    return text if count is None else f"{text} of {at_most(count)}"


def at_most(count: int | float) -> str:
    """A count that was rounded up."""
    return f"<= {count:.0f}" if count else "0"


def classes_shown(scores: Mapping[str, Any]) -> str:
    """The queries by class, in words; empty where the site does not tell."""
    found = scores.get("queries_per_class") or {}
    return ", ".join(f"{name} {at_most(count)}" for name, count in found.items())
