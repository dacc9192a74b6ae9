"""The size that a compressed frame declares, read before a decoder allocates memory for it.

A DICOM file's header and the frame inside it each declare a size. Decoders use the frame's, so the two must agree.
"""

import math
import re
import struct
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from pydicom import uid

from ynet.data.dicom.faults import DamagedError, damaged

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
"""The supported compressed transfer syntaxes."""

MAX_PARTS = 2_000_000
"""Maximal number of blocks, precincts and tiles of a JPEG 2000 frame, since a decoder allocates memory for each."""
_STANDALONE = (0x01, *range(0xD0, 0xD9))
_START_OF_FRAME = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
_START_OF_SCAN, _END_OF_IMAGE, _JPEG_LS_PRESET, _APP14 = 0xDA, 0xD9, 0xF8, 0xEE
_MARKER = re.compile(rb"\xff+[\x80-\xfe]")  # in coded data a byte below 0x80 follows 0xFF, or a restart marker
_SOI, _SOC, _JP2 = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "
_CODINGS: dict[int, tuple[str, ...]] = {
    0xC0: (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit),
    0xC1: (uid.JPEGExtended12Bit, uid.JPEGBaseline8Bit),
    0xC3: (uid.JPEGLossless, uid.JPEGLosslessSV1),
    0xF7: (uid.JPEGLSLossless, uid.JPEGLSNearLossless),
}
"""By the marker of the frame header: the transfer syntaxes of such a JPEG; the first one always fits."""


class Shape(NamedTuple):
    """A frame's size."""

    rows: int
    columns: int
    samples: int  # of a pixel
    sample_bytes: int


def fitted(frame: bytes, syntax: str, shape: Shape) -> bytes | None:
    """Return the bare compressed frame if it has exactly `shape`; None if it has another shape or format.

    Bytes after the end of a JPEG, the boxes of a JP2 file and surplus bytes of an RLE segment are stripped, since
    decoders ignore them anyway. Raises UnfitError for a truncated frame.
    """
    try:
        if syntax == uid.RLELossless:
            return _fitted_rle(frame, shape)
        if syntax in _JPEG_2000:
            codestream = _codestream(frame)
            return codestream if _is_jpeg_2000_shaped(codestream, shape) else None
        return _fitted_jpeg(frame, shape)
    except (struct.error, IndexError):
        raise damaged() from None


def is_shaped(frame: bytes, syntax: str, shape: Shape) -> bool:
    """Return whether a compressed frame has exactly `shape`; False also for a truncated one."""
    try:
        return fitted(frame, syntax, shape) is not None
    except DamagedError:
        return False


def syntax_of(frame: bytes, declared: str) -> str:
    """Return a frame's actual transfer syntax by its first bytes; `declared` is the one of the file's header."""
    if frame.startswith(_SOI):
        coding = _CODINGS.get(_frame_header(frame)[0], ())
        return declared if declared in coding or (not coding and declared in _JPEG) else (coding or _JPEG)[0]
    if frame.startswith((_SOC, _JP2)):
        return declared if declared in _JPEG_2000 else uid.JPEG2000
    is_rle = frame[4:8] == b"\x40\0\0\0" and 0 < int.from_bytes(frame[:4], "little") < 16
    return uid.RLELossless if is_rle and declared not in COMPRESSED else declared


def precision(frame: bytes) -> int:
    """Return the bits per sample in a JPEG's frame header; 0 where it has none."""
    offset = _frame_header(frame)[1]
    return frame[offset + 2] if offset else 0


def jpeg_colours(frame: bytes) -> str:
    """Return the colour space of a three-component JPEG, RGB or YBR; empty where it is unclear."""
    transform, header = None, _frame_header(frame)[1]
    try:
        for marker, offset in _jpeg_segments(frame):
            if marker == _APP14 and frame[offset + 2 : offset + 7] == b"Adobe":
                transform = frame[offset + 13]
        if not header or frame[header + 7] != 3:
            return ""
        ids, samplings = frame[header + 8 : header + 17 : 3], frame[header + 9 : header + 17 : 3]
    except (struct.error, IndexError):
        return ""
    if ids == b"RGB" or transform == 0:
        return "RGB"
    return "YBR" if transform == 1 or len(set(samplings)) > 1 else ""


def _frame_header(frame: bytes) -> tuple[int, int]:
    """Return the marker of a JPEG's frame header and the offset of its length field; zeros where there is none."""
    try:
        return next((one for one in _jpeg_segments(frame) if one[0] in _START_OF_FRAME), (0, 0))
    except (struct.error, IndexError):
        return 0, 0


def _fitted_jpeg(frame: bytes, shape: Shape) -> bytes | None:
    """Fit JPEG and JPEG-LS: exactly one frame header, of the right size, before the first scan; and an end marker."""
    if frame[:2] != _SOI:
        return None
    found, scan = 0, 0
    for marker, offset in _jpeg_segments(frame):
        if marker == _JPEG_LS_PRESET and frame[offset + 2] == 4:  # overrides the frame header's size
            return None
        if marker in _START_OF_FRAME:
            rows, columns, samples = struct.unpack_from(">HHB", frame, offset + 3)
            found += 1
            if (rows, columns, samples) != (shape.rows, shape.columns, shape.samples):
                return None
        scan = offset
    end = _end_of_image(frame, scan) if found == 1 else 0
    return frame[:end] if end else None


def _end_of_image(frame: bytes, offset: int) -> int:
    """Return the offset of a JPEG's end, starting at one of its segments; 0 if there is a second frame header."""
    while True:
        offset += max(2, *struct.unpack_from(">H", frame, offset))
        while True:
            found = _MARKER.search(frame, offset)
            if found is None:
                raise IndexError
            marker, offset = frame[found.end() - 1], found.end()
            if marker == _END_OF_IMAGE:
                return offset
            if marker in _START_OF_FRAME:
                return 0
            if marker not in _STANDALONE:
                break


def _jpeg_segments(frame: bytes) -> Iterator[tuple[int, int]]:
    """Yield each marker before the first scan, and the offset of its length field."""
    offset = 2
    while True:
        if frame[offset] != 0xFF:
            raise IndexError
        while frame[offset] == 0xFF:
            offset += 1
        marker, offset = frame[offset], offset + 1
        if marker == _START_OF_SCAN:
            return
        if marker in _STANDALONE:
            continue
        yield marker, offset
        offset += max(2, *struct.unpack_from(">H", frame, offset))


def _codestream(frame: bytes) -> bytes:
    """Return the codestream in a JP2 file, or the frame itself if it is not a JP2 file."""
    if not frame.startswith(_JP2):
        return frame
    offset = 0
    while offset + 8 <= len(frame):
        length, kind = struct.unpack_from(">I4s", frame, offset)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from(">Q", frame, offset + 8), 16
        end = offset + length if length else len(frame)
        if kind == b"jp2c":
            return frame[offset + head : end]
        if end < offset + head:
            raise IndexError
        offset = end
    raise IndexError


def _is_jpeg_2000_shaped(frame: bytes, shape: Shape) -> bool:
    """Check a codestream: SIZ comes first and holds the size; COD determines the number of tiles and blocks."""
    if frame[:4] != b"\xff\x4f\xff\x51":
        return False
    length, _, right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, samples = struct.unpack_from(
        ">HHIIIIIIIIH", frame, 4
    )
    if (bottom - top, right - left, samples) != (shape.rows, shape.columns, shape.samples):
        return False
    if not tile_width or not tile_height or tile_left > left or tile_top > top or right > 2**31 or bottom > 2**31:
        return False
    tiles = math.ceil((right - tile_left) / tile_width) * math.ceil((bottom - tile_top) / tile_height)
    pixels = shape.rows * shape.columns * shape.samples
    offset = 4 + length
    while frame[offset : offset + 2] not in (b"\xff\x52", b"\xff\x90", b"\xff\x93", b""):
        offset += 2 + max(2, *struct.unpack_from(">H", frame, offset + 2))
    if frame[offset : offset + 2] != b"\xff\x52" or tiles > 65_535:
        return False
    style, levels, width, height = frame[offset + 4], frame[offset + 9], frame[offset + 10] + 2, frame[offset + 11] + 2
    parts = pixels >> min(width + height, 12)
    if style & 1:
        sizes = frame[offset + 14 : offset + 15 + levels]
        parts += sum(pixels >> (2 * level) >> ((size & 15) + (size >> 4)) for level, size in enumerate(sizes[::-1]))
    return bool(levels <= 32 and parts + tiles * (levels + 1) <= MAX_PARTS)


def _fitted_rle(frame: bytes, shape: Shape) -> bytes | None:
    """Fit RLE: one segment per byte plane, each truncated to one byte per pixel."""
    count, *offsets = struct.unpack_from("<16I", frame, 0)
    if count != shape.samples * shape.sample_bytes or count > 15:
        return None
    pixels, ends = shape.rows * shape.columns, [*offsets[1:count], len(frame)]
    segments = []
    for start, end in zip(offsets, ends, strict=False):
        if not 64 <= start <= end <= len(frame):
            raise IndexError
        cut, total = _unpacked(frame, start, end, pixels)
        if total < pixels or cut > end:
            raise IndexError
        if frame[cut:end].strip(b"\0") and total + _unpacked(frame, cut, end)[1] - pixels >= shape.columns:
            return None  # the frame has another width
        segments.append(frame[start:cut] + bytes((cut - start) % 2))
    starts = accumulate((len(one) for one in segments[:-1]), initial=64)
    return struct.pack("<16I", count, *starts, *[0] * (15 - count)) + b"".join(segments)


def _unpacked(frame: bytes, offset: int, end: int, most: float = math.inf) -> tuple[int, int]:
    """Return the offset at which a PackBits segment has unpacked to `most` bytes, and the unpacked size there."""
    total = 0
    while offset < end and total < most:
        head = frame[offset]
        if head < 128:
            total, offset = total + head + 1, offset + head + 2
        elif head > 128:
            total, offset = total + 257 - head, offset + 2
        else:
            offset += 1
    return offset, total
