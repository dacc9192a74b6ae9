"""Random changes of a batch of training images, their masks changed alike."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ynet.plan import Augmentation


class Augmented(NamedTuple):
    """A batch after its changes; masks are still 0 or 1."""

    image: Float[Tensor, "batch channels size size"]
    mask: Float[Tensor, "batch 1 size size"]


def augment(
    image: Float[Tensor, "batch channels size size"],
    mask: Float[Tensor, "batch 1 size size"],
    settings: Augmentation,
    generator: torch.Generator,
) -> Augmented:
    """Each image of a standardised batch flipped, turned, scaled, shifted, then changed in contrast and brightness.

    With `transplant` a lesion may lie in another image of the batch, one without a lesion: what its own background
    says of its class cannot be learnt. The mask follows the geometry alone. A setting of 0 or false draws nothing;
    all of them give the input back.
    The input is never written to.
    """
    if settings.rotate_deg or settings.scale or settings.shift:
        image, mask = _move(image, mask, settings, generator)
    elif settings.flip:
        image, mask = _flip(image, mask, generator)
    if settings.transplant:
        image = _transplant(image, mask, settings.transplant, generator)
    return Augmented(_recolour(image, settings, generator), mask)


def _move(image: Tensor, mask: Tensor, settings: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One resampling of the batch: bilinear for images, edges repeated; nearest for masks, 0 outside."""
    grid = sampling_grid(_affine(image.shape[0], settings, generator).to(image.device, image.dtype), image.shape[-1])
    moved = functional.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved, functional.grid_sample(mask, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def sampling_grid(theta: Float[Tensor, "batch 2 3"], size: int) -> Float[Tensor, "batch size size 2"]:
    """What `affine_grid` gives, as one sum of a term for the columns and one for the rows: several times faster."""
    centres = (torch.arange(size, device=theta.device, dtype=theta.dtype) * 2 + 1) / size - 1
    of_column = theta[:, :, 0, None, None] * centres
    of_row = (theta[:, :, 1, None] * centres + theta[:, :, 2, None]).unsqueeze(-1)
    return (of_column + of_row).permute(0, 2, 3, 1)  # x and y apart in memory: the sum runs along whole rows


def _affine(batch: int, settings: Augmentation, generator: torch.Generator) -> Float[Tensor, "batch 2 3"]:
    """Where each pixel of the output comes from, in units of half a side."""
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
    """Give a share of the lesions the background of an image without one; the seam is blurred over two pixels."""
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
    """Uniform draws between -most and most; none is drawn for 0."""
    if not most:
        return torch.zeros(batch, device=generator.device)
    return torch.empty(batch, device=generator.device).uniform_(-most, most, generator=generator)


def _coins(batch: int, generator: torch.Generator) -> Tensor:
    return torch.rand(batch, device=generator.device, generator=generator) < 0.5
