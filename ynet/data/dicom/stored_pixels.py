"""The stored pixels of one frame of a DICOM file, or RGB for colours, in any supported encoding."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.decoders.base import get_decoder

from ynet.data.dicom import codestream, decoding, fragments
from ynet.data.dicom.codestream import Shape
from ynet.data.dicom.elements import Elements
from ynet.data.dicom.faults import DamagedError, UnfitError, damaged
from ynet.data.dicom.values import code, integer, raw
from ynet.data.limits import MAX_PIXELS

UNCOMPRESSED = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)
SYNTAXES = (*UNCOMPRESSED, *codestream.COMPRESSED)
"""The supported transfer syntaxes."""
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_UNREAD = ("HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "XYB")
_FLOATS = {"FloatPixelData": "f4", "DoubleFloatPixelData": "f8"}
SHAPE = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", *_FLOATS),
)
PIXELS = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
PLUGINS: dict[str, str] = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pillow",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    **dict.fromkeys(codestream.COMPRESSED[6:11], "pylibjpeg"),
}
_LOSSY_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)


class PixelLayout(NamedTuple):
    """How the pixels of a file are stored (image pixel module, PS3.3, C.7.6.3)."""

    kind: str  # the photometric interpretation
    rows: int
    columns: int
    samples: int  # per pixel
    allocated: int  # bits per sample in the file
    bits: int  # used bits per sample
    high_bit: int
    is_signed: bool
    is_planar: bool
    frames: int

    @property
    def is_raw(self) -> bool:
        """Whether the stored values are needed rather than colours."""
        return self.kind in (*GREY, "PALETTE COLOR")


def frame_count(dataset: Dataset) -> int:
    """Return the number of frames in a file."""
    return max(1, integer(dataset, "NumberOfFrames"))


def kind_of(dataset: Dataset) -> str:
    """Return the photometric interpretation; corrected where it is missing or contradicts the samples per pixel."""
    declared, samples = code(dataset, "PhotometricInterpretation"), integer(dataset, "SamplesPerPixel")
    if samples == 3 and declared in ("", *GREY):
        return "RGB"
    return "MONOCHROME2" if not declared or (samples == 1 and declared in COLOUR[:-1]) else declared


def layout_of(elements: Elements) -> PixelLayout:
    """Read how a file's pixels are stored. Raises UnfitError where they are not supported."""
    syntax, dataset = elements
    _check_syntax(syntax)
    if "PixelData" not in dataset and not any(keyword in dataset for keyword in _FLOATS):
        raise UnfitError("it holds no image", "export the series of images, not the objects that describe them")
    kind, rows, columns = kind_of(dataset), integer(dataset, "Rows"), integer(dataset, "Columns")
    samples = integer(dataset, "SamplesPerPixel", 1 if kind in (*GREY, "PALETTE COLOR") else 3)
    if rows * columns > MAX_PIXELS:
        why = f"it has {columns} x {rows}, which is more than the {MAX_PIXELS // 1_000_000} million pixels allowed"
        raise UnfitError(why, "export it smaller, or cut out the part that matters")
    if min(rows, columns) < 1:
        raise UnfitError("its header says that it has no rows or no columns", "export it again")
    if kind not in (*GREY, *COLOUR):
        named = kind if kind in _UNREAD else "of an unknown name"
        raise UnfitError(f"its colours ({named}) are not supported", "export it as MONOCHROME2 or RGB")
    if samples != (1 if kind in (*GREY, "PALETTE COLOR") else 3):
        raise UnfitError(
            f"its header says {samples} samples per pixel, which contradicts its colours", "export it again"
        )
    allocated = integer(dataset, "BitsAllocated")
    if "PixelData" in dataset and allocated not in (1, 8, 16, 32, 64):
        raise UnfitError(f"its pixels have {allocated} bit each", "export it with 8 or 16 bit")
    bits = integer(dataset, "BitsStored", allocated)
    bits = bits if 1 <= bits <= allocated else allocated
    high_bit, is_signed = integer(dataset, "HighBit", bits - 1), integer(dataset, "PixelRepresentation") == 1
    is_planar = samples == 3 and integer(dataset, "PlanarConfiguration") == 1
    return PixelLayout(
        kind, rows, columns, samples, allocated, bits, high_bit, is_signed, is_planar, frame_count(dataset)
    )


def _check_syntax(syntax: uid.UID) -> None:
    if syntax in SYNTAXES:
        return
    if re.fullmatch(r"[0-9.]{1,64}", syntax):
        name = f"{syntax.name}, {syntax}" if syntax.name != syntax else str(syntax)
        kind = "private" if syntax.is_private else "not supported"
        why = f"its transfer syntax ({name}) is {kind}"
    else:
        why = "its transfer syntax is not a UID"
    raise UnfitError(why, "export it uncompressed, or as JPEG 2000 or JPEG-LS")


def pixels_of(elements: Elements, layout: PixelLayout, number: int) -> Shaped[np.ndarray, "h w *c"]:
    """Return a frame's stored values, or RGB for colours; frames count from 1. Raises UnfitError."""
    dataset, keyword = elements.dataset, next((one for one in _FLOATS if one in elements.dataset), "PixelData")
    found = raw(dataset, keyword)
    if found is None:
        raise damaged()
    if keyword != "PixelData":
        return _floats(found.value, np.dtype(found.order + _FLOATS[keyword]), layout, number)
    is_packed = elements.transfer_syntax in codestream.COMPRESSED
    if not is_packed and fragments.is_encapsulated(found.value):
        is_packed = True
    elif is_packed and not fragments.is_encapsulated(found.value) and len(found.value) >= _frame_bytes(layout):
        is_packed = False
    if is_packed:
        return _unpacked(elements, found.value, layout, number)
    syntax = elements.transfer_syntax if elements.transfer_syntax in UNCOMPRESSED else uid.ExplicitVRLittleEndian
    return _plain(syntax, found.vr, found.value, layout, number)


def _frame_bytes(layout: PixelLayout) -> int:
    return math.ceil(layout.rows * layout.columns * layout.samples * layout.allocated / 8)


def _floats(value: bytes, kind: np.dtype, layout: PixelLayout, number: int) -> np.ndarray:
    size = layout.rows * layout.columns
    if len(value) < number * size * kind.itemsize or layout.samples != 1:
        raise damaged()
    found = np.frombuffer(value, kind, size, (number - 1) * size * kind.itemsize)
    return found.astype(kind.newbyteorder("=")).reshape(layout.rows, layout.columns)


def _plain(syntax: uid.UID, vr: str, value: bytes, layout: PixelLayout, number: int) -> np.ndarray:
    made = Dataset()
    for keyword, one in _elements_of(layout, is_planar=layout.is_planar).items():
        setattr(made, keyword, one)
    made.NumberOfFrames = layout.frames
    if layout.allocated == 1 and syntax == uid.ExplicitVRBigEndian and vr == "OW":
        value = np.frombuffer(value[: len(value) // 2 * 2], ">u2").astype("<u2").tobytes()  # bits are packed in bytes
    if layout.allocated == 1 and layout.samples == 1:
        return _one_bit_frame(value, layout, number)
    made.add_new("PixelData", vr if vr in ("OB", "OW") else "OW", value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    # Keep the unused bits of raw values: they show where the values lie, or mark padding.
    options: dict[str, Any] = {"raw": layout.is_raw, "correct_unused_bits": not layout.is_raw}
    found: np.ndarray = get_decoder(syntax).as_array(made, index=number - 1, **options)[0]
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def _one_bit_frame(value: bytes, layout: PixelLayout, number: int) -> np.ndarray:
    """Return a frame of one bit a pixel. pydicom 3.0 reads a byte too few where a frame begins late in a byte."""
    size = layout.rows * layout.columns
    first = (number - 1) * size
    held = np.frombuffer(value[first // 8 : -(-(first + size) // 8)], np.uint8)
    bits = np.unpackbits(held, bitorder="little")[first % 8 :][:size]
    if len(bits) < size:
        raise damaged()
    return bits.reshape(layout.rows, layout.columns)


def _unpacked(elements: Elements, value: bytes, layout: PixelLayout, number: int) -> np.ndarray:
    dataset, declared = elements.dataset, elements.transfer_syntax
    tables = [raw(dataset, keyword) for keyword in PIXELS[1:]]
    extended = tables[0].value if tables[0] else b""
    shape = Shape(layout.rows, layout.columns, layout.samples, max(1, layout.allocated // 8))
    fault: UnfitError = UnfitError("its compressed pixels are not what its header says", "copy or export it again")
    for frame in fragments.frames_at(value, number, layout.frames, extended):
        syntax = codestream.syntax_of(frame, declared)
        if syntax not in codestream.COMPRESSED:
            raise UnfitError("it is compressed, although its header says that it is not", "export it again")
        try:
            if layout.allocated == 1 and syntax == uid.RLELossless and not codestream.is_shaped(frame, syntax, shape):
                return _bits(frame, layout)
            packed = codestream.fitted(frame, syntax, shape)
            if packed is not None:
                return _decoded(syntax, packed, layout)
        except DamagedError as error:
            fault = error
    raise fault


def _bits(frame: bytes, layout: PixelLayout) -> np.ndarray:
    """Decode an RLE frame of packed bits; the lowest bit of a byte is the first pixel."""
    size = layout.rows * layout.columns
    packed = codestream.fitted(frame, uid.RLELossless, Shape(1, -(-size // 8), 1, 1))
    if packed is None:
        raise damaged()
    as_bytes = layout._replace(rows=1, columns=-(-size // 8), allocated=8, bits=8, is_signed=False)
    found = np.unpackbits(_decoded(uid.RLELossless, packed, as_bytes).reshape(-1), bitorder="little")
    return found[:size].reshape(layout.rows, layout.columns)


def _decoded(syntax: str, packed: bytes, layout: PixelLayout) -> np.ndarray:
    plugin = PLUGINS.get(syntax, "")
    if syntax in _LOSSY_JPEG and (precision := codestream.precision(packed)) != 8:
        if (precision, layout.samples, layout.allocated) != (12, 1, 16):
            why = f"its compression is lossy JPEG of {precision} bits, with unsupported colours or bits"
            raise UnfitError(why, "export it uncompressed, or as JPEG 2000 or JPEG-LS")
        plugin = decoding.TWELVE_BIT
    if syntax in _LOSSY_JPEG and layout.samples == 3:
        colours = codestream.jpeg_colours(packed)
        layout = layout._replace(kind={"RGB": "RGB", "YBR": "YBR_FULL"}.get(colours, layout.kind))
    fields = _elements_of(layout._replace(allocated=max(8, layout.allocated)), is_planar=layout.is_planar)
    pixels = decoding.decode(syntax, plugin, fields, packed, is_raw=layout.is_raw)
    if pixels.shape[:2] != (layout.rows, layout.columns):
        raise damaged()
    return pixels


def _elements_of(layout: PixelLayout, *, is_planar: bool) -> Mapping[str, str | int]:
    """Return the elements of the image pixel module for a layout, by keyword."""
    planar = {"PlanarConfiguration": int(is_planar)} if layout.samples == 3 else {}
    return {
        "SamplesPerPixel": layout.samples,
        "PhotometricInterpretation": layout.kind,
        **planar,
        "Rows": layout.rows,
        "Columns": layout.columns,
        "BitsAllocated": layout.allocated,
        "BitsStored": layout.bits,
        "HighBit": layout.bits - 1,
        "PixelRepresentation": int(layout.is_signed),
    }
