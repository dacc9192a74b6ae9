"""Images of a PACS or of folders made into a site's data: de-identified pictures, masks, and the manifest of them."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from ynet import private_files
from ynet.data import dicom, dicom_elements, images, manifest, segmentation
from ynet.data.dicom import Window
from ynet.data.dicom_elements import UnfitError, is_dicom
from ynet.data.limits import MAX_FILE_BYTES
from ynet.data.segmentation import Reference, Segments
from ynet.errors import UserError
from ynet_client.deidentify import ALLOWED, HEADER, QUARANTINE, Dates, Pseudonyms, kept, not_an_image, quarantine
from ynet_client.dicomweb import DicomWeb
from ynet_client.folder_files import Found
from ynet_client.import_labels import Label, Labels
from ynet_client.import_records import Origin, Quarantined, Records

SAVE_EVERY = 100
"""Images after which the manifest is written: so many a kill loses at most, and they are fetched again."""
FrameChoice = Literal["refuse", "middle", "all"]


@dataclass(frozen=True)
class Choice:
    """How images are imported."""

    frames: FrameChoice = "refuse"
    window: Window | None = None  # in place of each file's own
    dates: Dates = "none"
    segment: int | None = None  # of a DICOM SEG with several
    automatic_masks: bool = False  # DICOM SEGs that no person drew are taken as masks, too
    release: frozenset[str] = frozenset()  # reasons of quarantine, or ids in it


class Summary(NamedTuple):
    """What an import did."""

    images: int  # in the manifest now
    patients: int
    masks: int
    imported: int  # of them, now
    unlabelled: int  # objects of which the labels say nothing; not fetched
    left_out: dict[str, int]  # by the reason


class _LeftOutError(Exception):
    """An object that is not imported: a reason's word, and why."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(reason)
        self.reason, self.why = reason, why


def in_pacs(pacs: DicomWeb, query: str) -> Iterator[Found]:
    """What a PACS finds, and the DICOM SEGs of the same studies. Raises as `DicomWeb` does."""
    for one in pacs.find(query):
        yield Found(*one, fetch=lambda one=one: pacs.fetch(one))  # type: ignore[misc]


def run(
    found: Iterable[Found],
    labels: Labels,
    out: Path,
    records: Records,
    names: Pseudonyms,
    choice: Choice,
    progress: Callable[[int, int], None],
) -> Summary:
    """Import what is labelled and not there yet. What was cut off is gone on with: nothing is fetched twice.

    The manifest keeps the rows of earlier imports into the same folder. Raises UserError.
    """
    work = _Import(labels, out, records, names, choice)
    studies: dict[str, dict[str, Found]] = {}
    for one in found:
        studies.setdefault(one.study, {}).setdefault(one.instance, one)
    total, done = sum(map(len, studies.values())), 0
    try:
        for study in studies.values():
            for _ in work.take(list(study.values())):
                done += 1
                progress(done, total)
    finally:
        work.save()
    return work.summary()


class _Import:
    """One import on its way."""

    def __init__(self, labels: Labels, out: Path, records: Records, names: Pseudonyms, choice: Choice) -> None:
        self._labels, self._out, self._records, self._names, self._choice = labels, out, records, names, choice
        for kind in ("images", "masks"):
            private_files.own_folder(out / kind)
        rows = _read_manifest(out / "manifest.csv")
        self._rows = {image: row for image, row in rows.items() if row["patient"] not in records.forgotten}
        self._new, self._unlabelled, self._left_out, self._unsaved = 0, 0, Counter[str](), 0

    def take(self, study: Sequence[Found]) -> Iterator[None]:
        """Import a study's images; a step for each object."""
        masks: list[tuple[Segments, bytes]] | None = None
        drawn = [one for one in study if one.sop_class in segmentation.SEGMENTATIONS]
        for one in study:
            yield
            if one in drawn:
                continue
            if one.unreadable:
                self._leave_out(one, "unreadable", one.unreadable)
                continue
            label = self._labels.find(one.instance, one.series, one.study, one.patient)
            if label is None:
                self._unlabelled += 1
                continue
            if self._names.patient(one.patient, one.study) in self._records.forgotten:
                self._left_out["forgotten"] += 1
                continue
            if self._is_there(one, label) or self._is_kept_back(one):
                continue
            if masks is None:
                masks = [seg for each in drawn for seg in self._segments(each)]
            self._take_one(one, label, masks)
            if self._unsaved >= SAVE_EVERY:
                self.save()

    def save(self) -> None:
        """Write the manifest, and what only the site may know."""
        _write_manifest(self._out / "manifest.csv", self._rows, has_split=self._labels.has_split)
        self._records.save()
        self._unsaved = 0

    def summary(self) -> Summary:
        """What was done."""
        rows = self._rows.values()
        patients, masks = len({row["patient"] for row in rows}), sum(bool(row["mask"]) for row in rows)
        left_out = dict(sorted(self._left_out.items()))
        return Summary(len(self._rows), patients, masks, self._new, self._unlabelled, left_out)

    # --- one object

    def _is_there(self, one: Found, label: Label) -> bool:
        """Whether an object was imported before; its label is that of the labels now."""
        names = self._records.images_of(one.instance)
        rows = [self._rows.get(f"images/{name}.png") for name in names]
        if not names or not all(row and (self._out / row["image"]).exists() for row in rows):
            return False
        for row in rows:
            if row:
                row.update(label=label.label, split=label.split)
        return True

    def _is_kept_back(self, one: Found) -> bool:
        """Whether an object was put into quarantine before, or is of a kind that holds no image."""
        before = self._records.quarantined.get(one.instance)
        reason = before.reason if before else "not-an-image" if not_an_image(one.sop_class) else ""
        if reason not in QUARANTINE or self._is_released(reason, one):
            return False
        self._leave_out(one, reason, QUARANTINE[reason])
        return True

    def _is_released(self, reason: str, one: Found) -> bool:
        return bool(self._choice.release & {reason, self._names.image(one.instance, None)})

    def _take_one(self, one: Found, label: Label, masks: Sequence[tuple[Segments, bytes]]) -> None:
        try:
            data = self._fetched(one)
            header = dicom_elements.read(data, HEADER).dataset
            if (reason := quarantine(header)) and not self._is_released(reason, one):
                raise _LeftOutError(reason, QUARANTINE[reason])
            made = [self._pictured(one, label, header, data, frame, masks) for frame in self._frames(header)]
        except UnfitError as error:
            self._leave_out(one, "unreadable", error.why)
        except _LeftOutError as error:
            self._leave_out(one, error.reason, error.why)
        else:
            for row, origin in made:
                self._rows[row["image"]] = row
                self._records.add(origin)
            self._new, self._unsaved = self._new + len(made), self._unsaved + len(made)

    def _fetched(self, one: Found) -> bytes:
        try:
            return one.fetch()
        except UserError as error:
            if type(error) is not UserError:  # refused, unreachable: so would be the next
                raise
            raise _LeftOutError("not-fetched", error.why) from None

    def _frames(self, header: Dataset) -> list[int | None]:
        count = int(header.get("NumberOfFrames") or 1)
        if count <= 1:
            return [None]
        if self._choice.frames == "refuse":
            raise _LeftOutError("several-frames", f"it holds {count} frames; say --frames middle or --frames all")
        return [(count + 1) // 2] if self._choice.frames == "middle" else list(range(1, count + 1))

    def _pictured(
        self,
        one: Found,
        label: Label,
        header: Dataset,
        data: bytes,
        frame: int | None,
        masks: Sequence[tuple[Segments, bytes]],
    ) -> tuple[dict[str, str], Origin]:
        """An image, and its mask, written without anything but their pixels; its row."""
        pixels = dicom.decode(data, frame, self._choice.window)
        mask = self._mask(one, label, frame, masks)
        if mask is not None and mask.shape != pixels.shape[:2]:
            raise _LeftOutError("mask-unclear", "its mask has another size than it")
        name = self._names.image(one.instance, frame)
        image_path, mask_path = f"images/{name}.png", f"masks/{name}.png"
        _write_png(self._out / image_path, _sixteen_bit(pixels))
        has_lesion = mask is not None and bool(mask.any())
        if mask is not None and has_lesion:
            _write_png(self._out / mask_path, mask * np.uint8(255))
        row = {
            "image": image_path,
            "mask": mask_path if has_lesion else "",
            "label": label.label,
            "patient": self._names.patient(one.patient, one.study),
            "split": label.split,
            **kept(header, self._choice.dates),
        }
        return row, Origin(name, one.study, one.series, one.instance, frame)

    def _mask(
        self, one: Found, label: Label, frame: int | None, masks: Sequence[tuple[Segments, bytes]]
    ) -> np.ndarray | None:
        """The mask of an image: the one that the labels name, or that of the one SEG that speaks of it."""
        of = Reference(one.instance, frame or 1)
        if label.mask:
            return self._named_mask(label.mask, of)
        speaking = [file for seg, file in masks if one.instance in seg.instances]
        if len(speaking) > 1:
            raise _LeftOutError("mask-unclear", "several DICOM SEGs of its study refer to it")
        try:
            return segmentation.decode(speaking[0], of, self._choice.segment) if speaking else None
        except UnfitError as error:
            raise _LeftOutError("mask-unclear", f"of its DICOM SEG: {error.why}") from None

    def _named_mask(self, relative: str, of: Reference) -> np.ndarray:
        try:
            path = manifest.Manifest(self._labels.folder, ()).path_of(relative)
            data = path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else b""
            if is_dicom(data) and segmentation.is_segmentation(data):
                return segmentation.decode(data, of, self._choice.segment)
            return images.decode_mask(path)
        except (UserError, UnfitError) as error:
            raise _LeftOutError("mask-unclear", f"of the mask that the labels name: {error.why}") from None
        except OSError:
            raise _LeftOutError("mask-unclear", "the mask that the labels name cannot be read") from None

    def _segments(self, one: Found) -> Iterator[tuple[Segments, bytes]]:
        """A DICOM SEG that may be a mask. What a model has drawn, ynet's own too, is none that another learns from."""
        try:
            data = self._fetched(one)
            seg = segmentation.segments(data)
        except UnfitError as error:
            self._leave_out(one, "unreadable", error.why)
        except _LeftOutError as error:
            self._leave_out(one, error.reason, error.why)
        else:
            if seg.is_automatic and not self._choice.automatic_masks:
                self._left_out["automatic-mask"] += 1
            else:
                yield seg, data

    def _leave_out(self, one: Found, reason: str, why: str) -> None:
        self._left_out[reason] += 1
        self._records.leave_out(Quarantined(self._names.image(one.instance, None), one.instance, reason, why))


def _sixteen_bit(pixels: np.ndarray) -> np.ndarray:
    """Grey in 16 bit, which loses nothing of 12; colour as it is."""
    return (pixels * np.float32(65535)).round().astype(np.uint16) if pixels.ndim == 2 else pixels


def _write_png(path: Path, pixels: np.ndarray) -> None:
    """Whole or not at all."""
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG", compress_level=1)
    private_files.write(path, made.getvalue())


def _read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """The rows of an earlier import, by image."""
    if not path.exists():
        return {}
    return {row.cells["image"]: dict(row.cells) for row in manifest.read_rows(path)}


def _write_manifest(path: Path, rows: dict[str, dict[str, str]], *, has_split: bool) -> None:
    """Columns in which no row says anything are left out; so is `split`, but where the labels have it."""
    if not rows:
        return
    optional = [*(one.column for one in ALLOWED.values()), "date"]
    more = [column for column in optional if any(row.get(column) for row in rows.values())]
    columns = [*manifest.REQUIRED, *(["split"] if has_split else []), *more]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for _, row in sorted(rows.items()))
    private_files.write(path, text.getvalue())
