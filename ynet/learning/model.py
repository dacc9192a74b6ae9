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
from ynet.learning.detail import Detail
from ynet.learning.pooling import max_and_mean, rmac
from ynet.plan import Plan
from ynet.weights import Layout, LayoutEntry

STAGES = (1, 2, 4, 8)  # channels of a stage, in units of the first one's
EXPANSION = 4  # of a bottleneck's planes
LATERAL = 32  # channels of the segmentation branch
FAINT = 0.002  # a mask of this share of the image is taken for half a lesion, an emptier one for less


class Output(NamedTuple):
    """What the network says of some images in training."""

    mask_logits: Float[Tensor, "batch 1 size size"]
    code: Float[Tensor, "batch bits"]  # signed; its signs are the bits
    feature: Float[Tensor, "batch features"]  # what the code's look is read from
    class_logits: Float[Tensor, "batch classes"] | None = None  # recipe `plain` alone has them


class Reading(NamedTuple):
    """What the network says of some images outside of training."""

    mask_logits: Float[Tensor, "batch 1 size size"]
    code: Float[Tensor, "batch bits"]
    feature: Float[Tensor, "batch features"]  # it never leaves a site
    detail: Float[Tensor, "batch 32"]  # signed; its signs are the bits of the detail code


class Dropped(NamedTuple):
    """What a pass in training leaves out of the code, drawn before it."""

    feature: Float[Tensor, "batch features"]  # what each value is multiplied by: 0, or 1 / (1 - dropout)
    branch: Float[Tensor, "batch 1"]  # uniform: under 1/3 without the look, from 2/3 on without the place


class YNet(nn.Module):
    """The network of a plan. Every parameter but the detail code's has its gradient from both branches' losses' sum."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        network, bits = plan.network, plan.network.code_bits
        is_bottleneck = network.block == "bottleneck"
        self.stem = Stem(plan.image.channels, network.width, has_pool=is_bottleneck)
        first = 2 * network.width if is_bottleneck else network.width
        channels = [first * stage for stage in STAGES]
        block: type[Bottleneck | Basic] = Bottleneck if is_bottleneck else Basic
        self.stages = nn.ModuleList(
            nn.Sequential(block(inputs, outputs, stride), *(block(outputs, outputs, 1) for _ in range(1, depth)))
            for inputs, outputs, stride, depth in zip(
                [network.width, *channels[:-1]],
                channels,
                (1 if is_bottleneck else 2, 2, 2, 2),
                network.depth,
                strict=True,
            )
        )
        self.segmentation = Segmentation(channels)
        self.pooled = PooledFeature(channels[-1], plan.recipe)
        is_paper = plan.recipe == "paper"
        self.hash = nn.Linear(self.pooled.features + (0 if is_paper else sum(channels)), bits)
        self.place = None if is_paper else Location(bits)
        self.classifier = nn.Linear(bits, len(plan.classes)) if plan.recipe == "plain" else None
        self.detail = Detail(self.hash.in_features, network.codebook_seed)
        self.dropout = network.dropout  # the training turns it off when it settles
        self._is_mirrored = plan.augmentation.flip

    def read(self, image: Float[Tensor, "batch channels size size"]) -> Reading:
        """What is said of images outside of training: no gradient; one word for an image and its mirror image.

        The latter where the plan flips images in training, which says that the side is no part of the class.
        """
        self.eval()
        with torch.inference_mode():
            seen: Output = self(image)
            mask, code, feature = seen.mask_logits, seen.code, seen.feature
            if self._is_mirrored:
                mirrored: Output = self(image.flip(-1))
                mask = (mask + mirrored.mask_logits.flip(-1)) / 2
                code = F.normalize(code) + F.normalize(mirrored.code)
                feature = (feature + mirrored.feature) / 2
            return Reading(mask, code, feature, self.detail(feature))

    def draw_dropped(self, rows: int, generator: torch.Generator) -> Dropped | None:
        """What a pass over so many images leaves out; None where the network has no dropout."""
        if not self.dropout:
            return None
        kept = torch.rand(rows, self.hash.in_features, generator=generator) >= self.dropout
        return Dropped(kept / (1 - self.dropout), torch.rand(rows, 1, generator=generator))

    def forward(self, image: Float[Tensor, "batch channels size size"], dropped: Dropped | None = None) -> Output:
        """Mask logits and code values of each image, as training needs them.

        In training, what was not drawn beforehand as `dropped` is drawn from torch's global generator, by the images'
        places in the batch.
        """
        h, maps = self.stem(image), []
        for stage in self.stages:
            h = stage(h)
            maps.append(h)
        logits = self.segmentation(maps)
        feature = self._feature(maps, logits)
        code = self._code(feature, logits, dropped)
        mask = F.interpolate(logits, image.shape[-2:], mode="bilinear")
        return Output(mask, code, feature, None if self.classifier is None else self.classifier(code))

    def _feature(self, maps: list[Tensor], logits: Tensor) -> Float[Tensor, "batch features"]:
        """What image and lesion look like."""
        whole: Tensor = self.pooled(maps[-1])
        return whole if self.place is None else torch.cat([whole, lesion_means(maps, logits)], 1)

    def _code(self, feature: Tensor, logits: Tensor, dropped: Dropped | None) -> Float[Tensor, "batch bits"]:
        """The sum of what image and lesion look like and of where the lesion lies.

        In training a third of the samples, drawn anew, must do with the one, a third with the other: by itself the
        look, which has more parameters by far, learns the cases by heart and leaves nothing for the place to explain.
        """
        look: Tensor
        if self.place is None:
            look = self.hash(feature)
            return look
        if self.training and self.dropout:
            dropped = dropped or self._drop(feature)
            look, place = self.hash(feature * dropped.feature), self.place(logits)
            look, place = look * (dropped.branch > 1 / 3), place * (dropped.branch < 2 / 3)
        else:
            look, place = self.hash(feature), self.place(logits)
        total: Tensor = look + place
        return total

    def _drop(self, feature: Float[Tensor, "batch features"]) -> Dropped:
        kept = F.dropout(torch.ones_like(feature), self.dropout)
        return Dropped(kept, torch.rand(len(feature), 1, device=feature.device))


class Stem(nn.Module):
    """The first convolution: to half the image's sides, and with the pool of a ResNet to a quarter."""

    def __init__(self, channels: int, width: int, *, has_pool: bool) -> None:
        super().__init__()
        kernel = 7 if has_pool else 3
        self.conv, self.norm = nn.Conv2d(channels, width, kernel, 2, kernel // 2, bias=False), norm(width)
        self._has_pool = has_pool

    def forward(self, image: Tensor) -> Tensor:
        """The stem's map."""
        h = F.relu(self.norm(self.conv(image)))
        return F.max_pool2d(h, 3, 2, 1) if self._has_pool else h


class Basic(nn.Module):
    """ResNet's two 3x3 with a shortcut (He et al., CVPR 2016): for small networks."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), norm(outputs)
        self.second, self.second_norm = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), norm(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's map."""
        h = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(h)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """ResNet's 1x1, 3x3, 1x1 with a shortcut: the paper's."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        planes = outputs // EXPANSION
        self.reduce, self.reduce_norm = nn.Conv2d(inputs, planes, 1, bias=False), norm(planes)
        self.spatial, self.spatial_norm = nn.Conv2d(planes, planes, 3, stride, 1, bias=False), norm(planes)
        self.expand, self.expand_norm = nn.Conv2d(planes, outputs, 1, bias=False), norm(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's map."""
        h = F.relu(self.reduce_norm(self.reduce(x)))
        h = F.relu(self.spatial_norm(self.spatial(h)))
        return F.relu(self.expand_norm(self.expand(h)) + self.shortcut(x))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """What stands beside a block: nothing, or a 1x1 convolution where the block changes the shape."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))


class Segmentation(nn.Module):
    """A feature pyramid: from the smallest map to the largest, each is added to what comes from below it and smoothed.

    1x1 laterals, 3x3 convolutions, bilinear steps (Lin et al., CVPR 2017); one logit a pixel of the largest map.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, LATERAL, 1) for c in channels)
        self.smooth = nn.ModuleList(smooth() for _ in channels)
        self.logit = nn.Conv2d(LATERAL, 1, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Logits at the size of the largest map."""
        *larger, top = [lateral(h) for lateral, h in zip(self.laterals, maps, strict=True)]
        *steps, last = self.smooth
        for lateral, step in zip(reversed(larger), steps, strict=True):
            top = step(lateral + F.interpolate(top, lateral.shape[-2:], mode="bilinear"))
        logits: Tensor = self.logit(last(top))
        return logits


def smooth() -> nn.Sequential:
    """A 3x3 convolution of the segmentation branch."""
    return nn.Sequential(nn.Conv2d(LATERAL, LATERAL, 3, 1, 1, bias=False), norm(LATERAL), nn.ReLU())


class PooledFeature(nn.Module):
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


class Location(nn.Module):
    """Where the predicted lesion lies, how large and how long it is: moments of the mask, read by a small network."""

    MOMENTS, HIDDEN = 6, 32

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(self.MOMENTS, self.HIDDEN), nn.Linear(self.HIDDEN, self.HIDDEN)
        self.hash = nn.Linear(self.HIDDEN, bits)

    def forward(self, mask_logits: Float[Tensor, "batch 1 h w"]) -> Float[Tensor, "batch bits"]:
        """The place's part of the code."""
        h = F.relu(self.first(moments(mask_logits.float().sigmoid())))
        code: Tensor = self.hash(F.relu(self.second(h)))
        return code


def lesion_means(maps: list[Tensor], mask_logits: Float[Tensor, "batch 1 h w"]) -> Float[Tensor, "batch channels"]:
    """The mean of every map's channels over the predicted lesion, near 0 where none is seen."""
    probability, means = mask_logits.sigmoid(), []
    for h in maps:
        mask = F.adaptive_avg_pool2d(probability, (h.shape[2], h.shape[3]))
        means.append((mask * h).mean((2, 3)) / (mask.mean((2, 3)) + FAINT))
    return torch.cat(means, 1)


def moments(probability: Float[Tensor, "batch 1 h w"]) -> Float[Tensor, "batch 6"]:
    """Centre (y, x), spread (y, x), slant and size of a mask; about 1 for what is usual, 0 for an empty one's centre.

    Coordinates go from -1 to 1, so that the resolution drops out.
    """
    mask = probability[:, 0]
    y, x = (torch.linspace(-1, 1, side, device=mask.device) for side in mask.shape[1:])
    area = mask.mean((1, 2))
    share = mask / (mask.sum((1, 2), keepdim=True) + FAINT * mask[0].numel())
    rows, columns = share.sum(2), share.sum(1)
    centre_y, centre_x = rows @ y, columns @ x
    spread_y = (rows @ y**2 - centre_y**2).clamp(min=0).add(1e-4).sqrt()
    spread_x = (columns @ x**2 - centre_x**2).clamp(min=0).add(1e-4).sqrt()
    slant = ((share @ x) * y).sum(1) - centre_y * centre_x
    size = area.clamp(min=1e-6).sqrt()
    return torch.stack([2 * centre_y, 2 * centre_x, 3 * spread_y, 3 * spread_x, 3 * slant, 2.4 * size], dim=1)


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with the most groups, at most 8, that divide the channels."""
    return nn.GroupNorm(max(groups for groups in range(1, 9) if channels % groups == 0), channels)


def build(plan: Plan) -> YNet:
    """The plan's network with the initial weights of the plan's seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(plan.training.seed)  # torch.manual_seed would seed the GPUs too
        # channels_last would train a tenth faster on a CPU, but Opacus' per-sample gradients of it are silently wrong.
        return YNet(plan)


def layout_of_plan(plan: Plan) -> Layout:
    """The names and shapes of the plan's network, without room for one value of it."""
    with torch.device("meta"):
        return tuple(LayoutEntry(name, tuple(value.shape)) for name, value in YNet(plan).state_dict().items())


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
