"""Decides which pixels of a mask file are lesion: black is background, one other value or colour is lesion.

Files in which this is ambiguous are refused.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8
from PIL import Image

from ynet.data.dicom.faults import UnfitError

FEW = 8
"""Up to this many distinct values are labels or hard edges; more are JPEG noise or soft edges."""
NEAR = 1 / 8
"""Values this close to the background or the lesion, as a share of their difference, are noise."""
EDGE, SOFT_EDGE = 2, 8
"""A value in between lies at most EDGE pixels from both for hard edges, EDGE blocks of SOFT_EDGE for soft ones."""
LEAST_CONTRAST = 1 / 16
"""As a share of white; JPEG blurs a lesion with less contrast."""
SPREAD = 1 / 4
"""The red, green and blue shares of one lesion's shades differ by at most this share of the maximum."""
_SAVE = "save it with 0 outside and 255 inside the lesion"


class Lesion(NamedTuple):
    """The lesion in a mask file."""

    pixels: UInt8[np.ndarray, "h w"]  # 1 = lesion
    values: int  # number of distinct values or colours in the file
    is_named: bool = False  # the value was named after the file, so it was not inferred


def of_grey(
    values: Integer[np.ndarray, "h w"], full: int, *, is_lossy: bool = False, can_be_named: bool = True
) -> Lesion:
    """Find the lesion of a grey mask whose white is `full`. Raises UnfitError where it is ambiguous."""
    present, counts = _levels(values)
    if present[0] < 0:
        raise UnfitError("it has values below 0", _SAVE)
    if len(present) == 1:
        return _of_one(values, int(present[0]), full, can_be_named=can_be_named)
    if present[0] > 0 and not present[0] < full / 2 <= present[-1]:
        why = f"its values are from {present[0]} to {present[-1]}, so it is unclear which of them is background"
        raise UnfitError(why, _named_or_saved(can_be_named))
    if is_lossy and present[-1] - present[0] < LEAST_CONTRAST * full:
        raise UnfitError("its values are so close to each other that JPEG has blurred them", _SAVE)
    if len(present) == 2:
        return Lesion((values == present[1]).astype(np.uint8), 2)
    if is_lossy or len(present) > FEW:
        return Lesion(_noisy(values, present, counts, full, can_be_named=can_be_named), len(present))
    return Lesion(_drawn(values, present, full, can_be_named=can_be_named), len(present))


def of_number(values: Integer[np.ndarray, "h w"], number: int) -> Lesion:
    """Select the pixels with the number that was named after the file; other labels are not lesion."""
    return Lesion((values == number).astype(np.uint8), len(_levels(values)[0]), is_named=True)


def of_regions(values: Integer[np.ndarray, "h w"], names: Sequence[str]) -> list[UInt8[np.ndarray, "h w"]]:
    """Return the mask of each region: the first has the value 1, the second 2; 0 is outside. Raises UnfitError."""
    present, _ = _levels(values)
    unknown = present[(present < 0) | (present > len(names))]
    if len(unknown):
        meant = ", ".join(f"{number} {name}" for number, name in enumerate(names, start=1))
        shown = _listed(unknown[:FEW]) + (", ..." if len(unknown) > FEW else "")
        why = f"it has values that are no region's: {shown}; the regions are {meant}"
        raise UnfitError(why, "save it with these values and 0 outside, or name one mask for each region")
    return [(values == number).astype(np.uint8) for number in range(1, len(names) + 1)]


def of_palette(numbers: UInt8[np.ndarray, "h w"], colours: Shaped[np.ndarray, "entries 4"], full: int) -> Lesion:
    """Find the lesion of a palette mask; `colours` holds RGBA up to `full` for each palette index.

    Black or transparent indices are background; if no or every index is dark, index 0 is. Raises UnfitError.
    """
    present, _ = _levels(numbers)
    shown = _full_colours(colours, present)
    is_dark = (shown[:, :3].max(1) == 0) | (shown[:, 3] == 0)
    if len(present) > 2:
        return _of_shades(numbers, present, shown, full)
    if len(present) == 1:
        return _of_one_number(numbers, int(present[0]), shown[0], is_dark=bool(is_dark[0]), colours=colours, full=full)
    if is_dark.all() or not is_dark.any():
        if present[0] == 0:
            return Lesion((numbers == present[1]).astype(np.uint8), 2)
        why = f"none of its colours (numbers {_listed(present)}) is black, so it is unclear which is background"
        raise UnfitError(why, _named_or_saved(can_be_named=True))
    return Lesion((numbers == present[~is_dark][0]).astype(np.uint8), 2)


def of_colours(
    planes: Integer[np.ndarray, "channels h w"], full: int, *, is_lossy: bool = False, number: int | None = None
) -> Lesion:
    """Find the lesion of a mask in grey with alpha (2 channels), RGB (3) or RGBA (4), up to `full`.

    `number` is the lesion's value, if one was named; all colours must then be grey. Raises UnfitError.
    """
    colour, alpha = (planes[:-1], planes[-1]) if len(planes) in (2, 4) else (planes, None)
    if number is not None:
        return of_number(_grey(colour, number), number)
    if alpha is not None and alpha.min() != alpha.max():
        seen = colour[:, alpha > 0]
        if (seen == seen[:, :1]).all():
            return of_grey(alpha, full, can_be_named=False)
        colour = _on_black(colour, alpha)
    elif alpha is not None and not alpha.any() and (colour == colour[:, :1, :1]).all():
        return Lesion(np.zeros(alpha.shape, np.uint8), 1)
    if _is_grey(colour):
        return of_grey(colour[0], full, is_lossy=is_lossy, can_be_named=alpha is None)
    value = colour.max(0)
    count = _refuse_several_colours(colour, value, is_lossy=is_lossy)
    if count == 1:
        raise UnfitError("it has one colour and no background", _SAVE)
    if value.min() == 0 and count == 2:
        return Lesion((value > 0).astype(np.uint8), 2)
    return of_grey(value, full, is_lossy=is_lossy, can_be_named=False)._replace(values=count)


# --- one value


def _of_one(values: np.ndarray, value: int, full: int, *, can_be_named: bool) -> Lesion:
    """Decide a mask of one value: empty or full."""
    if value not in (0, full):
        why = f"all of it has the value {value}, so it is unclear whether that is lesion or background"
        raise UnfitError(why, _named_or_saved(can_be_named))
    return Lesion(np.full(values.shape, value != 0, np.uint8), 1)


def _of_one_number(
    numbers: np.ndarray, number: int, shown: np.ndarray, *, is_dark: bool, colours: np.ndarray, full: int
) -> Lesion:
    """Decide a mask of one palette index: empty if it is black and either 0 or not the palette's only colour."""
    if is_dark and (number == 0 or bool(colours[:, :3].any())):
        return Lesion(np.zeros(numbers.shape, np.uint8), 1)
    if number and bool((shown[:3] == full).all()):
        return Lesion(np.ones(numbers.shape, np.uint8), 1)
    why = f"all of it has the number {number}, so it is unclear whether that is lesion or background"
    raise UnfitError(why, _named_or_saved(can_be_named=True))


# --- several values


def _drawn(values: np.ndarray, present: np.ndarray, full: int, *, can_be_named: bool) -> np.ndarray:
    """Threshold a mask with hard edges, whose values between minimum and maximum occur only at the edge."""
    dark, bright = int(present[0]), int(present[-1])
    between = (values != dark) & (values != bright)
    is_edge = _grown(values == dark) & _grown(values == bright)
    if bright < full / 2 or (between & ~is_edge).any() or _has_area(between, values):
        raise _labels(present, can_be_named=can_be_named)
    return (values >= (dark + bright + 1) // 2).astype(np.uint8)


def _noisy(values: np.ndarray, present: np.ndarray, counts: np.ndarray, full: int, *, can_be_named: bool) -> np.ndarray:
    """Threshold a mask with noise or soft edges half-way between its most frequent dark and bright values."""
    dark, bright = _two(present, counts)
    reach = math.ceil(NEAR * (bright - dark))
    is_dark, is_bright = values <= dark + reach, values >= bright - reach
    unclear, is_beyond = ~(is_dark | is_bright), _outside(values, present, dark - 2 * reach, bright + 2 * reach)
    if is_beyond is not None:
        unclear |= is_beyond
        is_bright &= ~is_beyond
    is_far = _blocks(unclear) & ~(_grown(_blocks(is_dark)) & _grown(_blocks(is_bright)))
    is_much = np.count_nonzero(unclear) > 2 * np.count_nonzero(is_bright) and (unclear & ~_grown(is_bright)).any()
    is_background = dark <= NEAR * full or dark < full / 2 <= bright
    is_off = unclear | ((values > dark + reach // 2) & (values < bright - reach // 2))
    if not is_background or is_much or is_far.any() or _has_area(is_off, values):
        raise _labels(present, can_be_named=can_be_named)
    return (values >= (dark + bright + 1) // 2).astype(np.uint8)


def _outside(values: np.ndarray, present: np.ndarray, least: int, greatest: int) -> np.ndarray | None:
    """Mark the values outside these bounds; None where there is none."""
    if present[0] >= least and present[-1] <= greatest:
        return None
    return np.asarray((values.astype(np.int64) < least) | (values > greatest))


def _two(present: np.ndarray, counts: np.ndarray) -> tuple[int, int]:
    """Return the most frequent value of the dark and of the bright half of the range; the outermost wins a tie."""
    is_bright = present > (int(present[0]) + int(present[-1])) / 2
    dark = present[~is_bright][counts[~is_bright].argmax()]
    return int(dark), int(present[is_bright][::-1][counts[is_bright][::-1].argmax()])


def _has_area(of: Bool[np.ndarray, "h w"], values: np.ndarray) -> bool:
    """Return whether a pixel in `of` and all its neighbours share one value: an area, not an edge."""
    return bool(_alike(of, np.logical_and)[_alike(values, np.minimum) == _alike(values, np.maximum)].any())


def _alike(array: np.ndarray, ufunc: np.ufunc) -> np.ndarray:
    """Apply `ufunc` to each pixel and its eight neighbours; drops the outermost rows and columns."""
    rows = ufunc(ufunc(array[:-2], array[1:-1]), array[2:])
    made: np.ndarray = ufunc(ufunc(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
    return made


def _grown(of: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Dilate a mask by EDGE pixels."""
    for _ in range(EDGE):
        of = _around(of)
    return of


def _around(of: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Dilate a mask by one pixel."""
    grown: np.ndarray = _alike(np.pad(of, 1), np.logical_or)
    return grown


def _blocks(of: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "rows columns"]:
    """Return which blocks of SOFT_EDGE pixels contain a pixel in `of`."""
    height, width = of.shape
    padded = np.pad(of, ((0, -height % SOFT_EDGE), (0, -width % SOFT_EDGE)))
    rows, columns = padded.shape
    rows_any = np.asarray(padded.reshape(rows // SOFT_EDGE, SOFT_EDGE, columns).any(1))
    return np.asarray(rows_any.reshape(len(rows_any), columns // SOFT_EDGE, SOFT_EDGE).any(2))


# --- colours


def _of_shades(numbers: np.ndarray, present: np.ndarray, shown: np.ndarray, full: int) -> Lesion:
    """Decide a mask of several palette indices: a grey mask with edges, else ambiguous labels."""
    if not (shown[:, :3] == shown[:, :1]).all() or not (shown[:, 3] == full).all():
        raise _labels(present, can_be_named=True)
    grey = np.zeros(int(present[-1]) + 1, np.int64)
    grey[present] = shown[:, 0]
    if len(np.unique(shown[:, 0])) != len(present):
        raise _labels(present, can_be_named=True)
    try:
        return of_grey(grey[numbers], full)
    except UnfitError:
        raise _labels(present, can_be_named=True) from None


def _full_colours(colours: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return the colours of the indices in use; an index beyond the palette is black."""
    shown = np.zeros((len(present), 4), np.int64)
    known = present < len(colours)
    shown[known] = colours[present[known]]
    shown[~known, 3] = 1
    return shown


def _grey(colour: np.ndarray, number: int) -> np.ndarray:
    """Return the values of a mask whose colours are all grey. Raises UnfitError."""
    if not _is_grey(colour):
        raise UnfitError("it is in colour, so its values are not numbers", f"name it without #{number}")
    return np.asarray(colour[0])


def _is_grey(colour: np.ndarray) -> bool:
    return all(np.array_equal(colour[0], plane) for plane in colour[1:])


def _on_black(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return the colours on black where alpha is 0. Raises UnfitError for other black or half transparent pixels."""
    is_seen = alpha > 0
    if len(np.unique(alpha[is_seen])) > 1 or not colour[:, is_seen].any(0).all():
        raise UnfitError("its colours and its transparency contradict each other", _SAVE)
    return np.where(is_seen, colour, 0)


def _refuse_several_colours(colour: np.ndarray, value: np.ndarray, *, is_lossy: bool) -> int:
    """Count the colours, black included. Raises UnfitError unless the others are shades of one colour."""
    red, green, blue = colour.astype(np.int64)
    coded = red << 32 | green << 16 | blue
    codes, first, inverse, counts = np.unique(coded, return_index=True, return_inverse=True, return_counts=True)
    found = colour.reshape(3, -1)[:, first].T.astype(np.int64)
    top = found.max(1)
    is_clear = top >= int(value.max()) / 2
    most = int(np.where(is_clear, counts, 0).argmax())
    is_other = (top > 0) & (np.abs(found / np.maximum(top, 1)[:, None] - found[most] / top[most]).max(1) > SPREAD)
    is_noise = is_lossy or len(codes) > FEW
    if is_noise:
        is_other &= is_clear  # dark pixels have no reliable hue
    where = is_other[inverse].reshape(value.shape)
    if where.any() and not (is_noise and not _alike(where, np.logical_and).any()):
        raise UnfitError(f"it has {len(codes)} colours, of several kinds", _SAVE)
    return len(codes)


# --- messages and statistics


def _levels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values, ascending, and the number of pixels with each."""
    least, greatest = values.min(), values.max()
    lowest, highest = np.count_nonzero(values == least), np.count_nonzero(values == greatest)
    if lowest == values.size:
        return np.array([int(least)]), np.array([lowest])
    if lowest + highest == values.size:  # true for most masks, and faster than counting
        return np.array([int(least), int(greatest)]), np.array([lowest, highest])
    if values.dtype == np.uint8:
        counts = np.array(Image.fromarray(values).histogram())  # three times as fast as numpy's
        present = np.flatnonzero(counts)
        return present, counts[present]
    return np.unique(values, return_counts=True)


def _labels(present: np.ndarray, *, can_be_named: bool) -> UnfitError:
    if len(present) > FEW:
        why = f"it has {len(present)} values, and too many of its pixels are neither background nor lesion"
        return UnfitError(why, _named_or_saved(can_be_named))
    why = f"it has {len(present)} values ({_listed(present)}), and it is unclear which of them is the lesion"
    return UnfitError(why, _named_or_saved(can_be_named))


def _named_or_saved(can_be_named: bool) -> str:
    return f"name the lesion's value after the file, FILE#2, or {_SAVE}" if can_be_named else _SAVE


def _listed(present: np.ndarray) -> str:
    return ", ".join(str(value) for value in present.tolist())
