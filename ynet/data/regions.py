"""The masks of a case, one for each of the plan's regions.

A plan without names has one region, whose mask is in the manifest's column `mask`. Named regions have a column each,
`mask.REGION`, or share one file in the column `mask`, which holds them as values or as labelled segments.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ynet.data import mask_files
from ynet.data.dicom.matching import Subject
from ynet.data.lesion import Lesion
from ynet.data.manifest import OF_REGION, UNDRAWN, Case, Manifest
from ynet.errors import UserError
from ynet.plan_sections import Regions


class Source(NamedTuple):
    """The cell of a manifest that tells a region's mask."""

    column: str
    cell: str  # a path; empty: the image does not have the region, or nobody has drawn it
    is_drawn: bool
    region: str  # empty where the plan names no region


def sources(case: Case, regions: Regions) -> tuple[Source, ...]:
    """Return where each region's mask is."""
    if not has_columns(case, regions):
        return tuple(Source("mask", case.mask, case.is_drawn, name) for name in regions.names or ("",))
    cells = [(name, case.regions[name]) for name in regions.names]
    return tuple(
        Source(OF_REGION + name, "" if cell == UNDRAWN else cell, cell != UNDRAWN, name) for name, cell in cells
    )


def has_columns(case: Case, regions: Regions) -> bool:
    """Return whether each region has a column of its own."""
    return bool(regions.names) and all(name in case.regions for name in regions.names)


def missing_columns(case: Case, regions: Regions) -> tuple[str, ...]:
    """Return the columns that a manifest lacks, if it has some of the regions' columns and not all."""
    lacking = [OF_REGION + name for name in regions.names if name not in case.regions]
    return tuple(lacking) if len(lacking) < len(regions.names) else ()


def read(
    path_of: Callable[[str], Path], case: Case, regions: Regions, subject: Callable[[], Subject | None]
) -> list[Lesion | None]:
    """Read the mask of each region; None where no file is named. Raises UserError.

    Args:
        path_of: Returns the path of a cell's file.
        case: The case.
        regions: The plan's regions.
        subject: Returns the image; called for DICOM drawings only.
    """
    if regions.names and not has_columns(case, regions):
        if not case.mask:
            return [None] * regions.count
        masks = mask_files.read_regions(path_of(case.mask), regions.names, subject)
        return [Lesion(mask, 2, is_named=True) for mask in masks]
    return [
        mask_files.read_mask(path_of(one.cell), subject, one.region) if one.cell else None
        for one in sources(case, regions)
    ]


def decode(
    manifest: Manifest, case: Case, regions: Regions, shape: tuple[int, int]
) -> UInt8[np.ndarray, "regions h w"]:
    """Read the masks of a case whose image has the size `shape` (rows, columns); all 0 where no file is named.

    Raises UserError.
    """
    image = manifest.path_of(case.image)
    found = read(manifest.path_of, case, regions, lambda: mask_files.subject_of(image))
    masks = np.zeros((regions.count, *shape), np.uint8)
    for place, lesion in enumerate(found):
        if lesion is None:
            continue
        if lesion.pixels.shape != shape:
            raise UserError(
                f"row {case.row} of the manifest cannot be used",
                f"its mask has {_size(lesion.pixels.shape)} pixels, its image {_size(shape)}",
                "save the mask with the size of its image",
            )
        masks[place] = lesion.pixels
    return with_inner(masks) if regions.nested else masks


def with_inner(masks: UInt8[np.ndarray, "regions h w"]) -> UInt8[np.ndarray, "regions h w"]:
    """Add to each region the regions after it, which it contains."""
    return np.ascontiguousarray(np.maximum.accumulate(masks[::-1], axis=0)[::-1])


def packed(masks: UInt8[np.ndarray, "regions h w"]) -> UInt8[np.ndarray, "h w"]:
    """Pack the masks of all regions into one byte a pixel: bit k is set where region k is, counted from 0."""
    bits: UInt8[np.ndarray, "h w"] = np.bitwise_or.reduce(
        masks << np.arange(len(masks), dtype=np.uint8)[:, None, None], axis=0
    )
    return bits


def unpacked(bits: UInt8[np.ndarray, "h w"], count: int) -> UInt8[np.ndarray, "regions h w"]:
    """Return the masks of all regions that `packed` took."""
    return np.asarray((bits >> np.arange(count, dtype=np.uint8)[:, None, None]) & 1, np.uint8)


def drawn_on(manifest: Manifest, case: Case, regions: Regions) -> UInt8[np.ndarray, "h w"] | None:
    """Return a case's masks as `packed` returns them, to draw them; None where no file is named. Raises UserError."""
    image = manifest.path_of(case.image)
    found = read(manifest.path_of, case, regions, lambda: mask_files.subject_of(image))
    shapes = [one.pixels.shape for one in found if one is not None]
    if not shapes:
        return None
    masks = np.zeros((regions.count, *shapes[0]), np.uint8)
    for place, lesion in enumerate(found):
        if lesion is not None and lesion.pixels.shape == shapes[0]:
            masks[place] = lesion.pixels
    return packed(with_inner(masks) if regions.nested else masks)


def refuse_missing(cases: Sequence[Case], regions: Regions) -> None:
    """Raise UserError when a manifest has columns for some of the plan's regions and not for all."""
    if cases and (lacking := missing_columns(cases[0], regions)):
        raise UserError(
            "the manifest cannot be used",
            f"it has no column {lacking[0]!r}, and the plan has this region",
            "add the column, with `unknown` where nobody has drawn the region",
        )


def _size(shape: Sequence[int]) -> str:
    return f"{shape[-1]} x {shape[-2]}"
