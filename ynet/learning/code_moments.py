"""The moments of a network's features on some cases, and the code that follows from them."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from ynet import code_map
from ynet.code_map import FeatureMoments
from ynet.data.batch import CaseSource
from ynet.fixed_arrays import CODE
from ynet.learning.evaluate import BATCH, EncodedCases, encode, score
from ynet.learning.hashing import pack
from ynet.learning.map_cache import digest_of
from ynet.learning.model import YNet
from ynet.network_size import code_sizes
from ynet.plan import Plan
from ynet.scores import Scores


class _Kept(NamedTuple):
    cases: CaseSource
    weights: bytes  # SHA-256 of all arrays but the code's
    found: EncodedCases


class GalleryEncoder:
    """Encodes a gallery for its moments, and again under the code that follows from them, without reading it twice.

    The features of the last gallery are kept in memory until another gallery or other weights are encoded.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def encode(self, net: YNet, cases: CaseSource, device: torch.device) -> EncodedCases:
        """Encode all cases; where only the code has changed since the last time, from the features of that time."""
        if net.moment_code is None:
            return encode(net, cases, device)
        digest = digest_of((name, value) for name, value in net.state_dict().items() if not name.startswith(CODE))
        if self._kept is None or self._kept.cases is not cases or self._kept.weights != digest:
            self._kept = _Kept(cases, digest, encode(net, cases, device, keeps_feature=True))
            return self._kept.found
        found = self._kept.found
        with torch.inference_mode():
            parts = torch.split(torch.from_numpy(found.feature), BATCH)
            return found._replace(codes=np.concatenate([pack(net.moment_code(part.to(device))) for part in parts]))

    def moments(self, net: YNet, cases: CaseSource, plan: Plan, device: torch.device) -> FeatureMoments:
        """Sum the features of all cases under the network's weights."""
        found = self.encode(net, cases, device)
        return code_map.moments_of(found.feature.astype(np.float64), found.label, found.patient, code_sizes(plan))

    def evaluate(self, net: YNet, gallery: CaseSource, queries: CaseSource, plan: Plan, device: torch.device) -> Scores:
        """Score queries among the gallery. Neither may be empty."""
        return score(self.encode(net, gallery, device), encode(net, queries, device), plan)


def fit(net: YNet, plan: Plan, sites: Iterable[FeatureMoments]) -> None:
    """Set the network's code to the one that follows from all sites' moments, as the server does.

    Does nothing where the code is trained. Raises UserError when no site has a labelled case.
    """
    if net.moment_code is None:
        return
    moments = code_map.add(sites)
    code_map.check_labelled(moments)
    found = code_map.code_map(moments, plan.network.code_bits, plan.class_bits, plan.network.codebook_seed)
    with torch.no_grad():
        for name, values in found._asdict().items():
            getattr(net.moment_code, name).copy_(torch.from_numpy(values))
