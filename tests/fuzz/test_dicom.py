"""DICOM files, bent, and those that say they are large."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from dicom_hospital import names, segmentation
from dicoms import LOSSLESS, LOSSY, UNCOMPRESSED, dataset, dicom, to_bytes
from drawn import circle, refers_to, structure_set
from fuzz.mangling import fuzzed, holds, mangled
from hypothesis import given
from hypothesis import strategies as st
from pydicom import uid

from ynet.data import images

Y, X = np.mgrid[:40, :36]
GREY = (X * 60 + Y * 12).astype(np.uint16)
COLOUR = np.stack([X * 4, Y * 3, X * 3 + Y], -1).astype(np.uint8)
SYNTAXES = (*UNCOMPRESSED, *LOSSLESS, *LOSSY)


@cache
def samples(syntax: str) -> list[bytes]:
    """Small images of one transfer syntax."""
    eight = [dicom(COLOUR, syntax, kind="RGB"), dicom((GREY >> 4).astype(np.uint8), syntax)]
    if syntax == uid.JPEGBaseline8Bit:
        return eight
    return [*eight, dicom(GREY, syntax, BitsStored=12, WindowCenter=1500, WindowWidth=900)]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: uid.UID(syntax).keyword)
@fuzzed(100)
@given(data=st.data())
def test_a_dicom_file(tmp_path: Path, syntax: str, data: st.DataObject) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(data.draw(mangled(*samples(syntax))))
    decoded = holds(lambda: images.decode(path, 3))
    assert decoded is None or decoded.dtype == np.float32  # type: ignore[attr-defined]
    holds(lambda: images.decode_mask(path, path))


@fuzzed(150)
@given(data=st.data())
def test_a_dicom_seg(tmp_path: Path, data: st.DataObject) -> None:
    image, seg = tmp_path / "image.dcm", tmp_path / "seg.dcm"
    made, file = drawn()
    image.write_bytes(made)
    seg.write_bytes(data.draw(mangled(file)))
    holds(lambda: images.decode_mask(seg, image))


@fuzzed(150)
@given(data=st.data())
def test_a_structure_set(tmp_path: Path, data: st.DataObject) -> None:
    source = dataset(GREY[:9, :7].copy(), **names(), ImagePositionPatient=[0, 0, 0])
    image, made = tmp_path / "image.dcm", tmp_path / "rt.dcm"
    image.write_bytes(to_bytes(source))
    contours = refers_to(structure_set(source, [[circle((2, 2, 0), 1.2, 12)]]), [source])
    made.write_bytes(data.draw(mangled(to_bytes(contours))))
    holds(lambda: images.decode_mask(made, image))


@cache
def drawn() -> tuple[bytes, bytes]:
    """A small image, and a SEG that refers to it."""
    source = dataset(GREY[:9, :7].copy(), **names(), ImagePositionPatient=[0, 0, 0])
    return to_bytes(source), segmentation([source], GREY[None, :9, :7] > 200)
