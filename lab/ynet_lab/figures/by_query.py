"""The four figures of a ranking (class, case, likeness, ties): by query, as means, and as intervals by patients."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ynet.data.batch import SITE_STEP
from ynet.learning import likeness, metrics
from ynet.learning.evaluate import EncodedCases, K, candidates, case_hits, of_classes
from ynet.learning.hashing import hamming
from ynet.learning.likeness import Attribute, Likeness

Floats = npt.NDArray[np.float64]
Values = dict[str, float | None]
Interval = dict[str, float | None]
"""`low` and `high`: 95 % of the bootstrap's draws lie between them. None where there is no figure."""

DRAWS, SEED = 1000, 1
CENTRAL = (2.5, 97.5)


class Distances(NamedTuple):
    """How far each query is from each case of the gallery, and from each query. Any order-preserving numbers."""

    to_held: npt.NDArray[Any]
    to_asked: npt.NDArray[Any]


class ByQuery(NamedTuple):
    """What a ranking is worth, one value per query; NaN where a query does not tell."""

    label: npt.NDArray[np.int64]
    patient: npt.NDArray[np.int64]
    precision: Floats  # average precision at K
    ties: Floats  # cases at the distance of the K-th hit
    shares: Mapping[str, Floats]  # by the figure's name; a figure is the mean
    likeness: Mapping[str, Likeness]  # by attribute


def by_query(
    held: EncodedCases, asked: EncodedCases, distances: Distances, attributes: Mapping[str, Attribute]
) -> ByQuery:
    """Rate the ranking of the gallery for each query."""
    to_held, is_candidate = distances.to_held, candidates(held, asked)
    hits = case_hits(held, asked, *distances)
    return ByQuery(
        asked.label,
        asked.patient,
        of_classes(ranks(to_held), held.label, asked.label).ap,
        metrics.tie_sizes(to_held, K),
        {"case_hit1": hits.first, "case_hit10": hits.first10, "dice": _dice(asked)},
        {name: likeness.among_hits(to_held, is_candidate, one, K) for name, one in attributes.items()},
    )


def _dice(asked: EncodedCases) -> Floats:
    """Return each query's Dice, the mean over the regions that it has."""
    both, predicted, true = np.moveaxis(asked.by_region, 2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        dice = np.where(true > 0, 2 * both / (predicted + true), np.nan)
    return _nan_mean(list(dice.T))


def ranks(distances: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return each row's distances as whole numbers of the same order, equal where the distances are."""
    if np.issubdtype(distances.dtype, np.integer):
        return distances.astype(np.int64)
    return np.stack([np.unique(row, return_inverse=True)[1] for row in distances])


def figures(found: ByQuery) -> Values:
    """Return the figures over all queries; None where no query tells."""
    return {name: _known(values[0]) for name, values in weighted(found, np.ones((1, len(found.label)))).items()}


def by_attribute(found: ByQuery) -> Values:
    """Return the likeness of each attribute."""
    return {name: likeness.over_chance(one) for name, one in found.likeness.items()}


def intervals(found: ByQuery, draws: int = DRAWS) -> dict[str, Interval]:
    """Return an interval for each figure, by a bootstrap over the queries' patients. The gallery and the model stay."""
    return {
        name: {side: _percentile(values, at) for side, at in zip(("low", "high"), CENTRAL, strict=True)}
        for name, values in weighted(found, drawn(found.patient, draws)).items()
    }


def drawn(patient: npt.NDArray[np.int64], draws: int) -> Floats:
    """Return how often each query counts in each draw of as many patients, shape (draws, queries)."""
    patients, of_query = np.unique(patient, return_inverse=True)
    random = np.random.default_rng(SEED)
    times = random.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), draws)
    return times[:, of_query].astype(np.float64)


def columns(found: ByQuery, across: Floats) -> dict[str, list[int] | list[float | None]]:
    """Return the figures of each query, to be compared with another model's: a list for each, None where it is NaN.

    `site` and `patient` are numbers that say which queries belong together; `cross` is `across`, the precision against
    the other sites' galleries. The likeness of an attribute is the sum of `above NAME` over the sum of `below NAME`.
    """
    _, patient = np.unique(found.patient, return_inverse=True)
    values = {"macro_map10": found.precision, "cross": across, "median_tie10": found.ties, **found.shares}
    for name, one in found.likeness.items():
        values[f"above {name}"], values[f"below {name}"] = likeness.parts(one)
    return {
        "site": (found.patient // SITE_STEP).tolist(),
        "patient": patient.tolist(),
        "label": found.label.tolist(),
        **{name: [_known(value) for value in one] for name, one in values.items()},
    }


def precision_across(held: EncodedCases, asked: EncodedCases) -> Floats:
    """Return the average precision of each query against the other sites' galleries; NaN where there are none."""
    found = np.full(len(asked.label), np.nan)
    of_held, of_asked = (one.patient // SITE_STEP for one in (held, asked))
    for site in np.unique(of_asked):
        others, own = of_held != site, of_asked == site
        if others.any():
            distances = hamming(asked.codes[own], held.codes[others])
            found[own] = of_classes(distances, held.label[others], asked.label[own]).ap
    return found


def _percentile(values: Floats, at: float) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.percentile(known, at)) if len(known) else None


def _known(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None


def weighted(found: ByQuery, weights: Floats) -> dict[str, Floats]:
    """Return each figure for each row of the queries' weights; NaN where no query with a weight tells."""
    of_class = [np.where(found.label == one, found.precision, np.nan) for one in np.unique(found.label)]
    ratios = [likeness.ratios(one, weights) for one in found.likeness.values()]
    return {
        "macro_map10": _nan_mean([_means(values, weights) for values in of_class]),
        **{name: _means(values, weights) for name, values in found.shares.items()},
        "likeness": np.exp(_nan_mean([np.log(one) for one in ratios])) if ratios else np.full(len(weights), np.nan),
        "median_tie10": np.array([np.median(np.repeat(found.ties, row.astype(np.int64))) for row in weights]),
    }


def _means(values: Floats, weights: Floats) -> Floats:
    known = np.isfinite(values)
    total = weights[:, known].sum(1)
    return _divided(weights[:, known] @ values[known], total)


def _nan_mean(columns: list[Floats]) -> Floats:
    values = np.stack(columns)
    known = np.isfinite(values)
    return _divided(np.where(known, values, 0.0).sum(0), known.sum(0))


def _divided(sums: Floats, total: npt.NDArray[Any]) -> Floats:
    """Return the means; NaN where there is nothing to divide by."""
    means: Floats = np.divide(sums, total, out=np.full(len(sums), np.nan), where=total > 0)
    return means
