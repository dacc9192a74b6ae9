"""A repeated import updates what has changed, and reports what it could not update."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_hospital import segmentation
from dicoms import to_bytes
from drawn import edited, seg
from import_hospital import GREY, Hospital
from PIL import Image
from pydicom import Dataset, dcmread, uid
from typer.testing import CliRunner

from ynet.data.dicom.frame import DisplayWindow
from ynet.errors import UserError
from ynet_client.commands.cli import app
from ynet_client.dicom.folder_files import ImportCandidate
from ynet_client.dicom.import_run import Summary

MASKS = np.stack([GREY > 900, GREY < 900, GREY > 1500])
LABELS = "patient,label\nCANARY-1,glioma\n"


class Watched(Hospital):
    """A hospital that counts how often its files are fetched."""

    fetched: list[str]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fetched, self.broken, self.is_pacs = [], False, False
        for number in range(2):
            self.image(f"{number}.dcm", GREY + number, FrameOfReferenceUID="1.2", ImagePositionPatient=[0, 0, number])

    def found(self) -> list[ImportCandidate]:
        return [
            one._replace(fetch=self._watched(one), digest="" if self.is_pacs else one.digest) for one in super().found()
        ]

    def _watched(self, one: ImportCandidate) -> Callable[[], bytes]:
        def fetch() -> bytes:
            self.fetched.append(one.instance)
            if self.broken:
                raise UserError("a file cannot be read", "it is gone", "check it")
            return one.fetch()

        return fetch

    @property
    def images(self) -> list[Dataset]:
        return [dcmread(self.pacs / f"{number}.dcm") for number in range(2)]

    def again(self, labels: str = LABELS, **choice: object) -> Summary:
        self.fetched.clear()
        return self.import_(labels, **choice)

    def masks(self) -> dict[str, int]:
        """The number of mask pixels of each image, by SOP instance UID."""
        origins = {f"images/{one.image}.png": one.instance for one in self.origins()}
        paths = {origins[row["image"]]: row["mask"] for row in self.rows()}
        return {
            name: int((np.asarray(Image.open(self.out / path)) > 0).sum()) if path.startswith("masks/") else 0
            for name, path in paths.items()
        }


@pytest.fixture
def hospital(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def put(hospital: Hospital, made: Dataset | bytes, name: str = "seg.dcm") -> None:
    (hospital.pacs / name).write_bytes(made if isinstance(made, bytes) else to_bytes(made))


def counts(done: Summary) -> tuple[int, int, int]:
    return done.imported, done.updated, done.stale


@pytest.mark.parametrize("is_pacs", [False, True])
def test_unchanged_objects_and_drawings_are_not_fetched_again(hospital: Watched, is_pacs: bool) -> None:
    hospital.is_pacs = is_pacs
    put(hospital, segmentation(hospital.images, MASKS[:2]))
    put(hospital, segmentation(hospital.images, MASKS[:2], by="AUTOMATIC"), "model.dcm")
    assert counts(hospital.again()) == (2, 0, 0)
    assert len(hospital.fetched) == 4
    done = hospital.again()
    assert (counts(done), hospital.fetched, done.left_out) == ((0, 0, 0), [], {"automatic-mask": 1})


@pytest.mark.parametrize("is_pacs", [False, True])
def test_added_or_removed_seg_updates_masks(hospital: Watched, is_pacs: bool) -> None:
    hospital.is_pacs = is_pacs
    assert hospital.again().undrawn == 2
    put(hospital, segmentation(hospital.images, MASKS[:2]))
    assert counts(hospital.again()) == (0, 2, 0)
    assert sorted(hospital.masks().values()) == sorted(int(mask.sum()) for mask in MASKS[:2])
    (hospital.pacs / "seg.dcm").unlink()
    done = hospital.again()
    assert (counts(done), done.undrawn, done.masks) == ((0, 2, 0), 2, 0)
    assert not list((hospital.out / "masks").iterdir())


def test_added_automatic_seg_updates_nothing(hospital: Watched) -> None:
    hospital.again()
    put(hospital, segmentation(hospital.images, MASKS[:2], by="AUTOMATIC"))
    done = hospital.again()
    assert (counts(done), len(hospital.fetched)) == ((0, 0, 0), 1)
    assert (hospital.again().left_out, hospital.fetched) == ({"automatic-mask": 1}, [])
    assert counts(hospital.again(automatic_masks=True)) == (0, 2, 0)
    assert sum(hospital.masks().values()) == MASKS[:2].sum()


def test_seg_corrected_under_same_uid_updates_masks(hospital: Watched) -> None:
    made = segmentation(hospital.images, MASKS[:2])
    put(hospital, made)
    hospital.again()
    corrected = edited(segmentation(hospital.images, MASKS[1:]), SOPInstanceUID=edited(made).SOPInstanceUID)
    put(hospital, corrected)
    assert counts(hospital.again()) == (0, 2, 0)
    assert sum(hospital.masks().values()) == MASKS[1:].sum()


def test_ambiguous_second_seg_removes_the_images(hospital: Watched) -> None:
    put(hospital, segmentation(hospital.images, MASKS[:2]))
    hospital.again()
    put(hospital, segmentation(hospital.images, MASKS[1:]), "second.dcm")
    done = hospital.again()
    assert (done.images, done.left_out) == (0, {"mask-unclear": 2})
    assert hospital.rows_or_none() == hospital.origins() == []
    assert not [path for kind in ("images", "masks") for path in (hospital.out / kind).iterdir()]
    (hospital.pacs / "second.dcm").unlink()
    assert counts(hospital.again()) == (2, 0, 0)


def test_changed_label_and_mask_are_updated_together(hospital: Watched) -> None:
    first = str(hospital.images[0].SOPInstanceUID)
    for name, mask in (("one.png", MASKS[0]), ("two.png", MASKS[1])):
        Image.fromarray(mask * np.uint8(255)).save(hospital.folder / name)
    labels = f"instance,label,mask\n{first},glioma,one.png\n"
    assert hospital.again(labels).masks == 1
    assert counts(hospital.again(labels.replace("glioma", "other"))) == (0, 0, 0)
    assert (hospital.rows()[0]["label"], hospital.fetched) == ("other", [])
    assert counts(hospital.again(labels.replace("one.png", "two.png"))) == (0, 1, 0)
    assert hospital.masks() == {first: MASKS[1].sum()}
    Image.fromarray(MASKS[2] * np.uint8(255)).save(hospital.folder / "two.png")
    assert counts(hospital.again(labels.replace("one.png", "two.png"))) == (0, 1, 0)
    assert hospital.masks() == {first: MASKS[2].sum()}
    hospital.broken = True
    done = hospital.again(labels.replace("glioma", "other"))
    assert (counts(done), done.left_out) == ((0, 0, 1), {"not-fetched": 1})
    assert (hospital.rows()[0]["label"], hospital.masks()) == ("glioma", {first: MASKS[2].sum()})


def test_changed_options_update_the_images(hospital: Watched) -> None:
    put(hospital, segmentation(hospital.images, np.stack([MASKS[:2], ~MASKS[:2]], -1), labels=2))
    assert hospital.again(segment=1).masks == 2
    before = (hospital.out / hospital.rows()[0]["image"]).read_bytes()
    assert counts(hospital.again(segment=2)) == (0, 2, 0)
    assert sum(hospital.masks().values()) == (~MASKS[:2]).sum()
    assert counts(hospital.again(segment=2, dates="year")) == (0, 2, 0)
    assert {row["date"] for row in hospital.rows()} == {"2024-01-01"}
    assert counts(hospital.again(segment=2, dates="year", window=DisplayWindow(500, 200))) == (0, 2, 0)
    assert (hospital.out / hospital.rows()[0]["image"]).read_bytes() != before
    assert hospital.again(segment=2, dates="year", window=DisplayWindow(500, 200)).updated == 0


def test_changed_source_file_updates_the_image(hospital: Watched) -> None:
    hospital.again()
    one = hospital.images[0]
    one.PixelData = bytes(one.PixelData)[::-1]
    put(hospital, one, "0.dcm")
    assert counts(hospital.again()) == (0, 1, 0)
    assert hospital.fetched == [one.SOPInstanceUID]


def test_other_frame_choice_replaces_earlier_frames(hospital: Watched) -> None:
    many = hospital.images[0]
    many.NumberOfFrames, many.PixelData = 2, bytes(many.PixelData) * 2
    put(hospital, many, "0.dcm")
    assert hospital.again(frames="all").images == 3
    done = hospital.again(frames="middle")
    assert (done.images, counts(done)) == (2, (0, 1, 0))
    done = hospital.again()
    assert (done.images, counts(done), done.left_out) == (2, (0, 0, 1), {"several-frames": 1})


def test_records_of_earlier_version_are_updated_once(hospital: Watched) -> None:
    put(hospital, segmentation(hospital.images, MASKS[:2]))
    hospital.again()
    path = hospital.home / "imported.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    old = [",".join(row[name] for name in ("image", "study", "series", "instance", "frame")) for row in rows]
    path.write_text("\n".join(["image,study,series,instance,frame", *old]) + "\n")
    for is_pacs in (True, False):
        hospital.is_pacs = is_pacs
        path.write_text("\n".join(["image,study,series,instance,frame", *old]) + "\n")
        assert counts(hospital.again()) == (0, 2, 0)
        assert counts(hospital.again()) == (0, 0, 0)


def test_image_missing_from_source_or_labels_is_stale(hospital: Watched) -> None:
    gone = str(hospital.images[0].SOPInstanceUID)
    hospital.again()
    assert counts(hospital.again(f"instance,label\n{gone},glioma\n")) == (0, 0, 1)
    (hospital.pacs / "0.dcm").unlink()
    assert counts(hospital.again()) == (0, 0, 0)
    assert counts(hospital.again(dates="year")) == (0, 1, 1)
    shown = CliRunner().invoke(app, hospital.command()).stdout
    assert "1 images were made again" in shown
    (hospital.folder / "labels.csv").write_text(f"instance,label\n{gone},glioma\n")
    assert "stale: 1 images" in CliRunner().invoke(app, hospital.command()).stdout


def test_added_image_is_matched_with_existing_ones(hospital: Watched) -> None:
    put(hospital, seg(hospital.images[:1], MASKS[:1]))
    hospital.again()
    put(hospital, edited(to_bytes(hospital.images[1]), SOPInstanceUID=uid.generate_uid()), "2.dcm")
    added = dcmread(hospital.pacs / "2.dcm")
    added.file_meta.MediaStorageSOPInstanceUID = added.SOPInstanceUID
    added.ImagePositionPatient = [0, 0, 40]
    put(hospital, added, "2.dcm")
    done = hospital.again()
    assert (counts(done), done.left_out, done.undrawn) == ((1, 0, 0), {}, 2)


def test_unfetchable_drawing_holds_back_its_images(hospital: Watched) -> None:
    put(hospital, segmentation(hospital.images, MASKS[:2]))
    listed = hospital.found()

    def fails() -> bytes:
        raise UserError("the PACS has no such thing", "it answered 404", "check it")

    hospital.found = lambda: [  # type: ignore[method-assign]
        one._replace(fetch=fails) if one.sop_class == uid.SegmentationStorage else one for one in listed
    ]
    done = hospital.again()
    assert (done.images, done.left_out) == (0, {"mask-unclear": 2, "not-fetched": 1})
