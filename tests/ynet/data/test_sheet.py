"""A table reads alike in all spreadsheet formats; other files are refused with a remedy."""

import codecs
import csv
import io
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as some

from ynet.data import manifest, sheet
from ynet.data.sheet import TableSpec
from ynet.errors import UserError

SPEC = TableSpec("the labels", "labels", "labels.csv", ("label",), ("mask", "split"), ("mask",), ("study", "patient"))
ROWS = [["patient", "label", "mask"], ["Müller-2", "gli,oma; high", ""], ["000123", 'so "called"', "a/1.png"]]
ENCODINGS = {
    "utf-8": (b"", "utf-8"),
    "utf-8 with a mark": (codecs.BOM_UTF8, "utf-8"),
    "utf-16, little": (codecs.BOM_UTF16_LE, "utf-16-le"),
    "utf-16, big": (codecs.BOM_UTF16_BE, "utf-16-be"),
    "utf-32": (codecs.BOM_UTF32_LE, "utf-32-le"),
}


def saved(
    path: Path, rows: list[list[str]], separator: str = ",", encoding: str = "utf-8", first: str = "", **how: object
) -> Path:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, **how).writerows(rows)  # type: ignore[arg-type]
    mark, name = ENCODINGS[encoding]
    path.write_bytes(mark + (first + text.getvalue()).encode(name))
    return path


def cells(read: sheet.Sheet) -> list[list[str]]:
    return [list(read.columns), *[list(row.cells.values()) for row in read.rows]]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=some.data(),
    separator=some.sampled_from(",;\t|"),
    encoding=some.sampled_from(sorted(ENCODINGS)),
    ending=some.sampled_from(["\n", "\r\n"]),
    quoting=some.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    more=some.integers(0, 3),
)
def test_table_reads_alike_in_all_formats(
    tmp_path: Path, data: some.DataObject, separator: str, encoding: str, ending: str, quoting: int, more: int
) -> None:
    text = some.text(some.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), max_size=8)
    rows = data.draw(some.lists(some.tuples(text, text, text), min_size=1, max_size=5))
    expected = [[sheet.composed(cell) for cell in row[:2]] + [row[2]] for row in rows if any(row)]
    assume(expected)
    wide = [row + [""] * more for row in ([*ROWS[0]], *[list(row) for row in rows])]
    first = data.draw(some.sampled_from(["", f"sep={separator}{ending}", f'"sep={separator}"{ending}']))
    path = saved(tmp_path / "t.csv", wide, separator, encoding, first, lineterminator=ending, quoting=quoting)
    path.write_bytes(path.read_bytes() + (ending * more).encode(ENCODINGS[encoding][1]))
    found = sheet.read(path, SPEC)
    assert cells(found) == [ROWS[0], *expected]


def test_rows_count_as_in_spreadsheets_after_sep_line_too(tmp_path: Path) -> None:
    rows = [ROWS[0], ["a", "x", ""], ["", "", ""], ["b", "two\nlines", ""], ["c", "y", ""]]
    for first in ("", "sep=;\r\n", "SEP=;\n"):
        found = sheet.read(saved(tmp_path / "t.csv", rows, ";", first=first), SPEC)
        assert [row.number for row in found.rows] == [2, 4, 5]


def test_text_is_composed_and_paths_are_unchanged(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "Müller")
    (row,) = sheet.read(saved(tmp_path / "t.csv", [ROWS[0], [apart, apart, f"{apart}.png"]]), SPEC).rows
    assert row.cells == {"patient": "Müller", "label": "Müller", "mask": f"{apart}.png"}


@pytest.mark.parametrize(
    ("content", "what", "do"),
    [
        ("PatientID,label\na,b\n", "no column 'study' or 'patient'", "rename the column 'PatientID' to 'patient'"),
        ("StudyInstanceUID;label\na;b\n", "no column", "rename the column 'StudyInstanceUID' to 'study'"),
        ("Patient ID\tLabel\na\tb\n", "no column 'label'", "rename the column 'Label' to 'label'"),
        ("PATIENT,label\na,b\n", "no column", "rename the column 'PATIENT' to 'patient'"),
        ('"patient","Labels"\na,b\n', "no column 'label'", "rename the column 'Labels' to 'label'"),
        ("patient,label,Mask\na,b,c\n", "no column 'mask'", "rename the column 'Mask' to 'mask'"),
        ("patient,label,masks\na,b,c\n", "no column 'mask'", "rename the column 'masks' to 'mask'"),
        ("patient,label,,split\na,b,,train\n", "without a name", "name every column"),
        ("patient,label\na,b,c\n", "row 2", '"quotes"'),
        ("patient;label\na;b;c\n", "row 2", "hold a semicolon"),
        ("patient,label\na\n", "row 2", '"quotes"'),
        ("SECRET-1,glioma\n", "no column 'label'", "must be a header with label and one of study, patient"),
        ("patient label\nSECRET-1 glioma\n", "no column 'label'", "must be a header"),
        ("", "is empty", "write the first row: label,study,patient,mask,split"),
        ("patient,label\nM\xfcller,a\n".encode("cp1252"), "cannot be read", "CSV UTF-8"),
        ("patient,label\na,b\n".encode("utf-16-be"), "cannot be read", "CSV UTF-8"),
        (b"PK\x03\x04" + bytes(40), "cannot be read", "CSV UTF-8"),
        (codecs.BOM_UTF16_LE + "patient,label\n".encode("utf-16-le")[:-1], "cannot be read", "CSV UTF-8"),
    ],
    ids=str,
)
def test_fault_has_remedy_and_quotes_no_cell(tmp_path: Path, content: str | bytes, what: str, do: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as caught:
        sheet.read(path, SPEC)
    assert what in caught.value.what
    assert do in caught.value.do
    assert "SECRET" not in str(caught.value)


def test_manifest_and_labels_follow_the_same_rules(tmp_path: Path) -> None:
    rows = [["image", "mask", "label", "patient", "split", "", ""], ["1.png", "", "ä", "p", "train", "", ""]]
    plain = manifest.read(saved(tmp_path / "manifest.csv", [row[:5] for row in rows]))
    for separator, encoding in ((";", "utf-16, little"), ("\t", "utf-8 with a mark")):
        first = f"sep={separator}\n"
        assert manifest.read(saved(tmp_path / "manifest.csv", rows, separator, encoding, first)) == plain


@pytest.mark.parametrize(
    ("identifier", "is_shortened"),
    [
        ("1.23E+05", True),
        ("1,23457E+11", True),
        ("5e+12", True),
        ("1E5", False),
        ("12E+3", False),
        ("E+05", False),
        ("1.2.840.10008", False),
    ],
)
def test_shortened_number_is_recognised(identifier: str, is_shortened: bool) -> None:
    assert sheet.is_shortened(identifier) == is_shortened
