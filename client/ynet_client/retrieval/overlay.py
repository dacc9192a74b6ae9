"""Draw masks over an image: a coloured line along the edge of each region."""

from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

GROUND: Colour = (16, 19, 24)
REGION_COLOURS: tuple[Colour, ...] = (
    (255, 196, 61),
    (92, 178, 255),
    (240, 116, 160),
    (128, 214, 112),
    (186, 148, 250),
    (255, 140, 84),
    (96, 216, 210),
    (224, 228, 234),
)
"""One for each region that a plan may have, in the plan's order; workbench.css has the same ones."""
LESION = REGION_COLOURS[0]
SOFTNESS = 1.6  # pixels: what turns a mask's stairs into a line


def outlined(
    image: Image.Image, bits: Mask, fill: float, line: float, colours: Sequence[Colour] = REGION_COLOURS
) -> Image.Image:
    """Draw all regions over an image as `overlaid` does; bit k of a pixel is set where region k is."""
    for place, colour in enumerate(colours):
        image = overlaid(image, (bits >> place & 1).astype(np.uint8), fill, line, colour)
    return image


def overlaid(image: Image.Image, mask: Mask, fill: float, line: float, colour: Colour = LESION) -> Image.Image:
    """Draw the mask over `image`: a line of `line` pixels along its edge, and inside its colour with opacity `fill`."""
    if not mask.any():
        return image
    cover = np.asarray(Image.fromarray((mask != 0).astype(np.float32)).resize(image.size, Image.Resampling.BOX))
    cover = cover / cover.max()
    blur = ImageFilter.GaussianBlur(SOFTNESS)
    inside = np.asarray(Image.fromarray(np.rint(255 * cover).astype(np.uint8)).filter(blur), np.float32) / 255
    inside = np.clip(inside / min(1.0, 1.25 * inside.max()), 0, 1)  # so that a lesion smaller than a pixel is shown
    from_edge = _pixels_from_edge()[np.rint(255 * inside).astype(np.uint8)]
    pixels = _blend(np.asarray(image, np.float32), colour, fill * inside)
    pixels = _blend(pixels, GROUND, 0.5 * np.clip(line / 2 + 1.5 - from_edge, 0, 1))
    pixels = _blend(pixels, colour, np.clip(line / 2 + 0.5 - from_edge, 0, 1))
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


@cache
def _pixels_from_edge() -> Pixels:
    """Return for each of the 256 values its distance from a straight edge after a blur of SOFTNESS."""
    normal = NormalDist(sigma=SOFTNESS)
    return np.array([abs(normal.inv_cdf((value + 0.5) / 256)) for value in range(256)], np.float32)


def _blend(pixels: Pixels, colour: Colour, opacity: Pixels) -> Pixels:
    """Blend a colour with an opacity (h, w) over RGB pixels (h, w, 3)."""
    blended: Pixels = pixels + (np.array(colour, np.float32) - pixels) * opacity[..., None]
    return blended
