"""Decoding of image and mask files into the network's arrays, within bounds on bytes and pixels."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image, ImageOps

from ynet.data import deep
from ynet.data.dicom import drawings
from ynet.data.dicom import frame as dicom_frame
from ynet.data.dicom.faults import damaged
from ynet.data.dicom.frame import DisplayWindow
from ynet.data.dicom.matching import Subject
from ynet.data.frames import source
from ynet.data.limits import MAX_FILE_BYTES as MAX_FILE_BYTES
from ynet.data.limits import MAX_PIXELS as MAX_PIXELS
from ynet.data.mask_files import decode_mask as decode_mask
from ynet.data.opening import GREY, SIXTEEN_BIT, is_inverted, mended, opened, plain_colours, reading, sixteen_bit


class InspectedImage(NamedTuple):
    """What a check of a site's data needs to know of an image file, from one pass over it."""

    shape: tuple[int, ...]  # rows, columns
    digest: str  # of the file's bytes and its frame
    is_colour: bool
    ignored: tuple[str, ...]  # keywords of DICOM display values that cannot be used
    dicom: bytes | None  # a DICOM file's bytes
    frame: int | None

    def subject(self) -> Subject | None:
        """Return the image as drawings refer to it; None when it is not a DICOM file. Raises UnfitError."""
        return None if self.dicom is None else drawings.subject(self.dicom, self.frame)


class _Picture(NamedTuple):
    """A decoded PNG, JPEG or TIFF file."""

    pixels: Float32[np.ndarray, "channels h w"]
    is_colour: bool


def inspect(path: Path) -> InspectedImage:
    """Decode an image file and describe it. A DICOM file is read and parsed once. Raises UserError."""
    with reading(path) as (data, frame):
        if data is not None:
            found = dicom_frame.inspect(data, frame)
            shape, hashed = found.pixels.shape[:2], _hexdigest(hashlib.sha256(data), frame)
            return InspectedImage(shape, hashed, found.is_colour, found.ignored, data, frame)
    pixels, in_colour = _picture(path, 1)
    with mended(path):
        return InspectedImage(pixels.shape[1:], digest(path), in_colour, (), None, None)


def digest(path: Path) -> str:
    """Return the SHA-256 of an image's file and, if one is named, its frame. Raises OSError."""
    file_path, frame = source(path)
    with file_path.open("rb") as file:
        return _hexdigest(hashlib.file_digest(file, "sha256"), frame)


def _hexdigest(hashed: "hashlib._Hash", frame: int | None) -> str:
    if frame is not None:
        hashed.update(b"#%d" % frame)
    return hashed.hexdigest()


def is_colour(path: Path) -> bool:
    """Return whether an image file is stored in colour, without decoding its pixels. Raises UserError."""
    with reading(path) as (data, _):
        if data is not None:
            return dicom_frame.is_colour(data)
    with opened(path) as image:
        return _in_colour(image)


def _in_colour(image: Image.Image) -> bool:
    return image.mode not in GREY and not deep.is_grey(image)


def decode(path: Path, channels: int, window: DisplayWindow | None = None) -> Float32[np.ndarray, "channels h w"]:
    """Decode the upright pixels of a PNG, JPEG, TIFF or DICOM file to grey (1 channel) or RGB (3), in [0, 1].

    8-bit values are divided by 255, 12-bit by 4095, 16-bit by 65535; alpha is dropped. DICOM grey is decoded by
    `dicom.frame.decode`, where `window` replaces the file's own. A frame must be named (`source`) where a file holds
    several. Raises UserError when the file is not such an image, is damaged, or exceeds MAX_FILE_BYTES or MAX_PIXELS.
    """
    with reading(path) as (data, frame):
        if data is not None:
            seen = dicom_frame.decode(data, frame, window)
            return (
                np.repeat(seen[None], channels, axis=0) if seen.ndim == 2 else _shares(Image.fromarray(seen), channels)
            )
    return _picture(path, channels).pixels


def _picture(path: Path, channels: int) -> _Picture:
    """Decode a PNG, JPEG or TIFF file. Raises UserError."""
    with opened(path) as image:
        how, in_colour = deep.halves(image), _in_colour(image)
        if how is None:
            return _Picture(_shallow(image, channels), in_colour)
    with mended(path):
        return _Picture(_deep_shares(deep.read(lambda: opened(path), how), channels), in_colour)


def _shallow(image: Image.Image, channels: int) -> Float32[np.ndarray, "channels h w"]:
    """Decode an image that Pillow reads with all of its bits."""
    inverted, white, fine = is_inverted(image), deep.white(image), deep.colour_map(image)
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in SIXTEEN_BIT:
        grey = sixteen_bit(upright).astype(np.float32) / np.float32(white)
        return np.repeat((1 - grey if inverted else grey)[None], channels, axis=0)
    return _shares(upright, channels) if fine is None else _deep_shares(fine[_numbers(upright, fine)], channels)


def fit(array: Float32[np.ndarray, "c h w"], size: int, is_mask: bool = False) -> Float32[np.ndarray, "c size size"]:
    """Resize `array` with its aspect ratio kept, then centre and pad it to a square of `size` pixels.

    The geometry depends on height and width only, so it is the same for an image and its mask. An image is padded
    with the median of its border, a mask with 0. A mask becomes 0 and 1 and never vanishes: if no pixel is half
    covered, the most covered one is set.
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
    """Map a (size, size) mask or probability map back to the `height` x `width` image that `fit` took."""
    box = _placement(height, width, mask.shape[0])
    inside = mask[box.top : box.top + box.height, box.left : box.left + box.width]
    return (_resize(inside.astype(np.float32), height, width) >= 0.5).astype(np.uint8)


def standardise(image: Float32[np.ndarray, "c h w"]) -> Float32[np.ndarray, "c h w"]:
    """Scale `image` to mean 0 and standard deviation 1 over all its values; a constant image becomes 0.

    This removes the differences between sites in brightness, contrast and bit depth.
    """
    centred = image - image.mean(dtype=np.float64)
    deviation = float(centred.std())
    return (centred / deviation if deviation > 1e-6 else np.zeros_like(image)).astype(np.float32)


def _deep_shares(pixels: Shaped[np.ndarray, "h w c"], channels: int) -> Float32[np.ndarray, "channels h w"]:
    """Scale 16-bit pixels with colour or alpha to [0, 1]; alpha is dropped."""
    colours = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., :1].repeat(3, axis=2)
    if channels == 1:
        colours = deep.luminance(colours)[..., None]
    return np.ascontiguousarray(colours.transpose(2, 0, 1).astype(np.float32) / np.float32(deep.FULL))


def _shares(image: Image.Image, channels: int) -> Float32[np.ndarray, "channels h w"]:
    pixels = np.asarray(_eight_bit(image, channels), np.float32) / np.float32(255)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def _numbers(image: Image.Image, colours: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    """Return each pixel's palette index. Raises UnfitError when one lies beyond the palette."""
    numbers = np.asarray(image)
    numbers = numbers[..., 0] if numbers.ndim == 3 else numbers
    if int(numbers.max()) >= len(colours):
        raise damaged()
    return numbers


def _eight_bit(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in ("P", "PA", "RGBa", "La"):
        image = image.convert(plain_colours(image))  # Pillow cannot convert a palette with transparency to RGB directly
    if image.mode in ("LA", "RGBA"):
        image = image.convert("L" if image.mode in GREY else "RGB")
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


class _Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int


def _placement(height: int, width: int, size: int) -> _Box:
    """Return where an image of `height` x `width` lies in the padded square of `size`."""
    longest = max(height, width)
    fitted_height = max(1, round(height * size / longest))
    fitted_width = max(1, round(width * size / longest))
    return _Box((size - fitted_height) // 2, (size - fitted_width) // 2, fitted_height, fitted_width)


def _resize(plane: Float32[np.ndarray, "h w"], height: int, width: int) -> Float32[np.ndarray, "height width"]:
    if plane.shape == (height, width):
        return plane
    # Pillow widens the bilinear kernel by the reduction, so shrinking does not alias.
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR), np.float32)
