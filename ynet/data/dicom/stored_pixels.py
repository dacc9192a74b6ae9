"""The pixels of one frame of a DICOM file as they are stored, or as RGB, however they are packed."""

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
from ynet.data.dicom.elements import DamagedError, Elements, UnfitError, damaged
from ynet.data.dicom.values import code, integer, raw
from ynet.data.limits import MAX_PIXELS

UNCOMPRESSED = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)
SYNTAXES = (*UNCOMPRESSED, *codestream.COMPRESSED)
"""The transfer syntaxes that are read."""
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


class Form(NamedTuple):
    """How the pixels of a file are stored."""

    kind: str  # the photometric interpretation
    rows: int
    columns: int
    samples: int  # of a pixel
    allocated: int  # bits of a sample, in the file
    bits: int  # of them, those that are used
    high_bit: int
    is_signed: bool
    is_planar: bool
    frames: int

    @property
    def is_raw(self) -> bool:
        """Whether its values are wanted as they stand, and are no colours yet."""
        return self.kind in (*GREY, "PALETTE COLOR")


def frame_count(dataset: Dataset) -> int:
    """How many frames a file holds."""
    return max(1, integer(dataset, "NumberOfFrames"))


def kind_of(dataset: Dataset) -> str:
    """The photometric interpretation, so far as it fits the samples of a pixel: some files name another, or none."""
    said, samples = code(dataset, "PhotometricInterpretation"), integer(dataset, "SamplesPerPixel")
    if samples == 3 and said in ("", *GREY):
        return "RGB"
    return "MONOCHROME2" if not said or (samples == 1 and said in COLOUR[:-1]) else said


def form_of(elements: Elements) -> Form:
    """How a file's pixels are stored, once they are some that are read. Raises UnfitError that says why not."""
    syntax, dataset = elements
    _check_syntax(syntax)
    if "PixelData" not in dataset and not any(keyword in dataset for keyword in _FLOATS):
        raise UnfitError("it holds no image", "export the series of images, not what describes them")
    kind, rows, columns = kind_of(dataset), integer(dataset, "Rows"), integer(dataset, "Columns")
    samples = integer(dataset, "SamplesPerPixel", 1 if kind in (*GREY, "PALETTE COLOR") else 3)
    if rows * columns > MAX_PIXELS:
        why = f"it has {columns} x {rows}, which is more than the {MAX_PIXELS // 1_000_000} million pixels allowed"
        raise UnfitError(why, "export it smaller, or cut out the part that matters")
    if min(rows, columns) < 1:
        raise UnfitError("its header says that it has no rows or no columns", "export it again")
    if kind not in (*GREY, *COLOUR):
        named = kind if kind in _UNREAD else "of no name that DICOM knows"
        raise UnfitError(f"its colours ({named}) are none that are read", "export it as MONOCHROME2 or RGB")
    if samples != (1 if kind in (*GREY, "PALETTE COLOR") else 3):
        raise UnfitError(
            f"its header says {samples} samples a pixel, which is not what its colours need", "export it again"
        )
    allocated = integer(dataset, "BitsAllocated")
    if "PixelData" in dataset and allocated not in (1, 8, 16, 32, 64):
        raise UnfitError(f"its pixels have {allocated} bit each", "export it with 8 or 16 bit")
    bits = integer(dataset, "BitsStored", allocated)
    bits = bits if 1 <= bits <= allocated else allocated
    high_bit, is_signed = integer(dataset, "HighBit", bits - 1), integer(dataset, "PixelRepresentation") == 1
    is_planar = samples == 3 and integer(dataset, "PlanarConfiguration") == 1
    return Form(kind, rows, columns, samples, allocated, bits, high_bit, is_signed, is_planar, frame_count(dataset))


def _check_syntax(syntax: uid.UID) -> None:
    if syntax in SYNTAXES:
        return
    if re.fullmatch(r"[0-9.]{1,64}", syntax):
        name = f"{syntax.name}, {syntax}" if syntax.name != syntax else str(syntax)
        kind = "a private one" if syntax.is_private else "none that is read"
        why = f"its transfer syntax ({name}) is {kind}"
    else:
        why = "its transfer syntax is no UID"
    raise UnfitError(why, "export it uncompressed, or as JPEG 2000 or JPEG-LS")


def pixels_of(elements: Elements, form: Form, number: int) -> Shaped[np.ndarray, "h w *c"]:
    """The values of a frame, from 1, as they are stored; of colours RGB. Raises UnfitError."""
    dataset, keyword = elements.dataset, next((one for one in _FLOATS if one in elements.dataset), "PixelData")
    found = raw(dataset, keyword)
    if found is None:
        raise damaged()
    if keyword != "PixelData":
        return _floats(found.value, np.dtype(found.order + _FLOATS[keyword]), form, number)
    is_packed = elements.transfer_syntax in codestream.COMPRESSED
    if not is_packed and fragments.is_encapsulated(found.value):
        is_packed = True
    elif is_packed and not fragments.is_encapsulated(found.value) and len(found.value) >= _frame_bytes(form):
        is_packed = False
    if is_packed:
        return _unpacked(elements, found.value, form, number)
    syntax = elements.transfer_syntax if elements.transfer_syntax in UNCOMPRESSED else uid.ExplicitVRLittleEndian
    return _plain(syntax, found.vr, found.value, form, number)


def _frame_bytes(form: Form) -> int:
    return math.ceil(form.rows * form.columns * form.samples * form.allocated / 8)


def _floats(value: bytes, kind: np.dtype, form: Form, number: int) -> np.ndarray:
    size = form.rows * form.columns
    if len(value) < number * size * kind.itemsize or form.samples != 1:
        raise damaged()
    found = np.frombuffer(value, kind, size, (number - 1) * size * kind.itemsize)
    return found.astype(kind.newbyteorder("=")).reshape(form.rows, form.columns)


def _plain(syntax: uid.UID, vr: str, value: bytes, form: Form, number: int) -> np.ndarray:
    made = Dataset()
    for keyword, one in _said(form, is_planar=form.is_planar).items():
        setattr(made, keyword, one)
    made.NumberOfFrames = form.frames
    if form.allocated == 1 and syntax == uid.ExplicitVRBigEndian and vr == "OW":
        value = np.frombuffer(value[: len(value) // 2 * 2], ">u2").astype("<u2").tobytes()  # bits are packed in bytes
    made.add_new("PixelData", vr if vr in ("OB", "OW") else "OW", value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    # Of raw values the bits that are not used may say something: where the values lie, or padding.
    options: dict[str, Any] = {"raw": form.is_raw, "correct_unused_bits": not form.is_raw}
    found: np.ndarray = get_decoder(syntax).as_array(made, index=number - 1, **options)[0]
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def _unpacked(elements: Elements, value: bytes, form: Form, number: int) -> np.ndarray:
    dataset, said = elements.dataset, elements.transfer_syntax
    tables = [raw(dataset, keyword) for keyword in PIXELS[1:]]
    extended = tables[0].value if tables[0] else b""
    shape = Shape(form.rows, form.columns, form.samples, max(1, form.allocated // 8))
    fault: UnfitError = UnfitError("its compressed pixels are not what its header says", "copy or export it again")
    for frame in fragments.frames_at(value, number, form.frames, extended):
        syntax = codestream.syntax_of(frame, said)
        if syntax not in codestream.COMPRESSED:
            raise UnfitError("its header says that it is not compressed, and it is", "export it again")
        try:
            if form.allocated == 1 and syntax == uid.RLELossless and not codestream.is_shaped(frame, syntax, shape):
                return _bits(frame, form)
            packed = codestream.fitted(frame, syntax, shape)
            if packed is not None:
                return _decoded(syntax, packed, form)
        except DamagedError as error:
            fault = error
    raise fault


def _bits(frame: bytes, form: Form) -> np.ndarray:
    """A frame of one bit a pixel whose bytes of eight pixels are packed; the lowest bit is the first pixel."""
    size = form.rows * form.columns
    packed = codestream.fitted(frame, uid.RLELossless, Shape(1, -(-size // 8), 1, 1))
    if packed is None:
        raise damaged()
    as_bytes = form._replace(rows=1, columns=-(-size // 8), allocated=8, bits=8, is_signed=False)
    found = np.unpackbits(_decoded(uid.RLELossless, packed, as_bytes).reshape(-1), bitorder="little")
    return found[:size].reshape(form.rows, form.columns)


def _decoded(syntax: str, packed: bytes, form: Form) -> np.ndarray:
    plugin = PLUGINS.get(syntax, "")
    if syntax in _LOSSY_JPEG and (precision := codestream.precision(packed)) != 8:
        if (precision, form.samples, form.allocated) != (12, 1, 16):
            why = f"its compression is JPEG of {precision} bit with loss, in colours or bits that are not read"
            raise UnfitError(why, "export it uncompressed, or as JPEG 2000 or JPEG-LS")
        plugin = decoding.TWELVE_BIT
    if syntax in _LOSSY_JPEG and form.samples == 3:
        colours = codestream.jpeg_colours(packed)
        form = form._replace(kind={"RGB": "RGB", "YBR": "YBR_FULL"}.get(colours, form.kind))
    said = _said(form._replace(allocated=max(8, form.allocated)), is_planar=form.is_planar)
    pixels = decoding.decode(syntax, plugin, said, packed, is_raw=form.is_raw)
    if pixels.shape[:2] != (form.rows, form.columns):
        raise damaged()
    return pixels


def _said(form: Form, *, is_planar: bool) -> Mapping[str, str | int]:
    """The elements that say so, by keyword."""
    planar = {"PlanarConfiguration": int(is_planar)} if form.samples == 3 else {}
    return {
        "SamplesPerPixel": form.samples,
        "PhotometricInterpretation": form.kind,
        **planar,
        "Rows": form.rows,
        "Columns": form.columns,
        "BitsAllocated": form.allocated,
        "BitsStored": form.bits,
        "HighBit": form.bits - 1,
        "PixelRepresentation": int(form.is_signed),
    }
