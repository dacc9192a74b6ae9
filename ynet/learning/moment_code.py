"""The code from moments as a part of the network; code_map.py says how it is computed."""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ynet.code_shapes import shapes
from ynet.network_size import code_sizes
from ynet.plan import Plan


class MomentCode(nn.Module):
    """Turns a feature into a code. Its arrays have no gradient: the server computes them from the sites' sums.

    They are 0 until then, and so is each value of the code.
    """

    mean: Tensor
    to_classes: Tensor
    class_means: Tensor
    known: Tensor
    class_rotation: Tensor
    to_case: Tensor
    class_codes: Tensor

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        for name, shape in shapes(code_sizes(plan), plan.network.code_bits, plan.class_bits).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))

    def forward(self, feature: Float[Tensor, "batch features"]) -> Float[Tensor, "batch bits"]:
        """Return the code's signed values, class bits first; their signs are the bits."""
        return code_values(feature.float(), self)


class MapArrays(Protocol):
    """The arrays of a `CodeMap`, as tensors."""

    mean: Tensor
    to_classes: Tensor
    class_means: Tensor
    known: Tensor
    class_rotation: Tensor
    to_case: Tensor


def code_values(feature: Float[Tensor, "batch features"], by: MapArrays) -> Float[Tensor, "batch bits"]:
    """Return the code's signed values of features: a rotation of the classes' posterior, and the case directions."""
    centred = feature - by.mean
    squared = ((centred @ by.to_classes)[:, None, :] - by.class_means[None]).square().sum(2)
    posterior = (-squared / 2).masked_fill(by.known == 0, -torch.inf).softmax(1).nan_to_num()
    even = by.known / by.known.sum().clamp(min=1)
    return torch.cat([(posterior - even) @ by.class_rotation, centred @ by.to_case], 1)
