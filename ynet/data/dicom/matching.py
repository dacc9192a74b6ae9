"""Matching of a drawing's parts to an image: by their references, else by their position in the patient."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from pydicom.dataset import Dataset

from ynet.data.dicom.faults import UnfitError, damaged
from ynet.data.dicom.geometry import TOLERANCE_MM, Plane, Points

ALL_FRAMES = 0
"""The frame number of a reference to all frames of an image."""
Segment = int | str | None
"""The segment or region that is the lesion, by number or name; None for the only one."""


class Reference(NamedTuple):
    """A reference to an image or frame."""

    instance: str  # its SOP instance UID
    frame: int  # from 1, or ALL_FRAMES


def references(named: Iterable[Dataset]) -> Iterator[Reference]:
    """Read references from items of a sequence; one without frame numbers refers to all frames."""
    for one in named:
        instance, numbers = str(one.get("ReferencedSOPInstanceUID", "")), one.get("ReferencedFrameNumber")
        frames = [ALL_FRAMES] if numbers in (None, "") else [numbers] if isinstance(numbers, int) else numbers
        for frame in frames if instance else ():
            yield Reference(instance, int(frame))


class Subject(NamedTuple):
    """An image or frame to which drawings are matched."""

    instance: str
    frame: int = 1
    frames: int = 1  # number of frames in its file
    study: str = ""
    series: str = ""
    space: str = ""  # frame of reference UID
    plane: Plane | None = None


class Mark(NamedTuple):
    """A frame of a DICOM SEG, or a contour of a structure set."""

    position: int  # in the file, from 1
    number: int | None  # of the segment or region; None: the pixel values hold it
    space: str
    references: frozenset[Reference]
    points: Points | None  # corners or contour points; None: its position is unknown
    fault: str = ""  # why it cannot be used as a mask


@dataclass(frozen=True)
class Drawing:
    """A segmentation or structure set."""

    study: str
    names: Mapping[int, str]  # names of its segments or regions, by number
    is_automatic: bool  # a model made all of them, without correction by a person
    instances: frozenset[str]  # the images that it refers to
    series: frozenset[str]  # series that it refers to as a whole
    marks: tuple[Mark, ...]
    render: Callable[[Sequence[Mark], Subject, int], UInt8[np.ndarray, "h w"]]
    fault: str = ""  # why it cannot be used on any image

    def chosen(self, segment: Segment) -> int:
        """Return the number of the lesion's segment. Raises UnfitError."""
        numbers = sorted(self.names)
        named = ", ".join(f"#{number}" for number in numbers[:20])
        if segment is None and len(numbers) > 1:
            why = f"it is a drawing of {len(numbers)} segments, and none is named"
            raise UnfitError(why, f"name the lesion's after the file: {named}")
        if not numbers:
            raise damaged()
        if segment is None:
            return numbers[0]
        found = [number for number in numbers if segment in (number, self.names[number])]
        if len(found) != 1:
            which = f"segment {segment}" if isinstance(segment, int) else "segment of that name"
            raise UnfitError(f"it has no {which}", f"name one of {named}")
        return found[0]

    def has(self, region: str) -> bool:
        """Return whether a segment has a region's name as its label, in any case."""
        return bool(self._numbers_of(region))

    def labelled(self, region: str) -> int:
        """Return the number of the segment with a region's name as its label, in any case. Raises UnfitError."""
        found = self._numbers_of(region)
        if len(found) != 1:
            how_many = "several segments" if found else "no segment"
            why = f"it has {how_many} with the label {region!r}"
            raise UnfitError(why, "name the region's segment in a column of its own: FILE#2, or unknown")
        return found[0]

    def _numbers_of(self, region: str) -> list[int]:
        return [number for number, name in self.names.items() if name.casefold() == region.casefold()]

    def says_by_reference(self, number: int) -> bool:
        """Return whether each mark of a segment refers to images, so that an image without a mark has no lesion."""
        return all(mark.references for mark in self.marks if mark.number in (number, None))

    def is_known(self, known: Collection[str] | None) -> bool:
        """Return whether it refers to an image or series in `known`; if not, the images may have other UIDs here."""
        if known is None:
            return True
        return any(one in known for one in (*self.instances, *self.series))

    def concerns(self, of: Subject, known: Collection[str] | None) -> bool:
        """Return whether it may belong to an image: it refers to it, or nothing contradicts it."""
        if of.instance in self.instances or of.series in self.series:
            return True
        if (self.instances or self.series) and self.is_known(known):
            return False
        spaces = {mark.space for mark in self.marks} - {""}
        if of.space and spaces:
            return of.space in spaces
        return self.study in (of.study, "") or not (spaces or self.instances or self.series)


class BesideError(UnfitError):
    """A drawing lies beside an image's plane, so it may belong to another image."""

    def __init__(self, positions: frozenset[int]) -> None:
        super().__init__("it is drawn beside the image's plane", "draw it on the image itself")
        self.positions = positions  # of the marks


def on(drawing: Drawing, of: Subject, number: int, known: Collection[str] | None) -> list[Mark]:
    """Return the marks of a segment that lie on an image.

    Marks are matched by their references, if they have any, else by frame of reference and plane, within TOLERANCE_MM.
    `known` holds the UIDs of available images and series. If a drawing refers to none of them, the images were renamed,
    and marks are matched by position. With None, references are always decisive. Raises UnfitError where it is unclear
    whether a mark belongs to the image.
    """
    if drawing.fault:
        raise UnfitError(drawing.fault, "save the mask as PNG, and name it in the labels")
    found, beside, trusted = list[Mark](), set[int](), drawing.is_known(known)
    marks = [mark for mark in drawing.marks if mark.number in (number, None)]
    for mark in marks:
        verdict = _by_reference(mark, of) if mark.references and trusted else _by_position(drawing, mark, of)
        if verdict == "on" or (verdict == "position" and _is_in_plane(mark, of)):
            found.append(mark)
        elif verdict == "position" and _is_beside(mark, marks, of):
            beside.add(mark.position)
    if beside and not found:
        raise BesideError(frozenset(beside))
    for mark in found:
        if mark.fault:
            raise UnfitError(mark.fault, "draw a closed contour, or save the mask as PNG")
    return found


def _by_reference(mark: Mark, of: Subject) -> str:
    """Match a mark by its references: `on`, `off`, or `position` if its position must decide."""
    frames = {one.frame for one in mark.references if one.instance == of.instance}
    is_exact = of.frame in frames or (ALL_FRAMES in frames and of.frames == 1)
    if not is_exact and ALL_FRAMES not in frames:
        return "off"
    if mark.points is None or of.plane is None:
        if not is_exact:
            raise UnfitError(
                "it is unclear to which of the image's frames it belongs", "draw it with a tool that writes positions"
            )
        return "on"
    is_only = is_exact and len({one.instance for one in mark.references}) == 1
    if is_only and not _is_in_plane(mark, of):
        raise UnfitError("it refers to the image but lies in another plane", "draw it on the image itself")
    return "on" if is_only else "position"


def _by_position(drawing: Drawing, mark: Mark, of: Subject) -> str:
    is_named = of.instance in drawing.instances or of.series in drawing.series
    if mark.space and of.space and mark.space != of.space:
        if is_named:
            raise UnfitError("it refers to the image but has another frame of reference", "draw it on the image itself")
        return "off"
    if mark.points is not None and of.plane is not None and (is_named or (mark.space and of.space)):
        return "position"
    if drawing.instances == {of.instance} and of.frames == 1:
        return "on"
    raise UnfitError("it refers to no image and has no position", "draw it again with a tool that writes references")


def _signed(mark: Mark, of: Subject) -> np.ndarray:
    """Return the signed distances of a mark's points from an image's plane; infinite where they are unknown."""
    if mark.points is None or of.plane is None:
        return np.array([np.inf])
    distances: np.ndarray = (mark.points - of.plane.first) @ np.cross(*of.plane.along)
    return distances


def _is_in_plane(mark: Mark, of: Subject) -> bool:
    return bool(np.abs(_signed(mark, of)).max() <= TOLERANCE_MM)


def _is_beside(mark: Mark, marks: Sequence[Mark], of: Subject) -> bool:
    """Return whether a mark outside an image's plane crosses it or is closer to it than to the next plane."""
    own = _signed(mark, of)
    if own.min() < -TOLERANCE_MM and own.max() > TOLERANCE_MM:
        return True
    levels = np.sort([float(_signed(one, of).mean()) for one in marks if one.points is not None])
    gaps = np.diff(levels)[np.diff(levels) > TOLERANCE_MM]
    thickness = of.plane.thickness if of.plane else 0.0
    reach = min(gaps.min(initial=np.inf), thickness or np.inf) / 2
    return bool(np.isfinite(reach) and np.abs(own).min() < reach - TOLERANCE_MM / 2)
