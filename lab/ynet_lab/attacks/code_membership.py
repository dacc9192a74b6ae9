"""Membership from a code: whether the network and the map of codes were made from the case, with the code alone.

The attacker has codes of some members and of some others, and the released model.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int64

from ynet_lab.attacks import kernel
from ynet_lab.attacks.intervals import Interval, interval
from ynet_lab.attacks.membership_inference import auc
from ynet_lab.attacks.subjects import mean_by

Floats = npt.NDArray[np.float64]


class CodeMembership(NamedTuple):
    """AUC by patient: the mean score over a patient's images; 0.5 is no separation."""

    learnt: Interval  # kernel ridge regression, from other members' and other patients' codes
    near_class: Interval  # members' codes lie nearer to the code of their own class, which the attacker knows


def infer(
    inputs: Float[np.ndarray, "cases inputs"],
    to_class: Float[np.ndarray, " cases"],
    patient: Int64[np.ndarray, " cases"],
    is_member: Bool[np.ndarray, " cases"],
    draws: Int64[np.ndarray, "draws patients"],
    random: np.random.Generator,
    most: int,
) -> CodeMembership:
    """Separate members from others by their codes (`inputs`), and by the distance `to_class`.

    Each half of the patients is scored by what was learnt of the other half, from `most` images of it.
    """
    learnt = learnt_score(inputs, patient, is_member, random, most)
    member = mean_by(is_member, patient) > 0.5
    scores = (mean_by(score, patient) for score in (learnt, -to_class))
    return CodeMembership(*(_separated(score, member, draws) for score in scores))


def learnt_score(
    inputs: Floats,
    patient: npt.NDArray[np.int64],
    is_member: npt.NDArray[np.bool_],
    random: np.random.Generator,
    most: int,
) -> Floats:
    """Return a score of each case, higher for members, learnt from the half of the patients that it is not in."""
    half, score = halves(mean_by(is_member, patient) > 0.5, random)[patient], np.zeros(len(patient))
    for chosen in (half, ~half):
        known = random.permutation(np.flatnonzero(chosen))[:most]
        model = kernel.fit(inputs[known], is_member[known, None].astype(np.float64), patient[known])
        score[~chosen] = kernel.predict(model, inputs[~chosen])[:, 0] - is_member[known].mean()
    return score


def halves(member: npt.NDArray[np.bool_], random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Choose a half of the members and a half of the others, by patient."""
    chosen = np.zeros(len(member), bool)
    for group in (np.flatnonzero(member), np.flatnonzero(~member)):
        chosen[random.permutation(group)[: len(group) // 2]] = True
    return chosen


def _separated(score: Floats, member: npt.NDArray[np.bool_], draws: npt.NDArray[np.int64]) -> Interval:
    return interval(
        lambda times: auc(np.repeat(score[member], times[member]), np.repeat(score[~member], times[~member])), draws
    )
