"""The labels of an import: a CSV file with one label per patient, study, series or image."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ynet.data import sheet
from ynet.errors import UserError

KEYS = ("instance", "series", "study", "patient")
"""The columns that identify the labelled objects; the most specific one wins."""
_SPEC = sheet.TableSpec(
    "the labels", "labels", "labels.csv", ("label",), ("mask", "split"), paths=("mask",), one_of=KEYS
)
NO_LESION = "none"
"""In the column `mask`: a person has reviewed the image, and it has no lesion."""


class Label(NamedTuple):
    """The label of one or more images."""

    label: str  # empty: the image is imported, and its class is unknown
    mask: str = ""  # a file's path, relative to the labels' folder; or NO_LESION
    split: str = ""


class Labels(NamedTuple):
    """A labels file. Identifiers are compared exactly, after stripping blanks and composing accents (NFC)."""

    folder: Path
    of: dict[tuple[str, str], Label]  # by column and identifier
    has_split: bool

    def find(self, instance: str, series: str, study: str, patient: str) -> Label | None:
        """Return the label of an image; None where it has none."""
        for key in self.keys(instance, series, study, patient):
            if key[1] and key in self.of:
                return self.of[key]
        return None

    def keys(self, instance: str, series: str, study: str, patient: str) -> list[tuple[str, str]]:
        """Return the keys under which an image may be labelled, the most specific first."""
        names = (sheet.composed(name.strip()) for name in (instance, series, study, patient))
        return list(zip(KEYS, names, strict=True))


def read(path: Path) -> Labels:
    """Read a labels file (`sheet.read`). Raises UserError, which names rows and columns but no patient."""
    found: dict[tuple[str, str], Label] = {}
    columns, rows = sheet.read(path, _SPEC)
    for number, row in rows:
        keys = [(key, row[key]) for key in KEYS if row.get(key)]
        if len(keys) != 1:
            why = f"it fills in {len(keys)} of {', '.join(KEYS)}"
            raise _fault(path, number, why, "fill in exactly one of these columns")
        if sheet.is_shortened(keys[0][1]):
            why = f"a spreadsheet turned its {keys[0][0]} into a number and dropped digits"
            raise _fault(path, number, why, "format the column as text, and enter the ids again")
        if row.get("mask", "") not in ("", NO_LESION) and keys[0][0] != "instance":
            raise _fault(path, number, "it assigns a mask to more than one image", "name the image in column instance")
        if row.get("split", "") not in ("", "train", "test"):
            raise _fault(path, number, "its split is neither train nor test", "correct it")
        label = Label(row["label"], row.get("mask", ""), row.get("split", ""))
        if found.setdefault(keys[0], label) != label:
            raise _fault(path, number, f"its {keys[0][0]} has another label in an earlier row", "remove one of them")
    return Labels(path.parent, found, "split" in columns)


class Unmatched(NamedTuple):
    """Counts of labels and patients without a match; holds no id."""

    unmatched_labels: int  # ids in the labels that match no object
    unlabelled_patients: int  # patients found, none of whose objects has a label
    unmatched_why: dict[str, int]  # of these patients: ids that differ from an unmatched label only as in `USUAL`


ALIKE: dict[str, Callable[[str], str]] = {
    "zeros": lambda name: name.lstrip("0"),
    "case": str.casefold,
    "blanks": lambda name: re.sub(r"[\W_]+", "", name),
    "accents": lambda name: "".join(
        one for one in unicodedata.normalize("NFKD", name) if not unicodedata.combining(one)
    ),
}
"""Normalisations under which two spellings of one patient's id become equal, after typing or a spreadsheet."""
USUAL = {
    "zeros": "in leading zeros (000123 in the PACS, 123 in the labels): a spreadsheet drops them unless cells are text",
    "case": "in upper and lower case",
    "blanks": "in blanks, hyphens or dots",
    "accents": "in accents",
    "several": "in several of these",
}


class Matching:
    """The matches between labels and patients so far."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._matched: set[tuple[str, str]] = set()
        self._patients: dict[str, bool] = {}  # whether one of its objects has a label

    def find(self, instance: str, series: str, study: str, patient: str) -> Label | None:
        """Find a label as `Labels.find` does, and record the match."""
        keys = self._labels.keys(instance, series, study, patient)
        self._matched.update(key for key in keys if key[1] and key in self._labels.of)
        label = self._labels.find(instance, series, study, patient)
        if name := keys[-1][1]:
            self._patients[name] = self._patients.get(name, False) or label is not None
        return label

    def unmatched(self) -> Unmatched:
        """Return the labels and patients without a match."""
        left = [key for key in self._labels.of if key not in self._matched]
        alone = [name for name, is_labelled in self._patients.items() if not is_labelled]
        names = [name for kind, name in left if kind == "patient"]
        return Unmatched(len(left), len(alone), _alike(alone, names))


def _alike(patients: list[str], names: list[str]) -> dict[str, int]:
    """Count the patients whose id differs from an unmatched label in one way only, by that way, or in several."""
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
