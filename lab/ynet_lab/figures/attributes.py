"""The attributes that likeness compares: the manifests' other columns, which no loss sees, and the masks' shape."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ynet.data.manifest import Case
from ynet.learning.evaluate import EncodedCases, mask_attributes
from ynet.learning.likeness import Attribute

OF_A_VALUE = 5
"""A column of words with fewer cases for each value on average holds names or paths, not a category."""
MOSTLY = 0.9
"""The share of a column's cells that are numbers, if it holds numbers. The others are notes such as `unknown`."""
MASKS = ("mask size", "mask elongation")


def of_masks(held: EncodedCases, asked: EncodedCases) -> dict[str, Attribute]:
    """Return the size and the elongation of the true masks."""
    return dict(zip(MASKS, mask_attributes(held, asked), strict=True))


def of_manifests(held: Sequence[Case], asked: Sequence[Case]) -> dict[str, Attribute]:
    """Return the attributes in the columns of the manifests; a site without a column does not know it."""
    columns = dict.fromkeys(name for case in (*held, *asked) for name in case.attributes)
    found = {}
    for name in columns:
        cells = [case.attributes.get(name, "").strip() for case in (*held, *asked)]
        read = _numbers(cells)
        is_category = read is None
        values = _categories(cells) if read is None else read
        if values is not None and len(np.unique(values[np.isfinite(values)])) > 1:
            found[name] = Attribute(values[: len(held)], values[len(held) :], is_category)
    return found


def _numbers(cells: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """Return the column as numbers; None where more than a few cells hold something else. Those are unknown."""
    values = np.array([_number(cell) for cell in cells], np.float64)
    filled = sum(bool(cell) for cell in cells)
    return values if np.isfinite(values).sum() >= MOSTLY * filled else None


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _categories(cells: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """Return the column's values as numbers, in the order of the alphabet; None where most values are rare."""
    places = {value: place for place, value in enumerate(sorted({cell for cell in cells if cell}))}
    if OF_A_VALUE * len(places) > sum(bool(cell) for cell in cells):
        return None
    return np.array([places.get(cell, math.nan) for cell in cells], np.float64)
