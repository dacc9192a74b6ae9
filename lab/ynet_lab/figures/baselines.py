"""The floors and the ceiling that the figures of a code stand between."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ynet.data.batch import CaseSource
from ynet.learning.evaluate import EncodedCases, floors
from ynet.learning.hashing import hamming
from ynet.learning.likeness import Attribute
from ynet.learning.metrics import per_class
from ynet_lab.figures.by_query import ByQuery, Distances, Values, by_query, figures
from ynet_lab.figures.handmade import BINS, Handmade, handmade

RANDOM, MAJORITY, WHOLE, UNDER_MASK = "random", "majority", "hog", "hog_mask"
DIGITS = 9  # equal features must have equal distances, whatever the order in which products are summed


def by_codes(held: EncodedCases, asked: EncodedCases) -> Distances:
    """Return the Hamming distances of the codes."""
    return Distances(hamming(asked.codes, held.codes), hamming(asked.codes, asked.codes))


def cosine(held: npt.NDArray[np.floating], asked: npt.NDArray[np.floating]) -> Distances:
    """Return 1 minus the cosine of features whose channels are standardised over the gallery."""
    mean, std = held.mean(0, dtype=np.float64), held.std(0, dtype=np.float64)
    tells = std > 0
    standard = [(one[:, tells] - mean[tells]) / std[tells] for one in (held, asked)]
    unit = [one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in standard]
    return Distances(*((1 - unit[1] @ one.T).round(DIGITS) for one in unit))


def by_handmade(held: npt.NDArray[np.float64], asked: npt.NDArray[np.float64]) -> Distances:
    """Return the mean of the distances by gradients and by intensities: there are far more channels of the former."""
    gradients, intensities = (cosine(held[:, part], asked[:, part]) for part in (np.s_[:-BINS], np.s_[-BINS:]))
    return Distances(*((a + b) / 2 for a, b in zip(gradients, intensities, strict=True)))


def ceiling(held: EncodedCases, asked: EncodedCases, attributes: Mapping[str, Attribute]) -> Values:
    """Return the figures of the feature that the code is made from."""
    return _without_masks(by_query(held, asked, cosine(held.feature, asked.feature), attributes))


def _without_masks(found: ByQuery) -> Values:
    """Return the figures without Dice, which is of the network's masks."""
    return {name: value for name, value in figures(found).items() if name != "dice"}


def baselines(
    held: EncodedCases,
    asked: EncodedCases,
    attributes: Mapping[str, Attribute],
    sources: Sequence[tuple[CaseSource, CaseSource]],
) -> dict[str, Values]:
    """Return the figures of rankings without a network.

    Args:
        held: all sites' galleries.
        asked: all sites' queries.
        attributes: what likeness compares.
        sources: the gallery and the queries of each site, in the same order.
    """
    galleries, queries = ([handmade(pair[side]) for pair in sources] for side in (0, 1))
    whole, under = (
        by_handmade(*(np.concatenate([one[kind] for one in parts]) for parts in (galleries, queries)))
        for kind in range(len(Handmade._fields))
    )
    majority = per_class(held.label).argmax()
    is_rare = (held.label != majority, asked.label != majority)
    rankings = {
        RANDOM: Distances(*(np.zeros((len(asked.label), len(one.label)), np.int64) for one in (held, asked))),
        MAJORITY: Distances(*(np.tile(one.astype(np.int64), (len(asked.label), 1)) for one in is_rare)),
        WHOLE: whole,
        UNDER_MASK: under,
    }
    found = {name: _without_masks(by_query(held, asked, one, attributes)) for name, one in rankings.items()}
    metrics = floors(held.label, asked.label)
    return {name: {**metrics.get(name, {}), **values} for name, values in found.items()}
