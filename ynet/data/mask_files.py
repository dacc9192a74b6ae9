"""Reading of mask files: pictures, DICOM images, DICOM SEGs and structure sets."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ynet.data import deep, lesion
from ynet.data.dicom import drawings, elements
from ynet.data.dicom import frame as dicom_frame
from ynet.data.dicom.faults import UnfitError
from ynet.data.dicom.matching import Subject
from ynet.data.frames import source
from ynet.data.lesion import Lesion
from ynet.data.opening import MASK, ONE_CHANNEL, is_inverted, mended, opened, plain_colours, reading, sixteen_bit
from ynet.errors import UserError
from ynet.plan_sections import MOST_REGIONS

_VALUES = "save it as PNG with the regions' numbers as values"


def decode_mask(path: Path, image: Path | None = None) -> UInt8[np.ndarray, "h w"]:
    """Read the mask in a file: 1 = lesion. A DICOM SEG or structure set is matched to `image`. Raises UserError.

    In any other file the lesion is what is not black, if it has one value or colour; edges are thresholded half-way
    (`ynet.data.lesion`). `FILE#2` selects the pixels with value or palette index 2, or segment 2 of a DICOM SEG. An
    ambiguous file is refused: a mask is empty only if its file is entirely black.
    """
    return read_mask(path, partial(subject_of, image)).pixels


def subject_of(image: Path | None) -> Subject | None:
    """Return the image in a DICOM file as drawings refer to it; None for any other file. Raises UserError."""
    if image is None:
        return None
    with reading(image) as (data, frame):
        return None if data is None else drawings.subject(data, frame)


def read_mask(path: Path, subject: Callable[[], Subject | None] = lambda: None, region: str = "") -> Lesion:
    """Read a mask and facts about its file. Raises UserError.

    Args:
        path: The file; `FILE#2` names the lesion's value or segment.
        subject: Returns the image; called for drawings only.
        region: The plan's name of the region. In a drawing of several segments it selects the segment with that label.
    """
    with reading(path, MASK) as (data, number):
        if data is not None and not drawings.is_drawing(data):
            return _dicom_mask(data, number)
        if data is not None:
            image, drawing = _drawn_on(subject), drawings.read(data)
            if region and number is None and len(drawing.names) > 1:
                number = drawing.labelled(region)
            return Lesion(drawings.rendered(drawing, image, number), 2, is_named=True)
    return _picture_mask(source(path).path, number)


def read_regions(
    path: Path, names: Sequence[str], subject: Callable[[], Subject | None]
) -> list[UInt8[np.ndarray, "h w"]]:
    """Read the masks of several regions in one file, in the order of `names`. Raises UserError.

    In a picture the first region has the value 1, the second the value 2. In a DICOM SEG or structure set a region is
    the segment with the region's name as its label.
    """
    with reading(path, MASK) as (data, number):
        if data is not None and drawings.is_drawing(data):
            image, drawing = _drawn_on(subject), drawings.read(data)
            if number is not None:
                raise UnfitError("one of its segments is named, and the plan has several regions", "name it without #")
            return [drawings.rendered(drawing, image, drawing.labelled(name)) for name in names]
        if data is not None:
            return lesion.of_regions(_dicom_values(data, number), names)
        if number is not None:
            raise UnfitError(
                "one of its values is named, and the plan has several regions", f"name it without #{number}"
            )
    with opened(path, MASK) as picture:
        return lesion.of_regions(_picture_values(picture), names)


def may_hold_regions(path: Path) -> bool:
    """Return whether a file may hold the masks of several regions: small values, or several segments."""
    try:
        with reading(path, MASK) as (data, number):
            if data is not None and drawings.is_drawing(data):
                return number is None and len(drawings.read(data).names) > 1
            if data is not None:
                return number is None and int(_dicom_values(data, number).max()) <= MOST_REGIONS
        with opened(path, MASK) as picture:
            return number is None and int(_picture_values(picture).max()) <= MOST_REGIONS
    except UserError:
        return False


def _drawn_on(subject: Callable[[], Subject | None]) -> Subject:
    image = subject()
    if image is None:
        why = "it is a DICOM SEG or structure set, and its image is no DICOM file"
        raise UnfitError(why, "name the DICOM file as the image, or save the mask as PNG")
    return image


def _picture_mask(path: Path, number: int | None) -> Lesion:
    """Read the mask in a PNG, JPEG or TIFF; `number` is the lesion's value, if one was named."""
    with opened(path, MASK) as image:
        how = deep.halves(image)
        is_lossy = image.format == "JPEG" or image.info.get("compression") in ("jpeg", "tiff_jpeg")
        if how is None:
            return _shallow_mask(image, number, is_lossy=is_lossy)
    with mended(path, MASK):
        pixels = deep.read(lambda: opened(path, MASK), how)
        return lesion.of_colours(np.moveaxis(pixels, -1, 0), deep.FULL, number=number)


def _shallow_mask(image: Image.Image, number: int | None, *, is_lossy: bool) -> Lesion:
    """Read the mask in an image that Pillow decodes with all of its bits."""
    white, inverted, fine = deep.white(image), is_inverted(image), deep.colour_map(image)
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "P":
        numbers = np.asarray(upright)
        if number is not None:
            return lesion.of_number(numbers, number)
        return lesion.of_palette(numbers, *_palette(upright, fine))
    if upright.mode in ONE_CHANNEL:
        values, white = _grey_values(upright, white, inverted=inverted)
        if number is not None:
            return lesion.of_number(values, number)
        return lesion.of_grey(values, white, is_lossy=is_lossy)
    colours = upright if upright.mode in ("LA", "RGB", "RGBA") else upright.convert(plain_colours(upright))
    planes = np.stack([np.asarray(band) for band in colours.split()])
    return lesion.of_colours(planes, 255, is_lossy=is_lossy, number=number)


def _dicom_mask(data: bytes, frame: int | None) -> Lesion:
    """Read the mask in a DICOM image that is not a SEG. Raises UnfitError."""
    if dicom_frame.is_colour(data):
        return lesion.of_colours(np.moveaxis(np.asarray(dicom_frame.decode(data, frame)), -1, 0), 255)
    header = elements.read(data, dicom_frame.SHAPE).dataset
    values = _dicom_values(data, frame)
    return lesion.of_grey(values, (1 << int(header.get("BitsStored") or 8)) - 1, can_be_named=False)


def _dicom_values(data: bytes, frame: int | None) -> np.ndarray:
    """Return the stored values of a grey DICOM image. Raises UnfitError."""
    if dicom_frame.is_colour(data):
        raise UnfitError("it is in colour, so its values are not numbers", _VALUES)
    if frame is None and dicom_frame.frames(data) > 1:
        dicom_frame.decode(data)  # its error lists the frames
    header = elements.read(data, dicom_frame.SHAPE).dataset
    if str(header.get("PhotometricInterpretation", "")) != "MONOCHROME2":
        raise UnfitError("its grey is inverted (MONOCHROME1)", "save it as a DICOM SEG, or as PNG")
    return np.asarray(dicom_frame.stored(data, frame or 1))


def _picture_values(image: Image.Image) -> np.ndarray:
    """Return the values or palette indices of a picture that holds several regions. Raises UnfitError."""
    if image.format == "JPEG" or image.info.get("compression") in ("jpeg", "tiff_jpeg"):
        raise UnfitError("JPEG changes the values of its pixels", _VALUES)
    if deep.halves(image) is not None:
        raise UnfitError("it is in colour, so its values are not numbers", _VALUES)
    white, inverted = deep.white(image), is_inverted(image)
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "P":
        return np.asarray(upright)
    if upright.mode in ONE_CHANNEL:
        return _grey_values(upright, white, inverted=inverted)[0]
    colours = np.asarray(upright.convert("RGB"))
    if (colours != colours[..., :1]).any():
        raise UnfitError("it is in colour, so its values are not numbers", _VALUES)
    return np.asarray(colours[..., 0])


def _grey_values(image: Image.Image, white: int, *, inverted: bool) -> tuple[np.ndarray, int]:
    """Return the stored values of a grey image without alpha, and its value of white."""
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8) * np.uint8(255), 255
    if image.mode == "L":
        return np.asarray(image), 255
    values = sixteen_bit(image)
    return (white - values if inverted else values), white


def _palette(image: Image.Image, fine: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Return the RGBA colour of each palette index, and the maximal value of a channel."""
    if fine is not None:
        return np.concatenate([fine, np.full((len(fine), 1), deep.FULL)], 1), deep.FULL
    image.apply_transparency()
    return np.asarray(image.getpalette("RGBA"), np.int64).reshape(-1, 4), 255
