"""Figures of merit for retrieval and segmentation; every retrieval metric is the expectation over the order of ties."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int, Shaped

Floats = npt.NDArray[np.float64]


class Ranking(NamedTuple):
    """One figure for each query, shape (queries,); NaN where the gallery holds nothing relevant, or nothing else.

    Where all is relevant every ranking is perfect: the figure would be 1 whatever the distances are.
    """

    ap: Floats  # sum of P(i) rel(i) over the first K, divided by min(K, R)
    ap_over_k: Floats  # the same divided by K, as the paper's tables have it
    hit_ratio: Floats  # share of relevant results in the first K
    reciprocal_rank: Floats  # 1 / rank of the first relevant result, 0 beyond K


def ranking(
    distances: Int[np.ndarray, "queries gallery"], relevant: Bool[np.ndarray, "queries gallery"], k: int
) -> Ranking:
    """The metrics at K of the ranking by distance, expected over all orders of equal distances (closed form).

    At place j of a tie group with n cases of which r are relevant, behind N cases of which R are: the case there is
    relevant with probability r / n, and then among its j - 1 predecessors in the group (j - 1) (r - 1) / (n - 1) are.
    """
    size, good = _groups(distances, relevant, int(distances.max(initial=0)) + 1)
    before, good_before = np.cumsum(size, 1) - size, np.cumsum(good, 1) - good
    queries = np.arange(len(distances))
    total = relevant.sum(1)
    points, found = np.zeros(len(distances)), np.zeros(len(distances))
    reciprocal, none_yet = np.zeros(len(distances)), np.ones(len(distances))
    for rank in range(1, min(k, distances.shape[1]) + 1):
        group = (before + size < rank).sum(1)  # the group in which this rank lies
        n, r = size[queries, group], good[queries, group]
        N, R = before[queries, group], good_before[queries, group]  # noqa: N806 (the formula's letters)
        j = rank - N
        chance = r / n
        points += chance * (R + 1 + (j - 1) * (r - 1) / np.maximum(n - 1, 1)) / rank
        found += chance
        is_first = np.where(R == 0, r / np.maximum(n - j + 1, 1), 0.0)  # relevant here, given none before
        reciprocal += none_yet * is_first / rank
        none_yet *= np.where(R == 0, 1 - np.minimum(is_first, 1), 0.0)
    at_most = np.minimum(k, distances.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        metrics = (points / np.minimum(k, total), points / k, found / at_most, reciprocal)
    return Ranking(*(np.where((total > 0) & (total < distances.shape[1]), values, np.nan) for values in metrics))


def within_radius(
    distances: Int[np.ndarray, "queries gallery"], relevant: Bool[np.ndarray, "queries gallery"], bits: int
) -> tuple[Floats, Floats]:
    """Precision and recall of what lies at most r bits away, each (queries, bits + 1) for r = 0 to `bits`.

    NaN: precision where nothing lies within r, and both where the gallery holds nothing relevant, or nothing else.
    """
    size, good = (np.cumsum(counts, 1) for counts in _groups(distances, relevant, bits + 1))
    total = relevant.sum(1)[:, None]
    tells = (total > 0) & (total < distances.shape[1])
    with np.errstate(invalid="ignore"):
        return good / np.where(tells & (size > 0), size, np.nan), good / np.where(tells, total, np.nan)


def macro(values: Floats, label: Shaped[np.ndarray, " queries"]) -> float | None:
    """The mean over classes of the mean over each class's queries; queries without a value are left out.

    None where no query has a value.
    """
    means = [
        float(values[chosen].mean())
        for one in np.unique(label)
        if (chosen := (label == one) & np.isfinite(values)).any()
    ]
    return float(np.mean(means)) if means else None


class Overlap(NamedTuple):
    """How well predicted masks lie over true ones."""

    dice: float | None  # mean over the images whose true mask is not empty
    iou: float | None  # likewise
    empty_kept: float | None  # share of the images with an empty true mask whose predicted mask is empty


def overlap(both: Floats, predicted: Floats, true: Floats) -> Overlap:
    """From pixel counts of each image: in both masks, in the predicted, in the true one; None for no image."""
    has, is_empty = true > 0, true == 0  # neither: it is not known
    dice = 2 * both[has] / (predicted[has] + true[has])
    iou = both[has] / (predicted[has] + true[has] - both[has])
    return Overlap(mean(dice), mean(iou), mean((predicted[is_empty] == 0).astype(float)))


def balanced_accuracy(predicted: Int[np.ndarray, " n"], label: Int[np.ndarray, " n"]) -> float | None:
    """The mean over classes of the share of each class's cases that are named rightly; None without a case."""
    return macro((predicted == label).astype(float), label)


def mean(values: Float[np.ndarray, " n"]) -> float | None:
    """The mean of those that are finite; None where none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _groups(
    distances: Int[np.ndarray, "queries gallery"], relevant: Bool[np.ndarray, "queries gallery"], bins: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each query and distance below `bins`: the cases at it, and the relevant ones among them."""
    size = np.stack([np.bincount(row, minlength=bins) for row in distances]) if len(distances) else np.zeros((0, bins))
    good = [np.bincount(row[is_good], minlength=bins) for row, is_good in zip(distances, relevant, strict=True)]
    return size.astype(np.int64), np.array(good, np.int64).reshape(len(distances), bins)
