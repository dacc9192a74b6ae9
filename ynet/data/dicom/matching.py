"""Which parts of a drawing lie on an image: by what they refer to, else by their place in the patient."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ynet.data.dicom.elements import UnfitError, damaged
from ynet.data.dicom.geometry import TOLERANCE_MM, Plane, Points

ALL_FRAMES = 0
"""The frame of a reference to an image as a whole."""
Segment = int | str | None
"""Which of several segments or regions is the lesion: its number or its name; None: the only one."""


class Reference(NamedTuple):
    """An image, as others refer to it."""

    instance: str  # its SOP instance UID
    frame: int  # from 1, or ALL_FRAMES


class Subject(NamedTuple):
    """An image, or a frame of one, that may have been drawn on."""

    instance: str
    frame: int = 1
    frames: int = 1  # of its file
    study: str = ""
    series: str = ""
    space: str = ""  # frame of reference UID
    plane: Plane | None = None


class Mark(NamedTuple):
    """A frame of a DICOM SEG, or a contour of a structure set."""

    place: int  # in the file, from 1
    number: int | None  # of the segment or region; None: the pixels say
    space: str
    references: frozenset[Reference]
    points: Points | None  # what it covers: corners, or the contour's; None: no place is said
    fault: str = ""  # why it cannot be a mask


@dataclass(frozen=True)
class Drawing:
    """What somebody has drawn on images."""

    study: str
    names: Mapping[int, str]  # of its segments or regions, by number
    is_automatic: bool  # none of them was drawn, or corrected, by a person
    instances: frozenset[str]  # the images that it speaks of
    series: frozenset[str]  # those that it names without their images
    marks: tuple[Mark, ...]
    render: Callable[[Sequence[Mark], Subject, int], UInt8[np.ndarray, "h w"]]
    fault: str = ""  # why none of it can be put on an image

    def chosen(self, segment: Segment) -> int:
        """The number of the segment that is the lesion. Raises UnfitError."""
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

    def says_by_reference(self, number: int) -> bool:
        """Whether each part of a segment names its images: then one that it speaks of otherwise has none of it."""
        return all(mark.references for mark in self.marks if mark.number in (number, None))

    def is_known(self, known: Collection[str] | None) -> bool:
        """Whether its references name images that are there; else they are of other names for the same images."""
        if known is None:
            return True
        return any(one in known for one in (*self.instances, *self.series))

    def concerns(self, of: Subject, known: Collection[str] | None) -> bool:
        """Whether it may be drawn on an image: it names it, or says nothing that speaks against."""
        if of.instance in self.instances or of.series in self.series:
            return True
        if (self.instances or self.series) and self.is_known(known):
            return False
        spaces = {mark.space for mark in self.marks} - {""}
        if of.space and spaces:
            return of.space in spaces
        return self.study in (of.study, "") or not (spaces or self.instances or self.series)


class BesideError(UnfitError):
    """A drawing lies beside an image's plane; it may be of another image that lies there."""

    def __init__(self, places: frozenset[int]) -> None:
        super().__init__("it is drawn beside the image's plane", "draw it on the image itself")
        self.places = places  # of the marks


def on(drawing: Drawing, of: Subject, number: int, known: Collection[str] | None) -> list[Mark]:
    """The marks of a segment that lie on an image.

    By their references to images, where they have some; else by frame of reference and plane, within TOLERANCE_MM.
    `known`: UIDs of images and series that are there, by which references to others of the same place are told from
    those to images that are called otherwise here; None: references say it all. Raises UnfitError where a mark may
    be of the image, and whether it is cannot be told.
    """
    if drawing.fault:
        raise UnfitError(drawing.fault, "save the mask as PNG, and name it in the labels")
    found, beside, trusted = list[Mark](), set[int](), drawing.is_known(known)
    marks = [mark for mark in drawing.marks if mark.number in (number, None)]
    for mark in marks:
        verdict = _by_reference(mark, of) if mark.references and trusted else _by_place(drawing, mark, of)
        if verdict == "on" or (verdict == "place" and _is_in_plane(mark, of)):
            found.append(mark)
        elif verdict == "place" and _is_beside(mark, marks, of):
            beside.add(mark.place)
    if beside and not found:
        raise BesideError(frozenset(beside))
    for mark in found:
        if mark.fault:
            raise UnfitError(mark.fault, "draw a closed contour, or save the mask as PNG")
    return found


def _by_reference(mark: Mark, of: Subject) -> str:
    """`on`, `off`, or `place`: by its place among those that it refers to."""
    frames = {one.frame for one in mark.references if one.instance == of.instance}
    is_exact = of.frame in frames or (ALL_FRAMES in frames and of.frames == 1)
    if not is_exact and ALL_FRAMES not in frames:
        return "off"
    if mark.points is None or of.plane is None:
        if not is_exact:
            raise UnfitError("which of the image's frames it is of cannot be told", "draw it with its place")
        return "on"
    is_only = is_exact and len({one.instance for one in mark.references}) == 1
    if is_only and not _is_in_plane(mark, of):
        raise UnfitError("it refers to the image, and lies in another plane", "draw it on the image itself")
    return "on" if is_only else "place"


def _by_place(drawing: Drawing, mark: Mark, of: Subject) -> str:
    is_named = of.instance in drawing.instances or of.series in drawing.series
    if mark.space and of.space and mark.space != of.space:
        if is_named:
            raise UnfitError("it names the image, and is of another frame of reference", "draw it on the image itself")
        return "off"
    if mark.points is not None and of.plane is not None and (is_named or (mark.space and of.space)):
        return "place"
    if drawing.instances == {of.instance} and of.frames == 1:
        return "on"
    raise UnfitError("it refers to no image and has no place", "draw it again with a tool that writes references")


def _signed(mark: Mark, of: Subject) -> np.ndarray:
    """How far a mark's points lie above an image's plane; of both something is known."""
    if mark.points is None or of.plane is None:
        return np.array([np.inf])
    distances: np.ndarray = (mark.points - of.plane.first) @ np.cross(*of.plane.along)
    return distances


def _is_in_plane(mark: Mark, of: Subject) -> bool:
    return bool(np.abs(_signed(mark, of)).max() <= TOLERANCE_MM)


def _is_beside(mark: Mark, marks: Sequence[Mark], of: Subject) -> bool:
    """Whether a mark that is not in an image's plane crosses it, or is nearer to it than to the next plane's marks."""
    own = _signed(mark, of)
    if own.min() < -TOLERANCE_MM and own.max() > TOLERANCE_MM:
        return True
    levels = np.sort([float(_signed(one, of).mean()) for one in marks if one.points is not None])
    gaps = np.diff(levels)[np.diff(levels) > TOLERANCE_MM]
    thickness = of.plane.thickness if of.plane else 0.0
    reach = min(gaps.min(initial=np.inf), thickness or np.inf) / 2
    return bool(np.isfinite(reach) and np.abs(own).min() < reach - TOLERANCE_MM / 2)
