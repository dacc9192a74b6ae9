"""Membership inference: telling a model's training patients from others by its loss.

By the loss alone (Yeom et al., CSF 2018), and by the likelihood ratio against shadow models, LiRA (Carlini et al.,
S&P 2022), online, with one variance for all images.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64
from scipy.stats import rankdata

from ynet.data.batch import Batch, CaseSource
from ynet.learning.losses import loss_of
from ynet.learning.model import YNet
from ynet.learning.train import single_precision
from ynet.plan import Plan
from ynet_lab.attacks.subjects import Subjects

Floats = npt.NDArray[np.float64]
BATCH = 64
LEAST_LOSS = 1e-6  # of what is put through a logarithm
LEAST_STD = 1e-3
RESAMPLED = 200  # times, for a figure's standard error


class Separation(NamedTuple):
    """How well a score tells members, which should have the higher ones, from others."""

    auc: float  # 0.5: not at all
    auc_std: float  # its standard error, by resampling patients
    tpr_at_1_percent: float  # share of the members found where at most 1 % of the others are taken for members
    tpr_at_0_1_percent: float
    smallest_fpr: float  # above 0 that can be seen: 1 / non_members. A rate below it is measured at no false alarm
    members: int
    non_members: int


def losses(net: YNet, cases: CaseSource, plan: Plan, device: torch.device) -> Floats:
    """The recipe's loss of every case without dropout or augmentation, shape (cases,).

    Recipes that compare the samples of a batch are asked in batches of `BATCH`, in the cases' order.
    """
    loss, found = loss_of(plan, device), []
    net.eval()
    with torch.inference_mode():
        for positions in torch.split(torch.arange(len(cases)), BATCH):
            batch = Batch(*(part.to(device) for part in cases.batch(positions)))
            found.append(loss(single_precision(net(batch.image)), batch).total.double().cpu().numpy())
    return np.concatenate(found)


def confidence(loss: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """The logit of exp(-loss), which is nearly normal over shadow models (Carlini et al., section IV-C)."""
    logit: Floats = -np.log(np.expm1(np.maximum(loss, LEAST_LOSS)))
    return logit


def halves(patients: int, pairs: int, random: np.random.Generator) -> Bool[np.ndarray, "shadows patients"]:
    """Who is in which shadow model: each pair has a random half and its complement, so that all are in equally many."""
    rows = []
    for _ in range(pairs):
        chosen = np.zeros(patients, bool)
        chosen[random.permutation(patients)[: patients // 2]] = True
        rows += [chosen, ~chosen]
    return np.stack(rows)


def likelihood_ratio(
    target: Float[np.ndarray, " cases"],
    shadows: Float[np.ndarray, "shadows cases"],
    was_in: Bool[np.ndarray, "shadows cases"],
) -> Float[np.ndarray, " cases"]:
    """Log p(target's confidence | in) - log p(it | out): normal, a mean for each image, one variance for all.

    Each image must be in at least two shadows, and out of two.
    """
    inside, outside = (_log_density(target, shadows, chosen) for chosen in (was_in, ~was_in))
    ratio: Floats = inside - outside
    return ratio


def _log_density(target: Floats, shadows: Floats, chosen: npt.NDArray[np.bool_]) -> Floats:
    """Up to a constant that does not depend on which shadows are chosen."""
    count = chosen.sum(0)
    mean = np.where(chosen, shadows, 0).sum(0) / count
    variance = np.where(chosen, (shadows - mean) ** 2, 0).sum() / (count - 1).sum()
    std = max(float(np.sqrt(variance)), LEAST_STD)
    density: Floats = -((target - mean) ** 2) / (2 * std**2) - np.log(std)
    return density


def separations(score: Floats, subjects: Subjects, random: np.random.Generator) -> dict[str, Separation]:
    """Of single images, and of patients by the mean over each one's images."""
    is_member = subjects.by_patient(subjects.is_member) > 0.5
    patients = np.arange(subjects.patients)
    return {
        "image": separation(score, subjects.is_member, subjects.patient, random),
        "patient": separation(subjects.by_patient(score), is_member, patients, random),
    }


def separation(
    score: Float[np.ndarray, " n"],
    is_member: Bool[np.ndarray, " n"],
    patient: Int64[np.ndarray, " n"],
    random: np.random.Generator,
) -> Separation:
    """What a score tells. Neither members nor others may be missing."""
    inside, outside = score[is_member], score[~is_member]
    resampled = []
    for _ in range(RESAMPLED):
        parts = [_resample(score[chosen], patient[chosen], random) for chosen in (is_member, ~is_member)]
        resampled.append(auc(*parts))
    at_1, at_0_1 = (_true_positives(inside, outside, rate) for rate in (0.01, 0.001))
    std = float(np.std(resampled))
    return Separation(auc(inside, outside), std, at_1, at_0_1, 1 / len(outside), len(inside), len(outside))


def auc(inside: Float[np.ndarray, " a"], outside: Float[np.ndarray, " b"]) -> float:
    """The chance that a member's score is above another's, equal ones counted half (Mann and Whitney)."""
    ranks = rankdata(np.concatenate([inside, outside]))[: len(inside)]
    return float((ranks.sum() - len(inside) * (len(inside) + 1) / 2) / (len(inside) * len(outside)))


def _true_positives(inside: Floats, outside: Floats, rate: float) -> float:
    """The share of members above the lowest threshold that at most `rate` of the others are above."""
    allowed = int(rate * len(outside))
    threshold = np.sort(outside)[::-1][allowed]
    return float((inside > threshold).mean())


def _resample(score: Floats, patient: npt.NDArray[np.int64], random: np.random.Generator) -> Floats:
    """The scores of as many patients, drawn with replacement."""
    of_patient: Sequence[Floats] = [score[patient == one] for one in np.unique(patient)]
    return np.concatenate([of_patient[number] for number in random.integers(len(of_patient), size=len(of_patient))])
