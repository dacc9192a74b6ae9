"""Encoding cases, and scoring a network on them: retrieval, segmentation, classification, and the floors."""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ynet import metrics
from ynet.data.batch import CaseSource
from ynet.federation.plan import Plan
from ynet.hashing import codebook, hamming, pack
from ynet.model import YNet

K = 10
BATCH = 64


class Encoded(NamedTuple):
    """What a network makes of some cases; one row or number for each."""

    codes: npt.NDArray[np.uint8]  # (cases, bits / 8), packed
    values: npt.NDArray[np.float32]  # (cases, bits), before their signs are taken
    label: npt.NDArray[np.int64]  # (cases,)
    both: npt.NDArray[np.float64]  # pixels in the predicted and in the true mask
    predicted: npt.NDArray[np.float64]  # pixels in the predicted mask
    true: npt.NDArray[np.float64]  # pixels in the true mask


@dataclass(frozen=True)
class Scores:
    """Queries against a gallery, all shares in [0, 1]. The floors are scored by the same formulas."""

    map10: float
    macro_map10: float
    macro_map10_over_k: float  # divided by K
    map10_over_k: float  # divided by K, over all queries alike: what the paper's table has
    macro_hr10: float
    macro_rr10: float
    macro_map10_random: float  # floor: a random ranking
    macro_map10_majority: float  # floor: the most frequent class first, whatever is asked
    map10_random: float
    map10_majority: float
    dice: float
    iou: float
    empty_kept: float
    balanced_accuracy: float  # the class whose target code is nearest
    distinct_codes: int  # in the gallery
    queries: int
    gallery: int

    def to_metrics(self) -> dict[str, float]:
        """All of them by name, finite numbers."""
        return {name: float(value) for name, value in asdict(self).items()}


def encode(net: YNet, cases: CaseSource, device: torch.device) -> Encoded:
    """Codes and mask overlaps of all cases, in their order."""
    net.eval()
    codes, values, pixels = [], [], []
    with torch.inference_mode():
        for positions in torch.split(torch.arange(len(cases)), BATCH):
            batch = cases.batch(positions)
            output = net(batch.image.to(device))
            predicted, true = (output.mask_logits > 0).cpu(), batch.mask > 0
            counts = [mask.sum((1, 2, 3)) for mask in (predicted & true, predicted, true)]
            pixels.append(torch.stack(counts).double().numpy())
            code = output.code.float().cpu()
            codes.append(pack(code))
            values.append(code.numpy())
    both, predicted_pixels, true_pixels = np.concatenate(pixels, 1)
    label = cases.label.numpy()
    return Encoded(np.concatenate(codes), np.concatenate(values), label, both, predicted_pixels, true_pixels)


def evaluate(net: YNet, gallery: CaseSource, queries: CaseSource, plan: Plan, device: torch.device) -> Scores:
    """Each query's class sought among the gallery's codes; masks and classes of the queries. Neither may be empty."""
    held, asked = encode(net, gallery, device), encode(net, queries, device)
    relevant = asked.label[:, None] == held.label[None, :]
    ranked = metrics.ranking(hamming(asked.codes, held.codes), relevant, K)
    random = metrics.ranking(np.zeros(relevant.shape, np.int64), relevant, K)
    majority = np.bincount(held.label).argmax()
    first = np.broadcast_to((held.label != majority).astype(np.int64), relevant.shape)
    constant = metrics.ranking(first, relevant, K)
    overlap = metrics.overlap(asked.both, asked.predicted, asked.true)
    targets = codebook(len(plan.classes), plan.network.code_bits, plan.network.codebook_seed).numpy()
    return Scores(
        map10=_mean(ranked.ap),
        macro_map10=metrics.macro(ranked.ap, asked.label),
        macro_map10_over_k=metrics.macro(ranked.ap_over_k, asked.label),
        map10_over_k=_mean(ranked.ap_over_k),
        macro_hr10=metrics.macro(ranked.hit_ratio, asked.label),
        macro_rr10=metrics.macro(ranked.reciprocal_rank, asked.label),
        macro_map10_random=metrics.macro(random.ap, asked.label),
        macro_map10_majority=metrics.macro(constant.ap, asked.label),
        map10_random=_mean(random.ap),
        map10_majority=_mean(constant.ap),
        dice=overlap.dice,
        iou=overlap.iou,
        empty_kept=overlap.empty_kept,
        balanced_accuracy=metrics.balanced_accuracy((asked.values @ targets.T).argmax(1), asked.label),
        distinct_codes=len(np.unique(held.codes, axis=0)),
        queries=len(asked.label),
        gallery=len(held.label),
    )


def _mean(values: npt.NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0
