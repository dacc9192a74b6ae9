"""Likeness: what a query and its hits of its own class have in common, against random cases of that class."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float64, Shaped
from torch import Tensor

Floats = npt.NDArray[np.float64]

PIXEL = 1 / 12
"""The variance of a coordinate within a pixel: an outline one pixel wide has a width."""
MOST = 100.0
"""The limit of a ratio, and its inverse the other limit: hits may equal the query in all that is compared."""


class Attribute(NamedTuple):
    """A property of the cases: a number, or a category's number. NaN where it is unknown."""

    held: Floats  # of the gallery
    asked: Floats  # of the queries
    is_category: bool = False


class Likeness(NamedTuple):
    """How far a query is from other cases in an attribute, by query. NaN where the gallery does not tell.

    A number's distance is the absolute difference; standardising it would divide both columns by the same value. For a
    category it is the share of equal values.
    """

    hits: Floats  # mean over the first K hits of the query's class, the expectation over all orders of ties
    chance: Floats  # mean over all cases of the class
    is_category: bool


def among_hits(
    distances: Shaped[np.ndarray, "queries gallery"],
    is_candidate: Bool[np.ndarray, "queries gallery"],
    attribute: Attribute,
    k: int,
) -> Likeness:
    """Compare each query with its first K hits among the candidates, and with all candidates.

    A query tells something if its attribute is known and more than K candidates have one, not all the same.
    """
    hits, chance = (np.full(len(distances), np.nan) for _ in range(2))
    is_known = np.isfinite(attribute.held)
    for query in np.flatnonzero(np.isfinite(attribute.asked)):
        chosen = is_candidate[query] & is_known
        value, others = attribute.asked[query], attribute.held[chosen]
        if len(others) <= k or np.ptp(others) == 0:
            continue
        apart = (others == value).astype(np.float64) if attribute.is_category else np.abs(others - value)
        hits[query], chance[query] = apart @ _shares(distances[query, chosen], k), apart.mean()
    return Likeness(hits, chance, attribute.is_category)


def _shares(distances: Shaped[np.ndarray, " gallery"], k: int) -> Floats:
    """Return the probability of each case to be among the first K, divided by K."""
    last = np.partition(distances, k - 1)[k - 1]
    before, tied = distances < last, distances == last
    shares: Floats = (before + tied * ((k - before.sum()) / tied.sum())) / k
    return shares


def over_chance(found: Likeness) -> float | None:
    """Return the ratio to chance; above 1 the hits are more like the query than random cases of its class are.

    None where no query tells, or where all cases of a class are equal.
    """
    (ratio,) = ratios(found, np.ones((1, len(found.hits))))
    return float(ratio) if np.isfinite(ratio) else None


def ratios(found: Likeness, weights: Shaped[np.ndarray, "draws queries"]) -> Floats:
    """Return the ratio to chance for each set of the queries' weights, shape (draws,); NaN where there is none."""
    known = np.isfinite(found.hits)
    above, below = (weights[:, known] @ column[known] for column in parts(found))
    chance = below if found.is_category else above
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance > 0, np.clip(above / below, 1 / MOST, MOST), np.nan)


def parts(found: Likeness) -> tuple[Floats, Floats]:
    """Return the columns whose sums are divided by each other: shares of the hits by chance, distances the reverse."""
    return (found.hits, found.chance) if found.is_category else (found.chance, found.hits)


def mean(values: Sequence[float | None]) -> float | None:
    """Return the geometric mean of the ratios that are there; None without one."""
    known = [value for value in values if value is not None]
    return float(np.exp(np.mean(np.log(known)))) if known else None


def elongation(mask: Bool[Tensor, "batch 1 h w"]) -> Float64[Tensor, " batch"]:
    """Return the ratio of a mask's major to its minor axis, from its second central moments; 1 for an empty mask."""
    weight = mask[:, 0].double().cpu()
    share = weight / weight.sum((1, 2), keepdim=True).clamp(min=1)
    y, x = (torch.arange(side, dtype=torch.float64) for side in weight.shape[1:])
    rows, columns = share.sum(2), share.sum(1)
    centre_y, centre_x = rows @ y, columns @ x
    spread_y, spread_x = rows @ y**2 - centre_y**2 + PIXEL, columns @ x**2 - centre_x**2 + PIXEL
    slant = ((share @ x) * y).sum(1) - centre_y * centre_x
    middle, half = (spread_y + spread_x) / 2, torch.hypot((spread_y - spread_x) / 2, slant)
    return ((middle + half) / (middle - half)).clamp(min=1).sqrt()
