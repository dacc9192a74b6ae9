"""Metrics of retrieval and segmentation. Retrieval metrics are expectations over the order of ties."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int, Shaped

Floats = npt.NDArray[np.float64]


class Ranking(NamedTuple):
    """One value per query, shape (queries,). NaN where none or all of the gallery is relevant.

    Where all is relevant every ranking is perfect, whatever the distances are.
    """

    ap: Floats  # sum of P(i) rel(i) over the first K, divided by min(K, R)
    ap_over_k: Floats  # the same sum divided by K, as in the paper's tables
    hit_ratio: Floats  # share of relevant results in the first K
    reciprocal_rank: Floats  # 1 / rank of the first relevant result, 0 beyond K


def ranking(
    distances: Int[np.ndarray, "queries gallery"], relevant: Bool[np.ndarray, "queries gallery"], k: int
) -> Ranking:
    """Return the metrics at K of the ranking by distance: the expectation over all orders of ties, in closed form.

    Consider position j of a tie group with n cases, r of them relevant, after N cases, R of them relevant. The case at
    j is relevant with probability r / n; then (j - 1) (r - 1) / (n - 1) of its j - 1 predecessors in the group are.
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


def found_within(
    distances: Shaped[np.ndarray, "queries gallery"], relevant: Bool[np.ndarray, "queries gallery"], k: int
) -> Floats:
    """Return for each query the probability that a relevant case is among the first K, over all orders of ties.

    Shape (queries,). NaN where nothing is relevant. A case at an infinite distance is not in the gallery.

    Consider the tie group of the nearest relevant case, with n cases, r of them relevant, after N cases. None of the
    group's first m = K - N positions is relevant with probability (n - r)! (n - m)! / (n! (n - r - m)!).
    """
    nearest = np.where(relevant, distances, np.inf).min(1, initial=np.inf)[:, None]
    tied = distances == nearest
    before, n, r = (distances < nearest).sum(1), tied.sum(1), (tied & relevant).sum(1)
    missed = np.ones(len(distances))
    for place in range(k):
        still = np.maximum(n - r - place, 0) / np.maximum(n - place, 1)
        missed *= np.where(before + place < k, still, 1.0)
    return np.where(np.isfinite(nearest[:, 0]), 1 - missed, np.nan)


def tie_sizes(distances: Shaped[np.ndarray, "queries gallery"], k: int) -> Floats:
    """Return for each query the number of cases at the distance of the K-th hit, or of the last one of fewer than K.

    Shape (queries,). The gallery is not empty.
    """
    last = min(k, distances.shape[1]) - 1
    tied: Floats = (distances == np.partition(distances, last, axis=1)[:, last, None]).sum(1).astype(np.float64)
    return tied


def within_radius(
    distances: Int[np.ndarray, "queries gallery"], relevant: Bool[np.ndarray, "queries gallery"], bits: int
) -> tuple[Floats, Floats]:
    """Return precision and recall within r bits, each of shape (queries, bits + 1), for r = 0 to `bits`.

    Precision is NaN where nothing lies within r; both are NaN where none or all of the gallery is relevant.
    """
    size, good = (np.cumsum(counts, 1) for counts in _groups(distances, relevant, bits + 1))
    total = relevant.sum(1)[:, None]
    tells = (total > 0) & (total < distances.shape[1])
    with np.errstate(invalid="ignore"):
        return good / np.where(tells & (size > 0), size, np.nan), good / np.where(tells, total, np.nan)


def per_class(label: Int[np.ndarray, " n"], classes: int = 1) -> npt.NDArray[np.int64]:
    """Count the cases of each class, for `classes` classes or more if more occur. A negative label is of no class."""
    return np.bincount(label[label >= 0], minlength=classes)


def macro(values: Floats, label: Shaped[np.ndarray, " queries"]) -> float | None:
    """Return the mean over classes of the mean over each class's queries, without queries that are NaN.

    None where no query has a value.
    """
    means = [
        float(values[chosen].mean())
        for one in np.unique(label)
        if (chosen := (label == one) & np.isfinite(values)).any()
    ]
    return float(np.mean(means)) if means else None


class Overlap(NamedTuple):
    """The overlap of predicted and true masks."""

    dice: float | None  # mean over the images whose true mask is not empty
    iou: float | None  # over the same images
    empty_kept: float | None  # share of the images with an empty true mask whose predicted mask is empty


def overlap(both: Floats, predicted: Floats, true: Floats) -> Overlap:
    """Compute the overlap from each image's pixel counts: in both masks, in the predicted, in the true one."""
    has, is_empty = true > 0, true == 0  # both are False where the true mask is unknown (NaN)
    dice = 2 * both[has] / (predicted[has] + true[has])
    iou = both[has] / (predicted[has] + true[has] - both[has])
    return Overlap(mean(dice), mean(iou), mean((predicted[is_empty] == 0).astype(float)))


def balanced_accuracy(predicted: Int[np.ndarray, " n"], label: Int[np.ndarray, " n"]) -> float | None:
    """Return the mean over classes of the share of correctly classified cases; None without a case."""
    return macro((predicted == label).astype(float), label)


def mean(values: Float[np.ndarray, " n"]) -> float | None:
    """Return the mean of the finite values; None where none is finite."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are there; None without one."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _groups(
    distances: Int[np.ndarray, "queries gallery"], relevant: Bool[np.ndarray, "queries gallery"], bins: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count for each query and distance below `bins` the cases, and the relevant cases."""
    size = np.stack([np.bincount(row, minlength=bins) for row in distances]) if len(distances) else np.zeros((0, bins))
    good = [np.bincount(row[is_good], minlength=bins) for row, is_good in zip(distances, relevant, strict=True)]
    return size.astype(np.int64), np.array(good, np.int64).reshape(len(distances), bins)
