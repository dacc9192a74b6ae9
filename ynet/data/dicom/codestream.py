"""What a compressed frame says of its own size, read before a decoder takes memory by it.

A DICOM file's header and the frame inside it each name a size. Decoders go by the frame's; so it must be the header's.
"""

import math
import re
import struct
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from pydicom import uid

from ynet.data.dicom.elements import DamagedError, damaged

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
_START_OF_SCAN, _END_OF_IMAGE, _JPEG_LS_PRESET, _APP14 = 0xDA, 0xD9, 0xF8, 0xEE
_MARKER = re.compile(rb"\xff+[\x80-\xfe]")  # in coded data a byte below 0x80 follows 0xFF, or a restart marker
_SOI, _SOC, _JP2 = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "
_CODINGS: dict[int, tuple[str, ...]] = {
    0xC0: (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit),
    0xC1: (uid.JPEGExtended12Bit, uid.JPEGBaseline8Bit),
    0xC3: (uid.JPEGLossless, uid.JPEGLosslessSV1),
    0xF7: (uid.JPEGLSLossless, uid.JPEGLSNearLossless),
}
"""By the marker of the frame header: the transfer syntaxes in which such a JPEG may be, that which may always first."""


class Shape(NamedTuple):
    """A frame's size."""

    rows: int
    columns: int
    samples: int  # of a pixel
    sample_bytes: int


def fitted(frame: bytes, syntax: str, shape: Shape) -> bytes | None:
    """A compressed frame of just `shape`, without what stands around it; None: it has another, or is no such frame.

    Decoders pass over bytes after the end of a JPEG, the boxes of a JP2 file, and what an RLE segment has too much: so
    they are no fault, and no decoder is given them. Raises UnfitError of what is cut short.
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
    """Whether a compressed frame opens into just `shape`; False, too, for what is cut short."""
    try:
        return fitted(frame, syntax, shape) is not None
    except DamagedError:
        return False


def syntax_of(frame: bytes, said: str) -> str:
    """The transfer syntax in which a frame is coded: by its first bytes, where they are another than it is said."""
    if frame.startswith(_SOI):
        coding = _CODINGS.get(_frame_header(frame)[0], ())
        return said if said in coding or (not coding and said in _JPEG) else (coding or _JPEG)[0]
    if frame.startswith((_SOC, _JP2)):
        return said if said in _JPEG_2000 else uid.JPEG2000
    is_rle = frame[4:8] == b"\x40\0\0\0" and 0 < int.from_bytes(frame[:4], "little") < 16
    return uid.RLELossless if is_rle and said not in COMPRESSED else said


def precision(frame: bytes) -> int:
    """Bits of a sample, as a JPEG's frame header says; 0 where it is none."""
    place = _frame_header(frame)[1]
    return frame[place + 2] if place else 0


def jpeg_colours(frame: bytes) -> str:
    """The colours of a JPEG of three components, RGB or YBR, where it leaves no doubt; else nothing."""
    transform, header = None, _frame_header(frame)[1]
    try:
        for marker, place in _jpeg_segments(frame):
            if marker == _APP14 and frame[place + 2 : place + 7] == b"Adobe":
                transform = frame[place + 13]
        if not header or frame[header + 7] != 3:
            return ""
        ids, samplings = frame[header + 8 : header + 17 : 3], frame[header + 9 : header + 17 : 3]
    except (struct.error, IndexError):
        return ""
    if ids == b"RGB" or transform == 0:
        return "RGB"
    return "YBR" if transform == 1 or len(set(samplings)) > 1 else ""


def _frame_header(frame: bytes) -> tuple[int, int]:
    """The marker of a JPEG's frame header, and where its segment's length stands; zeros where there is none."""
    try:
        return next((one for one in _jpeg_segments(frame) if one[0] in _START_OF_FRAME), (0, 0))
    except (struct.error, IndexError):
        return 0, 0


def _fitted_jpeg(frame: bytes, shape: Shape) -> bytes | None:
    """JPEG and JPEG-LS: one frame header, of the right size, before the first scan; and an end."""
    if frame[:2] != _SOI:
        return None
    found, scan = 0, 0
    for marker, place in _jpeg_segments(frame):
        if marker == _JPEG_LS_PRESET and frame[place + 2] == 4:  # another size than the frame header's
            return None
        if marker in _START_OF_FRAME:
            rows, columns, samples = struct.unpack_from(">HHB", frame, place + 3)
            found += 1
            if (rows, columns, samples) != (shape.rows, shape.columns, shape.samples):
                return None
        scan = place
    end = _end_of_image(frame, scan) if found == 1 else 0
    return frame[:end] if end else None


def _end_of_image(frame: bytes, place: int) -> int:
    """Where a JPEG ends, looked for from one of its segments on; 0: it has a second frame header."""
    while True:
        place += max(2, *struct.unpack_from(">H", frame, place))
        while True:
            found = _MARKER.search(frame, place)
            if found is None:
                raise IndexError
            marker, place = frame[found.end() - 1], found.end()
            if marker == _END_OF_IMAGE:
                return place
            if marker in _START_OF_FRAME:
                return 0
            if marker not in _STANDALONE:
                break


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


def _codestream(frame: bytes) -> bytes:
    """A bare codestream: that of a JP2 file's box, or the frame as it is."""
    if not frame.startswith(_JP2):
        return frame
    place = 0
    while place + 8 <= len(frame):
        length, kind = struct.unpack_from(">I4s", frame, place)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from(">Q", frame, place + 8), 16
        end = place + length if length else len(frame)
        if kind == b"jp2c":
            return frame[place + head : end]
        if end < place + head:
            raise IndexError
        place = end
    raise IndexError


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
    tiles = math.ceil((right - tile_left) / tile_width) * math.ceil((bottom - tile_top) / tile_height)
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


def _fitted_rle(frame: bytes, shape: Shape) -> bytes | None:
    """As many segments as there are planes of bytes, each cut off where it has a byte for each pixel."""
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
            return None  # another width would show it askew
        segments.append(frame[start:cut] + bytes((cut - start) % 2))
    starts = accumulate((len(one) for one in segments[:-1]), initial=64)
    return struct.pack("<16I", count, *starts, *[0] * (15 - count)) + b"".join(segments)


def _unpacked(frame: bytes, place: int, end: int, most: float = math.inf) -> tuple[int, int]:
    """How far a PackBits segment must be read to have `most` bytes, and into how many it opens so far."""
    total = 0
    while place < end and total < most:
        head = frame[place]
        if head < 128:
            total, place = total + head + 1, place + head + 2
        elif head > 128:
            total, place = total + 257 - head, place + 2
        else:
            place += 1
    return place, total
