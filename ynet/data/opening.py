"""Opening of image and mask files within bounds on bytes and pixels; faults become UserErrors."""

import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Integer
from PIL import Image, UnidentifiedImageError

from ynet.data import archives, deep
from ynet.data.dicom.elements import STARTS_IN, is_dicom
from ynet.data.dicom.faults import UnfitError
from ynet.data.frames import source
from ynet.data.limits import MAX_FILE_BYTES, MAX_PIXELS
from ynet.errors import UserError

SIGNATURES = {
    "PNG": (b"\x89PNG",),
    "JPEG": (b"\xff\xd8",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
"""The formats that Pillow reads here, by its names, with their first bytes. `ynet.data.dicom` reads DICOM."""
FORMATS = tuple(SIGNATURES)
SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
ONE_CHANNEL = ("1", "L", *SIXTEEN_BIT)
GREY = (*ONE_CHANNEL, "LA", "La")
IMAGE, MASK = "image", "mask"
_INVERTED = 0  # TIFF's PhotometricInterpretation "WhiteIsZero"; Pillow handles it for 8 bits only
_PHOTOMETRIC, _SAMPLE_FORMAT, _SIGNED = 262, 339, 2
# What Pillow's parsers raise on a damaged file. Warning: a caller may have turned warnings into errors.
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

# Set once at import, since `catch_warnings` would change the filters of other threads.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


@contextmanager
def reading(path: Path, kind: str = IMAGE) -> Iterator[tuple[bytes | None, int | None]]:
    """Read a DICOM file's bytes, None for another file, and the named frame. Faults inside become UserErrors."""
    file_path, frame = source(path)
    with mended(file_path, kind):
        with file_path.open("rb") as file:
            start = file.read(STARTS_IN)
            data = start + file.read(MAX_FILE_BYTES) if is_dicom(start) else None
            if data is None:
                archives.refuse(start + file.read(archives.STARTS_IN - len(start)))
        if data is None and frame is not None and kind != MASK:
            raise UnfitError("it has no frames", f"name it without #{frame}")
        yield data, frame


@contextmanager
def opened(path: Path, kind: str = IMAGE) -> Iterator[Image.Image]:
    """Open the image in `path` without decoding it, within bounds. Faults in the block become UserErrors."""
    with mended(path, kind), path.open("rb") as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            raise _unidentified(path) from None
        with image:
            _refuse_unfit(image)
            yield image


@contextmanager
def mended(path: Path, kind: str = IMAGE) -> Iterator[None]:
    """Turn faults of an image's file in the block into UserErrors; refuse a file that is too large before it."""
    what = f"{kind} {path} cannot be read"
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
        raise UserError(what, "you have no permission to read it", "change its permissions") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        why, do = _too_many_pixels("far")
        raise UserError(what, why, do) from None
    except _DAMAGED:
        raise UserError(what, "its data are damaged or cut short", "copy or export it again") from None


def _unidentified(path: Path) -> UnfitError:
    """Return why Pillow does not open a file: another format, or an unsupported kind of a known one."""
    with path.open("rb") as file:
        start = file.read(4)
    for name, signatures in SIGNATURES.items():
        if start.startswith(signatures):
            why = f"it is damaged, or an unsupported kind of {name}"
            return UnfitError(why, "save it as PNG of 8 or 16 bit, grey or RGB")
    why = f"it is not a {', '.join(FORMATS)} or DICOM image"
    return UnfitError(why, "save it as PNG, JPEG, TIFF or DICOM")


def _refuse_unfit(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise UnfitError(*_too_many_pixels(f"{image.width} x {image.height}, which is"))
    if getattr(image, "is_animated", False):
        raise UnfitError("it holds several frames", "save each frame as a file of its own")
    if image.mode == "F":
        raise UnfitError("its pixels are floating point", "save it with 8- or 16-bit integers")
    if image.mode == "L" and _SIGNED in getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, ()):
        raise UnfitError("its values may be below 0", "save it with 8 or 16 bit, unsigned")
    if image.mode == "LAB":
        raise UnfitError("its colours are CIE L*a*b*", "save it in RGB")


def _too_many_pixels(size: str) -> tuple[str, str]:
    return (
        f"it has {size} more than the {MAX_PIXELS // 1_000_000} million pixels allowed",
        "save it smaller, or cut out the part that matters",
    )


def is_inverted(image: Image.Image) -> bool:
    """Return whether 0 is white in a 12- or 16-bit grey image, which Pillow does not invert."""
    return image.mode in SIXTEEN_BIT and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _INVERTED


def sixteen_bit(image: Image.Image) -> Integer[np.ndarray, "h w"]:
    """Return the values of a grey image of more than 8 bits. Raises UnfitError when they exceed 16 bits."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > deep.FULL:
        raise UnfitError("it has values below 0 or above 65535", "save it with 8 or 16 bit, unsigned")
    return values


def plain_colours(image: Image.Image) -> str:
    """Return the mode, without palette or premultiplied alpha, that holds an image's pixels."""
    return {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}.get(image.mode, "RGB")
