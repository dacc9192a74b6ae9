"""A DICOM SEG gives the mask of each image that it refers to."""

import io
import sys
from pathlib import Path

import highdicom
import numpy as np
import pytest
from dicom_hospital import names, segmentation
from dicoms import dataset, dicom, to_bytes
from pydicom import Dataset, dcmread, uid

from ynet.data import images
from ynet.data.check import check
from ynet.errors import UserError

SIDE = 21  # odd: frames of one bit per pixel start inside a byte
PIXELS = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)
MASKS = np.random.default_rng(1).random((3, SIDE, SIDE)) > 0.6
MASKS[1] = False


def slices(folder: Path) -> list[Path]:
    """Three images of one series."""
    series = names(StudyInstanceUID=uid.generate_uid(), SeriesInstanceUID=uid.generate_uid())
    paths = [folder / f"{number}.dcm" for number in range(3)]
    for number, path in enumerate(paths):
        geometry = {"ImagePositionPatient": [0, 0, 3.0 * number], "InstanceNumber": number + 1}
        path.write_bytes(dicom(PIXELS + number, **{**series, **geometry}))
    return paths


def test_image_gets_its_own_frame_or_an_empty_mask(tmp_path: Path) -> None:
    paths, seg = slices(tmp_path), tmp_path / "seg.dcm"
    seg.write_bytes(segmentation([dcmread(path) for path in paths], MASKS))
    for path, mask in zip(paths, MASKS, strict=True):
        np.testing.assert_array_equal(images.decode_mask(seg, path), mask)


@pytest.mark.parametrize("segment", [1, 2])
def test_mask_equals_that_of_highdicom(tmp_path: Path, segment: int) -> None:
    paths, seg = slices(tmp_path), tmp_path / "seg.dcm"
    seg.write_bytes(segmentation([dcmread(path) for path in paths], np.stack([MASKS, ~MASKS], -1), labels=2))
    read = highdicom.seg.segread(seg)
    for path in paths:
        instance = str(dcmread(path).SOPInstanceUID)
        expected = read.get_pixels_by_source_instance([instance], [segment], assert_missing_frames_are_empty=True)
        found = images.decode_mask(tmp_path / f"seg.dcm#{segment}", path)
        np.testing.assert_array_equal(found, expected[0, ..., 0])


def test_seg_of_several_segments_needs_a_segment(tmp_path: Path) -> None:
    paths, seg = slices(tmp_path), tmp_path / "seg.dcm"
    both = np.stack([MASKS, ~MASKS], -1)
    seg.write_bytes(segmentation([dcmread(path) for path in paths], both, labels=2))
    with pytest.raises(UserError, match=r"2 segments, and none is named.*\n.*#1, #2"):
        images.decode_mask(seg, paths[0])
    np.testing.assert_array_equal(images.decode_mask(tmp_path / "seg.dcm#2", paths[0]), ~MASKS[0])
    with pytest.raises(UserError, match="no segment 3"):
        images.decode_mask(tmp_path / "seg.dcm#3", paths[0])


def test_seg_of_other_image_or_without_dicom_image_is_refused(tmp_path: Path) -> None:
    paths, seg = slices(tmp_path), tmp_path / "seg.dcm"
    seg.write_bytes(segmentation([dcmread(path) for path in paths[:2]], MASKS[:2] | True))
    with pytest.raises(UserError, match="of other images than this one"):
        images.decode_mask(seg, paths[2])
    with pytest.raises(UserError, match="its image is no DICOM file"):
        images.decode_mask(seg)


def test_fractional_seg_is_thresholded_at_half(tmp_path: Path) -> None:
    paths, seg = slices(tmp_path), tmp_path / "seg.dcm"
    made = dcmread(io.BytesIO(segmentation([dcmread(paths[0])], MASKS[:1])))
    made.SegmentationType, made.MaximumFractionalValue, made.BitsAllocated, made.BitsStored = "FRACTIONAL", 200, 8, 8
    made.HighBit, made.PixelData = 7, (MASKS[0] * 100 + ~MASKS[0] * 99).astype(np.uint8).tobytes() + b"\0"
    seg.write_bytes(to_bytes(made))
    np.testing.assert_array_equal(images.decode_mask(seg, paths[0]), MASKS[0])


def test_seg_on_multiframe_image_matches_frames(tmp_path: Path) -> None:
    path, seg = tmp_path / "many.dcm", tmp_path / "seg.dcm"
    many = dataset(np.stack([PIXELS] * 3), frames=True, **names(), ImagePositionPatient=[0, 0, 0])
    path.write_bytes(to_bytes(many))
    single = dataset(PIXELS, **names(), ImagePositionPatient=[0, 0, 0], SOPInstanceUID=many.SOPInstanceUID)
    made = dcmread(io.BytesIO(segmentation([single], MASKS[:1])))
    source: Dataset = made.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    source.ReferencedFrameNumber = 2
    seg.write_bytes(to_bytes(made))
    np.testing.assert_array_equal(images.decode_mask(seg, tmp_path / "many.dcm#2"), MASKS[0])
    assert not images.decode_mask(seg, tmp_path / "many.dcm#3").any()


def test_check_accepts_manifest_of_dicom_files_and_segs(tmp_path: Path) -> None:
    paths = slices(tmp_path)
    (tmp_path / "seg.dcm").write_bytes(segmentation([dcmread(path) for path in paths], MASKS))
    rows = [f"{path.name},seg.dcm,glioma,p{number}" for number, path in enumerate(paths)]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["image,mask,label,patient", *rows]))
    opened: list[str] = []
    sys.addaudithook(lambda event, of: opened.append(str(of[0])) if event == "open" else None)
    report = check(manifest, None)
    read = sorted(Path(path).name for path in opened if path.startswith(str(tmp_path)) and path.endswith(".dcm"))
    assert read == sorted([*(path.name for path in paths), *["seg.dcm"] * 3])  # each once per row
    assert not report.errors
    assert report.images_per_size == {f"{SIDE} x {SIDE}": 3}
