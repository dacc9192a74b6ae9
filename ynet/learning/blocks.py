"""The blocks of ynet's own encoder, a small ResNet with GroupNorm."""

import torch.nn.functional as F  # noqa: N812 (as everybody calls it)
from torch import Tensor, nn

EXPANSION = 4  # of a bottleneck's planes


def own_encoder(
    inputs: int, width: int, channels: tuple[int, ...], depths: tuple[int, ...], *, is_bottleneck: bool
) -> tuple["Stem", nn.ModuleList]:
    """Return the stem and the stages; `channels` and `depths` are of each stage."""
    stem, block = Stem(inputs, width, has_pool=is_bottleneck), Bottleneck if is_bottleneck else Basic
    stages = nn.ModuleList(
        nn.Sequential(block(before, after, stride), *(block(after, after, 1) for _ in range(1, depth)))
        for before, after, stride, depth in zip(
            [width, *channels[:-1]], channels, (1 if is_bottleneck else 2, 2, 2, 2), depths, strict=True
        )
    )
    return stem, stages


class Stem(nn.Module):
    """The first convolution: halves the image's sides; with a ResNet's max-pool, quarters them."""

    def __init__(self, channels: int, width: int, *, has_pool: bool) -> None:
        super().__init__()
        kernel = 7 if has_pool else 3
        self.conv, self.norm = nn.Conv2d(channels, width, kernel, 2, kernel // 2, bias=False), norm(width)
        self._has_pool = has_pool

    def forward(self, image: Tensor) -> Tensor:
        """Return the stem's feature map."""
        h = F.relu(self.norm(self.conv(image)))
        return F.max_pool2d(h, 3, 2, 1) if self._has_pool else h


class Basic(nn.Module):
    """ResNet's basic block, two 3x3 convolutions with a shortcut (He et al., CVPR 2016): for small networks."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), norm(outputs)
        self.second, self.second_norm = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), norm(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's feature map."""
        h = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(h)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """ResNet's bottleneck block, 1x1, 3x3, 1x1 convolutions with a shortcut: the paper's."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        planes = outputs // EXPANSION
        self.reduce, self.reduce_norm = nn.Conv2d(inputs, planes, 1, bias=False), norm(planes)
        self.spatial, self.spatial_norm = nn.Conv2d(planes, planes, 3, stride, 1, bias=False), norm(planes)
        self.expand, self.expand_norm = nn.Conv2d(planes, outputs, 1, bias=False), norm(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's feature map."""
        h = F.relu(self.reduce_norm(self.reduce(x)))
        h = F.relu(self.spatial_norm(self.spatial(h)))
        return F.relu(self.expand_norm(self.expand(h)) + self.shortcut(x))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return a block's shortcut: the identity, or a 1x1 convolution where the block changes the shape."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))


def norm(channels: int) -> nn.GroupNorm:
    """Return GroupNorm with the largest number of groups up to 8 that divides the channels."""
    return nn.GroupNorm(max(groups for groups in range(1, 9) if channels % groups == 0), channels)
