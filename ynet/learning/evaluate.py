"""Encode cases and score a network on them: retrieval, segmentation, classification, and baseline floors."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from ynet.data.batch import SITE_STEP, UNLABELLED, Batch, CaseSource
from ynet.learning import likeness, metrics
from ynet.learning.hashing import hamming, pack
from ynet.learning.map_cache import MappedSource
from ynet.learning.model import Reading, YNet
from ynet.plan import Plan
from ynet.scores import Scores

K = 10
BATCH = 64


class EncodedCases(NamedTuple):
    """A network's output on some cases; one row or number per case."""

    codes: npt.NDArray[np.uint8]  # (cases, bits / 8), packed
    label: npt.NDArray[np.int64]  # (cases,); UNLABELLED where there is none
    both: npt.NDArray[np.float64]  # pixels in the predicted and in the true mask; a mask is the union of its regions
    predicted: npt.NDArray[np.float64]  # pixels in the predicted mask
    true: npt.NDArray[np.float64]  # pixels in the true mask; NaN where there is none, or a region is unknown
    elongation: npt.NDArray[
        np.float64
    ]  # major over minor axis of the true mask; NaN where there is none, or an empty one
    patient: npt.NDArray[np.int64]  # a number, the same for all cases of a patient; it never leaves a site
    feature: npt.NDArray[np.float32]  # (cases, features); no columns unless it was asked for
    by_region: npt.NDArray[np.float64]  # (cases, regions, 3): both, predicted and true of each region


class CaseHits(NamedTuple):
    """For each query the probability that another case of its patient is among the first; NaN without such a case."""

    first: npt.NDArray[np.float64]
    first10: npt.NDArray[np.float64]


class RadiusPoint(NamedTuple):
    """Precision and recall of a search by radius."""

    radius: int  # Hamming, in bits
    precision: float | None  # over the queries with a result; None without such a query
    recall: float | None  # None where no query has both relevant and other cases in the gallery


def encode(
    net: YNet, cases: CaseSource, device: torch.device, *, site: int = 0, keeps_feature: bool = False
) -> EncodedCases:
    """Compute codes and mask overlaps of all cases, in their order.

    Args:
        net: the network.
        cases: what to encode.
        device: where the network is.
        site: a number for each site, so that patients of two sites are different people.
        keeps_feature: whether to return the feature that the code is made from.
    """
    codes, pixels, features, by_region = [], [], [], []
    for batch, output in _readings(net, cases, device):
        predicted, true = (output.mask_logits > 0).cpu(), batch.mask > 0
        by_region.append(_pixels(predicted, true, batch.drawn).numpy())
        lesion, is_drawn = true.any(1, keepdim=True), batch.drawn.all(1, keepdim=True)
        counts = _pixels(predicted.any(1, keepdim=True), lesion, is_drawn)[:, 0].T
        shape = likeness.elongation(lesion).where(counts[2] > 0, torch.nan)
        pixels.append(torch.cat([counts, shape[None]]).numpy())
        codes.append(pack(output.code.float()))
        kept = (
            output.feature if keeps_feature else output.feature.new_empty(len(batch.label), 0)
        )  # a slice would hold all
        features.append(kept.float().cpu().numpy())
    both, predicted_pixels, true_pixels, elongation = np.concatenate(pixels, 1)
    return EncodedCases(
        np.concatenate(codes),
        cases.label.numpy(),
        both,
        predicted_pixels,
        true_pixels,
        elongation,
        cases.patient.numpy() + site * SITE_STEP,
        np.concatenate(features),
        np.concatenate(by_region),
    )


def _readings(net: YNet, cases: CaseSource, device: torch.device) -> Iterator[tuple[Batch, Reading]]:
    """Read all cases in their order, from cached maps where there are any; the batch is on the CPU."""
    maps_of = cases.reader(net) if isinstance(cases, MappedSource) and net.is_frozen else None
    for positions in torch.split(torch.arange(len(cases)), BATCH):
        if maps_of is None:
            batch = cases.batch(positions)
            yield batch, net.read(batch.image.to(device))
            continue
        plain = torch.zeros(len(positions), dtype=torch.bool)
        batch, maps = maps_of(positions, plain)
        mirrored = maps_of(positions, ~plain).maps if net.is_mirrored else None
        yield Batch(*(part.cpu() for part in batch)), net.read_maps(maps, mirrored, batch.mask.shape[-1])


def _pixels(
    predicted: Bool[Tensor, "batch regions h w"],
    true: Bool[Tensor, "batch regions h w"],
    drawn: Bool[Tensor, "batch regions"],
) -> Float64[Tensor, "batch regions 3"]:
    """Count the pixels in both masks, in the predicted and in the true one; the last is NaN where it is unknown."""
    both, found, there = (mask.sum((2, 3)).double() for mask in (predicted & true, predicted, true))
    return torch.stack([both, found, there.where(drawn, torch.nan)], dim=2)


def join(parts: Sequence[EncodedCases]) -> EncodedCases:
    """Concatenate several sites' cases, which were encoded with a number for each site."""
    return EncodedCases(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def evaluate(net: YNet, gallery: CaseSource, queries: CaseSource, plan: Plan, device: torch.device) -> Scores:
    """Encode the cases and score them. Neither gallery nor queries may be empty."""
    return score(encode(net, gallery, device), encode(net, queries, device), plan)


def score(held: EncodedCases, asked: EncodedCases, plan: Plan) -> Scores:
    """Score retrieval of each query's class, and the queries' masks and classes. Gallery and queries are not empty.

    Cases without a label have no part in the scores of classes. For likeness they are compared among each other.
    """
    distances, classes = hamming(asked.codes, held.codes), plan.classes
    found = _summary(of_classes(distances, held.label, asked.label), asked.label)
    floor = floors(held.label, asked.label)
    distinct = len(np.unique(held.codes, axis=0))
    overlaps = [metrics.overlap(*counts) for counts in asked.by_region.transpose(1, 2, 0)]
    overlap = metrics.Overlap(*(metrics.mean_of(values) for values in zip(*overlaps, strict=True)))
    dice_per_region = dict(zip(plan.regions.names, (one.dice for one in overlaps), strict=False))
    is_ranked = _ranked(held.label, asked.label)
    hits, shape = case_hits(held, asked, distances), mask_likeness(held, asked, distances)
    is_named = (_named(distances, held.label, len(classes)) == asked.label).astype(np.float64)
    return Scores(
        **found,
        macro_map10_random=floor["random"]["macro_map10"],
        macro_map10_majority=floor["majority"]["macro_map10"],
        map10_random=floor["random"]["map10"],
        map10_majority=floor["majority"]["map10"],
        case_hit1=metrics.mean(hits.first),
        case_hit10=metrics.mean(hits.first10),
        mask_likeness=likeness.mean([likeness.over_chance(one) for one in shape]),
        median_tie10=float(np.median(metrics.tie_sizes(distances, K))),
        distinct_share=distinct / len(held.label),
        dice=overlap.dice,
        iou=overlap.iou,
        empty_kept=overlap.empty_kept,
        balanced_accuracy=metrics.macro(np.where(is_ranked, is_named, np.nan), asked.label),
        distinct_codes=distinct,
        queries=len(asked.label),
        gallery=len(held.label),
        ranked=int(is_ranked.sum()),
        siblings=int(np.isfinite(hits.first).sum()),
        likened=int(np.isfinite(shape[0].hits).sum()),
        masks=int((asked.true > 0).sum()),
        empty_masks=int((asked.true == 0).sum()),
        queries_per_class=_per_class(asked.label, classes),
        gallery_per_class=_per_class(held.label, classes),
        dice_per_region=dice_per_region,
    )


def of_classes(
    distances: npt.NDArray[Any], held: npt.NDArray[np.int64], asked: npt.NDArray[np.int64]
) -> metrics.Ranking:
    """Rank each query's class among the labelled cases of the gallery; NaN for a query without a label.

    Args:
        distances: whole numbers, shape (queries, gallery).
        held: the labels of the gallery.
        asked: the labels of the queries.
    """
    is_labelled = held != UNLABELLED
    return metrics.ranking(distances[:, is_labelled], asked[:, None] == held[None, is_labelled], K)


def case_hits(
    held: EncodedCases, asked: EncodedCases, to_held: npt.NDArray[Any], to_asked: npt.NDArray[Any] | None = None
) -> CaseHits:
    """Look for each query's patient among the gallery and the other queries.

    Args:
        held: the gallery.
        asked: the queries.
        to_held: the distance of each query to each case of the gallery.
        to_asked: the distance of each query to each query; None: by their codes.
    """
    between = hamming(asked.codes, asked.codes) if to_asked is None else to_asked
    itself = np.eye(len(asked.label), dtype=bool)
    distances = np.hstack([to_held, np.where(itself, np.inf, between)])
    of_patient = asked.patient[:, None] == np.concatenate([held.patient, asked.patient])
    of_patient[:, len(held.label) :] &= ~itself
    return CaseHits(*(metrics.found_within(distances, of_patient, k) for k in (1, K)))


def mask_likeness(held: EncodedCases, asked: EncodedCases, distances: npt.NDArray[Any]) -> list[likeness.Likeness]:
    """Compare the size and the elongation of the true masks with those of each query's hits of its own class."""
    is_candidate = candidates(held, asked)
    return [likeness.among_hits(distances, is_candidate, one, K) for one in mask_attributes(held, asked)]


def mask_attributes(held: EncodedCases, asked: EncodedCases) -> tuple[likeness.Attribute, likeness.Attribute]:
    """Return the size and the elongation of the true masks; unknown where a mask is unknown or empty."""
    held_sizes, asked_sizes = (np.where(one.true > 0, one.true, np.nan) for one in (held, asked))
    return likeness.Attribute(held_sizes, asked_sizes), likeness.Attribute(held.elongation, asked.elongation)


def candidates(held: EncodedCases, asked: EncodedCases) -> npt.NDArray[np.bool_]:
    """Return which cases of the gallery have a query's class and are another patient's, shape (queries, gallery).

    Those of a query without a label are the cases without one.
    """
    is_candidate: npt.NDArray[np.bool_] = asked.label[:, None] == held.label[None, :]
    is_candidate &= asked.patient[:, None] != held.patient[None, :]
    return is_candidate


def _ranked(held: npt.NDArray[np.int64], asked: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which queries have cases of their class and of others in the gallery. Other rankings say nothing."""
    classes = np.unique(held[held != UNLABELLED])
    return np.isin(asked, classes) & (len(classes) > 1)


def _per_class(label: npt.NDArray[np.int64], classes: Sequence[str]) -> dict[str, int]:
    return dict(zip(classes, metrics.per_class(label, len(classes)).tolist(), strict=True))


def map10_per_class(held: EncodedCases, asked: EncodedCases, classes: Sequence[str]) -> dict[str, float | None]:
    """Return the mean AP@10 of each class's queries; None where none of them is ranked. `macro_map10` is their mean."""
    ranked = of_classes(hamming(asked.codes, held.codes), held.label, asked.label)
    return {name: metrics.mean(ranked.ap[asked.label == place]) for place, name in enumerate(classes)}


def floors(held: npt.NDArray[np.int64], asked: npt.NDArray[np.int64]) -> dict[str, dict[str, float | None]]:
    """Return the retrieval metrics of two baselines: a random ranking, and the majority class first."""
    is_rare, shape = held != metrics.per_class(held).argmax(), (len(asked), len(held))
    constant = np.broadcast_to(is_rare.astype(np.int64), shape)
    return {
        "random": _summary(of_classes(np.zeros(shape, np.int64), held, asked), asked),
        "majority": _summary(of_classes(constant, held, asked), asked),
    }


def _summary(ranked: metrics.Ranking, label: npt.NDArray[np.int64]) -> dict[str, float | None]:
    return {
        "map10": metrics.mean(ranked.ap),
        "macro_map10": metrics.macro(ranked.ap, label),
        "macro_map10_over_k": metrics.macro(ranked.ap_over_k, label),
        "map10_over_k": metrics.mean(ranked.ap_over_k),
        "macro_hr10": metrics.macro(ranked.hit_ratio, label),
        "macro_rr10": metrics.macro(ranked.reciprocal_rank, label),
    }


def _named(distances: npt.NDArray[np.int64], label: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.int64]:
    """Return for each query the class with the largest expected number among the first K labelled results."""
    is_labelled = label != UNLABELLED
    distances, label = distances[:, is_labelled], label[is_labelled]
    shares = [
        metrics.ranking(distances, np.broadcast_to(label == one, distances.shape), K).hit_ratio
        for one in range(classes)
    ]
    named: npt.NDArray[np.int64] = np.nan_to_num(np.stack(shares)).argmax(0)
    return named


def by_radius(held: EncodedCases, asked: EncodedCases, bits: int) -> list[RadiusPoint]:
    """Return precision and recall within each Hamming radius from 0 to `bits`, as means over classes."""
    is_labelled = held.label != UNLABELLED
    relevant = asked.label[:, None] == held.label[None, is_labelled]
    precision, recall = metrics.within_radius(hamming(asked.codes, held.codes[is_labelled]), relevant, bits)
    return [
        RadiusPoint(radius, *(metrics.macro(values[:, radius], asked.label) for values in (precision, recall)))
        for radius in range(bits + 1)
    ]
