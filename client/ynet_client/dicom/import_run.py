"""Import of images from a PACS or from folders: de-identified pictures, masks and the manifest."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from ynet.data.dicom import drawings, elements
from ynet.data.dicom import frame as dicom_frame
from ynet.data.dicom.faults import UnfitError
from ynet.data.dicom.matching import Subject
from ynet.data.dicom.stored_pixels import frame_count
from ynet.errors import UserError
from ynet_client.dicom import import_masks
from ynet_client.dicom.deidentify import HEADER, QUARANTINE, Pseudonyms, kept, not_an_image, quarantine
from ynet_client.dicom.dicomweb import DicomWeb
from ynet_client.dicom.folder_files import ImportCandidate
from ynet_client.dicom.import_choice import Choice as Choice
from ynet_client.dicom.import_choice import FrameChoice as FrameChoice
from ynet_client.dicom.import_choice import Summary as Summary
from ynet_client.dicom.import_files import Made, Pictures, picture_of
from ynet_client.dicom.import_labels import NO_LESION, Label, Labels, Matching
from ynet_client.dicom.import_masks import Mask, PatientMasks
from ynet_client.dicom.import_records import LeftOutError, Origin, Quarantined, Records

SAVE_EVERY = 100
"""The manifest is written after this many images; a killed import fetches at most this many again."""


def in_pacs(pacs: DicomWeb, query: str) -> Iterator[ImportCandidate]:
    """Yield the objects that a query matches, and the drawings of their patients. Raises as `DicomWeb` does."""
    for one in pacs.find(query):
        yield ImportCandidate(*one, fetch=lambda one=one: pacs.fetch(one))  # type: ignore[misc]


def run(
    found: Iterable[ImportCandidate],
    labels: Labels,
    out: Path,
    records: Records,
    names: Pseudonyms,
    choice: Choice,
    progress: Callable[[int, int], None],
) -> Summary:
    """Import all labelled objects that are missing or outdated.

    An interrupted import resumes: nothing is fetched twice. The manifest keeps the rows of earlier imports into the
    same folder. Raises UserError.
    """
    work = _Import(labels, out, records, names, choice)
    patients = import_masks.by_patient(found)
    total, done = sum(map(len, patients)), 0
    try:
        for patient in patients:
            for _ in work.import_patient(patient):
                done += 1
                progress(done, total)
    finally:
        work.save()
    return work.summary()


class _Import:
    """The state of one running import."""

    def __init__(self, labels: Labels, out: Path, records: Records, names: Pseudonyms, choice: Choice) -> None:
        self._labels, self._records, self._names, self._choice = labels, records, names, choice
        self._matching = Matching(labels)
        self._pictures = Pictures(out, records, choice.regions)
        self._seen, self._stale = set[str](), set[str]()  # instances; images
        self._new, self._updated, self._unlabelled, self._unsaved = 0, 0, 0, 0
        self._left_out = Counter[str]()

    def import_patient(self, patient: Sequence[ImportCandidate]) -> Iterator[None]:
        """Import a patient's images; yields once per object."""
        choice, quarantined = self._choice, self._records.quarantined
        masks = PatientMasks(
            patient,
            quarantined,
            self._fetched,
            self._leave_out,
            choice.segment,
            takes_automatic=choice.automatic_masks,
            regions=choice.regions,
        )
        kept_ones, held = list[ImportCandidate](), list[tuple[ImportCandidate, list[Made]]]()
        for one in patient:
            yield
            label = self._wanted(one)
            if label is None or self._is_kept_back(one):
                continue
            if self._is_there(one, label, masks):
                kept_ones.append(one)
                continue
            made = self._make(one, label, masks)
            if any(each.pending for each in made):
                held.append((one, made))
            else:
                self._keep(one, made)
        self._resolve(held, kept_ones, masks)

    def save(self) -> None:
        """Write the manifest and the private records."""
        self._pictures.save(has_split=self._labels.has_split)
        self._unsaved = 0

    def summary(self) -> Summary:
        """Return the counts of this import."""
        for origin in self._records.origins:
            is_other = origin.options != self._choice.recorded(is_frame=origin.frame is not None)
            if is_other and origin.instance not in self._seen and self._pictures.has(origin):
                self._stale.add(origin.image)
        return Summary(
            *self._pictures.counted(),
            imported=self._new,
            unlabelled=self._unlabelled,
            left_out=dict(sorted(self._left_out.items())),
            **self._matching.unmatched()._asdict(),
            undrawn=self._pictures.undrawn,
            updated=self._updated,
            stale=len(self._stale),
        )

    # --- selection

    def _wanted(self, one: ImportCandidate) -> Label | None:
        """Return the label of an object that may be imported; None if it is to be skipped."""
        if one.sop_class in drawings.CLASSES:
            return None
        self._seen.add(one.instance)
        if one.unreadable:
            self._leave_out(one, one.reason, one.unreadable)
            return None
        label = self._matching.find(one.instance, one.series, one.study, one.patient)
        if label is None:
            self._unlabelled += 1
            self._mark_stale(one)
        elif self._names.patient(one.patient, one.study) in self._records.forgotten:
            self._left_out["forgotten"] += 1
            return None
        return label

    def _is_there(self, one: ImportCandidate, label: Label, masks: PatientMasks) -> bool:
        """Return whether an object's pictures are up to date; update their label and split."""
        before = self._records.of(one.instance)
        if not before or not all(self._pictures.has(origin) for origin in before):
            return False
        mask = import_masks.state_of(label, self._labels.folder)
        for origin in before:
            options = self._choice.recorded(is_frame=origin.frame is not None)
            is_source = origin.source == one.digest if one.digest else bool(origin.source)
            if not is_source or (origin.options, origin.mask) != (options, mask):
                return False
            if not mask and not masks.is_state(origin.drawings):
                return False
        for origin in before:
            self._pictures.rows[picture_of(origin)].update(label=label.label, split=label.split)
        return True

    def _is_kept_back(self, one: ImportCandidate) -> bool:
        """Return whether an object is in quarantine, or its SOP class holds no image."""
        before = self._records.quarantined.get(one.instance)
        reason = before.reason if before else "not-an-image" if not_an_image(one.sop_class) else ""
        if reason not in QUARANTINE or self._is_released(reason, one):
            return False
        self._leave_out(one, reason, QUARANTINE[reason])
        return True

    def _is_released(self, reason: str, one: ImportCandidate) -> bool:
        return bool(self._choice.release & {reason, self._names.image(one.instance, None)})

    # --- one object

    def _make(self, one: ImportCandidate, label: Label, masks: PatientMasks) -> list[Made]:
        """Write an object's pictures; returns none where the object is skipped."""
        made = list[Made]()
        try:
            data = self._fetched(one)
            header = elements.read(data, HEADER).dataset
            if str(header.get("SOPClassUID", "")) in drawings.CLASSES:
                raise UnfitError("it is a drawing that its PACS lists under another SOP class", "ask its admin")
            reason = quarantine(header)
            if reason and not self._is_released(reason, one) and not self._records.of(one.instance):
                raise LeftOutError(reason, QUARANTINE[reason])
            for frame in self._frames(header):
                made.append(self._pictured(one, label, header, data, frame, masks))
        except UnfitError as error:
            self._skip(one, made, LeftOutError("unreadable", error.why))
            return []
        except LeftOutError as error:
            self._skip(one, made, error)
            return []
        return made

    def _fetched(self, one: ImportCandidate) -> bytes:
        try:
            return one.fetch()
        except UserError as error:
            if type(error) is not UserError:  # refused or unreachable: the next request would fail too
                raise
            raise LeftOutError("not-fetched", error.why) from None

    def _frames(self, header: Dataset) -> list[int | None]:
        count = frame_count(header)
        if count <= 1:
            return [None]
        if self._choice.frames == "refuse":
            raise LeftOutError("several-frames", f"it holds {count} frames; use --frames middle or --frames all")
        return [(count + 1) // 2] if self._choice.frames == "middle" else list(range(1, count + 1))

    def _pictured(
        self, one: ImportCandidate, label: Label, header: Dataset, data: bytes, frame: int | None, masks: PatientMasks
    ) -> Made:
        """Write one picture, and return it with its row and mask. Files hold pixels only."""
        pixels = dicom_frame.decode(data, frame, self._choice.window)
        own = self._masks(label, lambda: drawings.subject(data, frame), masks)
        if any(mask.pixels is not None and mask.pixels.shape != pixels.shape[:2] for mask in own):
            raise LeftOutError("mask-unclear", "its mask and its image differ in size")
        drawn = import_masks.state_of(label, self._labels.folder)
        origin = Origin(
            self._names.image(one.instance, frame),
            *(one.study, one.series, one.instance, frame),
            hashlib.sha256(data).hexdigest(),
            self._choice.recorded(is_frame=frame is not None),
            *(drawn, "" if drawn else masks.state()),
        )
        self._pictures.write(origin, pixels)
        row = {
            "image": picture_of(origin),
            "label": label.label,
            "patient": self._names.patient(one.patient, one.study),
            "split": label.split,
            **kept(header, self._choice.dates),
        }
        return Made(row, origin, own)

    def _masks(self, label: Label, of: Callable[[], Subject], masks: PatientMasks) -> tuple[Mask, ...]:
        """Return an image's masks, one for each region: by the labels if they have one, else by the drawings."""
        folder, regions = self._labels.folder, self._choice.regions
        if label.mask == NO_LESION:
            return (Mask(None, is_known=True),) * max(1, len(regions))
        if label.mask and regions:
            found = import_masks.named_regions(folder, label.mask, of, regions)
            return tuple(Mask(pixels, is_known=True) for pixels in found)
        if label.mask:
            return (Mask(import_masks.named(folder, label.mask, of, self._choice.segment), is_known=True),)
        return masks.masks_of(of)

    # --- outcome

    def _resolve(
        self,
        held: Sequence[tuple[ImportCandidate, list[Made]]],
        existing: Sequence[ImportCandidate],
        masks: PatientMasks,
    ) -> None:
        """Keep the held images whose unclear drawings turn out to lie on other images; drop the rest."""
        left = list(existing)
        while left and not all(one.is_resolved for _, made in held for each in made for one in each.pending):
            for subject in self._subjects(left.pop()):
                masks.compare(subject)
        for one, made in held:
            try:
                self._keep(one, [each._replace(masks=tuple(map(import_masks.resolved, each.masks))) for each in made])
            except LeftOutError as error:
                self._skip(one, made, error)

    def _subjects(self, one: ImportCandidate) -> Iterator[Subject]:
        """Yield the images of an object that was imported before."""
        try:
            data = self._fetched(one)
            yield from [drawings.subject(data, origin.frame) for origin in self._records.of(one.instance)]
        except (UnfitError, LeftOutError):
            return

    def _keep(self, one: ImportCandidate, made: Sequence[Made]) -> None:
        """Add an object's pictures to the manifest; they replace its earlier pictures."""
        again = self._pictures.keep(one.instance, made, is_healthy=self._choice.no_mask_means_healthy)
        self._new, self._updated = self._new + len(made) - again, self._updated + again
        self._unsaved += len(made)
        if self._unsaved >= SAVE_EVERY:
            self.save()

    def _skip(self, one: ImportCandidate, made: Sequence[Made], error: LeftOutError) -> None:
        """Skip an object and discard the pictures that this import made of it.

        Pictures of an earlier import are removed where the mask is unclear now; else they stay and count as stale.
        """
        self._leave_out(one, error.reason, error.why)
        if error.reason == "mask-unclear":
            self._pictures.remove(one.instance)
        else:
            self._mark_stale(one)
        self._pictures.discard(made)

    def _mark_stale(self, one: ImportCandidate) -> None:
        """Keep an object's earlier pictures, and count them as stale."""
        self._stale |= {picture_of(origin) for origin in self._records.of(one.instance) if self._pictures.has(origin)}

    def _leave_out(self, one: ImportCandidate, reason: str, why: str) -> None:
        self._left_out[reason] += 1
        name = self._names.image(one.instance, None)
        self._records.leave_out(Quarantined(name, one.instance, reason, why, one.digest))
