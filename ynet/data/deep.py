"""Pixels that Pillow opens with fewer bits than their file has: colour or alpha of 16 bit, grey of 12, fine palettes.

Pillow keeps 8 bit of a colour's 16: it unpacks the high byte of each value. Told that the bytes lie the other way
round, it unpacks the low one. So the same well-kept decoder is run twice, and nothing is cut.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageFile, ImageOps

from ynet.data.dicom.elements import UnfitError, damaged

FULL = 65535
_BITS, _PLANAR, _COLOUR_MAP, _SEPARATE = 258, 284, 320, 2
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_GREY_WITH_ALPHA = "LA;16B"
_AS_PNG = "save it as PNG, grey or RGB"


class Halves(NamedTuple):
    """How the bytes of 16 bit pixels are unpacked: Pillow's mode and raw modes, and how many channels they make."""

    high: str
    low: str
    channels: int


def halves(image: Image.Image) -> Halves | None:
    """How to read an image of 16 bit in colour or with alpha; None of any other. Raises UnfitError."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANAR) == _SEPARATE and len(image.getbands()) > 1 and max(tags.get(_BITS, (8,))) > 8:
        raise UnfitError("it is a TIFF of 16 bit with its colours in planes of their own", _AS_PNG)
    raw = _raw_mode(image)
    name, _, order = raw.partition(";16")
    if not order or name == "I":
        return None
    if raw == _GREY_WITH_ALPHA:
        return Halves(raw, raw, 2)
    if name not in ("RGB", "RGBA", "RGBX"):
        raise UnfitError(f"it is a TIFF of 16 bit whose colours are {name}", _AS_PNG)
    return Halves(raw, f"{name};16{_SWAPPED[order]}", 4 if name == "RGBA" else 3)


def is_grey(image: Image.Image) -> bool:
    """Whether an image in one of Pillow's colour modes is grey with alpha of 16 bit."""
    return _raw_mode(image) == _GREY_WITH_ALPHA


def read(opened: Callable[[], AbstractContextManager[Image.Image]], how: Halves) -> Shaped[np.ndarray, "h w channels"]:
    """The upright pixels of 16 bit, opened twice."""
    if how.channels == 2:
        with opened() as image:  # four bytes a pixel, which are two values
            pixels = np.asarray(_unpacked(image, "RGBA")).astype(np.uint16)
        return np.asarray(pixels[..., ::2] << 8 | pixels[..., 1::2])
    with opened() as image:
        high = np.asarray(_unpacked(image, how.high)).astype(np.uint16)
    with opened() as image:
        low = np.asarray(_unpacked(image, how.low))
    pixels = high << 8 | low
    return np.asarray(pixels)


def white(image: Image.Image) -> int:
    """The greatest value that a grey image of more than 8 bit can have."""
    return 4095 if _raw_mode(image) == "I;12" else FULL


def colour_map(image: Image.Image) -> Shaped[np.ndarray, "entries 3"] | None:
    """The palette of a TIFF where its 16 bit say more than 8; None of any other image."""
    entries = getattr(image, "tag_v2", {}).get(_COLOUR_MAP)
    if entries is None or image.mode not in ("P", "PA"):
        return None
    colours = np.asarray(entries, np.int64).reshape(3, -1).T
    if colours.max() < 256:  # some programs write 8 bit
        return colours * 257
    return None if not (colours % 256).any() or not (colours % 257).any() else colours


def luminance(colours: Shaped[np.ndarray, "*shape 3"]) -> np.ndarray:
    """Grey of 16 bit colours by Pillow's weights; a grey pixel keeps its value."""
    red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
    grey: np.ndarray = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return grey.astype(np.uint16)


def _raw_mode(image: Image.Image) -> str:
    """How a file's bytes are unpacked, as Pillow's plugin has put it down."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    args = tiles[0].args if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _unpacked(image: Image.Image, raw: str) -> Image.Image:
    """The pixels, their bytes unpacked otherwise."""
    if not isinstance(image, ImageFile.ImageFile):
        raise damaged()
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile
    ]
    return ImageOps.exif_transpose(image)
