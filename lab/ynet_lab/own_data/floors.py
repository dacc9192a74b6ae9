"""The scores of rankings without a network, on the queries that a demonstration asks."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ynet.data.batch import UNLABELLED
from ynet.data.cases import CaseCache
from ynet.data.manifest import Case, Manifest
from ynet.learning import metrics
from ynet.learning.evaluate import floors, of_classes
from ynet.plan import Plan
from ynet_lab.figures.baselines import by_handmade
from ynet_lab.figures.by_query import ranks
from ynet_lab.figures.handmade import handmade

HOG_WITHIN_S = 120.0
"""HOG is left out if it would take longer."""
TRIED = 8
"""Cases by which that is estimated."""


class Floors(NamedTuple):
    """Macro mAP@10 of three rankings; None where there is none."""

    random: float | None
    majority: float | None  # the most frequent class first, for every query
    hog: float | None  # by gradients and intensities of the whole image


def floors_of(plan: Plan, manifests: Mapping[str, Manifest], queries: Mapping[str, Sequence[Case]]) -> Floors:
    """Rank all sites' training cases for the queries of each site. Raises UserError when a file cannot be used."""
    galleries = {site: manifest.train for site, manifest in manifests.items()}
    if not any(queries.values()):
        return Floors(None, None, None)
    held, asked = _labels(plan, galleries.values()), _labels(plan, queries.values())
    found = floors(held, asked)
    of_hog = None
    if _hog_s(plan, manifests) <= HOG_WITHIN_S:
        features = [
            np.concatenate([handmade(_source(plan, manifests[site], one)).whole for site, one in cases.items() if one])
            for cases in (galleries, queries)
        ]
        distances = ranks(by_handmade(features[0], features[1]).to_held)
        of_hog = metrics.macro(of_classes(distances, held, asked).ap, asked)
    return Floors(found["random"]["macro_map10"], found["majority"]["macro_map10"], of_hog)


def _labels(plan: Plan, sites: Iterable[Sequence[Case]]) -> npt.NDArray[np.int64]:
    places = {name: place for place, name in enumerate(plan.classes)} | {"": UNLABELLED}
    return np.array([places[case.label] for cases in sites for case in cases], np.int64)


def _source(plan: Plan, manifest: Manifest, cases: Sequence[Case]) -> CaseCache:
    return CaseCache(manifest, cases, plan.image, plan.classes, memory_limit_bytes=0)


def _hog_s(plan: Plan, manifests: Mapping[str, Manifest]) -> float:
    """Return about how many seconds the features of all cases take."""
    manifest = next(one for one in manifests.values() if one.train)
    tried = manifest.train[:TRIED]
    begun = time.monotonic()
    handmade(_source(plan, manifest, tried))
    return (time.monotonic() - begun) / len(tried) * sum(len(one.cases) for one in manifests.values())
