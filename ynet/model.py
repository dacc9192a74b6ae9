"""The Y-Net: one encoder, a segmentation branch and a classification branch, and a hash layer (Fang et al. 2021).

Where the paper has BatchNorm stands GroupNorm: it couples no samples, so it suits unlike sites and DP-SGD. The hash
layer is a signed projection that is trained; the paper's code is not.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (as everybody calls it)
from jaxtyping import Float
from torch import Tensor, nn

from ynet.errors import UserError
from ynet.federation.plan import Plan
from ynet.pooling import max_and_mean, rmac

STAGES = (1, 2, 4, 8)  # planes of a stage, in units of width / 2
EXPANSION = 4
LATERAL = 32  # channels of the segmentation branch


class Output(NamedTuple):
    """What the network says of some images."""

    mask_logits: Float[Tensor, "batch 1 size size"]
    code: Float[Tensor, "batch bits"]  # signed; its signs are the bits
    feature: Float[Tensor, "batch features"]  # what the code is projected from


class YNet(nn.Module):
    """The network of a plan. Every parameter has its gradient from the sum of both branches' losses."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        width, unit = plan.network.width, plan.network.width // 2
        self.stem = nn.Conv2d(plan.image.channels, width, 7, 2, 3, bias=False)
        self.stem_norm = norm(width)
        channels = [EXPANSION * unit * stage for stage in STAGES]
        inputs = [width, *channels[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(Bottleneck(i, unit * stage, 1 if n == 0 else 2), Bottleneck(o, unit * stage, 1))
            for n, (i, o, stage) in enumerate(zip(inputs, channels, STAGES, strict=True))
        )
        self.segmentation = Segmentation(channels)
        self.pooled = Pooled(channels[-1], plan.recipe)
        self.hash = nn.Linear(self.pooled.features, plan.network.code_bits)

    def forward(self, image: Float[Tensor, "batch channels size size"]) -> Output:
        """Mask logits, code values and feature of each image."""
        h = F.max_pool2d(F.relu(self.stem_norm(self.stem(image))), 3, 2, 1)
        maps = []
        for stage in self.stages:
            h = stage(h)
            maps.append(h)
        feature = self.pooled(h)
        mask = F.interpolate(self.segmentation(maps), image.shape[-2:], mode="bilinear")
        return Output(mask, self.hash(feature), feature)


class Bottleneck(nn.Module):
    """ResNet's 1x1, 3x3, 1x1 with a shortcut."""

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        out = EXPANSION * planes
        self.reduce, self.reduce_norm = nn.Conv2d(channels, planes, 1, bias=False), norm(planes)
        self.spatial, self.spatial_norm = nn.Conv2d(planes, planes, 3, stride, 1, bias=False), norm(planes)
        self.expand, self.expand_norm = nn.Conv2d(planes, out, 1, bias=False), norm(out)
        is_same = stride == 1 and channels == out
        self.shortcut = (
            nn.Identity() if is_same else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), norm(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's map."""
        h = F.relu(self.reduce_norm(self.reduce(x)))
        h = F.relu(self.spatial_norm(self.spatial(h)))
        return F.relu(self.expand_norm(self.expand(h)) + self.shortcut(x))


class Segmentation(nn.Module):
    """A feature pyramid: 1x1 laterals, upsampled and added from the smallest map to the largest; one logit a pixel."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, LATERAL, 1) for c in channels)
        self.smooth, self.smooth_norm = nn.Conv2d(LATERAL, LATERAL, 3, 1, 1, bias=False), norm(LATERAL)
        self.logit = nn.Conv2d(LATERAL, 1, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Logits at the size of the largest map."""
        laterals = [lateral(h) for lateral, h in zip(self.laterals, maps, strict=True)]
        top = laterals[-1]
        for lateral in reversed(laterals[:-1]):
            top = lateral + F.interpolate(top, lateral.shape[-2:], mode="bilinear")
        logits: Tensor = self.logit(F.relu(self.smooth_norm(self.smooth(top))))
        return logits


class Pooled(nn.Module):
    """The classification branch: a 3x3 convolution, then one feature for the whole image."""

    def __init__(self, channels: int, recipe: str) -> None:
        super().__init__()
        out = 2 * channels if recipe == "paper" else channels
        self.conv, self.conv_norm = nn.Conv2d(channels, out, 3, 1, 1, bias=False), norm(out)
        self._pool = rmac if recipe == "paper" else max_and_mean
        self.features = out if recipe == "paper" else 2 * out

    def forward(self, h: Tensor) -> Float[Tensor, "batch features"]:
        """The pooled feature."""
        return self._pool(F.relu(self.conv_norm(self.conv(h))))


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with the most groups, at most 8, that divide the channels."""
    return nn.GroupNorm(max(groups for groups in range(1, 9) if channels % groups == 0), channels)


def build(plan: Plan) -> YNet:
    """The plan's network with the initial weights of the plan's seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(plan.training.seed)  # torch.manual_seed would seed the GPUs too
        # channels_last would train a tenth faster on a CPU, but Opacus' per-sample gradients of it are silently wrong.
        return YNet(plan)


def arrays_of(net: nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    """The network's weights by name, as copies on the CPU."""
    return {name: value.detach().cpu().numpy().copy() for name, value in net.state_dict().items()}


def load_arrays(net: nn.Module, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Put weights into a network, all or none. Raises UserError unless they fit: names, shapes, finite float32."""
    own = net.state_dict()
    if own.keys() != arrays.keys():
        odd = sorted(own.keys() ^ arrays.keys())[0]
        raise _unfit(f"the array {odd!r} stands on one side only")
    for name, array in arrays.items():
        if tuple(own[name].shape) != array.shape:
            raise _unfit(f"{name!r} has the shape {array.shape}, the network {tuple(own[name].shape)}")
        if array.dtype != np.float32:
            raise _unfit(f"{name!r} is {array.dtype}, not float32")
        if not np.isfinite(array).all():
            raise _unfit(f"{name!r} holds a value that is not finite")
    with torch.no_grad():
        for name, array in arrays.items():
            own[name].copy_(torch.tensor(array))


def _unfit(why: str) -> UserError:
    return UserError(
        "the weights do not fit the network", why, "use the same plan and the same ynet version everywhere"
    )
