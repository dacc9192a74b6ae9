"""Say in plain words what a score of retrieval is worth, beside what needs no training."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ynet.learning.evaluate import K
from ynet_lab.figures.by_query import ByQuery, intervals
from ynet_lab.own_data import values
from ynet_lab.own_data.floors import Floors

FOUND_FROM = 0.05
"""A class is found if its score is at least this share of the way from a random order's to 1."""


class Rated(NamedTuple):
    """A query and what came back."""

    label: str
    patient: str  # with its site; it stays on this machine
    precision: float  # average precision at K
    relevant: float  # cases of its class, of the first K


class Score(NamedTuple):
    """The score of all queries."""

    macro_map10: float
    low: float  # 95 % for other patients
    high: float
    shown: float  # of the first K cases, how many are of the query's class; mean over classes
    by_class: Mapping[str, float]
    queries: Mapping[str, int]  # by class
    random_by_class: Mapping[str, float]


def score_of(rated: Sequence[Rated], trained: Mapping[str, int]) -> Score | None:
    """Return the score of the queries that a ranking of the training cases can tell apart; None without any.

    Args:
        rated: The queries.
        trained: Training cases of each class, over all sites.
    """
    total = sum(trained.values())
    told = [one for one in rated if 0 < trained.get(one.label, 0) < total]
    if not told:
        return None
    labels = sorted({one.label for one in told})
    by_class = {label: [one for one in told if one.label == label] for label in labels}
    means = {label: float(np.mean([one.precision for one in ones])) for label, ones in by_class.items()}
    found = intervals(_by_query(told))["macro_map10"]
    macro = float(np.mean(list(means.values())))
    low, high = found["low"], found["high"]
    return Score(
        macro,
        macro if low is None else low,
        macro if high is None else high,
        float(np.mean([np.mean([one.relevant for one in ones]) for ones in by_class.values()])),
        means,
        {label: len(ones) for label, ones in by_class.items()},
        {label: random_precision(trained[label] / total) for label in labels},
    )


def random_precision(share: float) -> float:
    """Return the mean average precision at K of a random order, for a class with this share of many cases."""
    return share * share + share * (1 - share) * sum(1 / rank for rank in range(1, K + 1)) / K


def _by_query(rated: Sequence[Rated]) -> ByQuery:
    labels, patients = (np.unique([one[at] for one in rated], return_inverse=True)[1] for at in (0, 1))
    precision = np.array([one.precision for one in rated])
    return ByQuery(labels.astype(np.int64), patients.astype(np.int64), precision, np.zeros(len(rated)), {}, {})


def words(score: Score | None, floors: Floors, dice: float | None) -> list[str]:
    """Return the score and what it means, as lines."""
    if score is None:
        return [
            "No score: no test case has training cases of its class and of others. Hold some patients back as test."
        ]
    return [
        f"The score is macro mAP@{K}: 1 if the {K} cases that are shown are always of the query's class, each class"
        " counting alike.",
        *_table(score, floors),
        f"Of the {K} cases that a query shows, {score.shown:.1f} are of its class on average.",
        *([] if dice is None else [_masks(dice)]),
        *_by_class(score),
        *_meaning(score, floors),
    ]


def _table(score: Score, floors: Floors) -> list[str]:
    lines = [
        (
            score.macro_map10,
            f"the sites' common network (with other patients {score.low:.2f} to {score.high:.2f}, 95 %)",
        ),
        (floors.hog, "gradients and grey values, without any training (HOG)"),
        (floors.majority, "the most frequent class first, whatever is asked"),
        (floors.random, "a random order"),
    ]
    return [f"  {'none' if value is None else format(value, '4.2f')}  {what}" for value, what in lines]


def _masks(dice: float) -> str:
    return f"Predicted lesions: Dice {dice:.2f} (1: the outline that was drawn; 0: they do not touch)."


def _by_class(score: Score) -> list[str]:
    lines = ["By class, with the score of a random order:"]
    for label, value in score.by_class.items():
        chance, queries = score.random_by_class[label], score.queries[label]
        hint = "  <- not found better than by chance" if value < chance + FOUND_FROM * (1 - chance) else ""
        few = ", too few to rely on" if queries < values.FEW_TEST_CASES else ""
        lines.append(f"  {value:.2f}  {label} (chance {chance:.2f}; {queries} queries{few}){hint}")
    return lines


def _meaning(score: Score, floors: Floors) -> list[str]:
    """Compare the lower end of the interval with the floors, so that luck is not praised."""
    simple = max(value for value in (floors.random, floors.majority, 0.0) if value is not None)
    if score.low <= simple:
        return [
            "Is it good? No: it is not clearly better than an order that knows nothing of the images.",
            "Look at the warnings of the plan, at labels and masks; with few cases, more of them help most.",
        ]
    if floors.hog is not None and score.low <= floors.hog:
        return [
            "Is it good? Not yet: the network finds classes, but not clearly better than features without training.",
            "More cases, or drawn masks, would help; a class with few cases pulls the score down.",
        ]
    best = max(simple, floors.hog or 0.0)
    way = (score.macro_map10 - best) / (1 - best)
    against = "every" if floors.hog is not None else "each measured"
    return [
        f"Is it good? It is clearly better than {against} floor: {100 * way:.0f} % of the way from the best to 1.",
        "Whether that helps a radiologist, only a trial with radiologists can say.",
    ]


def dice_of(sites: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the mean Dice of the sites' scores, weighted by the masks behind it; None where none has any."""
    found = [(one["dice"], one.get("masks") or 1) for one in sites.values() if one.get("dice") is not None]
    weights: npt.NDArray[np.float64] = np.array([count for _, count in found], float)
    return float(np.average([dice for dice, _ in found], weights=weights)) if found else None


def figures_of(score: Score | None, floors: Floors, classes: Sequence[str]) -> dict[str, Any]:
    """Return the score and its floors as JSON, a public interface."""
    by_class = {} if score is None else score.by_class
    queries = {} if score is None else score.queries
    return {
        "macro_map10": None if score is None else rounded(score.macro_map10),
        "map10_by_class": {label: rounded(by_class.get(label)) for label in classes},
        "queries_per_class": {label: queries.get(label, 0) for label in classes},
        **{f"macro_map10_{name}": rounded(value) for name, value in floors._asdict().items()},
        "interval": None if score is None else [rounded(score.low), rounded(score.high)],
    }


def rounded(value: float | None) -> float | None:
    """Return a figure with four digits."""
    return None if value is None else round(value, 4)
