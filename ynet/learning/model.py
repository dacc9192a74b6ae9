"""The Y-Net: one encoder, a segmentation branch, a classification branch and a hash layer (Fang et al. 2021).

The encoder is ynet's own small one, or one of timm. GroupNorm replaces the paper's BatchNorm: it does not couple
samples, so it suits heterogeneous sites and DP-SGD. The hash layer is a trained signed projection; the paper's is not
trained.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (as everybody calls it)
from jaxtyping import Float
from torch import Tensor, nn

from ynet.encoders import OWN
from ynet.errors import UserError
from ynet.fixed_arrays import fixed_arrays
from ynet.learning.blocks import norm, own_encoder
from ynet.learning.moment_code import MomentCode
from ynet.learning.pooling import max_and_mean, rmac
from ynet.network_size import MOST_CODE_FEATURES, hash_features, pooled_channels, stage_channels
from ynet.plan import Plan
from ynet.weights import Layout, LayoutEntry

RegionMasks = Float[Tensor, "batch regions h w"]
LATERAL = 32  # channels of the segmentation branch
RING = 1 / 16  # width of the surroundings of a lesion, as a share of the image's side
HALF_MAX = torch.finfo(torch.float16).max
FAINT = 0.002  # a mask that covers this share of the image counts half, a smaller one less


class Output(NamedTuple):
    """The network's output in training."""

    mask_logits: Float[Tensor, "batch regions size size"]
    code: Float[Tensor, "batch bits"]  # signed; its signs are the bits; no columns where no loss trains it
    feature: Float[Tensor, "batch features"]  # the input of the code's appearance branch; likewise
    class_logits: Float[Tensor, "batch classes"] | None = None  # where a classifier's loss trains the code


class Reading(NamedTuple):
    """The network's output in inference."""

    mask_logits: Float[Tensor, "batch regions size size"]
    code: Float[Tensor, "batch bits"]
    feature: Float[Tensor, "batch features"]  # what the code is made from; it never leaves a site


class Dropped(NamedTuple):
    """The dropout of a training pass, drawn before it."""

    feature: Float[Tensor, "batch features"]  # factor of each value: 0, or 1 / (1 - dropout)
    branch: Float[Tensor, "batch 1"]  # uniform: below 1/3 drops the appearance, from 2/3 on the location


class YNet(nn.Module):
    """The network of a plan.

    Every parameter gets its gradient from the sum of both losses, except those of the fixed arrays (`build`), which are
    constants.
    """

    is_frozen: bool
    """Whether no round trains the encoder: then its maps of an image never change."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        network, bits, channels = plan.network, plan.network.code_bits, stage_channels(plan)
        if network.encoder == OWN:
            is_bottleneck = network.block == "bottleneck"
            self.stem, self.stages = own_encoder(
                plan.image.channels, network.width, channels, network.depth, is_bottleneck=is_bottleneck
            )
            self.encoder = None
        else:
            from ynet.learning.timm_encoder import TimmEncoder  # timm: seconds that ynet's own encoder need not wait

            self.encoder = TimmEncoder(network.encoder, is_pretrained=network.encoder_weights is not None)
        self.segmentation = Segmentation(channels, plan.regions.count)
        self.pooled, self.hash, self.place, self.classifier = None, None, None, None
        if plan.trains_code:
            self.pooled = PooledFeature(channels[-1], pooled_channels(plan), plan.pooling)
            self.hash = nn.Linear(hash_features(plan), bits)
            # `place` is part of the arrays' names in stored weights.
            self.place = None if plan.recipe == "paper" else Location(bits, plan.regions.count)
            self.classifier = nn.Linear(bits, len(plan.classes)) if plan.code_loss == "plain" else None
        self.moment_code = MomentCode(plan) if plan.code_form == "moments" else None
        self.dropout = network.dropout  # training turns it off for the cooldown
        self.is_mirrored, self.is_frozen = plan.augmentation.flip, plan.is_encoder_frozen
        self._is_private = plan.privacy.mode != "off"

    def read(self, image: Float[Tensor, "batch channels size size"]) -> Reading:
        """Run inference: without gradients, and averaged over the image and its flip.

        The flip is used where the plan flips images in training: then the side carries no information on the class.
        """
        self.eval()
        with torch.inference_mode():
            return self.read_maps(
                self.maps(image), self.maps(image.flip(-1)) if self.is_mirrored else None, image.shape[-1]
            )

    def read_maps(self, maps: Sequence[Tensor], mirrored: Sequence[Tensor] | None, size: int) -> Reading:
        """Run inference on the encoder's maps of the images and, where the plan flips, of their mirror images."""
        self.eval()
        with torch.inference_mode():
            seen = self._described(maps, size)
            if mirrored is not None:
                flipped = self._described(mirrored, size)
                seen = _Described(
                    (seen.mask_logits + flipped.mask_logits.flip(-1)) / 2,
                    F.normalize(seen.code) + F.normalize(flipped.code),
                    (seen.feature + flipped.feature) / 2,
                )
            code = seen.code if self.moment_code is None else self.moment_code(seen.feature)
            return Reading(seen.mask_logits, code, seen.feature)

    def draw_dropped(self, rows: int, generator: torch.Generator) -> Dropped | None:
        """Draw the dropout of a pass over `rows` images; None where the network has no dropout."""
        if not self.dropout or self.hash is None:
            return None
        kept = torch.rand(rows, self.hash.in_features, generator=generator) >= self.dropout
        return Dropped(kept / (1 - self.dropout), torch.rand(rows, 1, generator=generator))

    def forward(self, image: Float[Tensor, "batch channels size size"], dropped: Dropped | None = None) -> Output:
        """Return mask logits and code values of each image.

        In training without `dropped`, the dropout is drawn from torch's global generator, in the order of the batch.
        """
        return self.heads(self.maps(image), image.shape[-1], dropped)

    def heads(self, maps: Sequence[Tensor], size: int, dropped: Dropped | None = None) -> Output:
        """Return mask logits and code values from the encoder's maps of images of `size` pixels a side."""
        logits = self.segmentation(maps)
        feature, code = self._trained_code(maps, logits, dropped)
        mask = F.interpolate(logits, (size, size), mode="bilinear")
        return Output(mask, code, feature, None if self.classifier is None else self.classifier(code))

    def _described(self, maps: Sequence[Tensor], size: int) -> "_Described":
        logits = self.segmentation(maps)
        hashed, code = self._trained_code(maps, logits, None)
        mask = F.interpolate(logits, (size, size), mode="bilinear")
        return _Described(mask, code, hashed if self.moment_code is None else code_feature(maps, logits))

    def maps(self, image: Float[Tensor, "batch channels size size"]) -> list[Tensor]:
        """Return the encoder's feature maps, the largest first.

        Those of a frozen encoder are rounded to half precision, so that a cached map has the same values. They have no
        gradient unless the image needs one.

        In a private plan a frozen encoder sees one image at a time: rounding to half precision would magnify the
        changes of the last bits that come with a batch's other images.
        """
        if not self.is_frozen:
            return self._maps(image)
        with torch.set_grad_enabled(image.requires_grad and torch.is_grad_enabled()):
            seen = self._maps_one_by_one(image) if self._is_private else self._maps(image)
            return [h.clamp(-HALF_MAX, HALF_MAX).half().float() for h in seen]

    def _maps_one_by_one(self, image: Float[Tensor, "batch channels size size"]) -> list[Tensor]:
        return [torch.cat(level) for level in zip(*map(self._maps, torch.split(image, 1)), strict=True)]

    def _maps(self, image: Float[Tensor, "batch channels size size"]) -> list[Tensor]:
        if self.encoder is not None:
            found: list[Tensor] = self.encoder(image)
            return found
        h, maps = self.stem(image), []
        for stage in self.stages:
            h = stage(h)
            maps.append(h)
        return maps

    def _trained_code(self, maps: Sequence[Tensor], logits: Tensor, dropped: Dropped | None) -> tuple[Tensor, Tensor]:
        """Return the appearance of the image and of its lesion, and the hash layer's code; no columns without one."""
        if self.pooled is None or self.hash is None:
            return logits.new_empty(len(logits), 0), logits.new_empty(len(logits), 0)
        feature: Tensor = self.pooled(maps[-1])
        if self.place is None:
            return feature, self.hash(feature)
        feature = torch.cat([feature, lesion_means(maps, logits)], 1)
        return feature, self._appearance_and_location(self.hash, self.place, feature, logits, dropped)

    def _appearance_and_location(
        self, by_appearance: nn.Module, by_location: nn.Module, feature: Tensor, logits: Tensor, dropped: Dropped | None
    ) -> Float[Tensor, "batch bits"]:
        """Return the sum of the appearance branch and the location branch.

        In training each branch is dropped for a random third of the samples. Otherwise the appearance branch, which
        has far more parameters, memorises the cases and leaves nothing for the location branch to explain.
        """
        if self.training and self.dropout:
            dropped = dropped or self._drop(feature)
            appearance, location = by_appearance(feature * dropped.feature), by_location(logits)
            appearance, location = appearance * (dropped.branch > 1 / 3), location * (dropped.branch < 2 / 3)
        else:
            appearance, location = by_appearance(feature), by_location(logits)
        total: Tensor = appearance + location
        return total

    def _drop(self, feature: Float[Tensor, "batch features"]) -> Dropped:
        kept = F.dropout(torch.ones_like(feature), self.dropout)
        return Dropped(kept, torch.rand(len(feature), 1, device=feature.device))


class _Described(NamedTuple):
    """What inference sees in an image or in its mirror image."""

    mask_logits: Tensor
    code: Tensor  # the hash layer's
    feature: Tensor  # what the code is made from


class Segmentation(nn.Module):
    """A feature pyramid (Lin et al., CVPR 2017): 1x1 laterals, bilinear upsampling, 3x3 convolutions.

    Returns one logit per region and pixel of the largest map. Regions may overlap.
    """

    def __init__(self, channels: tuple[int, ...], regions: int = 1) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, LATERAL, 1) for c in channels)
        self.smooth = nn.ModuleList(smooth() for _ in channels)
        self.logit = nn.Conv2d(LATERAL, regions, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits at the size of the largest map."""
        *larger, top = [lateral(h) for lateral, h in zip(self.laterals, maps, strict=True)]
        *steps, last = self.smooth
        for lateral, step in zip(reversed(larger), steps, strict=True):
            top = step(lateral + F.interpolate(top, lateral.shape[-2:], mode="bilinear"))
        logits: Tensor = self.logit(last(top))
        return logits


def smooth() -> nn.Sequential:
    """Return a 3x3 convolution of the segmentation branch."""
    return nn.Sequential(nn.Conv2d(LATERAL, LATERAL, 3, 1, 1, bias=False), norm(LATERAL), nn.ReLU())


class PooledFeature(nn.Module):
    """The classification branch: a 3x3 convolution, then global pooling."""

    def __init__(self, channels: int, out: int, pooling: str) -> None:
        super().__init__()
        self.conv, self.conv_norm = nn.Conv2d(channels, out, 3, 1, 1, bias=False), norm(out)
        self._pool = rmac if pooling == "rmac" else max_and_mean
        self.features = out if pooling == "rmac" else 2 * out

    def forward(self, h: Tensor) -> Float[Tensor, "batch features"]:
        """Return the pooled feature."""
        return self._pool(F.relu(self.conv_norm(self.conv(h))))


class Location(nn.Module):
    """The location branch: a small network on the moments of each predicted region (position, size, shape)."""

    MOMENTS, HIDDEN = 6, 32

    def __init__(self, bits: int, regions: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(regions * self.MOMENTS, self.HIDDEN), nn.Linear(self.HIDDEN, self.HIDDEN)
        self.hash = nn.Linear(self.HIDDEN, bits)

    def forward(self, mask_logits: Float[Tensor, "batch regions h w"]) -> Float[Tensor, "batch bits"]:
        """Return the location's part of the code."""
        h = F.relu(self.first(moments(mask_logits.float().sigmoid())))
        code: Tensor = self.hash(F.relu(self.second(h)))
        return code


def lesion_means(maps: Sequence[Tensor], mask_logits: RegionMasks) -> Float[Tensor, "batch means"]:
    """Return the mean of every map's channels over each predicted region, region by region; near 0 without a region."""
    return torch.cat([means_over(maps, region) for region in torch.split(mask_logits.sigmoid(), 1, dim=1)], 1)


def means_over(maps: Sequence[Tensor], region: Float[Tensor, "batch 1 h w"]) -> Float[Tensor, "batch channels"]:
    """Return the mean of every map's channels over a region, whose values are from 0 to 1."""
    means = []
    for h in maps:
        mask = F.adaptive_avg_pool2d(region, (h.shape[2], h.shape[3]))
        means.append((mask * h).mean((2, 3)) / (mask.mean((2, 3)) + FAINT))
    return torch.cat(means, 1)


def ring_around(probability: Float[Tensor, "batch 1 h w"]) -> Float[Tensor, "batch 1 h w"]:
    """Return the surroundings of a lesion, RING of the image's side wide."""
    reach = max(1, round(RING * probability.shape[-1]))
    return (F.max_pool2d(probability, 2 * reach + 1, 1, reach) - probability).clamp(min=0)


def code_feature(maps: Sequence[Tensor], mask_logits: RegionMasks) -> Float[Tensor, "batch features"]:
    """Return what the code from moments is made from.

    The means of the maps over the image, over each region of the lesion and over the lesion's surroundings, and the
    place and shape of each region.
    """
    probability = mask_logits.float().sigmoid()
    lesion = probability.amax(1, keepdim=True)
    regions = (torch.ones_like(lesion), *torch.split(probability, 1, dim=1), ring_around(lesion))
    return folded(torch.cat([*(means_over(maps, region).float() for region in regions), moments(probability)], 1))


def folded(feature: Float[Tensor, "batch features"]) -> Float[Tensor, "batch folded"]:
    """Add up a feature of more than MOST_CODE_FEATURES values in that many places, with the same random signs always.

    Distances between features are kept on average (a count sketch: Charikar, Chen, Farach-Colton, 2002).
    """
    surplus = feature.shape[1] - MOST_CODE_FEATURES
    if surplus <= 0:
        return feature
    signs = 2.0 * np.random.default_rng(1).integers(0, 2, feature.shape[1]) - 1
    signed = feature * torch.tensor(signs, dtype=feature.dtype, device=feature.device)
    padded = F.pad(signed, (0, -feature.shape[1] % MOST_CODE_FEATURES))
    total: Tensor = padded.view(len(feature), -1, MOST_CODE_FEATURES).sum(1)
    return total


def moments(probability: Float[Tensor, "batch regions h w"]) -> Float[Tensor, "batch six_each"]:
    """Return the six moments of each region, region by region."""
    return torch.cat([_moments(mask) for mask in probability.unbind(1)], dim=1)


def _moments(mask: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch 6"]:
    """Return centre (y, x), spread (y, x), slant and size of a mask, scaled to about 1; an empty mask's centre is 0.

    Coordinates run from -1 to 1, so the moments do not depend on the resolution.
    """
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


def build(plan: Plan) -> YNet:
    """Build the plan's network with the initial weights of the plan's seed. Does not change the global generator.

    Parameters of the plan's fixed arrays need no gradient.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(plan.training.seed)  # torch.manual_seed would seed the GPUs too
        # channels_last would train a tenth faster on a CPU, but Opacus' per-sample gradients of it are silently wrong.
        net = YNet(plan)
    fixed = fixed_arrays(plan, list(net.state_dict()))
    for name, parameter in net.named_parameters():
        if name in fixed:
            parameter.requires_grad_(False)
    return net


def layout_of_plan(plan: Plan) -> Layout:
    """Return the names and shapes of the network's arrays, without allocating them."""
    with torch.device("meta"):
        return tuple(LayoutEntry(name, tuple(value.shape)) for name, value in YNet(plan).state_dict().items())


def arrays_of(net: nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    """Copy the network's weights to the CPU, by name."""
    return {name: value.detach().cpu().numpy().copy() for name, value in net.state_dict().items()}


def load_arrays(net: nn.Module, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Load weights into a network, all or none.

    Raises:
        UserError: Names or shapes differ, or a value is not finite float32.
    """
    own = net.state_dict()
    if own.keys() != arrays.keys():
        odd = sorted(own.keys() ^ arrays.keys())[0]
        raise _unfit(f"only one side has the array {odd!r}")
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
