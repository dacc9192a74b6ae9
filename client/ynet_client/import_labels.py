"""The labels of an import: a CSV file that says of patients, studies, series or single images what they show."""

import csv
from pathlib import Path
from typing import NamedTuple

from ynet.errors import UserError

KEYS = ("instance", "series", "study", "patient")
"""The columns that name what is labelled; the more exact goes before."""
MAX_FILE_BYTES = 64 << 20
NO_LESION = "none"
"""In the column `mask`: a person has looked, and there is no lesion."""


class Label(NamedTuple):
    """What is known of some images."""

    label: str
    mask: str = ""  # a file's path, relative to the labels' folder; or NO_LESION
    split: str = ""


class Labels(NamedTuple):
    """A file of labels. Names are compared as they stand, without blanks at their ends."""

    folder: Path
    of: dict[tuple[str, str], Label]  # by the column and the name
    has_split: bool

    def find(self, instance: str, series: str, study: str, patient: str) -> Label | None:
        """The label of an image; None where nothing is said of it."""
        for key in zip(KEYS, (instance, series, study, patient), strict=True):
            if key[1] and key in self.of:
                return self.of[key]
        return None


def read(path: Path) -> Labels:
    """The labels in a file. Raises UserError that names rows and columns, and no patient."""
    found: dict[tuple[str, str], Label] = {}
    rows, columns = _rows(path)
    for number, row in rows:
        keys = [(key, row[key]) for key in KEYS if row.get(key)]
        if len(keys) != 1:
            why = f"it fills in {len(keys)} of {', '.join(KEYS)}"
            raise _fault(path, number, why, "name what is labelled in one of these columns")
        if not row["label"]:
            raise _fault(path, number, "its label is empty", "fill it in, or take the row out")
        if row.get("mask", "") not in ("", NO_LESION) and keys[0][0] != "instance":
            raise _fault(path, number, "it gives a mask to more than one image", "name the image in column instance")
        if row.get("split", "") not in ("", "train", "test"):
            raise _fault(path, number, "its split is neither train nor test", "correct it")
        label = Label(row["label"], row.get("mask", ""), row.get("split", ""))
        if found.setdefault(keys[0], label) != label:
            raise _fault(path, number, f"its {keys[0][0]} has another label in a row before", "take one of them out")
    return Labels(path.parent, found, "split" in columns)


def _rows(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    what = f"the labels {path} cannot be read"
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(what, f"the file has more than {MAX_FILE_BYTES >> 20} MiB", "give a CSV file of labels")
        lines = list(csv.reader(path.read_text("utf-8-sig").splitlines(), strict=True))
    except FileNotFoundError:
        raise UserError(what, "there is no such file", "check the path") from None
    except (OSError, UnicodeDecodeError, csv.Error):
        raise UserError(what, "it is no CSV file in UTF-8", "save it as CSV UTF-8") from None
    columns = [cell.strip() for cell in lines[0]] if lines else []
    if "label" not in columns or not set(KEYS) & set(columns):
        do = f"the first row must be a header with label and one of {', '.join(KEYS)}"
        raise UserError(what, "its columns are not those of labels", do)
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(columns) and any(cells):
            raise _fault(path, number, f"it has {len(cells)} cells, the header has {len(columns)}", "correct it")
        if any(cells):
            rows.append((number, dict(zip(columns, (cell.strip() for cell in cells), strict=True))))
    return rows, columns


def _fault(path: Path, number: int, why: str, do: str) -> UserError:
    return UserError(f"the labels {path}, row {number} cannot be used", why, do)
