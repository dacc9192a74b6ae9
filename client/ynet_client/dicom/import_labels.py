"""The labels of an import: a CSV file that says of patients, studies, series or single images what they show."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ynet.data import sheet
from ynet.errors import UserError

KEYS = ("instance", "series", "study", "patient")
"""The columns that name what is labelled; the more exact goes before."""
_FORM = sheet.Form("the labels", "labels", "labels.csv", ("label",), ("mask", "split"), paths=("mask",), one_of=KEYS)
NO_LESION = "none"
"""In the column `mask`: a person has looked, and there is no lesion."""


class Label(NamedTuple):
    """What is known of some images."""

    label: str
    mask: str = ""  # a file's path, relative to the labels' folder; or NO_LESION
    split: str = ""


class Labels(NamedTuple):
    """A file of labels. Names are compared as they stand, without blanks at their ends, accents composed (NFC)."""

    folder: Path
    of: dict[tuple[str, str], Label]  # by the column and the name
    has_split: bool

    def find(self, instance: str, series: str, study: str, patient: str) -> Label | None:
        """The label of an image; None where nothing is said of it."""
        for key in self.keys(instance, series, study, patient):
            if key[1] and key in self.of:
                return self.of[key]
        return None

    def keys(self, instance: str, series: str, study: str, patient: str) -> list[tuple[str, str]]:
        """Under what an image may be labelled, the most exact first."""
        names = (sheet.composed(name.strip()) for name in (instance, series, study, patient))
        return list(zip(KEYS, names, strict=True))


def read(path: Path) -> Labels:
    """The labels in a file (`sheet.read`). Raises UserError that names rows and columns, and no patient."""
    found: dict[tuple[str, str], Label] = {}
    columns, rows = sheet.read(path, _FORM)
    for number, row in rows:
        keys = [(key, row[key]) for key in KEYS if row.get(key)]
        if len(keys) != 1:
            why = f"it fills in {len(keys)} of {', '.join(KEYS)}"
            raise _fault(path, number, why, "name what is labelled in one of these columns")
        if sheet.is_shortened(keys[0][1]):
            why = f"of its {keys[0][0]} a spreadsheet has made a number, and left digits out"
            raise _fault(path, number, why, "make the column's cells text, and write the ids again")
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


class Unmatched(NamedTuple):
    """Labels and patients that found no partner; no id is in it."""

    unmatched_labels: int  # names that the labels speak of, and nothing has
    unlabelled_patients: int  # found, of whom no object has a label
    unmatched_why: dict[str, int]  # of those patients, whose id differs from one of those names in `USUAL` alone


ALIKE: dict[str, Callable[[str], str]] = {
    "zeros": lambda name: name.lstrip("0"),
    "case": str.casefold,
    "blanks": lambda name: re.sub(r"[\W_]+", "", name),
    "accents": lambda name: "".join(
        one for one in unicodedata.normalize("NFKD", name) if not unicodedata.combining(one)
    ),
}
"""In what two ids of one patient differ when they were typed, or went through a spreadsheet: what is left the same."""
USUAL = {
    "zeros": "in leading zeros (000123 in the PACS, 123 in the labels): a spreadsheet drops them unless cells are text",
    "case": "in upper and lower case",
    "blanks": "in blanks, hyphens or dots",
    "accents": "in accents",
    "several": "in several of these",
}


class Matching:
    """Which labels and which patients have met."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._met: set[tuple[str, str]] = set()
        self._patients: dict[str, bool] = {}  # whether one of its objects has a label

    def find(self, instance: str, series: str, study: str, patient: str) -> Label | None:
        """As `Labels.find`; it is remembered."""
        keys = self._labels.keys(instance, series, study, patient)
        self._met.update(key for key in keys if key[1] and key in self._labels.of)
        label = self._labels.find(instance, series, study, patient)
        if name := keys[-1][1]:
            self._patients[name] = self._patients.get(name, False) or label is not None
        return label

    def unmatched(self) -> Unmatched:
        """What has found no partner."""
        left = [key for key in self._labels.of if key not in self._met]
        alone = [name for name, is_labelled in self._patients.items() if not is_labelled]
        names = [name for kind, name in left if kind == "patient"]
        return Unmatched(len(left), len(alone), _alike(alone, names))


def _alike(patients: list[str], names: list[str]) -> dict[str, int]:
    """How many patients an unmatched name differs from in one thing, by the first such, or in several."""
    found = Counter[str]()
    left = set(patients)
    for reason, plain in {**ALIKE, "several": _plain}.items():
        known = {plain(name) for name in names} - {""}
        same = {patient for patient in left if plain(patient) in known}
        found[reason] += len(same)
        left -= same
    return {reason: count for reason, count in found.items() if count}


def _plain(name: str) -> str:
    for plain in (ALIKE["blanks"], ALIKE["accents"], ALIKE["case"], ALIKE["zeros"]):
        name = plain(name)
    return name


def _fault(path: Path, number: int, why: str, do: str) -> UserError:
    return UserError(f"the labels {path}, row {number} cannot be used", why, do)
