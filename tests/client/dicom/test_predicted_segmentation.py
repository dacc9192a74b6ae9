"""A predicted mask becomes a DICOM SEG that other readers decode to the same mask."""

import datetime as dt
import io

import highdicom
import numpy as np
import pytest
from dicom_hospital import names
from dicoms import dataset, dicom, to_bytes
from PIL import Image
from pydicom import Dataset, dcmread, uid

from ynet.data.dicom import drawings
from ynet.data.dicom.faults import UnfitError
from ynet.data.dicom.matching import Subject
from ynet.data.regions import packed
from ynet_client.dicom import predicted_segmentation

GREY = np.arange(37 * 23, dtype=np.uint16).reshape(37, 23)
MASK = (GREY % 5 == 0).astype(np.uint8)
MODEL, NOW = "ab" * 32, dt.datetime(2026, 5, 17, 9, 30)


def made(source: bytes, frame: int | None = None, mask: np.ndarray = MASK) -> Dataset:
    return dcmread(io.BytesIO(predicted_segmentation.make(source, frame, mask, MODEL, "story", NOW)))


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, uid.RLELossless])
def test_seg_is_read_alike_by_ynet_and_highdicom(syntax: str) -> None:
    source = dicom(GREY, syntax, **names(), ImagePositionPatient=[0, 0, 0])
    image, seg = dcmread(io.BytesIO(source)), made(source)
    np.testing.assert_array_equal(drawings.decode(to_bytes(seg), drawings.subject(source, None)), MASK)
    read = highdicom.seg.Segmentation.from_dataset(seg)
    pixels = read.get_pixels_by_source_instance([image.SOPInstanceUID])
    np.testing.assert_array_equal(pixels[0, :, :, 0], MASK)
    assert (seg.PatientID, seg.StudyInstanceUID) == (image.PatientID, image.StudyInstanceUID)
    (segment,) = seg.SegmentSequence
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Lesion"
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, MODEL in algorithm.AlgorithmParameters) == ("ynet", True)
    assert drawings.read(to_bytes(seg)).is_automatic


def test_seg_refers_to_the_chosen_frame() -> None:
    many = dataset(np.stack([GREY] * 3), frames=True, **names(), ImagePositionPatient=[0, 0, 0])
    seg = to_bytes(made(to_bytes(many), 2))
    for frame in (1, 2, 3):
        mask = drawings.decode(seg, Subject(many.SOPInstanceUID, frame))
        np.testing.assert_array_equal(mask, MASK if frame == 2 else 0)


def test_uids_are_deterministic_and_empty_mask_has_a_frame() -> None:
    source = dicom(GREY, **names(), ImagePositionPatient=[0, 0, 0])
    one, two, other = made(source), made(source, mask=MASK * 0), made(dicom(GREY, **names()))
    assert one.SOPInstanceUID == two.SOPInstanceUID != other.SOPInstanceUID
    assert not drawings.decode(to_bytes(two), drawings.subject(source, None)).any()


def test_image_without_geometry_is_refused_without_names() -> None:
    source = dataset(GREY, **names())
    del source.FrameOfReferenceUID
    with pytest.raises(UnfitError, match="no frame of reference"):
        made(to_bytes(source))
    assert made(dicom(GREY, **{**names(), "Modality": "DX", "SOPClassUID": uid.DigitalXRayImageStorageForPresentation}))


def test_file_that_is_cut_short_anywhere_before_its_size_is_damaged() -> None:
    source = dicom(GREY, **names())
    for end in range(140, source.index(b"US\x02\x00")):
        with pytest.raises(UnfitError, match=r"damaged|not a DICOM"):
            made(source[:end])


def test_each_region_is_a_segment_with_its_name_that_ynet_reads_back() -> None:
    source, regions = dicom(GREY, **names(), ImagePositionPatient=[0, 0, 0]), ("disc", "cup", "rim")
    masks = np.stack([GREY % 2 == 0, GREY % 3 == 0, GREY < 0]).astype(np.uint8)
    seg = predicted_segmentation.make(source, None, packed(masks), MODEL, "story", NOW, regions)
    drawing, subject = drawings.read(seg), drawings.subject(source, None)
    assert list(drawing.names.values()) == list(regions)
    for name, mask in zip(regions, masks, strict=True):
        np.testing.assert_array_equal(drawings.rendered(drawing, subject, drawing.labelled(name)), mask)
    assert drawing.is_automatic


def test_picture_of_several_regions_keeps_their_bits() -> None:
    bits, file = GREY.astype(np.uint8) % 8, io.BytesIO()
    Image.fromarray(bits).save(file, "PNG")
    np.testing.assert_array_equal(predicted_segmentation.read_mask(file.getvalue(), ("a", "b", "c")), bits)
