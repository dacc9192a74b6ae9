"""Decoding of one frame of a DICOM file to grey as a viewer shows it, or to RGB, within bounds."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, Shaped, UInt8

from ynet.data.dicom import elements as dicom_elements
from ynet.data.dicom import padding, palette, tones
from ynet.data.dicom.elements import Elements
from ynet.data.dicom.faults import UnfitError, parsing
from ynet.data.dicom.padding import Padding
from ynet.data.dicom.stored_pixels import COLOUR as COLOUR
from ynet.data.dicom.stored_pixels import GREY as GREY
from ynet.data.dicom.stored_pixels import PIXELS, PixelLayout, frame_count, kind_of, layout_of, pixels_of
from ynet.data.dicom.stored_pixels import PLUGINS as PLUGINS
from ynet.data.dicom.stored_pixels import SHAPE as SHAPE
from ynet.data.dicom.stored_pixels import SYNTAXES as SYNTAXES
from ynet.data.dicom.stored_pixels import UNCOMPRESSED as UNCOMPRESSED
from ynet.data.dicom.tones import DisplayWindow as DisplayWindow
from ynet.data.dicom.tones import Tones

_TONES = (*tones.ELEMENTS, *padding.ELEMENTS)
_BLOCK = 1 << 20  # pixels per block where there are too many values for a lookup table


class DecodedFrame(NamedTuple):
    """A decoded frame, and how its file describes it."""

    pixels: Float32[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]
    is_colour: bool
    ignored: tuple[str, ...]  # keywords of display values that cannot be used


@parsing()
def is_colour(data: bytes) -> bool:
    """Return whether a file's pixels are in colour. Raises UnfitError."""
    return kind_of(dicom_elements.read(data, SHAPE).dataset) not in GREY


@parsing()
def frames(data: bytes) -> int:
    """Return the number of frames in a file. Raises UnfitError."""
    return frame_count(dicom_elements.read(data, SHAPE).dataset)


def decode(
    data: bytes, frame: int | None = None, window: DisplayWindow | None = None
) -> Float32[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    """Decode one frame as a viewer first shows it: grey in [0, 1] with black low, or RGB (see `inspect`)."""
    return inspect(data, frame, window).pixels


@parsing()
def inspect(data: bytes, frame: int | None = None, window: DisplayWindow | None = None) -> DecodedFrame:
    """Decode one frame and say how its file describes the pixels; the file is parsed once.

    Grey values pass the modality's lookup table or rescale, then the file's first VOI lookup table or window. Without
    these the frame's own range is shown. Values that cannot be used are skipped and listed in `ignored`. Padding is
    black, whatever the polarity. `frame` counts from 1 and is required where the file holds several; `window` replaces
    the file's own. Raises UnfitError.
    """
    elements, layout, number = _opened(data, frame)
    pixels = pixels_of(elements, layout, number)
    if layout.kind == "PALETTE COLOR":
        words, _ = _words(pixels, layout)
        coloured: np.ndarray = palette.colours(_levels(layout), elements.dataset)[words]
        return DecodedFrame(coloured, is_colour=True, ignored=())
    if layout.kind in COLOUR:
        return DecodedFrame(_bytes(pixels, layout.bits), is_colour=True, ignored=())
    read = tones.read(elements.dataset, number, is_signed=layout.is_signed, bits=layout.bits)
    shown = read if window is None else replace(read, interest=window, function="LINEAR_EXACT")
    padded = padding.read(elements.dataset, allocated=layout.allocated, bits=layout.bits, is_signed=layout.is_signed)
    grey = _by_table if pixels.dtype.kind in "iu" and layout.bits <= 16 else _by_blocks
    return DecodedFrame(grey(pixels, layout, shown, padded), is_colour=False, ignored=read.ignored)


@parsing()
def stored(data: bytes, frame: int) -> np.ndarray:
    """Return the stored values of a grey frame. Raises UnfitError."""
    elements = dicom_elements.read(data, (*SHAPE, *PIXELS))
    layout = layout_of(elements)
    return pixels_of(elements, layout, _chosen(layout, frame))


def _opened(data: bytes, frame: int | None) -> tuple[Elements, PixelLayout, int]:
    if dicom_elements.is_directory(data):
        raise UnfitError("it is a DICOMDIR, the index of a medium, not an image", "name the image files that it lists")
    elements = dicom_elements.read(data, (*SHAPE, *_TONES, *palette.ELEMENTS, *PIXELS), optional=_TONES)
    layout = layout_of(elements)
    return elements, layout, _chosen(layout, frame)


def _chosen(layout: PixelLayout, frame: int | None) -> int:
    """Validate the number of the requested frame, from 1. Raises UnfitError."""
    count = layout.frames
    if frame is None and count > 1:
        do = f"name one after the file, from #1 to #{count}; the middle one is #{(count + 1) // 2}"
        raise UnfitError(f"it holds {count} frames, and none is named", do)
    if not 1 <= (frame or 1) <= count:
        raise UnfitError(f"it has no frame {frame}", f"name one from #1 to #{count}")
    return frame or 1


def _levels(layout: PixelLayout) -> Int64[np.ndarray, " n"]:
    """Return the value of each pattern of the used bits."""
    levels = np.arange(1 << layout.bits, dtype=np.int64)
    return np.where(levels >= 1 << layout.bits - 1, levels - (1 << layout.bits), levels) if layout.is_signed else levels


def _words(
    pixels: Shaped[np.ndarray, "h w"], layout: PixelLayout
) -> tuple[Shaped[np.ndarray, "h w"], Shaped[np.ndarray, "h w"]]:
    """Return the used bits of each sample, and all bits. Old files store overlays in the unused upper bits.

    Some old files store the values in the upper bits; these are shifted if the header says so and the lower bits are 0.
    """
    whole = pixels.view(f"u{pixels.dtype.itemsize}")
    below = layout.high_bit + 1 - layout.bits
    is_high = 0 < below <= layout.allocated - layout.bits and not bool((whole & ((1 << below) - 1)).any())
    return (whole >> below if is_high else whole) & ((1 << layout.bits) - 1), whole


def _by_table(pixels: np.ndarray, layout: PixelLayout, shown: Tones, padded: Padding) -> Float32[np.ndarray, "h w"]:
    """Map stored values to grey through a lookup table of at most 65,536 entries."""
    words, whole = _words(pixels, layout)
    levels = _levels(layout)
    values, is_padding = shown.in_unit(levels), padded.covers(levels)
    outside = None if padded.word is None else whole == padded.word
    counted = words.ravel() if outside is None else words[~outside]
    used = (np.bincount(counted, minlength=len(levels)) > 0) & ~is_padding
    low, high = (float(values[used].min()), float(values[used].max())) if used.any() else (0.0, 1.0)
    shares = shown.shares(values, low, high)
    shares = 1 - shares if layout.kind == "MONOCHROME1" else shares
    shares[is_padding] = 0
    seen: np.ndarray = shares.astype(np.float32)[words]
    if outside is not None:
        seen[outside] = 0
    return seen


def _by_blocks(pixels: np.ndarray, layout: PixelLayout, shown: Tones, padded: Padding) -> Float32[np.ndarray, "h w"]:
    """Map stored values to grey block by block, for 32-bit and floating point values."""
    flat, seen = pixels.reshape(-1), np.zeros(pixels.size, np.float32)
    blocks = [slice(start, start + _BLOCK) for start in range(0, flat.size, _BLOCK)]
    low, high = np.inf, -np.inf
    for block in blocks:
        kept = ~padded.covers(flat[block]) & np.isfinite(flat[block])
        values = shown.in_unit(flat[block][kept])
        low, high = min(low, values.min(initial=np.inf)), max(high, values.max(initial=-np.inf))
    for block in blocks:
        kept = ~padded.covers(flat[block]) & np.isfinite(flat[block])
        shares = shown.shares(shown.in_unit(flat[block][kept]), low, high)
        seen[block][kept] = 1 - shares if layout.kind == "MONOCHROME1" else shares
    return seen.reshape(pixels.shape)


def _bytes(pixels: Shaped[np.ndarray, "h w 3"], bits: int) -> UInt8[np.ndarray, "h w 3"]:
    if pixels.dtype == np.uint8 and bits >= 8:
        return pixels
    most = (1 << bits) - 1
    return np.asarray((np.clip(pixels, 0, most).astype(np.float32) * (255 / most)).round(), np.uint8)
