"""DICOM files, bent, and those that say they are large."""

import io
import subprocess
import tempfile
import zipfile
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
from needs import needed
from pydicom import Dataset, uid

from ynet.data import images
from ynet_client.dicom.folder_files import in_folders

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


@cache
def shown() -> list[bytes]:
    """Files that say in several ways how they are shown, that have a palette, or no head."""
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [256, 0, 16])
    table.add_new("LUTData", "OW", bytes(range(256)) * 2)
    eight = (GREY >> 4).astype(np.uint8)
    grey = dataset(
        GREY, BitsStored=12, VOILUTSequence=[table], ModalityLUTSequence=[table], WindowCenter=9, WindowWidth=9
    )
    grey.add_new("PixelPaddingValue", "US", 63536)
    palette, segments = dataset(eight, kind="PALETTE COLOR"), dataset(eight, kind="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        for made in (palette, segments):
            made.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        palette.add_new(f"{colour}PaletteColorLookupTableData", "OW", bytes(range(256)) * 2)
        opened = np.asarray([0, 2, 1, 9, 1, 250, 65535, 2, 2, 0, 0], "<u2").tobytes()
        segments.add_new(f"Segmented{colour}PaletteColorLookupTableData", "OW", opened)
    bare = to_bytes(grey)[132:]
    wide = to_bytes(dataset(GREY.astype(np.uint32)))
    return [to_bytes(grey), bare, to_bytes(palette), to_bytes(segments), wide]


@fuzzed(150)
@given(data=st.data())
def test_how_a_dicom_file_is_shown(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(data.draw(mangled(*shown())))
    holds(lambda: images.decode(path, 3))


@cache
def twelve_bit() -> list[bytes]:
    """A JPEG of 12 bit with loss, which another library than the others decodes."""
    with tempfile.TemporaryDirectory() as folder:
        plain, coded = Path(folder) / "plain.dcm", Path(folder) / "coded.dcm"
        plain.write_bytes(dicom(GREY, BitsStored=12))
        subprocess.run([needed("dcmcjpeg"), "+ee", plain, coded], check=True, capture_output=True)
        return [coded.read_bytes()]


@fuzzed(60)
@given(data=st.data())
def test_a_jpeg_of_12_bit(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(data.draw(mangled(*twelve_bit())))
    holds(lambda: images.decode(path, 3))


@cache
def archive(is_stored: bool) -> bytes:
    """A ZIP archive of an image, and of another archive."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED if is_stored else zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a/IM0", dicom(GREY[:9, :7].copy()))
        opened.writestr("b.zip", b"PK\x03\x04" + bytes(30))
    return made.getvalue()


@fuzzed(60)
@given(data=st.data(), name=st.sampled_from(["x.zip", "DICOMDIR"]))
def test_an_archive_or_a_medium_in_a_folder(tmp_path: Path, data: st.DataObject, name: str) -> None:
    samples = [archive(True), archive(False)] if name == "x.zip" else [directory()]
    (tmp_path / name).write_bytes(data.draw(mangled(*samples)))
    holds(lambda: [one.unreadable or one.fetch() for one in in_folders([tmp_path / name])])
    (tmp_path / name).unlink()


@cache
def directory() -> bytes:
    """A DICOMDIR that names two files."""
    record = Dataset()
    record.add_new("ReferencedFileID", "CS", ["A", "IM0"])
    made = dataset(None, DirectoryRecordSequence=[record, record], SOPClassUID=uid.MediaStorageDirectoryStorage)
    return to_bytes(made)


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
