"""The detail code: 32 bits that rank cases whose codes are equally far from a query's.

The signs of a rotation of the feature that the code is read from, once each of its channels is measured by its mean and
its standard deviation. The rotation is the plan's. Mean and deviation are arrays of the network that no gradient moves:
each round a site puts those of its own training cases there, and the sites' are averaged as all weights are.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ynet.learning.hashing import codebook

DETAIL_BITS = 32
QUIET = 1e-3  # a channel whose deviation is less counts as one with this: most that are so never fire
FARTHEST = 4.0  # deviations from the mean; what lies beyond counts as this far, so that no channel decides all bits


class Detail(nn.Module):
    """What a feature is measured by, and the rotation of what comes out."""

    def __init__(self, features: int, seed: int) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(features), requires_grad=False)
        self.spread = nn.Parameter(torch.ones(features), requires_grad=False)
        # Orthogonal rows of -1 and +1, cut to the number of channels: no generator, no rounding, the same everywhere.
        self._rotation = codebook(DETAIL_BITS, 1 << (features - 1).bit_length(), seed)[:, :features]

    def forward(self, feature: Float[Tensor, "batch features"]) -> Float[Tensor, "batch 32"]:
        """The detail code's values, signed; their signs are the bits."""
        measured = (feature.float() - self.centre) / self.spread.clamp(min=QUIET)
        values: Tensor = measured.clamp(-FARTHEST, FARTHEST) @ self._rotation.T.to(feature.device)
        return values


class FeatureSums:
    """The features of a round's training images, summed."""

    def __init__(self) -> None:
        self._images = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, feature: Float[Tensor, "batch features"]) -> None:
        """Count the features of some images."""
        values = feature.detach().double().cpu()  # single precision would lose a small deviation beside a large mean
        self._images += len(values)
        self._sum, self._squares = self._sum + values.sum(0), self._squares + values.square().sum(0)

    def measure(self, detail: Detail) -> None:
        """From now on features are measured by those seen here, of which there is at least one."""
        mean = torch.as_tensor(self._sum) / self._images
        variance = torch.as_tensor(self._squares) / self._images - mean.square()
        with torch.no_grad():
            detail.centre.copy_(mean)
            detail.spread.copy_(variance.clamp(min=0).sqrt())
