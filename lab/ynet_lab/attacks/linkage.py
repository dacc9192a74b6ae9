"""Linkage: whether two codes are of two images of one patient, by their distance alone.

Whoever gets two codes, as a site that is asked or as one that collects hits, can compare them.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Int64

from ynet_lab.attacks.intervals import Interval, interval

MOST_PAIRS = 100_000
"""Pairs of different patients that are compared, drawn at random: more change no figure by 0.002."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Linkage(NamedTuple):
    """How well distances tell pairs of images of one patient from pairs of different patients; by patients."""

    any_class: Interval  # AUC: the chance that a patient's pair is nearer than one of two patients; 0.5: no link
    same_class: Interval  # the same, of pairs of one class only
    first: Interval  # share of patients whose nearest image of all is another of the same patient; mean over patients
    first_by_chance: float
    patients: int  # with several images


class _Pairs(NamedTuple):
    """Pairs of images: their distances and patients."""

    own: Ints  # distances of pairs of one patient
    whose: Ints  # the patient of each
    foreign: Ints  # distances of pairs of two patients
    first: Ints  # the patients of each
    second: Ints

    @classmethod
    def of(cls, distance: Ints, label: Ints, patient: Ints, *, is_alike: bool) -> "_Pairs":
        """Return the pairs of the asked cases; with `is_alike` those of one class."""
        at, other = np.triu_indices(len(distance), 1)
        chosen = (label[at] == label[other]) if is_alike else np.ones(len(at), bool)
        is_own = patient[at] == patient[other]
        own, foreign = np.flatnonzero(chosen & is_own), np.flatnonzero(chosen & ~is_own)
        if len(foreign) > MOST_PAIRS:
            foreign = np.random.default_rng(1).choice(foreign, MOST_PAIRS, replace=False)
        distances = distance[at, other]
        return cls(distances[own], patient[at[own]], distances[foreign], patient[at[foreign]], patient[other[foreign]])

    def auc(self, times: Ints) -> float:
        """Return the AUC with each patient as often as `times` says."""
        bins = int(max(self.own.max(initial=0), self.foreign.max(initial=0))) + 1
        near = np.bincount(self.own, times[self.whose], bins)
        far = np.bincount(self.foreign, times[self.first] * times[self.second], bins)
        return auc_of_counts(near.astype(np.float64), far.astype(np.float64))


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
    everything, alike = (_Pairs.of(distance, label, patient, is_alike=is_alike) for is_alike in (False, True))
    found, patients, chance = _found_first(distance, patient)
    return Linkage(
        interval(everything.auc, draws),
        interval(alike.auc, draws),
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
