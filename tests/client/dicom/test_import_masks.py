"""A missing drawing never makes an imported image count as one without a lesion."""

from pathlib import Path

import numpy as np
import pytest
from dicom_hospital import segmentation
from dicoms import dataset, dicom, to_bytes
from drawn import circle, edited, refers_to, seg, structure_set
from import_hospital import GREY, Hospital
from PIL import Image
from pydicom import Dataset, dcmread, uid
from typer.testing import CliRunner

from ynet.data import manifest
from ynet.errors import UserError
from ynet_client.commands.cli import app
from ynet_client.dicom import import_labels

MASKS = np.stack([(300 * number < GREY) & (300 * number + 900 > GREY) for number in range(1, 4)])
SPACE = uid.generate_uid()


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def stack(hospital: Hospital, count: int = 3, **elements: object) -> list[Dataset]:
    """Images of one series in the hospital's folder, 3 mm apart."""
    made = []
    for number in range(count):
        geometry = {"FrameOfReferenceUID": SPACE, "ImagePositionPatient": [0, 0, 3.0 * number], **elements}
        instance = hospital.image(f"{len(list(hospital.pacs.iterdir()))}.dcm", GREY + number, **geometry)
        made.append(next(one for one in map(dcmread, hospital.pacs.iterdir()) if one.SOPInstanceUID == instance))
    return made


def put(hospital: Hospital, made: Dataset | bytes, name: str = "seg.dcm") -> None:
    (hospital.pacs / name).write_bytes(made if isinstance(made, bytes) else to_bytes(made))


def masks(hospital: Hospital) -> dict[str, np.ndarray | str]:
    """The mask of each image, or the manifest's cell instead, by SOP instance UID."""
    found: dict[str, np.ndarray | str] = {}
    for row in hospital.rows():
        origin = next(one for one in hospital.origins() if f"images/{one.image}.png" == row["image"])
        is_file = row["mask"].startswith("masks/")
        found[origin.instance] = np.asarray(Image.open(hospital.out / row["mask"])) > 0 if is_file else row["mask"]
    return found


def assert_masks(hospital: Hospital, images: list[Dataset], wanted: np.ndarray) -> None:
    found = masks(hospital)
    assert len(found) == len(images)
    for image, mask in zip(images, wanted, strict=True):
        np.testing.assert_array_equal(found[str(image.SOPInstanceUID)], mask)


@pytest.mark.parametrize("refers", ["", "listed", "series"])
def test_seg_without_references_is_matched_by_position(hospital: Hospital, refers: str) -> None:
    images = stack(hospital)
    put(hospital, seg(images, MASKS, refers=refers))
    assert hospital.import_().left_out == {}
    assert_masks(hospital, images, MASKS)


def test_seg_of_another_study_is_matched_by_position_and_reference(hospital: Hospital) -> None:
    images = stack(hospital)
    put(hospital, edited(to_bytes(seg(images, MASKS)), StudyInstanceUID=uid.generate_uid()))
    assert hospital.import_().left_out == {}
    assert_masks(hospital, images, MASKS)
    put(hospital, edited(segmentation(images, MASKS[::-1]), StudyInstanceUID=uid.generate_uid()))
    assert hospital.import_().updated == 3
    assert_masks(hospital, images, MASKS[::-1])


def test_seg_with_other_patient_id_belongs_to_its_study(hospital: Hospital) -> None:
    images = stack(hospital)
    for name in ("", "anonymous"):
        put(hospital, edited(to_bytes(seg(images, MASKS)), PatientID=name))
        hospital.import_()
        assert_masks(hospital, images, MASKS)


def test_seg_does_not_match_images_of_another_frame_of_reference(hospital: Hospital) -> None:
    stack(hospital, 1)
    before = stack(hospital, StudyInstanceUID=uid.generate_uid(), FrameOfReferenceUID=uid.generate_uid())
    put(hospital, edited(to_bytes(seg(before, MASKS)), StudyInstanceUID=before[0].StudyInstanceUID))
    done = hospital.import_()
    assert (done.masks, done.undrawn, done.left_out) == (3, 1, {})


def moved(made: Dataset) -> Dataset:
    for group in made.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient[2] += 500
    return made


def without_groups(made: Dataset) -> Dataset:
    made.DimensionOrganizationType, made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = "TILED_FULL", 80, 72
    del made.PerFrameFunctionalGroupsSequence
    return made


def surface(made: Dataset) -> Dataset:
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = uid.SurfaceSegmentationStorage
    return made


def cut(made: Dataset) -> bytes:
    return to_bytes(made)[:-2000].replace(b"SQ", b"SS")


UNCLEAR = {
    "far from every image": moved,
    "of another frame of reference": lambda made: edited(to_bytes(made), FrameOfReferenceUID=uid.generate_uid()),
    "tiled": without_groups,
    "a surface": surface,
    "without any reference": lambda made: edited(to_bytes(made), FrameOfReferenceUID=""),
}


@pytest.mark.parametrize("how", UNCLEAR)
def test_drawing_on_no_image_holds_back_its_study(hospital: Hospital, how: str) -> None:
    images = stack(hospital)
    put(hospital, UNCLEAR[how](seg(images, MASKS)))
    done = hospital.import_()
    assert done.left_out.pop("unreadable", 1) == 1
    assert (done.images, done.left_out) == (0, {"mask-unclear": 3})
    assert not list((hospital.out / "images").iterdir())
    shown = CliRunner().invoke(app, [*hospital.command()])
    assert "left out: 3 mask-unclear (it is unclear which drawing is its mask" in shown.stdout


def test_image_without_frame_in_positioned_seg_is_unknown(hospital: Hospital) -> None:
    images = stack(hospital)
    put(hospital, seg(images[:2], MASKS[:2]))
    done = hospital.import_()
    assert (done.masks, done.undrawn, done.left_out) == (2, 1, {})
    assert masks(hospital)[str(images[2].SOPInstanceUID)] == "unknown"


def test_image_referenced_without_frame_has_no_lesion(hospital: Hospital) -> None:
    images = stack(hospital)
    some = MASKS.copy()
    some[1] = False
    for refers in (segmentation(images, some), to_bytes(seg(images, some, refers="listed"))):
        put(hospital, refers)
        assert hospital.import_().left_out == {}
        assert masks(hospital)[str(images[1].SOPInstanceUID)] == ""


def test_unreferenced_images_at_same_position_are_unknown(hospital: Hospital) -> None:
    images = stack(hospital)
    others = stack(hospital, SeriesInstanceUID=uid.generate_uid())
    put(hospital, segmentation(images, MASKS))
    done = hospital.import_()
    assert (done.images, done.masks, done.undrawn) == (6, 3, 3)
    assert {masks(hospital)[str(one.SOPInstanceUID)] for one in others} == {"unknown"}  # type: ignore[comparison-overlap]


def test_structure_set_becomes_masks_of_its_images(hospital: Hospital) -> None:
    images = stack(hospital)
    rings = [circle((8, 9, 3.0 * number), 4.2) for number in range(2)]
    put(hospital, structure_set(images[0], [rings]))
    done = hospital.import_()
    assert (done.masks, done.undrawn, done.left_out) == (2, 1, {})
    y, x = np.mgrid[:40, :36] * 0.5
    np.testing.assert_array_equal(masks(hospital)[str(images[1].SOPInstanceUID)], (x - 8) ** 2 + (y - 9) ** 2 < 4.2**2)
    put(hospital, refers_to(structure_set(images[0], [rings]), images[1:]))  # the first of them lies elsewhere
    assert hospital.import_().left_out == {"mask-unclear": 2}


def test_region_is_chosen_by_number_or_name(hospital: Hospital) -> None:
    images = stack(hospital, 1)
    put(hospital, structure_set(images[0], [[circle((8, 9, 0), 4.2)], [circle((8, 9, 0), 2.2)]]))
    assert hospital.import_().left_out == {"mask-unclear": 1}
    sizes = []
    for segment in (1, 2, "region 2"):
        assert hospital.import_(segment=segment).masks == 1
        sizes.append(int(np.sum(masks(hospital)[str(images[0].SOPInstanceUID)])))  # type: ignore[arg-type]
    assert sizes[0] > sizes[1] == sizes[2]
    assert hospital.import_().left_out == {"mask-unclear": 1}
    assert hospital.origins() == []


def test_no_lesion_comes_from_column_empty_mask_or_flag(hospital: Hospital) -> None:
    (image,) = stack(hospital, 1)
    Image.fromarray(np.zeros((40, 36), np.uint8)).save(hospital.folder / "empty.png")
    instance = str(image.SOPInstanceUID)
    for labels, choice, said in (
        ("patient,label\nCANARY-1,normal\n", {}, "unknown"),
        ("patient,label,mask\nCANARY-1,normal,none\n", {}, ""),
        (f"instance,label,mask\n{instance},normal,empty.png\n", {}, ""),
        ("patient,label\nCANARY-1,normal\n", {"no_mask_means_healthy": True}, ""),
        ("patient,label\nCANARY-1,normal\n", {}, "unknown"),
    ):
        hospital.import_(labels, **choice)
        assert [row["mask"] for row in hospital.rows()] == [said]
    shown = CliRunner().invoke(app, [*hospital.command()]).stdout
    assert "1 images have no mask, and are not marked as without lesion" in shown
    assert "--no-mask-means-healthy" in shown
    (case,) = manifest.read(hospital.out / "manifest.csv").cases
    assert (case.mask, case.is_drawn) == ("", False)


def test_mask_file_belongs_to_one_image(hospital: Hospital) -> None:
    (hospital.folder / "labels.csv").write_text("patient,label,mask\nCANARY-1,a,m.png\n")
    with pytest.raises(UserError, match="a mask to more than one image"):
        import_labels.read(hospital.folder / "labels.csv")


def test_frames_are_matched_by_their_own_positions(hospital: Hospital) -> None:
    images = stack(hospital)
    drawing = seg(images, MASKS)
    for path in hospital.pacs.iterdir():
        path.unlink()
    many = dataset(np.stack([GREY] * 3), frames=True, PatientID="CANARY-1", FrameOfReferenceUID=SPACE, BitsStored=12)
    many.StudyInstanceUID = images[0].StudyInstanceUID
    shared, own = Dataset(), []
    for image in images:
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = image.ImagePositionPatient
        group.PlanePositionSequence = [position]
        own.append(group)
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.5, 0.5]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    many.SharedFunctionalGroupsSequence, many.PerFrameFunctionalGroupsSequence = [shared], own
    put(hospital, many, "many.dcm")
    put(hospital, drawing)
    assert hospital.import_(frames="all").masks == 3
    by_frame = {one.frame: one.image for one in hospital.origins()}
    for frame, mask in enumerate(MASKS, start=1):
        drawn = np.asarray(Image.open(hospital.out / f"masks/{by_frame[frame]}.png")) > 0
        np.testing.assert_array_equal(drawn, mask)


def test_seg_segment_named_in_labels_is_read(hospital: Hospital) -> None:
    (image,) = stack(hospital, 1)
    both = np.stack([MASKS[:1], ~MASKS[:1]], -1)
    (hospital.folder / "seg.dcm").write_bytes(segmentation([image], both, labels=2))
    hospital.import_(f"instance,label,mask\n{image.SOPInstanceUID},a,seg.dcm#2\n")
    assert_masks(hospital, [image], ~MASKS[:1])
    (hospital.folder / "no.dcm").write_bytes(dicom(GREY))
    assert hospital.import_(f"instance,label,mask\n{image.SOPInstanceUID},a,gone.png\n").left_out == {"mask-unclear": 1}
    assert hospital.rows_or_none() == []
