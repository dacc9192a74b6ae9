"""An import with several regions: a mask for each, from the segment with the region's name as its label."""

from pathlib import Path

import numpy as np
import pytest
from dicom_hospital import segmentation
from drawn import edited
from import_hospital import GREY, Hospital
from PIL import Image
from pydicom import Dataset, dcmread, uid
from typer.testing import CliRunner

from ynet.data import manifest
from ynet.data.regions import decode
from ynet.plan_sections import Regions
from ynet_client.commands.cli import app

NAMES = ("disc", "cup")
DISC, CUP = (GREY > 300) & (GREY < 1500), (GREY > 600) & (GREY < 1100)
SPACE = uid.generate_uid()
NOTHING = np.zeros_like(DISC)


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def image(hospital: Hospital, name: str = "a.dcm", **elements: object) -> Dataset:
    hospital.image(name, **{"FrameOfReferenceUID": SPACE, "ImagePositionPatient": [0, 0, 0.0], **elements})
    return dcmread(hospital.pacs / name)


def draw(hospital: Hospital, images: list[Dataset], masks: list[np.ndarray], labels: tuple[str, ...]) -> None:
    """Put a SEG of the images into the hospital's folder, with a segment for each label."""
    made = edited(segmentation(images, np.stack(masks, -1), labels=len(labels)))
    for segment, label in zip(made.SegmentSequence, labels, strict=True):
        segment.SegmentLabel = label
    made.save_as(hospital.pacs / "seg.dcm")


def decoded(hospital: Hospital) -> np.ndarray:
    """The masks of the only image, as a training of the regions reads them."""
    read = manifest.read(hospital.out / "manifest.csv")
    (case,) = read.cases
    return decode(read, case, Regions(NAMES), GREY.shape)


def test_segments_become_columns_by_label_in_any_case(hospital: Hospital) -> None:
    draw(hospital, [image(hospital)], [np.stack([CUP]), np.stack([DISC])], ("Cup", "DISC"))
    done = hospital.import_(regions=NAMES)
    assert (done.images, done.masks, done.undrawn, done.left_out) == (1, 1, 0, {})
    (row,) = hospital.rows()
    assert "mask" not in row
    np.testing.assert_array_equal(np.asarray(Image.open(hospital.out / row["mask.disc"])) > 0, DISC)
    np.testing.assert_array_equal(np.asarray(Image.open(hospital.out / row["mask.cup"])) > 0, CUP)
    np.testing.assert_array_equal(decoded(hospital), np.stack([DISC, CUP]))


def test_region_that_a_drawing_does_not_have_is_unknown(hospital: Hospital) -> None:
    draw(hospital, [image(hospital)], [np.stack([DISC])], ("disc",))
    done = hospital.import_(regions=NAMES)
    (row,) = hospital.rows()
    assert row["mask.disc"].endswith(".disc.png")
    assert (row["mask.cup"], done.undrawn) == ("unknown", 1)


def test_segment_with_another_label_is_no_region(hospital: Hospital) -> None:
    draw(hospital, [image(hospital)], [np.stack([DISC])], ("lesion",))
    hospital.import_(regions=NAMES)
    (row,) = hospital.rows()
    assert (row["mask.disc"], row["mask.cup"]) == ("unknown", "unknown")


def test_segment_that_names_an_image_and_marks_nothing_is_empty(hospital: Hospital) -> None:
    images = [image(hospital, f"{place}.dcm", ImagePositionPatient=[0, 0, 3.0 * place]) for place in range(2)]
    draw(hospital, images, [np.stack([DISC, DISC]), np.stack([CUP, NOTHING])], NAMES)
    done = hospital.import_(regions=NAMES)
    assert (done.images, done.undrawn) == (2, 0)
    assert sorted(bool(row["mask.cup"]) for row in hospital.rows()) == [False, True]
    assert all(row["mask.disc"] for row in hospital.rows())


def test_two_segments_of_one_label_leave_the_image_out(hospital: Hospital) -> None:
    draw(hospital, [image(hospital)], [np.stack([DISC]), np.stack([CUP])], ("cup", "Cup"))
    assert hospital.import_(regions=NAMES).left_out == {"mask-unclear": 1}


def test_drawing_on_no_image_leaves_the_image_out(hospital: Hospital) -> None:
    draw(hospital, [image(hospital)], [np.stack([DISC]), np.stack([CUP])], NAMES)
    made = dcmread(hospital.pacs / "seg.dcm")
    for group in made.PerFrameFunctionalGroupsSequence:
        group.DerivationImageSequence = []
        group.PlanePositionSequence[0].ImagePositionPatient[2] += 500
    del made.ReferencedSeriesSequence
    made.save_as(hospital.pacs / "seg.dcm")
    assert hospital.import_(regions=NAMES).left_out == {"mask-unclear": 1}


def test_mask_in_the_labels_has_regions_as_values_or_none(hospital: Hospital) -> None:
    first, second = image(hospital), image(hospital, "b.dcm", pixels=GREY + 1)
    Image.fromarray(np.where(CUP, 2, DISC).astype(np.uint8)).save(hospital.folder / "m.png")
    labels = f"instance,label,mask\n{first.SOPInstanceUID},a,m.png\n{second.SOPInstanceUID},b,none\n"
    assert hospital.import_(labels, regions=NAMES).left_out == {}
    drawn, healthy = sorted(hospital.rows(), key=lambda row: row["label"])
    np.testing.assert_array_equal(np.asarray(Image.open(hospital.out / drawn["mask.disc"])) > 0, DISC & ~CUP)
    np.testing.assert_array_equal(np.asarray(Image.open(hospital.out / drawn["mask.cup"])) > 0, CUP)
    assert (healthy["mask.disc"], healthy["mask.cup"]) == ("", "")


def test_other_regions_make_the_masks_again_and_remove_the_former_files(hospital: Hospital) -> None:
    draw(hospital, [image(hospital)], [np.stack([DISC]), np.stack([CUP])], NAMES)
    hospital.import_(regions=NAMES)
    done = hospital.import_(segment="disc")
    assert (done.updated, done.masks) == (1, 1)
    (row,) = hospital.rows()
    assert not {"mask.disc", "mask.cup"} & set(row)
    assert [path.name for path in (hospital.out / "masks").iterdir()] == [Path(row["mask"]).name]


def test_rows_of_an_import_without_regions_have_unknown_ones(hospital: Hospital) -> None:
    image(hospital)
    hospital.import_("patient,label,mask\nCANARY-1,a,none\n")
    (hospital.pacs / "a.dcm").unlink()
    image(hospital, "b.dcm", PatientID="CANARY-2")
    assert hospital.import_("patient,label,mask\nCANARY-1,a,none\nCANARY-2,b,none\n", regions=NAMES).stale == 1
    old, new = sorted(hospital.rows(), key=lambda row: row["label"])
    assert (old["mask"], old["mask.disc"], old["mask.cup"]) == ("", "unknown", "unknown")
    assert (new["mask"], new["mask.disc"], new["mask.cup"]) == ("unknown", "", "")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--region", "disc"], "one region needs no name"),
        (["--region", "disc", "--region", "Disc"], "listed twice"),
        (["--region", "disc", "--region", "../cup"], "--region"),
        (["--region", "disc", "--region", "cup", "--segment", "1"], "given with --segment"),
        (["--region", "disc", "--region", "cup", "--no-mask-means-healthy"], "given with --no-mask-means-healthy"),
    ],
)
def test_regions_that_a_plan_cannot_have_are_refused(hospital: Hospital, options: list[str], why: str) -> None:
    image(hospital)
    hospital.import_()
    found = CliRunner().invoke(app, [*hospital.command(), *options])
    assert found.exit_code != 0
    assert why in str(found.exception)
