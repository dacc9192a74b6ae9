"""What a compressed frame says of its own size, read before a decoder takes memory by it.

A DICOM file's header and the frame inside it each name a size. Decoders go by the frame's; so it must be the header's.
"""

import struct
from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

from pydicom import uid

_JPEG = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
)
_JPEG_2000 = (uid.JPEG2000, uid.JPEG2000Lossless, uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL)
COMPRESSED = (*_JPEG, *_JPEG_2000, uid.RLELossless)
"""The transfer syntaxes that are read, beside the uncompressed and the deflated one."""

MAX_PARTS = 2_000_000
"""Blocks, precincts or tiles into which a JPEG 2000 frame may be divided: a decoder keeps books of each."""
_STANDALONE = (0x01, *range(0xD0, 0xD9))
_START_OF_FRAME = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
_START_OF_SCAN, _JPEG_LS_PRESET = 0xDA, 0xF8


class Shape(NamedTuple):
    """A frame's size."""

    rows: int
    columns: int
    samples: int  # of a pixel
    sample_bytes: int


def is_shaped(frame: bytes, syntax: str, shape: Shape) -> bool:
    """Whether a compressed frame opens into no more than `shape`. False, too, for what is no such frame."""
    try:
        if syntax == uid.RLELossless:
            return _is_rle_shaped(frame, shape)
        if syntax in _JPEG_2000:
            return _is_jpeg_2000_shaped(frame, shape)
        return _is_jpeg_shaped(frame, shape)
    except (struct.error, IndexError):
        return False


def _is_jpeg_shaped(frame: bytes, shape: Shape) -> bool:
    """JPEG and JPEG-LS: one frame header, of the right size, before the first scan; and an end."""
    if frame[:2] != b"\xff\xd8" or frame.rstrip(b"\0")[-2:] != b"\xff\xd9":
        return False
    found = 0
    for marker, place in _jpeg_segments(frame):
        if marker == _JPEG_LS_PRESET and frame[place + 2] == 4:  # another size than the frame header's
            return False
        if marker in _START_OF_FRAME:
            rows, columns, samples = struct.unpack_from(">HHB", frame, place + 3)
            found += 1
            if (rows, columns, samples) != (shape.rows, shape.columns, shape.samples):
                return False
    return found == 1


def _jpeg_segments(frame: bytes) -> Iterator[tuple[int, int]]:
    """Each marker before the first scan, and where its segment's length stands."""
    place = 2
    while True:
        if frame[place] != 0xFF:
            raise IndexError
        while frame[place] == 0xFF:
            place += 1
        marker, place = frame[place], place + 1
        if marker == _START_OF_SCAN:
            return
        if marker in _STANDALONE:
            continue
        yield marker, place
        place += max(2, *struct.unpack_from(">H", frame, place))


def _is_jpeg_2000_shaped(frame: bytes, shape: Shape) -> bool:
    """A bare codestream: SIZ comes first; the COD after it says into how many pieces the image is cut."""
    if frame[:4] != b"\xff\x4f\xff\x51":
        return False
    length, _, right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, samples = struct.unpack_from(
        ">HHIIIIIIIIH", frame, 4
    )
    if (bottom - top, right - left, samples) != (shape.rows, shape.columns, shape.samples):
        return False
    if not tile_width or not tile_height or tile_left > left or tile_top > top or right > 2**31 or bottom > 2**31:
        return False
    tiles = ceil((right - tile_left) / tile_width) * ceil((bottom - tile_top) / tile_height)
    pixels = shape.rows * shape.columns * shape.samples
    place = 4 + length
    while frame[place : place + 2] not in (b"\xff\x52", b"\xff\x90", b"\xff\x93", b""):
        place += 2 + max(2, *struct.unpack_from(">H", frame, place + 2))
    if frame[place : place + 2] != b"\xff\x52" or tiles > 65_535:
        return False
    style, levels, width, height = frame[place + 4], frame[place + 9], frame[place + 10] + 2, frame[place + 11] + 2
    parts = pixels >> min(width + height, 12)
    if style & 1:
        sizes = frame[place + 14 : place + 15 + levels]
        parts += sum(pixels >> (2 * level) >> ((size & 15) + (size >> 4)) for level, size in enumerate(sizes[::-1]))
    return bool(levels <= 32 and parts + tiles * (levels + 1) <= MAX_PARTS)


def _is_rle_shaped(frame: bytes, shape: Shape) -> bool:
    """As many segments as there are planes of bytes, each of them of as many bytes as the image has pixels."""
    count, *offsets = struct.unpack_from("<16I", frame, 0)
    if count != shape.samples * shape.sample_bytes or count > 15:
        return False
    ends = [*offsets[1:count], len(frame)]
    return all(
        64 <= start <= end <= len(frame) and _unpacked(frame, start, end) - shape.rows * shape.columns in (0, 1)
        for start, end in zip(offsets, ends, strict=False)
    )


def _unpacked(frame: bytes, place: int, end: int) -> int:
    """Into how many bytes a PackBits segment opens."""
    total = 0
    while place < end:
        head = frame[place]
        if head < 128:
            total, place = total + head + 1, place + head + 2
        elif head > 128:
            total, place = total + 257 - head, place + 2
        else:
            place += 1
    return total
