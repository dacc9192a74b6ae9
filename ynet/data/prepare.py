"""A decoded image made into what the network takes: its empty margin cut away, fitted, standardised. And back."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from ynet.data import images
from ynet.plan import Image

EMPTY = 0.1  # a pixel is empty when it is this near to the border's value, as a share of the image's range
FEW = 0.01  # a row or column is margin when at most this share of its pixels is not empty


class Region(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, array: Shaped[np.ndarray, "*c h w"]) -> Shaped[np.ndarray, "*c height width"]:
        """The part of `array`, as a view."""
        return array[..., self.top : self.top + self.height, self.left : self.left + self.width]


class Prepared(NamedTuple):
    """What the network takes, and the part of the image that it shows."""

    image: Float32[np.ndarray, "channels size size"]
    region: Region


def prepare(pixels: Float32[np.ndarray, "channels h w"], settings: Image) -> Prepared:
    """Decoded pixels as the plan's network takes them."""
    region = content(pixels) if settings.trim else Region(0, 0, *pixels.shape[1:])
    return Prepared(images.standardise(images.fit(region.cut(pixels), settings.size)), region)


def prepare_mask(mask: UInt8[np.ndarray, "h w"], region: Region, size: int) -> UInt8[np.ndarray, "1 size size"]:
    """The mask of an image of which `region` is shown. What of it lies in the margin is lost."""
    return images.fit(region.cut(mask)[None].astype(np.float32), size, is_mask=True).astype(np.uint8)


def restore_mask(
    mask: UInt8[np.ndarray, "size size"], region: Region, height: int, width: int
) -> UInt8[np.ndarray, "height width"]:
    """A mask of the network put back on the image of `height` x `width` of which `region` was shown."""
    full = np.zeros((height, width), np.uint8)
    region.cut(full)[...] = images.unfit(mask, region.height, region.width)
    return full


def content(pixels: Float32[np.ndarray, "channels h w"]) -> Region:
    """The part of an image inside its margin: rows and columns at the edges in which hardly a pixel differs from it.

    So a head, a breast or a cell lies in the network's input alike whatever the field of view. An image without a
    margin stays whole; so does one that is all margin.
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
