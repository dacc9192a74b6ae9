"""One image or mask file turned into the array that the network sees, within bounds on bytes and pixels."""

import hashlib
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ynet.data import dicom, drawings
from ynet.data.dicom import Window
from ynet.data.dicom_elements import PREAMBLE, UnfitError, is_dicom
from ynet.data.frames import source
from ynet.data.limits import MAX_FILE_BYTES as MAX_FILE_BYTES
from ynet.data.limits import MAX_PIXELS as MAX_PIXELS
from ynet.errors import UserError

FORMATS = ("PNG", "JPEG", "TIFF")
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_GREY = ("1", "L", "LA", *_SIXTEEN_BIT)
_INVERTED = 0  # TIFF's PhotometricInterpretation "WhiteIsZero"; Pillow mends it in 8 bit only
_PHOTOMETRIC = 262
# What Pillow's parsers raise on a damaged file. Warning: they also warn, and a caller may make that an error.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,
)

# For good, at import: `catch_warnings` would change the filters under other threads.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def digest(path: Path) -> str:
    """SHA-256 of an image's file and, where one is named, its frame. Raises OSError."""
    file_path, frame = source(path)
    with file_path.open("rb") as file:
        hashed = hashlib.file_digest(file, "sha256")
    if frame is not None:
        hashed.update(b"#%d" % frame)
    return hashed.hexdigest()


def is_colour(path: Path) -> bool:
    """Whether an image file is stored in colour; its pixels are not decoded. Raises UserError."""
    with _reading(path) as (data, _):
        if data is not None:
            return dicom.is_colour(data)
    with _open(path) as image:
        return image.mode not in _GREY


def decode(path: Path, channels: int, window: Window | None = None) -> Float32[np.ndarray, "channels h w"]:
    """The upright pixels of a PNG, JPEG, TIFF or DICOM file as grey (1 channel) or RGB (3), in [0, 1].

    8 bit is divided by 255, 16 bit by 65535, alpha is dropped; grey of a DICOM file is what `dicom.decode` makes of
    it, with `window` in place of the file's own. Of several frames one must be named (`source`). Raises UserError
    when the file is no such image, is damaged, or is larger than MAX_FILE_BYTES or MAX_PIXELS.
    """
    with _reading(path) as (data, frame):
        if data is not None:
            seen = dicom.decode(data, frame, window)
            return (
                np.repeat(seen[None], channels, axis=0) if seen.ndim == 2 else _shares(Image.fromarray(seen), channels)
            )
    with _open(path) as image:
        inverted = image.mode in _SIXTEEN_BIT and _photometric(image) == _INVERTED
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode in _SIXTEEN_BIT:
            grey = _sixteen_bit(upright, path)
            grey = 1 - grey if inverted else grey
            return np.repeat(grey[None], channels, axis=0)
        return _shares(upright, channels)


def decode_mask(path: Path, image: Path | None = None) -> UInt8[np.ndarray, "h w"]:
    """The mask in a file: 1 = lesion. A DICOM SEG or structure set is matched to `image`. Raises UserError."""
    return binarise(decode_mask_grey(path, image))


def decode_mask_grey(path: Path, image: Path | None = None) -> Float32[np.ndarray, "h w"]:
    """A mask as it is saved, in [0, 1]; before `binarise`. Raises UserError like `decode`."""
    with _reading(path) as (data, _):
        is_drawing = data is not None and drawings.is_drawing(data)
    if not is_drawing:
        grey: np.ndarray = decode(path, 1)[0]
        return grey
    reference = None
    if image is not None:
        with _reading(image) as (of, frame):
            reference = None if of is None else drawings.subject(of, frame)
    with _reading(path) as (data, segment):
        if data is None or reference is None:
            why = "it is a DICOM SEG or structure set, and its image is no DICOM file"
            raise UnfitError(why, "name the DICOM file as the image, or save the mask as PNG")
        return np.asarray(drawings.decode(data, reference, segment), np.float32)


def binarise(grey: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """1 where a mask is at least half of full white; a mask saved as 0 and 1 of 255 or 65535 is taken as meant."""
    threshold = 0.5 if grey.size == 0 or grey.max() > 1.5 / 255 else 1e-9
    return (grey >= threshold).astype(np.uint8)


def fit(array: Float32[np.ndarray, "c h w"], size: int, is_mask: bool = False) -> Float32[np.ndarray, "c size size"]:
    """`array` resized with its aspect ratio kept, centred and padded to a square of `size` pixels.

    The geometry depends on height and width only, so it is the same for an image and its mask. An image is padded
    with the median of its border, a mask with 0. A mask comes out as 0 and 1, and is never lost: when no pixel is
    half covered, the most covered one is set.
    """
    channels, height, width = array.shape
    box = _placement(height, width, size)
    resized = np.stack([_resize(plane, box.height, box.width) for plane in array])
    if is_mask:
        resized = (resized >= min(0.5, resized.max() or 1)).astype(np.float32)
        padding = np.zeros(channels, np.float32)
    else:
        border = np.concatenate([resized[:, 0], resized[:, -1], resized[:, :, 0], resized[:, :, -1]], axis=1)
        padding = np.median(border, axis=1).astype(np.float32)
    square = np.empty((channels, size, size), np.float32)
    square[:] = padding[:, None, None]
    square[:, box.top : box.top + box.height, box.left : box.left + box.width] = resized
    return square


def unfit(mask: np.ndarray, height: int, width: int) -> UInt8[np.ndarray, "height width"]:
    """A (size, size) mask or probability map put back on the image of `height` x `width` that `fit` took in."""
    box = _placement(height, width, mask.shape[0])
    inside = mask[box.top : box.top + box.height, box.left : box.left + box.width]
    return (_resize(inside.astype(np.float32), height, width) >= 0.5).astype(np.uint8)


def standardise(image: Float32[np.ndarray, "c h w"]) -> Float32[np.ndarray, "c h w"]:
    """`image` with mean 0 and standard deviation 1 over all its values; a constant image becomes 0.

    Sites differ in brightness, contrast and bit depth; this takes all three out.
    """
    centred = image - image.mean(dtype=np.float64)
    deviation = float(centred.std())
    return (centred / deviation if deviation > 1e-6 else np.zeros_like(image)).astype(np.float32)


@contextmanager
def _reading(path: Path) -> Iterator[tuple[bytes | None, int | None]]:
    """The bytes of a DICOM file, None of any other, and the frame that is named; what goes wrong is a UserError."""
    file_path, frame = source(path)
    with _mended(file_path):
        with file_path.open("rb") as file:
            start = file.read(PREAMBLE + 4)
            data = start + file.read(MAX_FILE_BYTES) if is_dicom(start) else None
        if data is None and frame is not None:
            raise UnfitError("it has no frames", f"name it without #{frame}")
        yield data, frame


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """The image in `path`, not yet decoded, within bounds; what goes wrong inside is a UserError too."""
    with _mended(path), path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
        _refuse_unfit(image, f"image {path} cannot be read")
        yield image


@contextmanager
def _mended(path: Path) -> Iterator[None]:
    """What goes wrong with an image's file inside, said as a UserError; a file that is too large, before it begins."""
    what = f"image {path} cannot be read"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(what, "it is not a file", "give the path of a PNG, JPEG, TIFF or DICOM file")
        if status.st_size > MAX_FILE_BYTES:
            why = f"it has {status.st_size >> 20} MiB, more than the {MAX_FILE_BYTES >> 20} MiB allowed"
            raise UserError(what, why, "save it smaller, or compressed")
        yield
    except UnfitError as error:
        raise UserError(what, error.why, error.do) from None
    except FileNotFoundError:
        raise UserError(what, "there is no such file", "check the path") from None
    except PermissionError:
        raise UserError(what, "its rights do not let you read it", "change its rights") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(what, "far") from None
    except UnidentifiedImageError:
        why = f"it is no {', '.join(FORMATS)} or DICOM image"
        raise UserError(what, why, "save it as PNG, JPEG, TIFF or DICOM") from None
    except _DAMAGED:
        raise UserError(what, "its data are damaged or cut short", "copy or export it again") from None


def _refuse_unfit(image: Image.Image, what: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_many_pixels(what, f"{image.width} x {image.height}, which is")
    if getattr(image, "is_animated", False):
        raise UserError(what, "it holds several frames", "save each frame as a file of its own")
    if image.mode == "F":
        raise UserError(what, "its pixels are floating point", "save it with 8 or 16 bit whole numbers")


def _too_many_pixels(what: str, size: str) -> UserError:
    return UserError(
        what,
        f"it has {size} more than the {MAX_PIXELS // 1_000_000} million pixels allowed",
        "save it smaller, or cut out the part that matters",
    )


def _photometric(image: Image.Image) -> object:
    return getattr(image, "tag_v2", {}).get(_PHOTOMETRIC)


def _sixteen_bit(image: Image.Image, path: Path) -> Float32[np.ndarray, "h w"]:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        what, why = f"image {path} cannot be read", "it has values below 0 or above 65535"
        raise UserError(what, why, "save it with 8 or 16 bit, unsigned")
    return values.astype(np.float32) / np.float32(65535)


def _shares(image: Image.Image, channels: int) -> Float32[np.ndarray, "channels h w"]:
    pixels = np.asarray(_eight_bit(image, channels), np.float32) / np.float32(255)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def _eight_bit(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette with transparency has no direct way to RGB
    if image.mode in ("LA", "RGBA"):
        image = image.convert("L" if image.mode in _GREY else "RGB")
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


class _Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int


def _placement(height: int, width: int, size: int) -> _Box:
    """Where an image of `height` x `width` lies in the padded square of `size`."""
    longest = max(height, width)
    fitted_height = max(1, round(height * size / longest))
    fitted_width = max(1, round(width * size / longest))
    return _Box((size - fitted_height) // 2, (size - fitted_width) // 2, fitted_height, fitted_width)


def _resize(plane: Float32[np.ndarray, "h w"], height: int, width: int) -> Float32[np.ndarray, "height width"]:
    if plane.shape == (height, width):
        return plane
    # Pillow widens the bilinear kernel by the reduction, so shrinking does not alias.
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR), np.float32)
