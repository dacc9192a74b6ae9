"""One frame of a DICOM file turned into grey as a viewer shows it, or into RGB, within bounds on bytes and pixels."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped, UInt8
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi

from ynet.data import codestream, decoding, dicom_elements
from ynet.data.codestream import Shape
from ynet.data.dicom_elements import UnfitError, damaged, items, parsing
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
_PALETTE = tuple(
    f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue") for part in ("Data", "Descriptor")
)
SHAPE = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "FloatPixelData", "DoubleFloatPixelData"),
)
_TONES = (
    *("RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_PIXELS = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")


class Window(NamedTuple):
    """What part of the values is shown between black and white, in the image's own unit."""

    center: float
    width: float


@parsing()
def is_colour(data: bytes) -> bool:
    """Whether a file's pixels are in colour. Raises UnfitError."""
    return str(dicom_elements.read(data, SHAPE).dataset.get("PhotometricInterpretation", "")) not in GREY


@parsing()
def frames(data: bytes) -> int:
    """How many frames a file holds. Raises UnfitError."""
    return _frames(dicom_elements.read(data, SHAPE).dataset)


@parsing()
def decode(
    data: bytes, frame: int | None = None, window: Window | None = None
) -> Float32[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    """Grey in [0, 1] as a viewer first shows it, black low whatever the file's polarity; or RGB.

    Grey goes through the modality's rescale or table, then through the file's first table or window of interest, or
    `window` in its place; without any, from its own least to its greatest value. Padding is black. `frame` counts
    from 1, and must be named where there are several. Raises UnfitError.
    """
    syntax, dataset = dicom_elements.read(data, (*SHAPE, *_TONES, *_PALETTE, *_PIXELS))
    number, shape = _chosen(dataset, frame), _shape(dataset)
    kind = str(dataset.get("PhotometricInterpretation", ""))
    pixels = _stored(dataset, syntax, number, shape, is_raw=kind in (*GREY, "PALETTE COLOR"))
    if kind in GREY:
        return _grey(pixels, dataset, number, window)
    if kind == "PALETTE COLOR":
        return _bytes(apply_color_lut(pixels, dataset)[..., :3])
    return _bytes(pixels, int(dataset.BitsStored))


@parsing()
def stored(data: bytes, frame: int) -> np.ndarray:
    """A frame's values as they are stored; of grey alone. Raises UnfitError."""
    syntax, dataset = dicom_elements.read(data, (*SHAPE, *_PIXELS))
    number, shape = _chosen(dataset, frame), _shape(dataset)
    return _stored(dataset, syntax, number, shape, is_raw=True)


def _frames(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _chosen(dataset: Dataset, frame: int | None) -> int:
    """The number of the frame that is meant, from 1."""
    count = _frames(dataset)
    if frame is None and count > 1:
        do = f"name the one that is meant after its file, from #1 to #{count}; the middle one is #{(count + 1) // 2}"
        raise UnfitError(f"it holds {count} frames, and none is named", do)
    if not 1 <= (frame or 1) <= count:
        raise UnfitError(f"it has no frame {frame}", f"name one from #1 to #{count}")
    return frame or 1


def _shape(dataset: Dataset) -> Shape:
    """The size of a frame, once it is one that is read."""
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise UnfitError("its pixels are floating point", "export it with 8 or 16 bit whole numbers")
    if "PixelData" not in dataset:
        raise UnfitError("it holds no image", "export the series of images, not what describes them")
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    samples, allocated = int(dataset.get("SamplesPerPixel") or 1), int(dataset.get("BitsAllocated") or 0)
    if rows * columns > MAX_PIXELS:
        why = f"it has {columns} x {rows}, which is more than the {MAX_PIXELS // 1_000_000} million pixels allowed"
        raise UnfitError(why, "export it smaller, or cut out the part that matters")
    if allocated not in (8, 16):
        raise UnfitError("its pixels do not have 8 or 16 bit", "export it with 8 or 16 bit")
    kind = str(dataset.get("PhotometricInterpretation", ""))
    if kind not in (*GREY, *COLOUR):
        raise UnfitError("its colours are none that are read", "export it as MONOCHROME2 or RGB")
    if int(dataset.get("HighBit", dataset.BitsStored - 1)) != dataset.BitsStored - 1:
        raise UnfitError("its bits are placed as DICOM no longer allows", "export it again, from a newer system")
    is_one = kind in (*GREY, "PALETTE COLOR")
    if rows * columns == 0 or samples != (1 if is_one else 3) or not 1 <= int(dataset.BitsStored) <= allocated:
        raise damaged()
    return Shape(rows, columns, samples, allocated // 8)


def _stored(dataset: Dataset, syntax: uid.UID, number: int, shape: Shape, *, is_raw: bool) -> np.ndarray:
    """The pixels as they are stored, or as RGB."""
    if syntax not in SYNTAXES or (syntax == uid.JPEGExtended12Bit and int(dataset.BitsStored) > 8):
        raise UnfitError("its compression is none that is read", "export it uncompressed, or as JPEG 2000 or JPEG-LS")
    if syntax not in codestream.COMPRESSED:
        return get_decoder(syntax).as_array(dataset, index=number - 1, raw=is_raw)[0]
    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    packed = get_frame(dataset.PixelData, number - 1, number_of_frames=_frames(dataset), extended_offsets=offsets)
    if not codestream.is_shaped(packed, syntax, shape):
        raise UnfitError("its compressed pixels are not what its header says", "copy or export it again")
    elements = {keyword: _plain(dataset.get(keyword)) for keyword in _STORED if dataset.get(keyword) is not None}
    pixels = decoding.decode(syntax, PLUGINS.get(syntax, ""), elements, packed, is_raw=is_raw)
    if pixels.shape[:2] != (shape.rows, shape.columns):
        raise damaged()
    return pixels


def _plain(value: object) -> str | int:
    return int(value) if isinstance(value, int) else str(value)


_STORED = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
PLUGINS = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pillow",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    **dict.fromkeys(codestream.COMPRESSED[6:11], "pylibjpeg"),
}


def _grey(
    stored: Shaped[np.ndarray, "h w"], dataset: Dataset, number: int, window: Window | None
) -> Float32[np.ndarray, "h w"]:
    """One look-up in a table of what each stored value is shown as: 65,536 values at most, whatever the image."""
    bits = int(dataset.BitsStored)
    words = stored.astype(stored.dtype.newbyteorder("="), copy=False).view(f"u{stored.dtype.itemsize}")
    words = words & ((1 << bits) - 1)  # old overlays lie above
    levels = np.arange(1 << bits, dtype=np.int64)
    if dataset.get("PixelRepresentation"):
        levels = np.where(levels >= 1 << bits - 1, levels - (1 << bits), levels)
    tones = _tones(dataset, number)
    values = _modality(levels, tones)
    padding = _padding(levels, dataset)
    used = (np.bincount(words.ravel(), minlength=1 << bits) > 0) & ~padding
    shares = _shown(values, used, tones, window)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shares = 1 - shares
    shares[padding] = 0
    shown: np.ndarray = shares.astype(np.float32)[words]
    return shown


def _tones(dataset: Dataset, number: int) -> Dataset:
    """What says how values are shown: of the frame, of all frames, or of the file."""
    found = Dataset()
    _copy(dataset, found)
    shared, per_frame = (list(items(dataset, f"{which}FunctionalGroupsSequence")) for which in ("Shared", "PerFrame"))
    for group in [*shared[:1], *per_frame[number - 1 : number]]:
        for keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in items(group, keyword):
                _copy(item, found)
    return found


def _copy(source: Dataset, to: Dataset) -> None:
    for keyword in _TONES[:7]:
        if keyword in source:
            to.add(source[keyword])


def _modality(levels: Int64[np.ndarray, " n"], tones: Dataset) -> Shaped[np.ndarray, " n"]:
    """Each stored value in the modality's unit, Hounsfield's for example."""
    if tones.get("ModalityLUTSequence"):
        return apply_modality_lut(levels, tones)
    slope, intercept = _number(tones, "RescaleSlope", 1.0), _number(tones, "RescaleIntercept", 0.0)
    return levels if (slope, intercept) == (1, 0) or slope == 0 else levels * slope + intercept


def _shown(
    values: Shaped[np.ndarray, " n"], used: Shaped[np.ndarray, " n"], tones: Dataset, window: Window | None
) -> Float64[np.ndarray, " n"]:
    """Each value as a share of white."""
    if window is None and tones.get("VOILUTSequence"):
        bits = int(tones.VOILUTSequence[0].LUTDescriptor[2])
        seen = apply_voi(np.rint(values).astype(np.int64), tones, index=0)
        return np.clip(seen / float((1 << bits) - 1), 0, 1)
    function = str(tones.get("VOILUTFunction", "LINEAR")) if window is None else "LINEAR_EXACT"
    if window is None:
        window = Window(_number(tones, "WindowCenter", math.nan), _number(tones, "WindowWidth", math.nan))
    if math.isfinite(window.center) and window.width > 0:
        return _windowed(values.astype(np.float64), window, function)
    low, high = (float(values[used].min()), float(values[used].max())) if used.any() else (0.0, 1.0)
    return np.clip((values - low) / (high - low or 1.0), 0, 1)


def _windowed(values: Float64[np.ndarray, " n"], window: Window, function: str) -> Float64[np.ndarray, " n"]:
    """PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    center, width = window
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1
    if width <= 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _padding(levels: Int64[np.ndarray, " n"], dataset: Dataset) -> Shaped[np.ndarray, " n"]:
    """Which stored values are no part of the picture."""
    if dataset.get("PixelPaddingValue") is None:
        return np.zeros(len(levels), bool)
    ends = [int(dataset.get(f"PixelPadding{end}") or 0) for end in ("Value", "RangeLimit")]
    first, last = sorted(ends) if dataset.get("PixelPaddingRangeLimit") is not None else (ends[0], ends[0])
    return (levels >= first) & (levels <= last)


def _number(tones: Dataset, keyword: str, default: float) -> float:
    """The first value of an element; the default where it is missing or no number."""
    found = tones.get(keyword)
    first = found[0] if isinstance(found, list) or hasattr(found, "append") else found
    return default if first in (None, "") else float(first)


def _bytes(pixels: Shaped[np.ndarray, "h w 3"], bits: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    if pixels.dtype == np.uint8 and bits in (None, 8):
        return pixels
    most = (1 << (bits or 8 * pixels.dtype.itemsize)) - 1
    return np.asarray((np.minimum(pixels, most).astype(np.float32) * (255 / most)).round(), np.uint8)
