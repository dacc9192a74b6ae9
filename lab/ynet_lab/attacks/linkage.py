"""Linkage: whether two codes are of two images of one patient, by their distance alone.

Whoever gets two codes, as a site that is asked or as one that collects hits, can compare them.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Int64

from ynet_lab.attacks.intervals import Interval, interval

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Linkage(NamedTuple):
    """How well distances tell pairs of images of one patient from pairs of different patients; by patients."""

    any_class: Interval  # AUC: the chance that a patient's pair is nearer than one of two patients; 0.5: no link
    same_class: Interval  # the same, where the two patients' images have one class
    first: Interval  # share of patients whose nearest image of all is another of the same patient; mean over patients
    first_by_chance: float
    patients: int  # with several images


def link(
    distance: Int64[np.ndarray, "asked held"],
    label: Int64[np.ndarray, " held"],
    patient: Int64[np.ndarray, " held"],
    draws: Int64[np.ndarray, "draws patients"],
) -> Linkage:
    """Link by distances; the first rows of `held` are the `asked` cases, whose pairs are compared.

    The other held cases are only in the way of finding a patient's other image. No image is compared with itself, and
    equal distances count half. `draws` says how often each patient is drawn, in each resampling.
    """
    asked = len(distance)
    at, other = np.triu_indices(asked, 1)
    pairs = distance[at, other]
    is_linked, is_alike = patient[at] == patient[other], label[at] == label[other]
    found, patients, chance = _found_first(distance, patient)

    def auc_of(chosen: npt.NDArray[np.bool_], times: Ints) -> float:
        once, twice = times[patient[at]], times[patient[other]]
        near = np.bincount(pairs[is_linked], once[is_linked], pairs.max() + 1)
        far = np.bincount(pairs[chosen], (once * twice)[chosen], pairs.max() + 1)
        return auc_of_counts(near, far)

    return Linkage(
        interval(lambda times: auc_of(~is_linked, times), draws),
        interval(lambda times: auc_of(~is_linked & is_alike, times), draws),
        interval(lambda times: float(np.average(found, weights=times[patients])), draws),
        float(chance.mean()),
        len(patients),
    )


def auc_of_counts(near: Floats, far: Floats) -> float:
    """Return the chance that a distance drawn from `near` is below one from `far`; counts by distance."""
    above = far[::-1].cumsum()[::-1] - far
    return float((near * (above + far / 2)).sum() / max(near.sum() * far.sum(), 1e-12))


def _found_first(distance: Ints, patient: Ints) -> tuple[Floats, Ints, Floats]:
    """Return for each asked patient with several images the mean chance that its nearest image is its own other one."""
    asked = len(distance)
    apart = distance.copy()
    apart[np.arange(asked), np.arange(asked)] = distance.max() + 1
    is_nearest = apart == apart.min(1, keepdims=True)
    is_own = patient[:asked, None] == patient[None, :]
    is_own[np.arange(asked), np.arange(asked)] = False
    has_other = is_own.any(1)
    hit = ((is_nearest & is_own).sum(1) / is_nearest.sum(1))[has_other]
    chance = (is_own.sum(1) / (distance.shape[1] - 1))[has_other]
    patients, place = np.unique(patient[:asked][has_other], return_inverse=True)
    images = np.bincount(place)
    return np.bincount(place, hit) / images, patients, np.bincount(place, chance) / images
