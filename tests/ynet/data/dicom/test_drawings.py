"""Drawings are matched to images by references, else by position in the patient."""

import io
from pathlib import Path

import numpy as np
import pytest
from dicom_hospital import names, segmentation
from dicoms import MR, dataset, dicom, to_bytes
from drawn import circle, edited, refers_to, seg, structure_set
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom import Dataset, dcmread, uid

from ynet.data import images
from ynet.data.check import check
from ynet.data.dicom import drawings, geometry
from ynet.data.dicom.faults import UnfitError
from ynet.data.dicom.matching import Subject

GREY = np.arange(19 * 14, dtype=np.uint16).reshape(19, 14)
MASK = np.random.default_rng(7).random((3, 19, 14)) > 0.5
AXES = [(axis, sign) for axis in range(3) for sign in (-1, 1)]
FLAT = [[a * (i == x) for i in range(3)] + [b * (i == y) for i in range(3)] for x, a in AXES for y, b in AXES if x != y]
SPACE = uid.generate_uid()


def stack(orientation: list[float], spacing: tuple[float, float] = (0.7, 0.5), count: int = 3) -> list[Dataset]:
    """Images of one series, 3 mm apart."""
    normal = np.cross(orientation[:3], orientation[3:])
    series = {"StudyInstanceUID": uid.generate_uid(), "SeriesInstanceUID": uid.generate_uid()}
    values = {"ImageOrientationPatient": orientation, "PixelSpacing": list(spacing), "FrameOfReferenceUID": SPACE}
    return [
        dataset(
            GREY + number,
            **names(**series, **values),  # type: ignore[arg-type]
            ImagePositionPatient=[float(f"{value:.6f}") for value in np.array([-4.5, 8.25, 30]) + 3 * number * normal],
        )
        for number in range(count)
    ]


def order(made: Dataset, sources: list[Dataset]) -> list[int]:
    """The image on which each frame of a SEG lies."""
    positions = [[float(value) for value in one.ImagePositionPatient] for one in sources]
    groups = made.PerFrameFunctionalGroupsSequence
    return [
        positions.index([float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]) for group in groups
    ]


def on(made: Dataset | bytes, image: Dataset, known: frozenset[str] | None = frozenset()) -> np.ndarray | None:
    data = made if isinstance(made, bytes) else to_bytes(made)
    found = drawings.mask_on(drawings.read(data), drawings.subject(to_bytes(image), None), None, known)
    return None if found is None else found.mask


@given(
    orientation=st.sampled_from(FLAT),
    turn=st.floats(-0.5, 0.5),
    refers=st.sampled_from(["", "listed", "series"]),
    masks=hnp.arrays(bool, (3, 19, 14), elements=st.booleans()),
)
@settings(max_examples=25, deadline=None)
def test_match_by_position_equals_match_by_reference(
    orientation: list[float], turn: float, refers: str, masks: np.ndarray
) -> None:
    along, down = np.array(orientation[:3]), np.array(orientation[3:])
    turned = [*(np.cos(turn) * along + np.sin(turn) * down), *(np.cos(turn) * down - np.sin(turn) * along)]
    masks[:, 3, 4] = True
    sources = stack([float(f"{value:.8f}") for value in turned])
    by_reference, by_place = segmentation(sources, masks), seg(sources, masks, refers=refers)
    known = frozenset(name for one in sources for name in (one.SOPInstanceUID, one.SeriesInstanceUID))
    for image, mask in zip(sources, masks, strict=True):
        np.testing.assert_array_equal(on(by_reference, image, known), mask)
        np.testing.assert_array_equal(on(by_place, image, known), mask)


def test_flipped_grid_is_resampled_correctly() -> None:
    (image,) = stack([1, 0, 0, 0, 1, 0], count=1)
    end = np.array(image.ImagePositionPatient, float) + np.array([0.5 * 13, 0.7 * 18, 0])
    turned = dataset(GREY, **{**names(), **{name: image.get(name) for name in ("StudyInstanceUID", "PixelSpacing")}})
    turned.FrameOfReferenceUID, turned.ImagePositionPatient = SPACE, list(end)
    turned.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
    np.testing.assert_array_equal(on(seg([turned], MASK[:1, ::-1, ::-1]), image), MASK[0])


def test_partial_and_finer_grids_are_resampled() -> None:
    (image,) = stack([1, 0, 0, 0, 1, 0], spacing=(0.5, 0.5), count=1)
    first = np.array(image.ImagePositionPatient, float)
    part = dataset(GREY[:6, :5].copy(), **names(PixelSpacing=[0.5, 0.5], FrameOfReferenceUID=SPACE))
    part.ImagePositionPatient = list(first + np.array([1.0, 2.0, 0]))
    wanted = np.zeros((19, 14), bool)
    wanted[4:10, 2:7] = MASK[0, :6, :5]
    np.testing.assert_array_equal(on(seg([part], MASK[:1, :6, :5]), image), wanted)
    fine = dataset(np.zeros((57, 42), np.uint16), **names(PixelSpacing=[0.5 / 3] * 2, FrameOfReferenceUID=SPACE))
    fine.ImagePositionPatient = list(first - np.array([0.5 / 3, 0.5 / 3, 0]))
    np.testing.assert_array_equal(on(seg([fine], MASK[:1].repeat(3, 1).repeat(3, 2)), image), MASK[0])
    lost = np.zeros((1, 57, 42), bool)
    lost[0, 0, 0] = True
    with pytest.raises(UnfitError, match="no part of it lies on the image"):
        on(seg([fine], lost), image)


def test_drawing_beside_or_across_the_plane_is_refused() -> None:
    sources = stack([1, 0, 0, 0, 1, 0])
    for one in sources:
        one.ImagePositionPatient[2] += 1.0
    made = seg(sources, MASK)
    image = stack([1, 0, 0, 0, 1, 0], count=2)[1]
    with pytest.raises(UnfitError, match="beside the image's plane"):
        on(made, image)
    (across,) = stack([0, 1, 0, 0, 0, -1], count=1)
    across.ImagePositionPatient = [0, 8, 34]
    with pytest.raises(UnfitError, match="beside the image's plane"):
        on(seg([across], MASK[:1]), image)
    moved = edited(segmentation([image], MASK[:1]))
    for group in moved.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient[2] += 1
    with pytest.raises(UnfitError, match="lies in another plane"):
        on(moved, image, None)


def test_overlapping_slices_are_distinguished() -> None:
    sources = stack([1, 0, 0, 0, 1, 0], count=5)
    for number, one in enumerate(sources):
        one.ImagePositionPatient[2], one.SliceThickness = 30 + 1.25 * number, "5"
    made = seg(sources[1:4], MASK)
    assert on(made, sources[0]) is None
    assert on(made, sources[4]) is None
    np.testing.assert_array_equal(on(made, sources[2]), MASK[1])


def test_references_to_renamed_images_fall_back_to_position() -> None:
    sources = stack([1, 0, 0, 0, 1, 0])
    made = segmentation(sources, MASK)
    copies = [dcmread(io.BytesIO(to_bytes(one))) for one in sources]
    for one in copies:
        one.SOPInstanceUID, one.SeriesInstanceUID = uid.generate_uid(), uid.generate_uid()
    here = frozenset(str(one.SOPInstanceUID) for one in copies)
    np.testing.assert_array_equal(on(made, copies[1], here), MASK[1])
    both = here | {str(sources[0].SOPInstanceUID)}
    assert on(made, copies[1], both) is None


def test_frame_referring_to_all_images_is_matched_by_position() -> None:
    sources = stack([1, 0, 0, 0, 1, 0])
    made = edited(segmentation(sources, MASK))
    own = [group.DerivationImageSequence[0].SourceImageSequence[0] for group in made.PerFrameFunctionalGroupsSequence]
    for group in made.PerFrameFunctionalGroupsSequence:
        group.DerivationImageSequence[0].SourceImageSequence = own
    for image, mask in zip(sources, MASK, strict=True):
        np.testing.assert_array_equal(on(made, image, None), mask)


def test_image_without_frame_of_reference_needs_sole_reference() -> None:
    image = dataset(GREY, **names())
    for keyword in ("FrameOfReferenceUID", "ImageOrientationPatient", "PixelSpacing"):
        delattr(image, keyword)
    (source,) = stack([1, 0, 0, 0, 1, 0], count=1)
    source.SOPInstanceUID, source.StudyInstanceUID = image.SOPInstanceUID, image.StudyInstanceUID
    made = seg([source], MASK[:1], refers="listed")
    del made.FrameOfReferenceUID
    known = frozenset([str(image.SOPInstanceUID)])
    np.testing.assert_array_equal(on(made, image, known), MASK[0])
    del made.ReferencedSeriesSequence
    with pytest.raises(UnfitError, match="refers to no image and has no position"):
        on(made, image, known)


def test_tiled_seg_and_seg_without_frame_groups_are_refused() -> None:
    sources = stack([1, 0, 0, 0, 1, 0])
    tiled = seg(sources, MASK, refers="listed")
    tiled.DimensionOrganizationType, tiled.TotalPixelMatrixRows, tiled.TotalPixelMatrixColumns = "TILED_FULL", 38, 28
    del tiled.PerFrameFunctionalGroupsSequence
    with pytest.raises(UnfitError, match="in tiles of a larger picture"):
        on(tiled, sources[0])
    mute = seg(sources, MASK, refers="listed")
    del mute.PerFrameFunctionalGroupsSequence
    with pytest.raises(UnfitError, match="do not say what they show"):
        on(mute, sources[0])


def test_frames_without_segment_number_are_refused() -> None:
    sources = stack([1, 0, 0, 0, 1, 0])
    made = edited(segmentation(sources, np.stack([MASK, ~MASK], -1), labels=2))
    for group in made.PerFrameFunctionalGroupsSequence:
        del group.SegmentIdentificationSequence
    with pytest.raises(UnfitError, match="which segment they show"):
        drawings.decode(to_bytes(made), drawings.subject(to_bytes(sources[0]), None), 2)


def test_label_map_segments_are_its_values_without_background() -> None:
    sources = stack([1, 0, 0, 0, 1, 0])
    made = seg(sources, MASK | True)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = uid.UID("1.2.840.10008.5.1.4.1.1.66.7")
    made.PixelData = (MASK[order(made, sources)] * 5).astype(np.uint8).tobytes()
    made.SegmentationType, made.BitsAllocated, made.BitsStored, made.HighBit = "LABELMAP", 8, 8, 7
    background = Dataset()
    background.SegmentNumber, background.SegmentLabel = 0, "Background"
    made.SegmentSequence[0].SegmentNumber = 5
    made.SegmentSequence = [background, made.SegmentSequence[0]]
    for group in (*made.PerFrameFunctionalGroupsSequence, *made.SharedFunctionalGroupsSequence):
        group.pop("SegmentIdentificationSequence", None)
    np.testing.assert_array_equal(on(made, sources[1]), MASK[1])


def test_segment_is_chosen_by_name() -> None:
    sources = stack([1, 0, 0, 0, 1, 0])
    made = edited(segmentation(sources, np.stack([MASK, ~MASK], -1), labels=2))
    made.SegmentSequence[1].SegmentLabel = "Tumour"
    image = drawings.subject(to_bytes(sources[0]), None)
    np.testing.assert_array_equal(drawings.decode(to_bytes(made), image, "Tumour"), ~MASK[0])
    with pytest.raises(UnfitError, match="no segment of that name"):
        drawings.decode(to_bytes(made), image, "Edema")


# --- structure sets


def axial(count: int = 2, side: int = 120) -> list[Dataset]:
    images = []
    for number in range(count):
        values = {"ImagePositionPatient": [-30, -20, 3.0 * number], "PixelSpacing": [0.5, 0.5]}
        images.append(dataset(np.zeros((side, side), np.uint16), **{**names(FrameOfReferenceUID=SPACE), **values}))
    return images


def disc(image: Dataset, center: tuple[float, float], radius: float) -> np.ndarray:
    x0, y0, _ = (float(value) for value in image.ImagePositionPatient)
    y, x = np.mgrid[: image.Rows, : image.Columns] * 0.5
    return np.asarray((x + x0 - center[0]) ** 2 + (y + y0 - center[1]) ** 2 <= radius**2)


def test_contours_fill_disc_with_hole_on_their_plane_only() -> None:
    image, other = axial()
    rings = [circle((1.13, 7.21, 0), 11.3), circle((2.2, 6.1, 0), 4.17)]
    wanted = disc(image, (1.13, 7.21), 11.3) & ~disc(image, (2.2, 6.1), 4.17)
    plain, xor = structure_set(image, [rings]), structure_set(image, [rings], kind="CLOSEDPLANAR_XOR")
    keyhole = np.concatenate([rings[0], rings[0][:1], rings[1][::-1], rings[1][-1:]])
    for made in (plain, xor, structure_set(image, [[keyhole]]), refers_to(structure_set(image, [rings]), [image] * 2)):
        drawn = on(made, image)
        assert drawn is not None
        assert np.mean(drawn.astype(bool) != wanted) < 1e-3
        assert on(made, other) is None


def test_contour_fills_pixels_by_their_centre() -> None:
    square = np.array([[0.5, 0.5], [3.5, 0.5], [3.5, 2.5], [0.5, 2.5]])
    wanted = np.zeros((5, 6), np.uint8)
    wanted[1:3, 1:4] = 1
    for polygon in (square, square[::-1]):
        np.testing.assert_array_equal(geometry.filled([polygon], (5, 6)), wanted)
    halves = [np.array([[0, 0], [2, 0], [2, 4], [0, 4]]), np.array([[2, 0], [5, 0], [5, 4], [2, 4]])]
    both = sum(geometry.filled([half.astype(float)], (5, 6)).astype(int) for half in halves)
    np.testing.assert_array_equal(both[:4, :5], 1)  # each pixel belongs to one of two neighbours
    np.testing.assert_array_equal(geometry.filled([square - 50, square + 50], (5, 6)), 0)


def test_ambiguous_open_or_empty_contours_are_refused() -> None:
    image, _ = axial()
    ring = circle((1, 7, 0), 11.3)
    two = structure_set(image, [[ring], [circle((1, 7, 0), 3.07)]])
    with pytest.raises(UnfitError, match="2 segments, and none is named"):
        on(two, image)
    subject = drawings.subject(to_bytes(image), None)
    chosen = drawings.mask_on(drawings.read(to_bytes(two)), subject, "region 2", frozenset())
    assert chosen is not None
    assert chosen.mask.sum() == disc(image, (1, 7), 3.07).sum()
    for kind, points in (("POINT", ring[:1]), ("OPEN_PLANAR", ring), ("OPEN_NONPLANAR", ring)):
        with pytest.raises(UnfitError, match="a point or an open line"):
            on(structure_set(image, [[points]], kind=kind), image)
    with pytest.raises(UnfitError, match="enclose no pixel's centre"):
        on(structure_set(image, [[circle((0.25, 0.25, 0), 0.1)]]), image)
    with pytest.raises(UnfitError, match="beside the image's plane"):
        on(structure_set(image, [[circle((1, 7, 1), 11.3)]]), image)


def test_structure_set_is_used_as_mask_in_a_manifest(tmp_path: Path) -> None:
    for number, image in enumerate(axial()):
        (tmp_path / f"{number}.dcm").write_bytes(to_bytes(image))
    first = dcmread(tmp_path / "0.dcm")
    made = refers_to(structure_set(first, [[circle((1, 7, 0), 11.3)]]), [first])
    (tmp_path / "rt.dcm").write_bytes(to_bytes(made))
    (tmp_path / "manifest.csv").write_text("image,mask,label,patient\n0.dcm,rt.dcm,glioma,p\n1.dcm,unknown,glioma,q\n")
    report = check(tmp_path / "manifest.csv", None)
    assert not report.errors
    assert "masks that nobody has drawn: 1" in " ".join(problem.what for problem in report.problems)
    assert images.decode_mask(tmp_path / "rt.dcm", tmp_path / "0.dcm").any()
    with pytest.raises(UnfitError, match="other images than this one"):
        drawings.decode(to_bytes(made), drawings.subject((tmp_path / "1.dcm").read_bytes(), None))


def test_frame_plane_comes_from_functional_groups() -> None:
    sources = stack([0, 1, 0, 0, 0, -1])
    many = dcmread(io.BytesIO(segmentation(sources, MASK | True)))
    for frame, source in enumerate(order(many, sources), start=1):
        found, own = geometry.plane(many, frame), geometry.plane(sources[source], 1)
        assert found is not None
        assert own is not None
        np.testing.assert_allclose(found.corners, own.corners)
    assert geometry.plane(Dataset(), 1) is None
    assert drawings.subject(dicom(GREY, SOPClassUID=MR, ImagePositionPatient=[1, 2]), None).plane is None
    assert Subject("1").frames == 1
