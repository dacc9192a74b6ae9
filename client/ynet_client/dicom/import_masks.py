"""The masks of a patient's images: the file that the labels name, else the patient's drawings.

A missing mask never means "no lesion". Such an image needs a statement by a person; otherwise it is skipped, or the
manifest marks its mask as unknown. Of several regions each has its own mask: a drawing without a segment of that name
says nothing about the region.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ynet.data import images, manifest, mask_files
from ynet.data.dicom import drawings
from ynet.data.dicom.elements import is_dicom
from ynet.data.dicom.faults import UnfitError
from ynet.data.dicom.matching import BesideError, Drawing, Segment, Subject
from ynet.data.frames import source
from ynet.data.limits import MAX_FILE_BYTES
from ynet.errors import UserError
from ynet_client.dicom.folder_files import ImportCandidate
from ynet_client.dicom.import_labels import NO_LESION, Label
from ynet_client.dicom.import_records import LeftOutError, Quarantined

AUTOMATIC = "automatic-mask"
LEFT_OUT = {
    AUTOMATIC: "a model has drawn it, not a person; --automatic-masks uses such drawings too",
    "mask-unclear": "it is unclear which drawing is its mask; name the mask, or none, in the labels' column mask",
}
"""Reasons for which drawings and images are skipped, with their explanations."""


@dataclass
class _Drawn:
    """A patient's drawing, or a drawing that cannot be read."""

    study: str
    drawing: Drawing | None
    why: str = ""  # why it cannot be read
    matched: set[int] = field(default_factory=set)  # positions of its marks that lie on images of this import


class PendingDrawing(NamedTuple):
    """A drawing that may belong to an image although it lies beside it; the other images may resolve this."""

    drawn: _Drawn
    positions: frozenset[int]  # its marks beside the image

    @property
    def is_resolved(self) -> bool:
        """Whether the drawing, with all marks beside this image, lies on other images."""
        return bool(self.drawn.matched) and self.positions <= self.drawn.matched


class Mask(NamedTuple):
    """The mask of an image, as far as it is known."""

    pixels: np.ndarray | None  # (h, w), 0 and 1
    is_known: bool  # a person has drawn the lesion, or stated that there is none
    pending: tuple[PendingDrawing, ...] = ()


class PatientMasks:
    """The drawings of one patient, fetched on first use."""

    def __init__(
        self,
        patient: Sequence[ImportCandidate],
        quarantined: dict[str, Quarantined],
        fetch: Callable[[ImportCandidate], bytes],
        leave_out: Callable[[ImportCandidate, str, str], None],
        segment: Segment,
        *,
        takes_automatic: bool,
        regions: Sequence[str] = (),
    ) -> None:
        """`fetch` raises LeftOutError; `leave_out` is called with each drawing that is not used, and why.

        With `regions` an image has a mask for each; without, one mask, of `segment`.
        """
        self._files = [one for one in patient if one.sop_class in drawings.CLASSES]
        images = [one for one in patient if one.sop_class not in drawings.CLASSES]
        self._known = frozenset(name for one in images for name in (one.instance, one.series)) - {""}
        self._quarantined, self._fetch, self._leave_out = quarantined, fetch, leave_out
        self._segment, self._takes_automatic, self._regions = segment, takes_automatic, tuple(regions) or ("",)
        self._drawn: list[_Drawn] | None = None
        self._reported: set[str] = set()  # automatic drawings

    def is_state(self, state: str) -> bool:
        """Return whether `state` matches the drawings in use; drawings that are known as automatic are not fetched."""
        if state != self.state() and self._drawn is None:
            self._load()
        return state == self.state()

    def state(self) -> str:
        """Return a digest of the drawings in use; it changes when one is added, removed or corrected."""
        counting = sorted(f"{one.instance}@{one.digest}" for one in self._files if not self._is_automatic(one))
        return hashlib.sha256("\n".join(counting).encode()).hexdigest()[:32] if counting else ""

    def masks_of(self, of: Callable[[], Subject]) -> tuple[Mask, ...]:
        """Return an image's masks by the drawings: one for each region, or the only one.

        Raises LeftOutError where a mask is unclear, UnfitError of the image.
        """
        drawn = self._drawn if self._drawn is not None else self._load()
        if not drawn:
            return (Mask(None, is_known=False),) * len(self._regions)
        image = of()
        return tuple(self._mask_of(drawn, image, region) for region in self._regions)

    def _mask_of(self, drawn: Sequence[_Drawn], image: Subject, region: str) -> Mask:
        found, named, pending = list[np.ndarray](), 0, list[PendingDrawing]()
        for one in drawn:
            if one.drawing is None:
                if one.study in (image.study, ""):
                    raise LeftOutError("mask-unclear", f"a drawing of its study cannot be used: {one.why}")
                continue
            if region and not one.drawing.has(region):
                continue
            on = self._on(one, image, region)
            if isinstance(on, np.ndarray):
                found.append(on)
                continue
            named += image.instance in one.drawing.instances
            if on or self._may_lie_elsewhere(one.drawing, image):
                pending.append(PendingDrawing(one, on))
        if len(found) + named > 1:
            raise LeftOutError("mask-unclear", "several drawings of its patient refer to it")
        return Mask(found[0] if found else None, is_known=bool(found or named), pending=tuple(pending))

    def compare(self, of: Subject) -> None:
        """Record which drawings lie on an image that was imported before."""
        for one, region in self._parts():
            try:
                self._on(one, of, region)
            except LeftOutError:
                continue

    def _parts(self) -> Iterator[tuple[_Drawn, str]]:
        """Yield each drawing with each region that it has."""
        for one in self._drawn or ():
            if one.drawing is not None:
                has = one.drawing.has
                yield from ((one, region) for region in self._regions if not region or has(region))

    def _on(self, one: _Drawn, image: Subject, region: str) -> np.ndarray | frozenset[int]:
        """Return the mask of a drawing that lies on an image, else the positions of its marks beside the image."""
        if one.drawing is None:
            return frozenset()
        try:
            segment = one.drawing.labelled(region) if region else self._segment
            found = drawings.mask_on(one.drawing, image, segment, self._known)
        except BesideError as error:
            return error.positions
        except UnfitError as error:
            raise LeftOutError("mask-unclear", f"of a drawing of its patient: {error.why}") from None
        if found is None:
            return frozenset()
        one.matched |= found.positions
        return found.mask

    def _may_lie_elsewhere(self, drawing: Drawing, image: Subject) -> bool:
        """Return whether a drawing that is not on an image may belong to it unless it lies on other images."""
        if drawing.is_known(self._known) and all(mark.references for mark in drawing.marks):
            return False
        return drawing.study in (image.study, "") or drawing.concerns(image, self._known)

    def _load(self) -> list[_Drawn]:
        self._drawn = [drawn for one in self._files for drawn in self._read(one)]
        return self._drawn

    def _read(self, one: ImportCandidate) -> Iterable[_Drawn]:
        """Yield a drawing that may be a mask. Drawings of models, ynet's included, must not train another model."""
        if self._is_automatic(one):
            return
        try:
            drawing = drawings.read(self._fetch(one))
        except UnfitError as error:
            self._leave_out(one, "unreadable", error.why)
            yield _Drawn(one.study, None, error.why)
        except LeftOutError as error:
            self._leave_out(one, error.reason, error.why)
            yield _Drawn(one.study, None, error.why)
        else:
            if not drawing.is_automatic or self._takes_automatic:
                yield _Drawn(one.study, drawing)
                return
            self._reported.add(one.instance)
            self._leave_out(one, AUTOMATIC, LEFT_OUT[AUTOMATIC])

    def _is_automatic(self, one: ImportCandidate) -> bool:
        """Return whether a drawing is recorded as automatic, so that it need not be fetched."""
        before = self._quarantined.get(one.instance)
        if self._takes_automatic or before is None or before.reason != AUTOMATIC or before.digest != one.digest:
            return False
        if one.instance not in self._reported:
            self._reported.add(one.instance)
            self._leave_out(one, AUTOMATIC, before.why)
        return True


def by_patient(found: Iterable[ImportCandidate]) -> list[list[ImportCandidate]]:
    """Group distinct objects by patient; objects of one study belong together whatever patient id they have."""
    objects: dict[str, ImportCandidate] = {}
    for one in found:
        objects.setdefault(one.instance, one)
    same: dict[str, str] = {}

    def first(name: str) -> str:
        """Return the representative of a name's group (union-find)."""
        while same.setdefault(name, name) != name:
            same[name] = name = same[same[name]]
        return name

    for one in objects.values():
        if one.patient.strip() and one.study:
            same[first(f"patient {one.patient.strip()}")] = first(f"study {one.study}")
    groups: dict[str, list[ImportCandidate]] = {}
    for one in objects.values():
        name = first(f"study {one.study}" if one.study else f"patient {one.patient.strip()}")
        groups.setdefault(name, []).append(one)
    return list(groups.values())


def resolved(mask: Mask) -> Mask:
    """Return a mask after all images of its patient were compared. Raises LeftOutError where it is still unclear."""
    if not all(one.is_resolved for one in mask.pending):
        raise LeftOutError("mask-unclear", "a drawing of its patient lies beside it, or on no image of this import")
    return mask


def named(folder: Path, relative: str, of: Callable[[], Subject], segment: Segment) -> np.ndarray:
    """Read the mask that the labels name for an image: a picture or a drawing. Raises LeftOutError, UnfitError."""
    try:
        path = manifest.Manifest(folder, ()).path_of(relative)
        file, number = source(path)
        data = file.read_bytes() if file.stat().st_size <= MAX_FILE_BYTES else b""
        if is_dicom(data) and drawings.is_drawing(data):
            return drawings.decode(data, of(), segment if number is None else number)
        return images.decode_mask(path)
    except (UserError, UnfitError) as error:
        raise LeftOutError("mask-unclear", f"of the mask that the labels name: {error.why}") from None
    except OSError:
        raise LeftOutError("mask-unclear", "the mask that the labels name cannot be read") from None


def named_regions(folder: Path, relative: str, of: Callable[[], Subject], regions: Sequence[str]) -> list[np.ndarray]:
    """Read the masks of several regions in the file that the labels name. Raises LeftOutError."""
    try:
        return [*mask_files.read_regions(manifest.Manifest(folder, ()).path_of(relative), regions, of)]
    except (UserError, UnfitError) as error:
        raise LeftOutError("mask-unclear", f"of the mask that the labels name: {error.why}") from None


def state_of(label: Label, folder: Path) -> str:
    """Return a digest of the mask that the labels name; it changes with the file's content."""
    if label.mask in ("", NO_LESION):
        return label.mask
    try:
        return images.digest(manifest.Manifest(folder, ()).path_of(label.mask))
    except (OSError, UserError):
        return "unreadable"
