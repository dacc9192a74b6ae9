"""The manifest: the CSV file that names a site's cases."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal, NamedTuple

from ynet.data import sheet
from ynet.data.frames import source
from ynet.data.sheet import MAX_FILE_BYTES as MAX_FILE_BYTES
from ynet.data.sheet import SheetRow as SheetRow
from ynet.data.split import is_held_back
from ynet.errors import UserError

Split = Literal["train", "test"]

REQUIRED = ("image", "mask", "label", "patient")
COLUMNS = (*REQUIRED, "split")
UNDRAWN = "unknown"
"""In the column `mask`: whether and where there is a lesion is unknown."""
OF_REGION = "mask."
"""How the column of a region's mask begins; the region's name follows."""
VALIDATION_SEED = 2026
SHORTENED = "a spreadsheet turned it into a number and dropped digits"
_SPEC = sheet.TableSpec(
    "manifest",
    "a manifest",
    "manifest.csv",
    REQUIRED,
    ("split",),
    paths=("image", "mask"),
    has_more=True,
    dotted=("mask",),
)


@dataclass(frozen=True)
class Case:
    """A row: an image with its mask, label and patient. Paths are relative to the manifest's folder."""

    row: int  # as spreadsheets count: the header is row 1
    image: str
    mask: str  # empty: no lesion, or unknown
    label: str  # empty: nobody has labelled it
    patient: str
    split: Split
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    is_drawn: bool = True  # False: whether and where there is a lesion is unknown
    regions: Mapping[str, str] = field(
        default_factory=dict, hash=False
    )  # cells of the columns `mask.REGION`, by region


@dataclass(frozen=True)
class Manifest:
    """A site's cases, and the folder that must contain their files."""

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
        """Split the training cases again, for model selection: about a quarter of their patients become test cases.

        Each patient is assigned independently of all others and of the site's own split.
        """
        return Manifest(self.root, tuple(replace(case, split=_validation(case.patient)) for case in self.train))

    def without(self, patients: Collection[str]) -> "Manifest":
        """Return the manifest without the cases of some patients."""
        return Manifest(self.root, tuple(case for case in self.cases if case.patient not in patients))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the attribute columns."""
        return tuple(self.cases[0].attributes) if self.cases else ()

    def path_of(self, relative: str) -> Path:
        """Return the file at `relative`. Raises UserError when it lies outside the root, links included."""
        if fault := path_fault(self.root, relative):
            raise UserError(f"path {relative!r} cannot be used", fault.why, fault.do)
        return self.root / relative


class Fault(NamedTuple):
    """A fault in one cell of the manifest; holds no patient id."""

    column: str
    why: str
    do: str


def read(path: Path, split_seed: int = 1) -> Manifest:
    """Read the manifest at `path`. Without a `split` column, patient id and `split_seed` decide the split.

    Raises UserError at the first fault. The named files are not opened; `check` does that.
    """
    rows = read_rows(path)
    for row in rows:
        for fault in faults(path.parent, row):
            what = f"manifest {path}, row {row.number}, column {fault.column!r} cannot be used"
            raise UserError(what, fault.why, fault.do)
    return Manifest(path.parent, to_cases(rows, split_seed))


def find_sites(folder: Path) -> dict[str, Path]:
    """Find the manifests in a folder of sites, by site name. Raises UserError when there is none."""
    found = {path.parent.name: path for path in sorted(folder.glob("*/manifest.csv"))}
    if not found:
        raise UserError(f"{folder} holds no sites", "no subfolder has a manifest.csv", "name a folder of sites")
    return found


def read_rows(path: Path) -> list[SheetRow]:
    """Read the rows of a manifest without its blank rows (`sheet.read`). Raises UserError for wrong columns."""
    rows = sheet.read(path, _SPEC).rows
    if not rows:
        raise UserError(f"manifest {path} is empty", "it has a header and no cases", "add a row for each image")
    return rows


def faults(root: Path, row: SheetRow) -> Iterator[Fault]:
    """Yield a fault for every invalid cell of `row`; files are not opened."""
    for column in ("image", "patient"):
        if not row.cells[column]:
            yield Fault(column, "it is empty", f"fill in the {column}, or remove the row")
    if sheet.is_shortened(row.cells["patient"]):
        yield Fault("patient", SHORTENED, "format its cells as text, and enter the ids again")
    if row.cells.get("split", "train") not in ("train", "test"):
        yield Fault("split", f"it is {row.cells['split']!r}", "write train or test, or remove the column")
    for column, cell in row.cells.items():
        is_mask = column == "mask" or column.startswith(OF_REGION)
        if not cell or not (is_mask or column == "image") or (is_mask and cell == UNDRAWN):
            continue
        if fault := path_fault(root, cell):
            yield fault._replace(column=column)


def path_fault(root: Path, relative: str) -> Fault | None:
    """Return why `relative` is not a path inside `root`; None if it is."""
    inside = "put the file into the manifest's folder and write its path relative to it"
    if not relative.isprintable():
        return Fault("", "it holds a control character", inside)
    if PurePosixPath(relative).is_absolute() or PureWindowsPath(relative).anchor:
        return Fault("", "it is an absolute path", inside)
    if "\\" in relative:
        return Fault("", "it holds a backslash", "write / between folders")
    if ".." in PurePosixPath(relative).parts:
        return Fault("", "it leaves the manifest's folder through '..'", inside)
    try:
        resolved = source(root / relative).path.resolve()
    except (OSError, RuntimeError):
        return Fault("", "it is a broken symbolic link", inside)
    if not resolved.is_relative_to(root.resolve()):
        return Fault("", "it leaves the manifest's folder through a symbolic link", inside)
    return None


def to_cases(rows: Sequence[SheetRow], split_seed: int) -> tuple[Case, ...]:
    """Convert rows without faults to cases. A patient's split does not depend on other patients."""
    return tuple(_case(row, split_seed) for row in rows)


def _case(row: SheetRow, split_seed: int) -> Case:
    mask, other = row.cells.get("mask", UNDRAWN), [column for column in row.cells if column not in COLUMNS]
    return Case(
        row=row.number,
        image=row.cells["image"],
        mask="" if mask == UNDRAWN else mask,
        label=row.cells["label"],
        patient=row.cells["patient"],
        split=_split(row, split_seed),
        attributes={column: row.cells[column] for column in other if not column.startswith(OF_REGION)},
        is_drawn=mask != UNDRAWN,
        regions={column.removeprefix(OF_REGION): row.cells[column] for column in other if column.startswith(OF_REGION)},
    )


def _split(row: SheetRow, seed: int) -> Split:
    if "split" in row.cells:
        return "test" if row.cells["split"] == "test" else "train"
    return "test" if is_held_back(row.cells["patient"], seed) else "train"


def _validation(patient: str) -> Split:
    return "test" if is_held_back(patient, VALIDATION_SEED, "validation") else "train"
