"""Images that Pillow decodes to fewer bits than they have: 16-bit colour or alpha, 12-bit grey, 16-bit palettes.

Pillow keeps the high byte of each 16-bit colour value. With the opposite byte order it keeps the low byte. Decoding
twice, once in each order, gives all 16 bits.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageFile, ImageOps

from ynet.data.dicom.faults import UnfitError, damaged

FULL = 65535
_BITS, _PLANAR, _COLOUR_MAP, _SEPARATE = 258, 284, 320, 2
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_GREY_WITH_ALPHA = "LA;16B"
_AS_PNG = "save it as PNG, grey or RGB"


class Halves(NamedTuple):
    """Pillow's raw modes for the high and the low bytes of 16-bit pixels, and the number of channels."""

    high: str
    low: str
    channels: int


def halves(image: Image.Image) -> Halves | None:
    """Return how to read a 16-bit image with colour or alpha; None for any other image. Raises UnfitError."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANAR) == _SEPARATE and len(image.getbands()) > 1 and max(tags.get(_BITS, (8,))) > 8:
        raise UnfitError("it is a 16-bit TIFF with separate colour planes", _AS_PNG)
    raw = _raw_mode(image)
    name, _, order = raw.partition(";16")
    if not order or name == "I":
        return None
    if raw == _GREY_WITH_ALPHA:
        return Halves(raw, raw, 2)
    if name not in ("RGB", "RGBA", "RGBX"):
        raise UnfitError(f"it is a 16-bit TIFF whose colours are {name}", _AS_PNG)
    return Halves(raw, f"{name};16{_SWAPPED[order]}", 4 if name == "RGBA" else 3)


def is_grey(image: Image.Image) -> bool:
    """Return whether an image in a colour mode of Pillow is 16-bit grey with alpha."""
    return _raw_mode(image) == _GREY_WITH_ALPHA


def read(opened: Callable[[], AbstractContextManager[Image.Image]], how: Halves) -> Shaped[np.ndarray, "h w channels"]:
    """Read the upright 16-bit pixels; opens the image twice."""
    if how.channels == 2:
        with opened() as image:  # four bytes per pixel, which are two values
            pixels = np.asarray(_unpacked(image, "RGBA")).astype(np.uint16)
        return np.asarray(pixels[..., ::2] << 8 | pixels[..., 1::2])
    with opened() as image:
        high = np.asarray(_unpacked(image, how.high)).astype(np.uint16)
    with opened() as image:
        low = np.asarray(_unpacked(image, how.low))
    pixels = high << 8 | low
    return np.asarray(pixels)


def white(image: Image.Image) -> int:
    """Return the maximal value of a grey image of more than 8 bits."""
    return 4095 if _raw_mode(image) == "I;12" else FULL


def colour_map(image: Image.Image) -> Shaped[np.ndarray, "entries 3"] | None:
    """Return a TIFF's palette if it needs 16 bits; None for any other image."""
    entries = getattr(image, "tag_v2", {}).get(_COLOUR_MAP)
    if entries is None or image.mode not in ("P", "PA"):
        return None
    colours = np.asarray(entries, np.int64).reshape(3, -1).T
    if colours.max() < 256:  # some programs write 8-bit values
        return colours * 257
    return None if not (colours % 256).any() or not (colours % 257).any() else colours


def luminance(colours: Shaped[np.ndarray, "*shape 3"]) -> np.ndarray:
    """Convert 16-bit colours to grey with Pillow's weights; a grey pixel keeps its value."""
    red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
    grey: np.ndarray = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return grey.astype(np.uint16)


def _raw_mode(image: Image.Image) -> str:
    """Return the raw mode with which Pillow unpacks a file's bytes."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    args = tiles[0].args if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _unpacked(image: Image.Image, raw: str) -> Image.Image:
    """Decode an image with another raw mode."""
    if not isinstance(image, ImageFile.ImageFile):
        raise damaged()
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile
    ]
    return ImageOps.exif_transpose(image)
