"""The moments of a network's features on some cases, and the code that follows from them."""

from collections.abc import Iterable

import numpy as np
import torch

from ynet import code_map
from ynet.code_map import FeatureMoments
from ynet.data.batch import CaseSource
from ynet.learning.evaluate import encode
from ynet.learning.model import YNet
from ynet.network_size import code_sizes
from ynet.plan import Plan


def measure(net: YNet, cases: CaseSource, plan: Plan, device: torch.device) -> FeatureMoments:
    """Sum the features of all cases under the network's weights."""
    found = encode(net, cases, device, keeps_feature=True)
    return code_map.moments_of(found.feature.astype(np.float64), found.label, found.patient, code_sizes(plan))


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
