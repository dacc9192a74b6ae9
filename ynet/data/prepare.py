"""Conversion of decoded images to the network's input (trim, fit, standardise), and of masks back."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from ynet.data import images
from ynet.plan_sections import Image

EMPTY = 0.1  # a pixel is empty if it differs from the border by at most this share of the image's range
FEW = 0.01  # a row or column is margin if at most this share of its pixels is not empty


class Region(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, array: Shaped[np.ndarray, "*c h w"]) -> Shaped[np.ndarray, "*c height width"]:
        """Return this rectangle of `array`, as a view."""
        return array[..., self.top : self.top + self.height, self.left : self.left + self.width]


class Prepared(NamedTuple):
    """The network's input, and the rectangle of the image that it shows."""

    image: Float32[np.ndarray, "channels size size"]
    region: Region


def prepare(pixels: Float32[np.ndarray, "channels h w"], settings: Image) -> Prepared:
    """Convert decoded pixels to the input of the plan's network."""
    region = content(pixels) if settings.trim else Region(0, 0, *pixels.shape[1:])
    return Prepared(images.standardise(images.fit(region.cut(pixels), settings.size)), region)


def prepare_mask(mask: UInt8[np.ndarray, "h w"], region: Region, size: int) -> UInt8[np.ndarray, "1 size size"]:
    """Prepare the mask of an image whose `region` is shown. Its pixels in the margin are lost."""
    return images.fit(region.cut(mask)[None].astype(np.float32), size, is_mask=True).astype(np.uint8)


def restore_mask(
    mask: UInt8[np.ndarray, "size size"], region: Region, height: int, width: int
) -> UInt8[np.ndarray, "height width"]:
    """Map a mask of the network back to the `height` x `width` image whose `region` was shown."""
    full = np.zeros((height, width), np.uint8)
    region.cut(full)[...] = images.unfit(mask, region.height, region.width)
    return full


def content(pixels: Float32[np.ndarray, "channels h w"]) -> Region:
    """Find the rectangle inside an image's margin, the edge rows and columns in which almost all pixels are empty.

    This places a head, a breast or a cell alike in the network's input, whatever the field of view. An image without a
    margin stays whole, as does one that is all margin.
    """
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1)
    difference = np.abs(pixels - np.median(border, axis=1)[:, None, None]).max(0)
    is_content = difference > EMPTY * float(pixels.max() - pixels.min())
    rows = np.flatnonzero(is_content.mean(1) > FEW)
    columns = np.flatnonzero(is_content.mean(0) > FEW)
    if not len(rows) or not len(columns):
        return Region(0, 0, *pixels.shape[1:])
    top, left = int(rows[0]), int(columns[0])
    return Region(top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left)
