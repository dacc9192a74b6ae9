"""A table that people keep in a spreadsheet, read as rows, whatever separator and encoding it was saved with."""

import codecs
import csv
import difflib
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ynet.errors import UserError

MAX_FILE_BYTES = 64 << 20
_SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_NAMED_SEPARATOR = re.compile(r'"?sep=(.)"?[,;\t|]*\r?\n?', re.IGNORECASE)  # Excel's own first line
_MARKS = (  # the longer before those that they begin with
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # xlsx and ods; xls
_SHORTENED = re.compile(r"\d([.,]\d+)?E\+\d{2,}", re.IGNORECASE)
_DICOM = {
    "patientid": "patient",
    "patientname": "patient",
    "studyinstanceuid": "study",
    "studyuid": "study",
    "seriesinstanceuid": "series",
    "seriesuid": "series",
    "sopinstanceuid": "instance",
    "instanceuid": "instance",
    "sopuid": "instance",
}
_LIKE = 0.8  # of difflib


@dataclass(frozen=True)
class Form:
    """What a table's file is called, and its columns."""

    name: str  # as a message begins: "manifest"
    kind: str  # "a manifest"
    file: str  # as it is mostly called
    required: tuple[str, ...]
    optional: tuple[str, ...]
    paths: tuple[str, ...] = ()  # columns of files' names, which stay as they are; other text is composed (NFC)
    one_of: tuple[str, ...] = ()  # at least one is required
    has_more: bool = False  # columns of other names may follow, and mean something

    @property
    def columns(self) -> tuple[str, ...]:
        """All that it knows, in order."""
        return (*self.required, *self.one_of, *self.optional)


class Row(NamedTuple):
    """The cells of one row by column, stripped; not yet checked."""

    number: int  # as a spreadsheet counts: the header is row 1
    cells: dict[str, str]


class Sheet(NamedTuple):
    """A table's columns and rows; blank rows are left out."""

    columns: tuple[str, ...]
    rows: list[Row]


def read(path: Path, form: Form) -> Sheet:
    """The table in a CSV file. Raises UserError, which names rows and columns, and no cell.

    Cells are parted by commas, semicolons, tabs or bars, whichever makes the header one that is known, or as Excel's
    first line `sep=;` says; the text is UTF-8, or UTF-16 or 32 that begins with a byte order mark. Blanks around
    cells, any line ending, and empty cells and columns at the end are taken as they come.
    """
    text = _text(path, form)
    if named := _NAMED_SEPARATOR.match(text):
        text, separator = text[named.end() :], named[1]
    else:
        separator = _separator(text, form)
    lines = list(_lines(path, form, text, separator))
    columns = lines[0] if lines else []
    width = _width(lines)
    _check_columns(path, form, columns[:width])
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cells):
            continue
        if len(cells) < width or any(cells[width:]):
            raise _ragged(path, form, number, f"it has {len(cells)} cells, the header has {width}", separator)
        named_cells = zip(columns, cells[:width], strict=False)
        rows.append(Row(number, {name: cell if name in form.paths else composed(cell) for name, cell in named_cells}))
    return Sheet(tuple(columns[:width]), rows)


def composed(text: str) -> str:
    """A text as it is compared: an accent that follows its letter as a character of its own is put onto it (NFC)."""
    return unicodedata.normalize("NFC", text)


def is_shortened(identifier: str) -> bool:
    """Whether a spreadsheet has made a number of an identifier and left digits out: 1.23457E+11."""
    return bool(_SHORTENED.fullmatch(identifier))


# --- the file


def _text(path: Path, form: Form) -> str:
    what = f"{form.name} {path} cannot be read"
    data = _bytes(path, form, what)
    if data.startswith(_WORKBOOKS):
        raise UserError(what, "it is a spreadsheet program's own file", 'save it as "CSV UTF-8"')
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise UserError(what, "it is not UTF-8 text", 'save it as "CSV UTF-8"') from None
    if "\0" in text.partition("\n")[0]:
        raise UserError(what, "it is UTF-16 text without a byte order mark", 'save it as "CSV UTF-8"')
    return text


def _bytes(path: Path, form: Form, what: str) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(what, f"it has more than {MAX_FILE_BYTES >> 20} MiB", f"give {form.kind}, a CSV file")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(what, "there is no such file", "check the path, or write the file") from None
    except IsADirectoryError:
        raise UserError(what, "it is a folder", f"did you mean {path / form.file}?") from None
    except OSError as error:
        raise UserError(what, error.strerror or "reading failed", "check the file and its rights") from None


def _separator(text: str, form: Form) -> str:
    """What parts the header into the most columns that are known; of equals the comma."""
    header = text.lstrip("\r\n").partition("\n")[0].strip("\r")

    def known(separator: str) -> int:
        return sum(_meant(cell.strip().strip('"'), form) is not None for cell in header.split(separator))

    return max(_SEPARATORS, key=lambda separator: (known(separator), -list(_SEPARATORS).index(separator)))


def _lines(path: Path, form: Form, text: str, separator: str) -> Iterator[list[str]]:
    """The rows of a CSV file, cells stripped."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    done = 0
    try:
        for cells in reader:
            yield [cell.strip() for cell in cells]
            done += 1
    except csv.Error as error:
        what = f"{form.name} {path}, row {done + 1} cannot be read"
        raise UserError(what, f"it is not CSV: {error}", 'mend the "quotes" of that row') from None


def _width(lines: Sequence[Sequence[str]]) -> int:
    """How many columns there are, without those at the end of which no row says anything."""
    columns = lines[0] if lines else ()
    return max(
        (number for cells in lines for number, cell in enumerate(cells[: len(columns)], start=1) if cell), default=0
    )


def _ragged(path: Path, form: Form, number: int, why: str, separator: str) -> UserError:
    do = f'put cells that hold {_SEPARATORS.get(separator, separator)} in "quotes"'
    return UserError(f"{form.name} {path}, row {number} cannot be read", why, do)


# --- the header


def _check_columns(path: Path, form: Form, columns: Sequence[str]) -> None:
    what = f"{form.name} {path}"
    if not any(columns):
        raise UserError(f"{what} is empty", "it has no header", f"write the first row: {','.join(form.columns)}")
    for column in form.required:
        if column not in columns:
            raise _missing(what, form, (column,), columns)
    if form.one_of and not set(form.one_of) & set(columns):
        raise _missing(what, form, form.one_of, columns)
    for column in columns:
        if not column:
            do = "name every column, or take out the separator too many"
            raise UserError(f"{what} has a column without a name", "its header cell is empty", do)
        if columns.count(column) > 1:
            raise UserError(
                f"{what} has the column {column!r} twice", "which one counts cannot be told", "take one out"
            )
        meant = _meant(column, form)
        if column not in form.columns and meant and meant not in columns:
            raise _missing(what, form, (meant,), columns)


def _meant(column: str, form: Form) -> str | None:
    """Which of the known columns a name may mean."""
    plain = re.sub(r"[\W_]", "", column).lower()
    if plain in form.columns:
        return plain
    if _DICOM.get(plain) in form.columns:
        return _DICOM[plain]
    near = [] if form.has_more else difflib.get_close_matches(plain, form.columns, n=1, cutoff=_LIKE)
    return near[0] if near else None


def _missing(what: str, form: Form, wanted: Sequence[str], columns: Sequence[str]) -> UserError:
    """A column is not there, or one of several; a header that has none that is known may be a row, and is not told."""
    others = [column for column in columns if column not in form.columns]
    meant = [(column, _meant(column, form)) for column in others]
    meant += [(column, name) for name in wanted for column in others if _is_like(column, name)]
    renamed = next(((column, name) for column, name in meant if name in wanted), None)
    if renamed:
        do = f"rename the column {renamed[0]!r} to {renamed[1]!r}"
    else:
        one_of = f" and one of {', '.join(form.one_of)}" if form.one_of else ""
        do = f"the first row must be a header with {', '.join(form.required)}{one_of}"
    is_header = renamed or set(columns) & set(form.columns)
    named = f"its columns are not those of {form.kind}: {', '.join(columns)}"
    why = named if is_header else f"its first row names no column of {form.kind}"
    return UserError(f"{what} has no column {' or '.join(repr(name) for name in wanted)}", why, do)


def _is_like(column: str, name: str) -> bool:
    return bool(difflib.get_close_matches(name, [column.lower()]))
