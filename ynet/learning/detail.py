"""The detail code: 32 bits that break ties between cases whose codes are equally far from the query's.

The detail code is the signs of a rotation of the standardised feature. The plan's seed fixes the rotation. The mean and
the standard deviation of each channel are arrays of the network without a gradient: each round a site sets them to
those of its training cases, and the server averages them like all weights.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ynet.learning.hashing import codebook

DETAIL_BITS = 32
QUIET = 1e-3  # smallest standard deviation: most channels below it are always 0
FARTHEST = 4.0  # clip, in standard deviations, so that no channel decides all bits


class Detail(nn.Module):
    """Standardises a feature and rotates it."""

    def __init__(self, features: int, seed: int) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(features), requires_grad=False)
        self.spread = nn.Parameter(torch.ones(features), requires_grad=False)
        # Orthogonal rows of -1 and +1, cut to the number of channels: without a generator, equal on every machine.
        self._rotation = codebook(DETAIL_BITS, 1 << (features - 1).bit_length(), seed)[:, :features]

    def forward(self, feature: Float[Tensor, "batch features"]) -> Float[Tensor, "batch 32"]:
        """Return the detail code's signed values; their signs are the bits."""
        measured = (feature.float() - self.centre) / self.spread.clamp(min=QUIET)
        values: Tensor = measured.clamp(-FARTHEST, FARTHEST) @ self._rotation.T.to(feature.device)
        return values


class FeatureSums:
    """Running sums of the features of a round's training images."""

    def __init__(self) -> None:
        self._images = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, feature: Float[Tensor, "batch features"]) -> None:
        """Add the features of some images."""
        values = feature.detach().double().cpu()  # single precision loses a small deviation from a large mean
        self._images += len(values)
        self._sum, self._squares = self._sum + values.sum(0), self._squares + values.square().sum(0)

    def measure(self, detail: Detail) -> None:
        """Set the mean and the deviation of `detail` to those of the added features, at least one."""
        mean = torch.as_tensor(self._sum) / self._images
        variance = torch.as_tensor(self._squares) / self._images - mean.square()
        with torch.no_grad():
            detail.centre.copy_(mean)
            detail.spread.copy_(variance.clamp(min=0).sqrt())
