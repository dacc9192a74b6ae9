"""The manifest: the CSV file that names a site's cases."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal, NamedTuple

from ynet.data import sheet
from ynet.data.frames import source
from ynet.data.sheet import MAX_FILE_BYTES as MAX_FILE_BYTES
from ynet.data.sheet import Row as Row
from ynet.data.split import is_held_back
from ynet.errors import UserError

Split = Literal["train", "test"]

REQUIRED = ("image", "mask", "label", "patient")
COLUMNS = (*REQUIRED, "split")
UNDRAWN = "unknown"
"""In the column `mask`: nobody has said whether there is a lesion, nor where."""
VALIDATION_SEED = 2026
SHORTENED = "a spreadsheet has made a number of it and left digits out"
_FORM = sheet.Form(
    "manifest", "a manifest", "manifest.csv", REQUIRED, ("split",), paths=("image", "mask"), has_more=True
)


@dataclass(frozen=True)
class Case:
    """One row: an image with its mask, label and patient. Paths are relative to the manifest's folder."""

    row: int  # as a spreadsheet counts: the header is row 1
    image: str
    mask: str  # empty: no lesion, or none that is known
    label: str
    patient: str
    split: Split
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    is_drawn: bool = True  # False: nobody has said whether there is a lesion, nor where


@dataclass(frozen=True)
class Manifest:
    """A site's cases and the folder that their files must lie in."""

    root: Path
    cases: tuple[Case, ...]

    @property
    def train(self) -> tuple[Case, ...]:
        """The cases to train on, in the order of the file."""
        return tuple(case for case in self.cases if case.split == "train")

    @property
    def test(self) -> tuple[Case, ...]:
        """The cases held back for evaluation, in the order of the file."""
        return tuple(case for case in self.cases if case.split == "test")

    def for_validation(self) -> "Manifest":
        """The training cases alone, some of their patients as test cases: what choices may be made on.

        Each patient is decided alone, whatever split the site chose: about a quarter are test cases.
        """
        return Manifest(self.root, tuple(replace(case, split=_validation(case.patient)) for case in self.train))

    def without(self, patients: Collection[str]) -> "Manifest":
        """The manifest without some patients' cases."""
        return Manifest(self.root, tuple(case for case in self.cases if case.patient not in patients))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the attributes."""
        return tuple(self.cases[0].attributes) if self.cases else ()

    def path_of(self, relative: str) -> Path:
        """The file at `relative`. Raises UserError when it lies outside the root, by a symbolic link too."""
        if fault := path_fault(self.root, relative):
            raise UserError(f"path {relative!r} cannot be used", fault.why, fault.do)
        return self.root / relative


class Fault(NamedTuple):
    """What is wrong with one cell of the manifest; holds no patient's id."""

    column: str
    why: str
    do: str


def read(path: Path, split_seed: int = 1, *, is_labelled: bool = True) -> Manifest:
    """The manifest at `path`. Without a `split` column, each patient's id and `split_seed` alone decide.

    Without `is_labelled` a row may have no label. Raises UserError at the first fault. Whether the files named are
    there and fit is for `check` to say.
    """
    rows = read_rows(path)
    for row in rows:
        for fault in faults(path.parent, row):
            if fault.column == "label" and not is_labelled:
                continue
            what = f"manifest {path}, row {row.number}, column {fault.column!r} cannot be used"
            raise UserError(what, fault.why, fault.do)
    return Manifest(path.parent, to_cases(rows, split_seed))


def find_sites(folder: Path) -> dict[str, Path]:
    """The manifests of a folder of sites, by the sites' names. Raises UserError when there is none."""
    found = {path.parent.name: path for path in sorted(folder.glob("*/manifest.csv"))}
    if not found:
        raise UserError(f"{folder} holds no sites", "no folder in it has a manifest.csv", "name a folder of sites")
    return found


def read_rows(path: Path) -> list[Row]:
    """The rows of a manifest whose columns are right, blank rows left out (`sheet.read`). Raises UserError."""
    rows = sheet.read(path, _FORM).rows
    if not rows:
        raise UserError(f"manifest {path} is empty", "it has a header and no case", "add a row for each image")
    return rows


def faults(root: Path, row: Row) -> Iterator[Fault]:
    """Every cell of `row` that cannot be used; files are not opened."""
    for column in ("image", "label", "patient"):
        if not row.cells[column]:
            yield Fault(column, "it is empty", f"fill in the {column}, or take the row out")
    if sheet.is_shortened(row.cells["patient"]):
        yield Fault("patient", SHORTENED, "make its cells text, and write the ids again")
    if row.cells.get("split", "train") not in ("train", "test"):
        yield Fault("split", f"it is {row.cells['split']!r}", "write train or test, or take the column out")
    for column in ("image", "mask"):
        if (
            row.cells[column]
            and (column, row.cells[column]) != ("mask", UNDRAWN)
            and (fault := path_fault(root, row.cells[column]))
        ):
            yield fault._replace(column=column)


def path_fault(root: Path, relative: str) -> Fault | None:
    """Why `relative` is no path inside `root`, or None."""
    inside = "put the file into the manifest's folder and write its path relative to it"
    if not relative.isprintable():
        return Fault("", "it holds a control character", inside)
    if PurePosixPath(relative).is_absolute() or PureWindowsPath(relative).anchor:
        return Fault("", "it is an absolute path", inside)
    if "\\" in relative:
        return Fault("", "it holds a backslash", "write / between folders")
    if ".." in PurePosixPath(relative).parts:
        return Fault("", "it leaves the manifest's folder by '..'", inside)
    try:
        resolved = source(root / relative).path.resolve()
    except (OSError, RuntimeError):
        return Fault("", "its symbolic links lead nowhere", inside)
    if not resolved.is_relative_to(root.resolve()):
        return Fault("", "it leaves the manifest's folder by a symbolic link", inside)
    return None


def to_cases(rows: Sequence[Row], split_seed: int) -> tuple[Case, ...]:
    """Rows without faults as cases. What split a patient is in depends on no other patient's rows."""
    return tuple(
        Case(
            row=row.number,
            image=row.cells["image"],
            mask="" if row.cells["mask"] == UNDRAWN else row.cells["mask"],
            label=row.cells["label"],
            patient=row.cells["patient"],
            split=_split(row, split_seed),
            attributes={name: cell for name, cell in row.cells.items() if name not in COLUMNS},
            is_drawn=row.cells["mask"] != UNDRAWN,
        )
        for row in rows
    )


def _split(row: Row, seed: int) -> Split:
    if "split" in row.cells:
        return "test" if row.cells["split"] == "test" else "train"
    return "test" if is_held_back(row.cells["patient"], seed) else "train"


def _validation(patient: str) -> Split:
    return "test" if is_held_back(patient, VALIDATION_SEED, "validation") else "train"
