"""Labels are read as spreadsheets save them; unmatched ids are counted with the usual reason, never named."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from dicoms import dicom
from PIL import Image
from typer.testing import CliRunner

from ynet.errors import UserError
from ynet_client.commands.cli import app
from ynet_client.dicom import import_labels
from ynet_client.dicom.import_labels import Matching, Unmatched


def labels(folder: Path, *patients: str) -> import_labels.Labels:
    path = folder / "labels.csv"
    path.write_text("\n".join(["patient;label", *[f"{patient};glioma" for patient in patients]]) + "\n", "utf-8")
    return import_labels.read(path)


def met(folder: Path, named: list[str], found: list[str]) -> Unmatched:
    matching = Matching(labels(folder, *named))
    for number, patient in enumerate(found):
        matching.find(f"1.{number}", "1", "1", patient)
    return matching.unmatched()


@pytest.mark.parametrize(
    ("named", "found", "why"),
    [
        ("123", "000123", {"zeros": 1}),
        ("000123", "123", {"zeros": 1}),
        ("ab-1", "AB-1", {"case": 1}),
        ("AB 1", "AB-1", {"blanks": 1}),
        ("Muller", "Müller", {"accents": 1}),
        ("ab 1", "00AB-1", {"several": 1}),
        ("other", "AB-1", {}),
    ],
)
def test_nearly_equal_ids_are_counted_by_difference(
    tmp_path: Path, named: str, found: str, why: dict[str, int]
) -> None:
    assert met(tmp_path, [named, "fits"], [found, "fits"]) == Unmatched(1, 1, why)


def test_ids_match_in_any_unicode_form(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "Müller-2")
    assert met(tmp_path, [apart], ["Müller-2", " Müller-2 "]) == Unmatched(0, 0, {})
    assert met(tmp_path, ["Müller-2"], [apart]) == Unmatched(0, 0, {})


def test_patient_with_one_labelled_object_is_labelled(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("patient,instance,label\n,1.2,a\nP,,b\n,9.9,c\n")
    matching = Matching(import_labels.read(tmp_path / "labels.csv"))
    assert matching.find("1.1", "1", "1", "Q") is None
    assert matching.find("1.2", "1", "1", "Q").label == "a"  # type: ignore[union-attr]
    assert matching.unmatched() == Unmatched(2, 0, {})


def test_id_shortened_by_spreadsheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 3") as caught:
        labels(tmp_path, "fits", "1.23457E+11")
    assert "text" in caught.value.do
    assert "1.23457" not in str(caught.value)


@pytest.mark.parametrize("header", ["PatientID,label", "Patient,label", "SOPInstanceUID,label"])
def test_misnamed_column_error_names_the_right_column(tmp_path: Path, header: str) -> None:
    (tmp_path / "labels.csv").write_text(f"{header}\na,b\n")
    with pytest.raises(UserError) as caught:
        import_labels.read(tmp_path / "labels.csv")
    assert caught.value.do.startswith(f"rename the column {header.partition(',')[0]!r} to ")


def test_import_reports_unmatched_counts_and_no_names(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8)
    (tmp_path / "pacs").mkdir()
    for number, patient in enumerate(("000123", "000124", "Fits")):
        (tmp_path / "pacs" / f"{number}.dcm").write_bytes(dicom(grey, PatientID=patient, BurnedInAnnotation="NO"))
    (tmp_path / "labels.csv").write_bytes(
        "sep=;\r\npatient;label\r\n123;a\r\n124;a\r\nFits;b\r\n999;b\r\n".encode("utf-16")
    )
    given = ["import", "--dicom", tmp_path / "pacs", "--labels", tmp_path / "labels.csv", "--home", tmp_path / "home"]
    shown = CliRunner().invoke(app, [*map(str, given), "--out", str(tmp_path / "out")])
    assert "3 names in the labels match no object" in shown.output
    assert "2 patients have objects but no label" in shown.output
    assert "2 of them have an id that differs from such a name only in leading zeros (000123" in shown.output
    assert "000124" not in shown.output
    done = CliRunner().invoke(app, [*map(str, given), "--out", str(tmp_path / "out"), "--json"])
    found = json.loads(done.stdout)
    assert (found["images"], found["unmatched_labels"], found["unlabelled_patients"]) == (1, 3, 2)
    assert found["unmatched_why"] == {"zeros": 2}


BOX = np.zeros((40, 36), np.uint8)
BOX[8:20, 9:17] = 1
RED = np.dstack([BOX * np.uint8(255), BOX * 0, BOX * 0])


@pytest.mark.parametrize(
    ("pixels", "name", "is_lesion"),
    [
        (BOX, "mask.png", True),
        (BOX * np.uint8(2), "mask.png", True),
        (BOX * np.uint8(4), "mask.tif", True),
        (RED, "mask.png", True),
        (BOX.astype(np.uint16) * np.uint16(1000), "mask.png", True),
        (BOX * np.uint8(255), "mask.jpg", True),
        (BOX * np.uint8(2) + np.roll(BOX, 14, 0), "mask.png#2", True),
        (BOX * np.uint8(2) + np.roll(BOX, 14, 0), "mask.png", False),
        (BOX + np.uint8(1), "mask.png", False),
        (RED[..., ::-1] + np.roll(RED, 14, 0), "mask.png", False),
    ],
)
def test_mask_named_by_labels_is_imported_or_quarantined(
    tmp_path: Path, pixels: np.ndarray, name: str, is_lesion: bool
) -> None:
    (tmp_path / "pacs").mkdir()
    grey = np.arange(BOX.size, dtype=np.uint16).reshape(BOX.shape)
    (tmp_path / "pacs/a.dcm").write_bytes(dicom(grey, PatientID="P", SOPInstanceUID="1.2.3", BurnedInAnnotation="NO"))
    Image.fromarray(pixels).save(tmp_path / name.partition("#")[0])
    (tmp_path / "labels.csv").write_text(f"instance,label,mask\n1.2.3,a,{name}\n")
    given = ["import", "--dicom", tmp_path / "pacs", "--labels", tmp_path / "labels.csv", "--home", tmp_path / "home"]
    done = CliRunner().invoke(app, [*map(str, given), "--out", str(tmp_path / "out"), "--json"])
    if not is_lesion:
        assert json.loads(done.stdout)["left_out"] == {"mask-unclear": 1}
        return
    (mask,) = (tmp_path / "out/masks").iterdir()
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), BOX * np.uint8(255))
