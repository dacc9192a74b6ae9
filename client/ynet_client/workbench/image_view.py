"""Prepare a query's image for the page: pixels that can be windowed, the mask, and both as files."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from ynet.data.regions import packed, unpacked
from ynet_client.retrieval.overlay import REGION_COLOURS, outlined

MOST_SIDE = 2048
"""The longest side on the page, in pixels. A larger image is scaled down for the page, not for the network."""
THUMBNAIL_SIDE = 96


class RegionShare(NamedTuple):
    """A region of the plan, and the share of the image that it covers."""

    name: str
    share: float


class ImageView(NamedTuple):
    """An image and its mask, of the same size."""

    width: int
    height: int
    channels: int  # 1: grey, 2 bytes a pixel, little-endian; 3: RGB, a byte each
    pixels: bytes
    mask: bytes  # a byte a pixel, 0 or 1; bit k is set where region k is
    low: float  # the window to begin with, as shares of the range
    high: float
    full_size: tuple[int, int]  # width, height of the file's image
    mask_png: bytes  # of the full size, white where the lesion is; of several regions their numbers, in colours
    share: float  # of the image that the lesion covers
    bits: npt.NDArray[np.uint8]  # as `mask`, of the full size
    regions: tuple[RegionShare, ...] = ()  # where the plan names several


def show(pixels: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], regions: Sequence[str] = ()) -> ImageView:
    """Prepare pixels (1 or 3, h, w) in [0, 1] and a mask (h, w) for the page.

    The mask has 0 and 1, or with several named regions the bits of `ynet.data.regions.packed`.
    """
    height, width = mask.shape
    scale = min(1.0, MOST_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    planes = [_fitted(plane, size) for plane in pixels]
    masks = unpacked(mask, max(1, len(regions)))
    small = mask if scale == 1 else packed(np.stack([_small(one, size) for one in masks]))
    if len(planes) == 1:
        data = np.rint(planes[0] * 65535).astype("<u2").tobytes()
        low, high = (float(value) for value in np.percentile(planes[0], (0.5, 99.5)))
    else:
        data = np.rint(np.stack(planes, axis=-1) * 255).astype(np.uint8).tobytes()
        low, high = 0.0, 1.0
    low, high = (low, high) if high - low > 1e-3 else (0.0, 1.0)
    png = _png(_numbers(masks) if regions else Image.fromarray(mask * np.uint8(255)))
    told = tuple(RegionShare(name, float(np.mean(one))) for name, one in zip(regions, masks, strict=False))
    share, full = float(np.mean(mask != 0)), (width, height)
    return ImageView(size[0], size[1], len(planes), data, small.tobytes(), low, high, full, png, share, mask, told)


def _small(mask: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return (_fitted(mask.astype(np.float32), size) >= 0.5).astype(np.uint8)


def _numbers(masks: npt.NDArray[np.uint8]) -> Image.Image:
    """Return the regions' numbers from 1, in the regions' colours. A pixel in several has the number of the last one.

    As a manifest's mask it gives the same regions, if each contains the next (`regions.nested`).
    """
    places = np.arange(1, len(masks) + 1, dtype=np.uint8)[:, None, None]
    image = Image.fromarray((masks * places).max(0)).convert("P")
    image.putpalette([0, 0, 0, *(value for colour in REGION_COLOURS for value in colour)])
    return image


def drawn(view: ImageView, low: float, high: float, side: int) -> Image.Image:
    """Draw the image in a window with the mask's outline: RGB, the longest side `side` pixels."""
    plain = windowed(view, low, high)
    scale = side / max(plain.size)
    large = plain.resize((max(1, round(plain.width * scale)), max(1, round(plain.height * scale))))
    mask = np.frombuffer(view.mask, np.uint8).reshape(view.height, view.width)
    return outlined(large, mask, fill=0.16, line=2.0)


def windowed(view: ImageView, low: float, high: float) -> Image.Image:
    """Draw the image between two values of its range, RGB."""
    kind, top, shape = ("<u2", 65535, (view.height, view.width))
    if view.channels == 3:
        kind, top, shape = "u1", 255, (view.height, view.width, 3)  # type: ignore[assignment]
    values = np.frombuffer(view.pixels, kind).reshape(shape).astype(np.float32) / top
    scaled = np.clip((values - low) / max(high - low, 1e-3), 0, 1)
    return Image.fromarray(np.rint(255 * scaled).astype(np.uint8)).convert("RGB")


def thumbnail(view: ImageView) -> bytes:
    """Return a small JPEG of the image, without the mask."""
    small = windowed(view, view.low, view.high)
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return jpeg(small)


def jpeg(image: Image.Image) -> bytes:
    """Return the image as a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _fitted(plane: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    if (plane.shape[1], plane.shape[0]) == size:
        return plane
    return np.clip(np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX), np.float32), 0, 1)
