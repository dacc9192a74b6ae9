"""Reading of CSV tables that people keep in spreadsheets, with any common separator and encoding."""

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
_MARKS = (  # longer marks before their own prefixes
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
_LIKE = 0.8  # difflib's cutoff


@dataclass(frozen=True)
class TableSpec:
    """The columns of a table, and its names in messages."""

    name: str  # at the start of a message: "manifest"
    kind: str  # "a manifest"
    file: str  # its usual file name
    required: tuple[str, ...]
    optional: tuple[str, ...]
    paths: tuple[str, ...] = ()  # columns of paths, kept unchanged; other text is normalised to NFC
    one_of: tuple[str, ...] = ()  # at least one is required
    has_more: bool = False  # other columns are allowed and kept
    dotted: tuple[str, ...] = ()  # required columns of paths which columns such as `NAME.part` replace

    @property
    def columns(self) -> tuple[str, ...]:
        """All known columns, in order."""
        return (*self.required, *self.one_of, *self.optional)

    def holds_paths(self, column: str) -> bool:
        """Return whether a column's cells are paths."""
        return column in self.paths or self.is_dotted(column)

    def is_dotted(self, column: str) -> bool:
        """Return whether a column is a part of a required one."""
        name, dot, part = column.partition(".")
        return bool(dot and part) and name in self.dotted


class SheetRow(NamedTuple):
    """The stripped cells of one row by column; not yet checked."""

    number: int  # as spreadsheets count: the header is row 1
    cells: dict[str, str]


class Sheet(NamedTuple):
    """A table's columns and rows, without blank rows."""

    columns: tuple[str, ...]
    rows: list[SheetRow]


def read(path: Path, spec: TableSpec) -> Sheet:
    """Read the table in a CSV file. Raises UserError, which names rows and columns but quotes no cell.

    The separator is a comma, semicolon, tab or bar: the one of Excel's first line `sep=;`, else the one that gives the
    most known columns. The text is UTF-8, or UTF-16 or 32 with a byte order mark. Blanks around cells, any line ending,
    and empty cells and columns at the end are accepted.
    """
    text = _text(path, spec)
    if named := _NAMED_SEPARATOR.match(text):
        text, separator = text[named.end() :], named[1]
    else:
        separator = _separator(text, spec)
    lines = list(_lines(path, spec, text, separator))
    columns = lines[0] if lines else []
    width = _width(lines)
    _check_columns(path, spec, columns[:width])
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cells):
            continue
        if len(cells) < width or any(cells[width:]):
            raise _ragged(path, spec, number, f"it has {len(cells)} cells, the header has {width}", separator)
        named_cells = zip(columns, cells[:width], strict=False)
        rows.append(
            SheetRow(number, {name: cell if spec.holds_paths(name) else composed(cell) for name, cell in named_cells})
        )
    return Sheet(tuple(columns[:width]), rows)


def composed(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), in which texts are compared."""
    return unicodedata.normalize("NFC", text)


def is_shortened(identifier: str) -> bool:
    """Return whether a spreadsheet turned an identifier into a number and dropped digits, as in 1.23457E+11."""
    return bool(_SHORTENED.fullmatch(identifier))


# --- the file


def _text(path: Path, spec: TableSpec) -> str:
    what = f"{spec.name} {path} cannot be read"
    data = _bytes(path, spec, what)
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


def _bytes(path: Path, spec: TableSpec, what: str) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(what, f"it has more than {MAX_FILE_BYTES >> 20} MiB", f"give {spec.kind}, a CSV file")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(what, "there is no such file", "check the path, or write the file") from None
    except IsADirectoryError:
        raise UserError(what, "it is a folder", f"did you mean {path / spec.file}?") from None
    except OSError as error:
        raise UserError(what, error.strerror or "reading failed", "check the file and its permissions") from None


def _separator(text: str, spec: TableSpec) -> str:
    """Return the separator that gives the header the most known columns; the comma wins a tie."""
    header = text.lstrip("\r\n").partition("\n")[0].strip("\r")

    def known(separator: str) -> int:
        return sum(_meant(cell.strip().strip('"'), spec) is not None for cell in header.split(separator))

    return max(_SEPARATORS, key=lambda separator: (known(separator), -list(_SEPARATORS).index(separator)))


def _lines(path: Path, spec: TableSpec, text: str, separator: str) -> Iterator[list[str]]:
    """Yield the rows of a CSV file with stripped cells."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    done = 0
    try:
        for cells in reader:
            yield [cell.strip() for cell in cells]
            done += 1
    except csv.Error as error:
        what = f"{spec.name} {path}, row {done + 1} cannot be read"
        raise UserError(what, f"it is not CSV: {error}", 'fix the "quotes" of that row') from None


def _width(lines: Sequence[Sequence[str]]) -> int:
    """Return the number of columns, without empty ones at the end."""
    columns = lines[0] if lines else ()
    return max(
        (number for cells in lines for number, cell in enumerate(cells[: len(columns)], start=1) if cell), default=0
    )


def _ragged(path: Path, spec: TableSpec, number: int, why: str, separator: str) -> UserError:
    do = f'put cells that hold {_SEPARATORS.get(separator, separator)} in "quotes"'
    return UserError(f"{spec.name} {path}, row {number} cannot be read", why, do)


# --- the header


def _check_columns(path: Path, spec: TableSpec, columns: Sequence[str]) -> None:
    what = f"{spec.name} {path}"
    if not any(columns):
        raise UserError(f"{what} is empty", "it has no header", f"write the first row: {','.join(spec.columns)}")
    replaced = {column.partition(".")[0] for column in columns if spec.is_dotted(column)}
    for column in spec.required:
        if column not in columns and column not in replaced:
            raise _missing(what, spec, (column,), columns)
    if spec.one_of and not set(spec.one_of) & set(columns):
        raise _missing(what, spec, spec.one_of, columns)
    for column in columns:
        if not column:
            do = "name every column, or remove the extra separator"
            raise UserError(f"{what} has a column without a name", "its header cell is empty", do)
        if columns.count(column) > 1:
            raise UserError(f"{what} has the column {column!r} twice", "it is unclear which one counts", "remove one")
        meant = _meant(column, spec)
        if column not in spec.columns and meant and meant not in columns:
            raise _missing(what, spec, (meant,), columns)


def _meant(column: str, spec: TableSpec) -> str | None:
    """Return the known column that a name may stand for; None if there is none."""
    plain = re.sub(r"[\W_]", "", column).lower()
    if plain in spec.columns:
        return plain
    if _DICOM.get(plain) in spec.columns:
        return _DICOM[plain]
    near = [] if spec.has_more else difflib.get_close_matches(plain, spec.columns, n=1, cutoff=_LIKE)
    return near[0] if near else None


def _missing(what: str, spec: TableSpec, wanted: Sequence[str], columns: Sequence[str]) -> UserError:
    """Return the error for a missing column. A header without known columns may be data, so it is not quoted."""
    others = [column for column in columns if column not in spec.columns]
    meant = [(column, _meant(column, spec)) for column in others]
    meant += [(column, name) for name in wanted for column in others if _is_like(column, name)]
    renamed = next(((column, name) for column, name in meant if name in wanted), None)
    if renamed:
        do = f"rename the column {renamed[0]!r} to {renamed[1]!r}"
    else:
        one_of = f" and one of {', '.join(spec.one_of)}" if spec.one_of else ""
        do = f"the first row must be a header with {', '.join(spec.required)}{one_of}"
    is_header = renamed or set(columns) & set(spec.columns)
    named = f"its columns are not those of {spec.kind}: {', '.join(columns)}"
    why = named if is_header else f"its first row names no column of {spec.kind}"
    return UserError(f"{what} has no column {' or '.join(repr(name) for name in wanted)}", why, do)


def _is_like(column: str, name: str) -> bool:
    return bool(difflib.get_close_matches(name, [column.lower()]))
