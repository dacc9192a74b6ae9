"""The manifest is read as written; faults are reported by row."""

from pathlib import Path

import pytest

from ynet.data import manifest
from ynet.errors import UserError

HEADER = "image,mask,label,patient,split\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "manifest.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_case_has_spreadsheet_row_and_attributes(tmp_path: Path) -> None:
    text = "image,mask,label,patient,split,age\na/1.png,,round,p1,train,41\n\nb.png,m.png,spiky,p2,test,\n"
    first, second = manifest.read(write(tmp_path, text)).cases
    assert first == manifest.Case(2, "a/1.png", "", "round", "p1", "train", {"age": "41"})
    assert (second.row, second.mask, second.split, second.attributes) == (4, "m.png", "test", {"age": ""})


def test_case_without_label_is_read(tmp_path: Path) -> None:
    (case,) = manifest.read(write(tmp_path, HEADER + "1.png,,,p,train\n")).cases
    assert case.label == ""


def test_train_and_test_partition_the_cases(tmp_path: Path) -> None:
    read = manifest.read(write(tmp_path, HEADER + "1.png,,a,p,train\n2.png,,a,q,test\n3.png,,a,p,train\n"))
    assert [case.image for case in read.train] == ["1.png", "3.png"]
    assert [case.image for case in read.test] == ["2.png"]


def test_bom_line_endings_and_blanks_are_ignored(tmp_path: Path) -> None:
    plain = manifest.read(write(tmp_path, HEADER + "1.png,,a,p,train\n"))
    dressed = b"\xef\xbb\xbf" + (HEADER + " 1.png ,,a, p,train\n,,,,\n").replace("\n", "\r\n").encode()
    assert manifest.read(write(tmp_path, dressed)) == plain


@pytest.mark.parametrize(
    ("text", "what", "do"),
    [
        ("", "is empty", "write the first row: image,mask,label,patient,split"),
        ("\n", "is empty", "write the first row"),
        (HEADER, "is empty", "add a row for each image"),
        ("1.png,,round,p1,train\n", "no column 'image'", "must be a header"),
        (HEADER.replace("patient", "patients"), "no column 'patient'", "rename the column 'patients' to 'patient'"),
        (HEADER.replace("label", "Label"), "no column 'label'", "rename the column 'Label' to 'label'"),
        (HEADER.replace("split", "Split"), "no column 'split'", "rename the column 'Split' to 'split'"),
        (HEADER.replace(",", ";"), "is empty", "add a row for each image"),
        (HEADER.replace("patient", "PatientID"), "no column 'patient'", "rename the column 'PatientID' to 'patient'"),
        (HEADER.replace("split", "label"), "'label' twice", "remove one"),
        (HEADER.replace("split", "") + "1.png,,a,p,train\n", "without a name", "name every column"),
        (HEADER + "1.png,,a,1.23457E+11,train\n", "row 2, column 'patient'", "cells as text"),
        (HEADER.encode("utf-16-le"), "cannot be read", "CSV UTF-8"),
        (HEADER + "1.png,,a,p\n", "row 2", '"quotes"'),
        (HEADER + "1.png,,a,p,train,more\n", "row 2", '"quotes"'),
        (HEADER + '1.png,,"a,p,train\n', "row 2", '"quotes"'),
        (HEADER + "1.png,,a,p,train\n2.png,,a,p,validation\n", "row 3, column 'split'", "train or test"),
        (HEADER + "1.png,,a,p,\n", "row 2, column 'split'", "train or test"),
        (HEADER + ",,a,p,train\n", "row 2, column 'image'", "fill in the image"),
        (HEADER + "1.png,,a,,train\n", "row 2, column 'patient'", "fill in the patient"),
        (HEADER.encode() + b"1.png,,caf\xe9,p,train\n", "cannot be read", "UTF-8"),
    ],
)
def test_fault_is_reported_with_row_and_remedy(tmp_path: Path, text: str | bytes, what: str, do: str) -> None:
    with pytest.raises(UserError) as caught:
        manifest.read(write(tmp_path, text))
    assert what in caught.value.what
    assert do in caught.value.do


def test_missing_manifest_or_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        manifest.read(tmp_path / "manifest.csv")
    with pytest.raises(UserError, match=r"did you mean .*manifest\.csv"):
        manifest.read(tmp_path)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../1.png", "a/../../1.png", "C:\\1.png", "a\\1.png", "//host/1.png", "a\x00.png"]
)
@pytest.mark.parametrize("column", ["image", "mask"])
def test_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str, column: str) -> None:
    cells = {"image": "1.png", "mask": ""} | {column: path}
    file = write(tmp_path, HEADER + f"{cells['image']},{cells['mask']},a,p,train\n")
    with pytest.raises(UserError, match=f"row 2, column '{column}'"):
        manifest.read(file)


def test_symbolic_link_must_stay_inside_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "site"
    root.mkdir()
    (root / "1.png").touch()
    (tmp_path / "outside.png").touch()
    (root / "inside.png").symlink_to(root / "1.png")
    (root / "out.png").symlink_to(tmp_path / "outside.png")
    (root / "folder").symlink_to(tmp_path)
    read = manifest.read(write(root, HEADER + "inside.png,,a,p,train\n"))
    assert read.path_of("inside.png") == root / "inside.png"
    for leaving in ("out.png", "folder/outside.png", "out.png#2"):
        with pytest.raises(UserError, match="symbolic link"):
            read.path_of(leaving)
        with pytest.raises(UserError, match="symbolic link"):
            manifest.read(write(root, HEADER + f"{leaving},,a,p,train\n"))


def test_seed_splits_by_patient_without_split_column(tmp_path: Path) -> None:
    rows = [f"{n}.png,,{'ab'[n % 2]},p{n // 2 % 20}" for n in range(80)]
    text = "image,mask,label,patient\n" + "\n".join(rows) + "\n"
    one, again, other = (manifest.read(write(tmp_path, text), seed) for seed in (1, 1, 2))
    assert one == again != other
    assert not {case.patient for case in one.train} & {case.patient for case in one.test}
    assert 0 < len({case.patient for case in one.test}) < 12  # of 20; one in four expected
