"""Global pooling: one feature per feature map."""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

Map = Float[Tensor, "batch channels h w"]


def max_and_mean(h: Map) -> Float[Tensor, "batch twice"]:
    """Return each channel's maximum and mean."""
    return torch.cat([h.amax((2, 3)), h.mean((2, 3))], 1)


def rmac(h: Map, levels: int = 3) -> Float[Tensor, "batch channels"]:
    """Return R-MAC (Tolias, Sicre, Jégou, ICLR 2016).

    The maxima of square regions at `levels` scales (14 regions at 3 scales) are normalised, summed, and normalised.
    """
    total = torch.zeros(h.shape[:2], device=h.device, dtype=h.dtype)
    for level in range(1, levels + 1):
        side = max(1, int(2 * min(h.shape[2:]) / (level + 1)))
        for top in _starts(h.shape[2], side, level):
            for left in _starts(h.shape[3], side, level):
                region = h[:, :, top : top + side, left : left + side].amax((2, 3))
                total = total + F.normalize(region)
    return F.normalize(total)


def _starts(length: int, side: int, count: int) -> list[int]:
    """Return `count` evenly spaced offsets of a region of `side` in `length`."""
    if count == 1:
        return [(length - side) // 2]
    return [round(i * (length - side) / (count - 1)) for i in range(count)]
