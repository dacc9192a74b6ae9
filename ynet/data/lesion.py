"""Which pixels of a mask's file are lesion: what is black is not, one other value or colour is; the rest is refused."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8
from PIL import Image

from ynet.data.dicom.elements import UnfitError

FEW = 8
"""Up to so many different values are labels, or a drawing's edges; more are the noise of JPEG, or soft edges."""
NEAR = 1 / 8
"""Values this near to the background's or the lesion's, as a share of what lies between the two, are noise of it."""
EDGE, SOFT_EDGE = 2, 8
"""A value in between is at most EDGE pixels from both in a drawing, in noise EDGE squares of SOFT_EDGE pixels."""
LEAST_CONTRAST = 1 / 16
"""Of white. JPEG blurs what lies nearer to the background."""
SPREAD = 1 / 4
"""So much may a colour's shares of red, green and blue differ from the lesion's, as a share of the greatest."""
_SAVE = "save it with 0 outside and 255 inside the lesion"


class Lesion(NamedTuple):
    """What a mask's file says."""

    pixels: UInt8[np.ndarray, "h w"]  # 1 = lesion
    values: int  # different values or colours in the file
    is_named: bool = False  # the value was named after the file, so nothing is guessed


def of_grey(
    values: Integer[np.ndarray, "h w"], full: int, *, is_lossy: bool = False, can_be_named: bool = True
) -> Lesion:
    """The lesion of a grey mask whose white is `full`. Raises UnfitError where what is lesion cannot be told."""
    present, counts = _levels(values)
    if present[0] < 0:
        raise UnfitError("it has values below 0", _SAVE)
    if len(present) == 1:
        return _of_one(values, int(present[0]), full, can_be_named=can_be_named)
    if present[0] > 0 and not present[0] < full / 2 <= present[-1]:
        why = f"its values are from {present[0]} to {present[-1]}, so which of them is background cannot be told"
        raise UnfitError(why, _named_or_saved(can_be_named))
    if is_lossy and present[-1] - present[0] < LEAST_CONTRAST * full:
        raise UnfitError("its values lie so near to each other that JPEG has blurred them", _SAVE)
    if len(present) == 2:
        return Lesion((values == present[1]).astype(np.uint8), 2)
    if is_lossy or len(present) > FEW:
        return Lesion(_noisy(values, present, counts, full, can_be_named=can_be_named), len(present))
    return Lesion(_drawn(values, present, full, can_be_named=can_be_named), len(present))


def of_number(values: Integer[np.ndarray, "h w"], number: int) -> Lesion:
    """The pixels that have the number which was named after the file; the other labels are no lesion."""
    return Lesion((values == number).astype(np.uint8), len(_levels(values)[0]), is_named=True)


def of_palette(numbers: UInt8[np.ndarray, "h w"], colours: Shaped[np.ndarray, "entries 4"], full: int) -> Lesion:
    """The lesion of a mask of numbers with `colours`, red, green, blue and alpha up to `full` for each.

    Black or transparent is background; where neither is, or all are, number 0 is. Raises UnfitError.
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
        why = f"none of its colours (numbers {_listed(present)}) is black, so what is background cannot be told"
        raise UnfitError(why, _named_or_saved(can_be_named=True))
    return Lesion((numbers == present[~is_dark][0]).astype(np.uint8), 2)


def of_colours(
    planes: Integer[np.ndarray, "channels h w"], full: int, *, is_lossy: bool = False, number: int | None = None
) -> Lesion:
    """The lesion of a mask in grey with alpha (2 channels), RGB (3) or RGBA (4), up to `full`.

    `number` is its value, where one was named and all colours are grey. Raises UnfitError.
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
        raise UnfitError("it has one colour, and no background", _SAVE)
    if value.min() == 0 and count == 2:
        return Lesion((value > 0).astype(np.uint8), 2)
    return of_grey(value, full, is_lossy=is_lossy, can_be_named=False)._replace(values=count)


# --- one value


def _of_one(values: np.ndarray, value: int, full: int, *, can_be_named: bool) -> Lesion:
    """Nothing drawn, or all of it."""
    if value not in (0, full):
        why = f"all of it has the value {value}, so whether that is lesion or background cannot be told"
        raise UnfitError(why, _named_or_saved(can_be_named))
    return Lesion(np.full(values.shape, value != 0, np.uint8), 1)


def _of_one_number(
    numbers: np.ndarray, number: int, shown: np.ndarray, *, is_dark: bool, colours: np.ndarray, full: int
) -> Lesion:
    """A palette's one number: black where the palette has other colours, too, or number 0, is nothing drawn."""
    if is_dark and (number == 0 or bool(colours[:, :3].any())):
        return Lesion(np.zeros(numbers.shape, np.uint8), 1)
    if number and bool((shown[:3] == full).all()):
        return Lesion(np.ones(numbers.shape, np.uint8), 1)
    why = f"all of it has the number {number}, so whether that is lesion or background cannot be told"
    raise UnfitError(why, _named_or_saved(can_be_named=True))


# --- several values


def _drawn(values: np.ndarray, present: np.ndarray, full: int, *, can_be_named: bool) -> np.ndarray:
    """A drawing with few greys: all but the least and the greatest lie at its edge, where both are near."""
    dark, bright = int(present[0]), int(present[-1])
    between = (values != dark) & (values != bright)
    is_edge = _grown(values == dark) & _grown(values == bright)
    if bright < full / 2 or (between & ~is_edge).any() or _has_area(between, values):
        raise _labels(present, can_be_named=can_be_named)
    return (values >= (dark + bright + 1) // 2).astype(np.uint8)


def _noisy(values: np.ndarray, present: np.ndarray, counts: np.ndarray, full: int, *, can_be_named: bool) -> np.ndarray:
    """A mask with noise or soft edges, cut half-way between its two most frequent values, one dark and one bright."""
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
    """Which values are beyond these; None where none is."""
    if present[0] >= least and present[-1] <= greatest:
        return None
    return np.asarray((values.astype(np.int64) < least) | (values > greatest))


def _two(present: np.ndarray, counts: np.ndarray) -> tuple[int, int]:
    """The most frequent value of the darker half of the range, and of the brighter; of equals the outermost."""
    is_bright = present > (int(present[0]) + int(present[-1])) / 2
    dark = present[~is_bright][counts[~is_bright].argmax()]
    return int(dark), int(present[is_bright][::-1][counts[is_bright][::-1].argmax()])


def _has_area(of: Bool[np.ndarray, "h w"], values: np.ndarray) -> bool:
    """Whether a pixel and all its neighbours have one value, and it is one `of` those: an area, no edge."""
    return bool(_alike(of, np.logical_and)[_alike(values, np.minimum) == _alike(values, np.maximum)].any())


def _alike(array: np.ndarray, ufunc: np.ufunc) -> np.ndarray:
    """`ufunc` over each pixel and its eight neighbours; without the outermost rows and columns."""
    rows = ufunc(ufunc(array[:-2], array[1:-1]), array[2:])
    made: np.ndarray = ufunc(ufunc(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
    return made


def _grown(of: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """What is at most EDGE, in rows and columns, from one `of` those."""
    for _ in range(EDGE):
        of = _around(of)
    return of


def _around(of: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Those, and their neighbours."""
    grown: np.ndarray = _alike(np.pad(of, 1), np.logical_or)
    return grown


def _blocks(of: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "rows columns"]:
    """In which squares of SOFT_EDGE pixels there is one `of` those."""
    height, width = of.shape
    padded = np.pad(of, ((0, -height % SOFT_EDGE), (0, -width % SOFT_EDGE)))
    rows, columns = padded.shape
    rows_any = np.asarray(padded.reshape(rows // SOFT_EDGE, SOFT_EDGE, columns).any(1))
    return np.asarray(rows_any.reshape(len(rows_any), columns // SOFT_EDGE, SOFT_EDGE).any(2))


# --- colours


def _of_shades(numbers: np.ndarray, present: np.ndarray, shown: np.ndarray, full: int) -> Lesion:
    """Several numbers of a palette: the edges of a drawing in shades of grey, else labels."""
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
    """The colours of the numbers that are there; a number beyond the palette is black."""
    shown = np.zeros((len(present), 4), np.int64)
    known = present < len(colours)
    shown[known] = colours[present[known]]
    shown[~known, 3] = 1
    return shown


def _grey(colour: np.ndarray, number: int) -> np.ndarray:
    """The values of a mask whose colours are all grey."""
    if not _is_grey(colour):
        raise UnfitError("it is in colour, so its values have no numbers", f"name it without #{number}")
    return np.asarray(colour[0])


def _is_grey(colour: np.ndarray) -> bool:
    return all(np.array_equal(colour[0], plane) for plane in colour[1:])


def _on_black(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The colours where alpha is not 0, black elsewhere, where nothing else is black or half transparent."""
    is_seen = alpha > 0
    if len(np.unique(alpha[is_seen])) > 1 or not colour[:, is_seen].any(0).all():
        raise UnfitError("both its colours and its transparency say something", _SAVE)
    return np.where(is_seen, colour, 0)


def _refuse_several_colours(colour: np.ndarray, value: np.ndarray, *, is_lossy: bool) -> int:
    """How many colours there are, black among them, where the others are shades of one. Raises UnfitError."""
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
        is_other &= is_clear  # what is dark has no colour to speak of
    where = is_other[inverse].reshape(value.shape)
    if where.any() and not (is_noise and not _alike(where, np.logical_and).any()):
        raise UnfitError(f"it has {len(codes)} colours, of several kinds", _SAVE)
    return len(codes)


# --- what is said


def _levels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values, ascending, and how many pixels have each."""
    least, greatest = values.min(), values.max()
    lowest, highest = np.count_nonzero(values == least), np.count_nonzero(values == greatest)
    if lowest == values.size:
        return np.array([int(least)]), np.array([lowest])
    if lowest + highest == values.size:  # of nearly every mask, and told sooner than by counting
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
    why = f"it has {len(present)} values ({_listed(present)}), and which of them is the lesion cannot be told"
    return UnfitError(why, _named_or_saved(can_be_named))


def _named_or_saved(can_be_named: bool) -> str:
    return f"name the lesion's value after the file, FILE#2, or {_SAVE}" if can_be_named else _SAVE


def _listed(present: np.ndarray) -> str:
    return ", ".join(str(value) for value in present.tolist())
