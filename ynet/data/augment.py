"""Random augmentation of a batch of training images and their masks."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from ynet.plan_sections import Augmentation


class Augmented(NamedTuple):
    """An augmented batch; masks are still 0 or 1."""

    image: Float[Tensor, "batch channels size size"]
    mask: Float[Tensor, "batch regions size size"]


def augment(
    image: Float[Tensor, "batch channels size size"],
    mask: Float[Tensor, "batch regions size size"],
    settings: Augmentation,
    generator: torch.Generator,
) -> Augmented:
    """Flip, rotate, scale and shift each image of a standardised batch, then change its contrast and brightness.

    `transplant` moves a lesion into another image of the batch, one without a lesion, so that the network cannot learn
    the class from the background. The mask follows the geometric changes only. A setting of 0 or false draws no random
    number; if all are, the result is the input. The input is not modified.
    """
    if settings.rotate_deg or settings.scale or settings.shift:
        image, mask = _move(image, mask, settings, generator)
    elif settings.flip:
        image, mask = _flip(image, mask, generator)
    if settings.transplant:
        image = _transplant(image, mask, settings.transplant, generator)
    return Augmented(_recolour(image, settings, generator), mask)


def flips(batch: int, settings: Augmentation, generator: torch.Generator) -> Bool[Tensor, " batch"]:
    """Draw which images `augment` mirrors where `settings` has at most `flip`: from one generator, the same ones."""
    return _coins(batch, generator) if settings.flip else torch.zeros(batch, dtype=torch.bool)


def _move(image: Tensor, mask: Tensor, settings: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Resample the batch once: bilinear with repeated edges for images, nearest with 0 outside for masks."""
    grid = sampling_grid(_affine(image.shape[0], settings, generator).to(image.device, image.dtype), image.shape[-1])
    moved = functional.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved, functional.grid_sample(mask, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def sampling_grid(theta: Float[Tensor, "batch 2 3"], size: int) -> Float[Tensor, "batch size size 2"]:
    """Compute `affine_grid` as the sum of a column term and a row term, which is several times faster."""
    centres = (torch.arange(size, device=theta.device, dtype=theta.dtype) * 2 + 1) / size - 1
    of_column = theta[:, :, 0, None, None] * centres
    of_row = (theta[:, :, 1, None] * centres + theta[:, :, 2, None]).unsqueeze(-1)
    return (of_column + of_row).permute(0, 2, 3, 1)  # x and y are separate in memory, so the sum runs along whole rows


def _affine(batch: int, settings: Augmentation, generator: torch.Generator) -> Float[Tensor, "batch 2 3"]:
    """Return the affine maps from output to input pixels, in units of half a side."""
    angle = _signed(batch, settings.rotate_deg, generator) * (math.pi / 180)
    shrink = 1 / (1 + _signed(batch, settings.scale, generator))
    cos, sin = torch.cos(angle) * shrink, torch.sin(angle) * shrink
    mirror = 1 - 2 * _coins(batch, generator).float() if settings.flip else torch.ones_like(cos)
    shift_x = 2 * _signed(batch, settings.shift, generator)
    shift_y = 2 * _signed(batch, settings.shift, generator)
    rows = (cos * mirror, -sin * mirror, shift_x, sin, cos, shift_y)
    return torch.stack(rows, dim=1).view(batch, 2, 3)


def _flip(image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    flipped = _coins(image.shape[0], generator).to(image.device).view(-1, 1, 1, 1)
    return torch.where(flipped, image.flip(-1), image), torch.where(flipped, mask.flip(-1), mask)


def _transplant(image: Tensor, mask: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Put a share of the lesions onto the background of an image without one; blur the seam over two pixels.

    A lesion is the union of its regions.
    """
    mask = mask.amax(1, keepdim=True)
    has_lesion = mask.flatten(1).any(1)
    hosts = torch.nonzero(~has_lesion).flatten()
    drawn = torch.rand(len(image), generator=generator) < share
    if not len(hosts):
        return image
    host = hosts[torch.randint(len(hosts), (len(image),), generator=generator)]
    moves = (has_lesion & drawn.to(image.device)).view(-1, 1, 1, 1)
    wide = functional.max_pool2d(mask, 3, 1, 1)
    opacity = torch.maximum(functional.avg_pool2d(wide, 5, 1, 2, count_include_pad=False), mask)
    return torch.where(moves, torch.lerp(image[host], image, opacity), image)


def _recolour(image: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    if settings.contrast or settings.brightness:
        gain = 1 + _signed(image.shape[0], settings.contrast, generator)
        offset = _signed(image.shape[0], settings.brightness, generator)
        gain, offset = (term.to(image.device, image.dtype).view(-1, 1, 1, 1) for term in (gain, offset))
        image = torch.addcmul(offset, image, gain)
    if settings.noise:
        noise = torch.empty(image.shape, device=generator.device).normal_(generator=generator)
        image = torch.add(image, noise.to(image.device, image.dtype), alpha=settings.noise)
    return image


def _signed(batch: int, most: float, generator: torch.Generator) -> Float[Tensor, " batch"]:
    """Draw uniformly between -most and most; draw nothing for 0."""
    if not most:
        return torch.zeros(batch, device=generator.device)
    return torch.empty(batch, device=generator.device).uniform_(-most, most, generator=generator)


def _coins(batch: int, generator: torch.Generator) -> Tensor:
    return torch.rand(batch, device=generator.device, generator=generator) < 0.5
