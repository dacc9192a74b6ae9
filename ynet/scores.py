"""A model's scores, and the numbers of cases that they rest on. A score without a case is None."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

COUNT_STEP = 5
"""Counts that leave a site are rounded up to multiples of this, so that 1 to 4 are not sent. 0 stays 0."""

Wire = dict[str, float]
"""Scores as a site sends them: without those that are None, with coarse counts.

`queries.3` is the count of class 3, `dice.1` the Dice of region 1; both are counted from 0.
"""


@dataclass(frozen=True)
class Scores:
    """The scores of queries against a gallery: shares in [0, 1], or numbers from 0. Floors have the same formulas.

    Rankings are scored on the `ranked` queries: the gallery has cases of their class and of others. Four figures say
    what a code describes: class (`macro_map10`), case (`case_hit10`), likeness (`mask_likeness`), ties
    (`median_tie10`, `distinct_share`).
    """

    map10: float | None
    macro_map10: float | None
    macro_map10_over_k: float | None  # divided by K
    map10_over_k: float | None  # divided by K, mean over all queries: as in the paper's table
    macro_hr10: float | None
    macro_rr10: float | None
    macro_map10_random: float | None  # floor: a random ranking
    macro_map10_majority: float | None  # floor: the most frequent class first, whatever the query
    map10_random: float | None
    map10_majority: float | None
    case_hit1: float | None  # probability that the first hit is another case of the query's patient; over `siblings`
    case_hit10: float | None  # that one of the first 10 is; gallery: the training cases and the other test cases
    mask_likeness: float | None  # the mask's size and shape against random cases of the class; above 1 is better
    median_tie10: float | None  # median number of cases at the distance of the 10th hit; 1: nothing is tied
    distinct_share: float | None  # distinct codes as a share of the gallery
    dice: float | None  # over the queries with a mask; of several regions the mean, as iou and empty_kept
    iou: float | None
    empty_kept: float | None  # over the queries whose mask is empty
    balanced_accuracy: float | None  # of the most frequent class among the first K results; over the ranked queries
    distinct_codes: int  # in the gallery
    queries: int
    gallery: int
    ranked: int
    siblings: int  # queries whose patient has another case
    likened: int  # queries with a mask whose class has more than 10 other patients' cases with one
    masks: int  # queries whose mask is not empty
    empty_masks: int
    queries_per_class: Mapping[str, int]  # every class of the plan
    gallery_per_class: Mapping[str, int]
    dice_per_region: Mapping[str, float | None] = field(default_factory=dict)  # of the plan's named regions

    def to_metrics(self) -> dict[str, Any]:
        """Return all scores by name, for JSON; without `dice_per_region` where the plan names no region."""
        found = asdict(self)
        if not self.dice_per_region:
            del found[PER_REGION]
        return found

    def to_wire(self, *, tells_classes: bool) -> Wire:
        """Return the scores in the form that leaves a site; `tells_classes` adds the counts by class."""
        found: Wire = {name: value for name in (*SHARES, *NUMBERS) if (value := getattr(self, name)) is not None}
        found |= {name: getattr(self, name) for name in TOTALS}
        found |= {name: coarse(getattr(self, name)) for name in COARSE}
        of_regions = enumerate(self.dice_per_region.values())
        found |= {f"{REGION}.{place}": dice for place, dice in of_regions if dice is not None}
        for name, key in PER_CLASS.items() if tells_classes else ():
            counts: Mapping[str, int] = getattr(self, name)
            found |= {f"{key}.{place}": coarse(count) for place, count in enumerate(counts.values())}
        return found


PER_CLASS = {"queries_per_class": "queries", "gallery_per_class": "gallery"}
PER_REGION, REGION = "dice_per_region", "dice"
COARSE = ("ranked", "siblings", "likened", "masks", "empty_masks")
TOTALS = ("distinct_codes", "queries", "gallery")
NUMBERS = ("mask_likeness", "median_tie10")
_OTHERS = (*PER_CLASS, *COARSE, *TOTALS, *NUMBERS, PER_REGION)
SHARES = tuple(one.name for one in fields(Scores) if one.name not in _OTHERS)
RESTS_ON = {
    "macro_map10": "ranked",
    "case_hit10": "siblings",
    "median_tie10": "queries",
    "dice": "masks",
    "balanced_accuracy": "ranked",
}
"""For the scores that are tracked over the rounds, the count of the queries in each mean."""


def coarse(count: int) -> int:
    """Round a count up to the form that leaves a site."""
    return -(-count // COUNT_STEP) * COUNT_STEP


def from_wire(record: Mapping[str, Any], classes: Sequence[str], regions: Sequence[str] = ()) -> dict[str, Any]:
    """Convert scores that a site sent for JSON. Scores and counts that it did not send are None.

    `regions` are the plan's named regions; without them there is no `dice_per_region`.
    An older version of ynet sends no counts, and 0 for a score without a case. Unknown scores of a newer one are kept.

    Raises:
        ValueError: A score or a count is out of range.
        TypeError: A value is not a number.
    """
    found: dict[str, Any] = {
        name: round(float(value), 6)
        for name, value in record.items()
        if not isinstance(value, list) and math.isfinite(value) and not _is_part(name)
    }
    found |= {name: _share(record.get(name)) for name in SHARES}
    found |= {name: _number(record.get(name)) for name in NUMBERS}
    found |= {name: _count(record.get(name)) for name in (*TOTALS, *COARSE)}
    if regions:
        found[PER_REGION] = {name: _share(record.get(f"{REGION}.{place}")) for place, name in enumerate(regions)}
    return found | {name: _by_class(record, key, classes) for name, key in PER_CLASS.items()}


def _is_part(name: str) -> bool:
    """Return whether a name is that of a class's count or a region's score."""
    whole, dot, _ = name.partition(".")
    return bool(dot) and whole in (*PER_CLASS.values(), REGION)


def _share(value: Any) -> float | None:
    if value is None:
        return None
    share = round(float(value), 6)
    if not 0 <= share <= 1:
        raise ValueError("a score is not in [0, 1]")
    return share


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = round(float(value), 6)
    if not 0 <= number < 2**53:
        raise ValueError("a score is not a number from 0")
    return number


def _count(value: Any) -> int | None:
    if value is None:
        return None
    count = int(value)
    if count != value or not 0 <= count < 2**53:
        raise ValueError("a count is not a whole number")
    return count


def _by_class(record: Mapping[str, Any], key: str, classes: Sequence[str]) -> dict[str, int] | None:
    counts = {name: _count(record.get(f"{key}.{place}")) for place, name in enumerate(classes)}
    known = {name: count for name, count in counts.items() if count is not None}
    return known if len(known) == len(classes) else None


def shown(scores: Mapping[str, Any], name: str) -> str:
    """Format a score and the count that it rests on: `0.731 of <= 25`, `none of 0`, `2.5 of 83` for an exact count."""
    value, count = scores.get(name), scores.get(RESTS_ON[name])
    text = "none" if value is None else f"{value:g}" if name in NUMBERS else f"{value:.3f}"
    if count is None:
        return text
    return f"{text} of {at_most(count) if RESTS_ON[name] in COARSE else format(count, '.0f')}"


def at_most(count: int | float) -> str:
    """Format a count that was rounded up."""
    return f"<= {count:.0f}" if count else "0"


def classes_shown(scores: Mapping[str, Any]) -> str:
    """Format the queries by class; empty where the site did not send them."""
    found = scores.get("queries_per_class") or {}
    return ", ".join(f"{name} {at_most(count)}" for name, count in found.items())


def regions_shown(scores: Mapping[str, Any]) -> str:
    """Format the Dice of each of the plan's regions; empty for a plan without named regions."""
    found = scores.get(PER_REGION) or {}
    return ", ".join(f"{name} {'none' if dice is None else format(dice, '.3f')}" for name, dice in found.items())
