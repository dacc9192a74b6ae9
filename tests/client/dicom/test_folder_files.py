"""DICOM files are found by content in folders, archives and on media; a patient gets one pseudonym from all sources."""

import io
import struct
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dicoms import dataset, dicom
from pydicom import Dataset, uid
from pydicom.fileset import FileSet

from ynet.data import images
from ynet.data.dicom import frame as reader
from ynet.errors import UserError
from ynet_client.dicom import dicom_json, import_labels, import_run, zip_files
from ynet_client.dicom.deidentify import Pseudonyms, kept, known_as
from ynet_client.dicom.folder_files import ImportCandidate, in_folders
from ynet_client.dicom.import_records import Records
from ynet_client.dicom.import_run import Choice

Y, X = np.mgrid[:40, :36]
GREY = (X * 60 + Y * 12).astype(np.uint16)


def image(patient: str = "P1", **elements: object) -> bytes:
    return dicom(GREY, PatientID=patient, **elements)  # type: ignore[arg-type]


def zipped(members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


def found(folder: Path) -> tuple[list[ImportCandidate], Counter[str]]:
    """The readable objects, and the reasons of the others."""
    every = list(in_folders([folder]))
    return [one for one in every if not one.unreadable], Counter(one.reason for one in every if one.unreadable)


def test_zip_members_are_found_by_content(tmp_path: Path) -> None:
    members = {"a/IM0": image("P1"), "a/b/notes.txt": b"nothing", "c.dcm": image("P2"), "d": image("P3")[132:]}
    (tmp_path / "export.bin").write_bytes(zipped(members))
    objects, left_out = found(tmp_path)
    assert [one.patient for one in objects] == ["P1", "P2", "P3"]
    assert not left_out
    assert [one.fetch() for one in objects] == [members["a/IM0"], members["c.dcm"], members["d"]]


def test_unopened_archives_are_counted(tmp_path: Path) -> None:
    inner = zipped({"IM0": image()})
    (tmp_path / "nested.zip").write_bytes(zipped({"inner.zip": inner, "IM1": image("P2")}))
    (tmp_path / "damaged.zip").write_bytes(inner[:-30])
    (tmp_path / "more.tar.gz").write_bytes(b"\x1f\x8b\x08" + bytes(99))
    (tmp_path / "more.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(99))
    (tmp_path / "more.tar").write_bytes(bytes(257) + b"ustar" + bytes(999))
    (tmp_path / "letter.docx").write_bytes(zipped({"word/document.xml": b"<xml/>"}))
    (tmp_path / "letter.txt").write_text("nothing")
    objects, left_out = found(tmp_path)
    assert [one.patient for one in objects] == ["P2"]
    assert left_out == {"archive": 5}


def test_unreadable_zip_members_are_counted(tmp_path: Path) -> None:
    data = zipped({"IM0": image("P1"), "IM1": image("P2"), "IM2": image("P3")}, zipfile.ZIP_STORED)
    second = data.index(b"PK\x03\x04", 4)
    listed = [at for at in range(len(data)) if data[at : at + 4] == b"PK\x01\x02"]
    spoilt = bytearray(data)
    spoilt[second + 2000] ^= 0xFF  # its checksum is another than this one's
    spoilt[listed[2] + 8] |= 1  # encrypted
    (tmp_path / "spoilt.zip").write_bytes(spoilt)
    objects, left_out = found(tmp_path)
    assert [one.patient for one in objects] == ["P1"]
    assert left_out == {"archive": 2}
    (tmp_path / "spoilt.zip").unlink()
    (tmp_path / "large.zip").write_bytes(zipped({"IM0": image() + bytes(65 << 20)}))
    objects, left_out = found(tmp_path)
    assert (objects, left_out) == ([], {"unreadable": 1})


def test_zip_bomb_is_skipped(tmp_path: Path) -> None:
    """The sizes in the directory are checked first; no member is read beyond its size there."""
    data = bytearray(zipped({f"IM{number}": image() for number in range(3)}))
    for at in range(len(data)):
        if data[at : at + 4] == b"PK\x01\x02":
            data[at + 24 : at + 28] = struct.pack("<I", 0xF0000000)
    (tmp_path / "bomb.zip").write_bytes(data)
    _, left_out = found(tmp_path)
    assert left_out["archive"] == 1
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<I", zip_files.MAX_LIST_BYTES + 1)
    (tmp_path / "bomb.zip").write_bytes(data)
    assert found(tmp_path) == ([], {"archive": 1})


def medium(folder: Path) -> list[str]:
    """A medium with a DICOMDIR of three images; returns their patients."""
    media = FileSet()
    for number in range(3):
        one = dataset(GREY, PatientID=f"P{number}", StudyTime="120000", StudyID="1", SeriesNumber="1")
        one.InstanceNumber = number
        media.add(one)
    media.write(folder)
    media._stage["t"].cleanup()
    return ["P0", "P1", "P2"]


def test_dicomdir_yields_its_images_and_counts_missing_ones(tmp_path: Path) -> None:
    patients = medium(tmp_path)
    objects, left_out = found(tmp_path)
    assert (sorted(one.patient for one in objects), left_out) == (patients, {})
    objects, left_out = found(tmp_path / "DICOMDIR")
    assert (sorted(one.patient for one in objects), left_out) == (patients, {})
    (tmp_path / "DICOMDIR").rename(tmp_path / "index.dat")
    gone = next(path for path in sorted(tmp_path.rglob("*")) if path.is_file() and path.name != "index.dat")
    gone.unlink()
    for root in (tmp_path, tmp_path / "index.dat"):
        objects, left_out = found(root)
        assert (len(objects), left_out) == (2, {"missing": 1})


def test_damaged_dicomdir_is_counted_once(tmp_path: Path) -> None:
    medium(tmp_path)
    data = (tmp_path / "DICOMDIR").read_bytes()
    offset = data.index(b"\x04\0\x20\x12SQ")
    (tmp_path / "DICOMDIR").write_bytes(data[: offset + 40])
    assert found(tmp_path / "DICOMDIR") == ([], {"unreadable": 1})


def test_dicomdir_cannot_leave_its_folder(tmp_path: Path) -> None:
    inside = tmp_path / "medium"
    inside.mkdir()
    medium(inside)
    (tmp_path / "secret").write_bytes(image("SECRET"))
    data = (inside / "DICOMDIR").read_bytes()
    offset = data.index(b"\x04\0\0\x15CS")
    length = int.from_bytes(data[offset + 6 : offset + 8], "little")
    (inside / "DICOMDIR").write_bytes(data[: offset + 8] + b"..\\secret".ljust(length) + data[offset + 8 + length :])
    objects, left_out = found(inside / "DICOMDIR")
    assert "SECRET" not in {one.patient for one in objects}
    assert left_out == {"missing": 1}


def test_files_without_a_preamble_are_found(tmp_path: Path) -> None:
    data = image("P1")
    (tmp_path / "a").write_bytes(data[128:])
    (tmp_path / "b").write_bytes(data[132:])
    objects, left_out = found(tmp_path)
    assert ([one.patient for one in objects], left_out) == (["P1", "P1"], {})


def test_file_without_read_permission_is_counted(tmp_path: Path) -> None:
    (tmp_path / "gone.dcm").symlink_to(tmp_path / "nowhere")
    (tmp_path / "fine.dcm").write_bytes(image())
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "more").mkdir()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "more")
    objects, left_out = found(tmp_path)
    assert (len(objects), left_out) == (1, {"missing": 3})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (zipped({"IM0": image()}), "it is a ZIP archive, not an image"),
        (b"\x1f\x8b\x08" + bytes(99), "it is a gzip archive"),
        (bytes(257) + b"ustar" + bytes(999), "it is a tar archive"),
    ],
)
def test_archive_used_as_image_is_refused_by_kind(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "image.dcm").write_bytes(data)
    with pytest.raises(UserError, match=words):
        images.decode(tmp_path / "image.dcm", 1)


def test_dicomdir_used_as_image_is_refused(tmp_path: Path) -> None:
    medium(tmp_path)
    with pytest.raises(UserError, match="it is a DICOMDIR"):
        images.decode(tmp_path / "DICOMDIR", 1)


# --- a patient by every way in


def file_of(patient: str, charset: str, codec: str) -> bytes:
    """A file with a patient id in a given character set."""
    raw = patient.encode(codec)
    placeholder = "x" * (len(raw) + len(raw) % 2)
    data = image(placeholder, SpecificCharacterSet=charset or None)
    return data.replace(placeholder.encode(), raw + b" " * (len(raw) % 2))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_patient_has_one_pseudonym_from_all_sources(tmp_path: Path, form: str) -> None:
    written = unicodedata.normalize(form, "Müller-2")
    (tmp_path / "utf8.dcm").write_bytes(file_of(written, "ISO_IR 192", "utf-8"))
    (tmp_path / "latin.dcm").write_bytes(file_of("Müller-2", "ISO_IR 100", "latin-1"))
    (tmp_path / "none.dcm").write_bytes(file_of(written, "", "utf-8"))
    (tmp_path / "iso2022.dcm").write_bytes(file_of("Müller-2", "ISO 2022 IR 100\\ISO 2022 IR 87", "latin-1"))
    (tmp_path / "more.zip").write_bytes(zipped({"IM0": file_of(written, "ISO_IR 192", "utf-8")}))
    names = Pseudonyms(bytes(32))
    (tmp_path / "import.secret").write_bytes(bytes(32))
    patients = {one.patient for one in in_folders([tmp_path])}
    assert patients == {"Müller-2"}
    from_pacs = dicom_json.text_of({"00100020": {"vr": "LO", "Value": [f" {written}\0"]}}, "00100020")
    by_way = {names.patient(one, "1") for one in (*patients, from_pacs, written, f"{written} ", "Müller-2")}
    assert by_way == {known_as(tmp_path, written)[-1]}


def test_known_as_lists_all_stored_forms_of_a_patient(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "Müller-2") for form in ("NFC", "NFD"))
    assert set(known_as(tmp_path, composed)) == set(known_as(tmp_path, apart)) == {composed, apart}
    assert known_as(tmp_path, "P1") == ["P1"]


def test_invalid_tag_values_become_empty(tmp_path: Path) -> None:
    header = Dataset()
    header.add_new("MagneticFieldStrength", "DS", "1.5")
    header.add_new("Modality", "CS", "MR ")
    made = kept(header, "none")
    assert (made["field_t"], made["modality"], made["slice_mm"]) == ("1.5", "MR", "")
    data = dicom(GREY, SliceThickness="7777.5", PixelSpacing=["0.25", "0.25"])
    data = data.replace(b"7777.5", b"7777,5").replace(b"0.25\\0.25 ", b"abcd\\0.25 ")
    (tmp_path / "a.dcm").write_bytes(data)
    from ynet.data.dicom import elements as dicom_elements
    from ynet_client.dicom.deidentify import HEADER

    made = kept(dicom_elements.read(data, HEADER).dataset, "none")
    assert (made["slice_mm"], made["pixel_mm"]) == ("7.78e+03", "")
    assert reader.decode(data).shape == GREY.shape
    assert uid.UID(next(in_folders([tmp_path])).instance).is_valid


def test_import_survives_invalid_header_values(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    odd = dicom(GREY, NumberOfFrames="7777", SliceThickness="6666.5", Modality="MR", PatientID="P1")
    (tmp_path / "in/odd").write_bytes(odd.replace(b"7777", b"1,x ").replace(b"6666.5", b"6666,5"))
    (tmp_path / "in/good").write_bytes(image("P1"))
    (tmp_path / "labels.csv").write_text("patient,label\nP1,glioma\n")
    labels, names = import_labels.read(tmp_path / "labels.csv"), Pseudonyms(bytes(32))
    (tmp_path / "home").mkdir()
    done = import_run.run(
        in_folders([tmp_path / "in"]), labels, tmp_path / "out", Records(tmp_path / "home"), names, Choice(), print
    )
    assert (done.images, done.left_out) == (2, {})
