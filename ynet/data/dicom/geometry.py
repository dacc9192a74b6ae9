"""Geometry of image planes in the patient: resampling of other grids and filling of contours.

Coordinates are millimetres in a frame of reference; a pixel is located by its centre (PS3.3, C.7.6.2.1.1).
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from pydicom.dataset import Dataset

from ynet.data.dicom.elements import items
from ynet.data.dicom.faults import UnfitError, damaged

TOLERANCE_MM = 0.1
"""Maximal distance of a drawing from the image's plane; covers the rounding of decimal strings, no more."""
MAX_CROSSINGS = 50_000_000
ELEMENTS = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("Rows", "Columns", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
"""The elements that `plane` reads."""
_SIZES = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
_GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")

Points = Float64[np.ndarray, "points 3"]


class Plane(NamedTuple):
    """A grid of pixels in the patient's coordinates."""

    first: Float64[np.ndarray, " 3"]  # the centre of the first pixel
    along: Float64[np.ndarray, "2 3"]  # unit vectors: from column to column, and from row to row
    spacing: Float64[np.ndarray, " 2"]  # of columns, and of rows
    shape: tuple[int, int]  # rows, columns
    thickness: float  # 0: not known

    @property
    def corners(self) -> Points:
        """The centres of the four pixels at the corners."""
        rows, columns = self.shape
        ends = np.array([[0, 0], [columns - 1, 0], [0, rows - 1], [columns - 1, rows - 1]], np.float64)
        corners: np.ndarray = self.first + (ends * self.spacing) @ self.along
        return corners

    def pixels(self, points: Points) -> Float64[np.ndarray, "points 2"]:
        """Convert points to column and row; pixel centres are integers."""
        coordinates: np.ndarray = (points - self.first) @ self.along.T / self.spacing
        return coordinates


def plane(dataset: Dataset, frame: int) -> Plane | None:
    """Read a frame's plane (from 1) from its functional groups, the shared ones or the file; None if it has none."""
    shared, own = (dataset.get(f"{which}FunctionalGroupsSequence") or [] for which in ("Shared", "PerFrame"))
    found = {keyword: dataset.get(keyword) for keyword in ELEMENTS[:5]}
    for group in [*shared[:1], *own[frame - 1 : frame]]:
        for macro in (macro for sequence in _GROUPS for macro in items(group, sequence)):
            found |= {keyword: macro.get(keyword) for keyword in ELEMENTS[:5] if keyword in macro}
    first, directions, spacing = (_numbers(found[keyword], count) for keyword, count in _SIZES.items())
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if first is None or directions is None or spacing is None or rows * columns == 0:
        return None
    lengths = np.linalg.norm(along := directions.reshape(2, 3), axis=1)
    if abs(lengths - 1).max() > 0.01 or abs(along[0] @ along[1]) > 0.01 or spacing.min() <= 0:
        return None
    thick = [float(number[0]) for keyword in ELEMENTS[3:5] if (number := _numbers(found[keyword], 1)) is not None]
    return Plane(first, along / lengths[:, None], spacing[::-1].copy(), (rows, columns), max([0.0, *thick]))


def resampled(mask: UInt8[np.ndarray, "h w"], source: Plane, target: Plane) -> UInt8[np.ndarray, "rows columns"]:
    """Resample a mask to another grid of the same plane by nearest neighbour.

    Grids of equal size that differ by less than a pixel are treated as equal. Raises UnfitError when no pixel of the
    lesion is left.
    """
    rows, columns = target.shape
    ends = source.pixels(target.corners)
    own = np.array([[0, 0], [columns - 1, 0], [0, rows - 1], [columns - 1, rows - 1]])
    if mask.shape == target.shape and abs(ends - own).max() < 1:
        return mask
    origin, *steps = source.pixels(target.first + np.stack([np.zeros(3), *(target.along * target.spacing[:, None])]))
    across = origin + np.arange(columns)[:, None] * (steps[0] - origin)
    made = np.zeros(target.shape, np.uint8)
    for row in range(rows):
        x, y = _nearest(across + row * (steps[1] - origin)).T
        inside = (x >= 0) & (x < mask.shape[1]) & (y >= 0) & (y < mask.shape[0])
        made[row, inside] = mask[y[inside], x[inside]]
    if mask.any() and not made.any():
        raise UnfitError("it is drawn on another grid, and no part of it lies on the image", "draw it on the image")
    return made


def filled(polygons: Iterable[Float64[np.ndarray, "points 2"]], shape: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Fill closed polygons of column and row: 1 at pixels whose centre is inside, by the even-odd rule over all.

    An area drawn twice is a hole, and the two sides of a keyhole's channel cancel out. A centre on a left or top edge
    is inside. Raises UnfitError where it would take too much memory.
    """
    rows, columns = shape
    turns, left = np.zeros((rows, columns + 1), np.int32), MAX_CROSSINGS
    for polygon in polygons:
        if not np.isfinite(polygon).all():
            raise damaged()
        (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
        # An edge crosses the rows from its upper end to before its lower one.
        upper = np.clip(np.ceil(np.minimum(y0, y1)), 0, rows).astype(np.int64)
        count = np.clip(np.ceil(np.maximum(y0, y1)), 0, rows).astype(np.int64) - upper
        left -= int(count.sum())
        if left < 0:
            raise UnfitError("its contours have too many points", "export it smaller")
        edge = np.repeat(np.arange(len(count)), count)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + upper[edge]
        slope = (x1 - x0)[edge] / (y1 - y0)[edge]
        column = np.clip(np.ceil(x0[edge] + (row - y0[edge]) * slope - 1e-9), 0, columns).astype(np.int64)
        np.add.at(turns, (row, column), 1)
    return (np.cumsum(turns, axis=1)[:, :columns] & 1).astype(np.uint8)


def _nearest(coordinates: Float64[np.ndarray, "n 2"]) -> Int64[np.ndarray, "n 2"]:
    """Round to integers; a value half-way between two rounds up despite rounding errors."""
    found: np.ndarray = np.floor(np.clip(coordinates, -2, 2**31) + 0.5 + 1e-6).astype(np.int64)
    return found


def _numbers(found: object, count: int) -> Float64[np.ndarray, " n"] | None:
    """Return exactly `count` finite numbers; None for anything else."""
    if found is None or found == "":
        return None
    values = list(found) if hasattr(found, "__iter__") and not isinstance(found, str) else [found]
    try:
        numbers = np.array([float(str(value)) for value in values], np.float64)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None
