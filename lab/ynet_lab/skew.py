"""Re-cut a federation into unlike sites: classes that sites lack, sizes far apart, images that look different."""

import csv
import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.random import Generator
from PIL import Image

from ynet.data.frames import framed, source
from ynet.data.manifest import COLUMNS, OF_REGION, UNDRAWN, Case, Manifest, read
from ynet.errors import UserError
from ynet_lab.own_data.layout import sites_in

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
RECORD = "skew.json"
SWEEPS = 200
"""Of proportional fitting; with few classes and sites it has converged long before."""

Quotas = Float[np.ndarray, "classes sites"]


@dataclass(frozen=True)
class Cut:
    """How a federation is cut: `sites` 2 to 26; `ratio`, largest to smallest site, from 1; `appearance` 0 to 1."""

    sites: int
    ratio: float | None = None  # None: the sizes that the sites of the data have
    missing: int = 0  # how many sites lack a class
    alone: int = 0  # how many classes one site alone has
    appearance: float = 0.0
    folds: int | None = None  # None: the split that the data have
    fold: int = 0
    seed: int = 1


class _Patient(NamedTuple):
    """A patient of a site: the unit that is dealt, so that nobody is in two sites."""

    name: str
    label: str  # the class of most of the labelled cases; empty without one
    split: str
    cases: tuple[tuple[Manifest, str, Case], ...]  # with the site that each comes from


def skew(data: Path, out: Path, cut: Cut) -> dict[str, Any]:
    """Write the re-cut federation to `out`, a folder for each site; the counts by site that were written.

    A cut with one ratio and nothing missing is the shuffled federation: sites alike. Each patient is dealt to one site
    and stays in one split. A case of a class that its new site is to lack is left out and counted. Files are copied;
    with `appearance` the images are changed and written as PNG.

    Raises UserError when the data are no federation, `out` holds files, or the cut cannot be made.
    """
    manifests = {name: read(path, cut.seed) for name, path in sites_in(data).items()}
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} cannot take the sites", "it holds files", "name a new folder")
    random = np.random.default_rng(cut.seed)
    patients = _patients(manifests)
    if cut.folds is not None:
        patients = _split(patients, cut)
    classes = sorted({case.label for one in patients for _, _, case in one.cases})
    sizes, counts = _sizes(manifests, cut), _counts(patients, classes)
    present, named = np.ones((len(classes), cut.sites), bool), [bool(name) for name in classes]
    present[named] = _present(sizes, counts[named], cut, random)  # no site lacks unlabelled cases
    quotas = _quotas(sizes, counts, present)
    dealt = _deal(patients, classes, quotas, random)
    sites, left_out = {}, Counter[str]()
    for number, name in enumerate(LETTERS[: cut.sites]):
        kept = {label for label, has in zip(classes, present[:, number], strict=True) if has}
        sites[name] = _write(out / name, dealt[number], kept, _Appearance.drawn(cut.appearance, random), left_out)
    made = {
        "cut": asdict(cut),
        "classes": [name for name in classes if name],
        "sites": sites,
        "left_out": dict(sorted(left_out.items())),
    }
    (out / RECORD).write_text(json.dumps(made, indent=1) + "\n", "utf-8")
    return made


def ratio_of(text: str | None) -> float | None:
    """The ratio that `40:1` names. Raises UserError."""
    if text is None:
        return None
    large, colon, small = text.partition(":")
    if colon and large.isdigit() and small.isdigit() and int(large) >= int(small) > 0:
        return int(large) / int(small)
    raise UserError(f"the sizes {text!r} cannot be read", "they are not LARGEST:SMALLEST", "write them like 40:1")


def fold_of(text: str | None) -> tuple[int | None, int]:
    """How many folds there are and which is the test's, from 0; `1/3` is the first of three. Raises UserError."""
    if text is None:
        return None, 0
    number, slash, folds = text.partition("/")
    if slash and number.isdigit() and folds.isdigit() and 1 <= int(number) <= int(folds) and int(folds) > 1:
        return int(folds), int(number) - 1
    raise UserError(f"the fold {text!r} cannot be read", "it is not NUMBER/FOLDS", "write it like 1/3")


def _patients(manifests: Mapping[str, Manifest]) -> list[_Patient]:
    grouped: defaultdict[tuple[str, str], list[tuple[Manifest, str, Case]]] = defaultdict(list)
    for site, manifest in manifests.items():
        for case in manifest.cases:
            grouped[site, case.patient].append((manifest, site, case))
    frequency = Counter(case.label for manifest in manifests.values() for case in manifest.cases)
    found = []
    for (site, patient), cases in sorted(grouped.items()):
        labels = Counter(case.label for _, _, case in cases)
        label = min(labels, key=lambda name: (not name, -labels[name], frequency[name], name))
        found.append(_Patient(f"{site}.{patient}", label, cases[0][2].split, tuple(cases)))
    return found


def _split(patients: Sequence[_Patient], cut: Cut) -> list[_Patient]:
    """Test patients are those of one fold; which fold a patient is in depends on its name and the seed alone."""

    def is_test(name: str) -> bool:
        digest = hashlib.sha256(f"fold\0{cut.seed}\0{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % (cut.folds or 1) == cut.fold

    return [one._replace(split="test" if is_test(one.name) else "train") for one in patients]


def _present(
    sizes: Float[np.ndarray, " sites"], counts: Float[np.ndarray, " classes"], cut: Cut, random: Generator
) -> Bool[np.ndarray, "classes sites"]:
    """Which site may have which class. Raises UserError when so much cannot be missing.

    A class that one site alone has goes to the smallest site that has room for it and for others, so that the sizes
    stay what was asked for.
    """
    classes = len(counts)
    if cut.alone >= classes or (cut.missing and classes < 3) or cut.missing >= cut.sites:
        why = f"{cut.alone} classes of {classes} at one site alone, {cut.missing} sites of {cut.sites} that lack one"
        raise UserError("the cut cannot be made", f"{why}: that leaves too little", "choose fewer, or more sites")
    present = np.ones((classes, cut.sites), bool)
    order = random.permutation(classes)
    for row in order[: cut.alone]:
        fits = np.where(sizes > counts[row] / counts.sum(), sizes, np.inf)
        home = int(fits.argmin()) if np.isfinite(fits).any() else int(sizes.argmax())
        present[row] = np.arange(cut.sites) == home
    shared = order[cut.alone :]
    for step, column in enumerate(random.permutation(cut.sites)[: cut.missing]):
        present[shared[step % len(shared)], column] = False
    if not present.any(axis=0).all() or not present.any(axis=1).all():
        raise UserError("the cut cannot be made", "a site or a class would have no case", "choose fewer")
    return present


def _sizes(manifests: Mapping[str, Manifest], cut: Cut) -> Float[np.ndarray, " sites"]:
    """What share of all cases each site gets."""
    if cut.ratio is None:
        if cut.sites != len(manifests):
            why = f"the data have {len(manifests)} sites, the cut {cut.sites}"
            raise UserError("the sites' sizes are not known", why, "say --sizes 1:1, or another ratio")
        sizes = np.array([len(manifest.cases) for manifest in manifests.values()], float)
    else:
        sizes = cut.ratio ** -np.linspace(0, 1, cut.sites)
    shares: Float[np.ndarray, " sites"] = sizes / sizes.sum()
    return shares


def _counts(patients: Sequence[_Patient], classes: Sequence[str]) -> Float[np.ndarray, " classes"]:
    of = Counter[str]()
    for one in patients:
        of[one.label] += len(one.cases)
    return np.array([of[name] for name in classes], float)


def _quotas(
    sizes: Float[np.ndarray, " sites"],
    counts: Float[np.ndarray, " classes"],
    present: Bool[np.ndarray, "classes sites"],
) -> Quotas:
    """Cases of each class at each site: rows sum to the counts, columns come near the sizes (proportional fitting)."""
    quotas = present * sizes[None, :]
    for _ in range(SWEEPS):
        columns = quotas.sum(axis=0)
        quotas = quotas * (sizes * counts.sum() / np.where(columns > 0, columns, 1))[None, :]
        rows = quotas.sum(axis=1)
        quotas = quotas * (counts / np.where(rows > 0, rows, 1))[:, None]
    return np.asarray(quotas)


def _deal(
    patients: Sequence[_Patient], classes: Sequence[str], quotas: Quotas, random: Generator
) -> list[list[_Patient]]:
    """Each patient to the site that has least of its quota, for each class and split apart."""
    row_of = {name: row for row, name in enumerate(classes)}
    total = quotas.sum(axis=1, keepdims=True)
    share = quotas / np.where(total > 0, total, 1)
    given: dict[str, Quotas] = {split: np.zeros_like(quotas) for split in ("train", "test")}
    dealt: list[list[_Patient]] = [[] for _ in range(quotas.shape[1])]
    for index in random.permutation(len(patients)):
        one = patients[index]
        row, got = row_of[one.label], given[one.split]
        after = (got[row] + len(one.cases)) / np.where(share[row] > 0, share[row], np.nan)
        site = int(np.nanargmin(after))
        got[row, site] += len(one.cases)
        dealt[site].append(one)
    return [sorted(ones) for ones in dealt]


class _Appearance(NamedTuple):
    """How a site's scanner shows what another shows otherwise."""

    gamma: float
    gain: tuple[float, float, float]  # by colour; grey images take the first

    @classmethod
    def drawn(cls, strength: float, random: Generator) -> "_Appearance | None":
        if not strength:
            return None
        gamma = float(np.exp(random.uniform(-0.7, 0.7) * strength))
        gain = 1 - strength * random.uniform(0, 0.4, 3)
        return cls(gamma, (float(gain[0]), float(gain[1]), float(gain[2])))

    def show(self, image: Image.Image) -> Image.Image:
        """The image as this scanner would have shown it."""
        if image.mode not in ("L", "RGB"):
            image = image.convert("RGB" if len(image.getbands()) > 1 else "L")
        pixels = np.asarray(image, np.float32) / 255
        gain = np.array(self.gain if image.mode == "RGB" else self.gain[0], np.float32)
        return Image.fromarray((pixels**self.gamma * gain * 255).round().clip(0, 255).astype(np.uint8), image.mode)


def _write(
    folder: Path, patients: Sequence[_Patient], kept: set[str], appearance: _Appearance | None, left_out: Counter[str]
) -> dict[str, Any]:
    """A site's files and manifest; its counts."""
    rows, counts = [], {"train": Counter[str](), "test": Counter[str]()}
    columns = sorted({name for one in patients for _, _, case in one.cases for name in case.attributes})
    regions = sorted({name for one in patients for _, _, case in one.cases for name in case.regions})
    for one in patients:
        for manifest, site, case in one.cases:
            if case.label and case.label not in kept:
                left_out[case.label] += 1
                continue
            rows.append(_row(folder, one, manifest, site, case, (columns, regions), appearance))
            counts[one.split][case.label] += 1
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*COLUMNS, *columns, *(OF_REGION + name for name in regions)))
        writer.writerows(rows)
    return {split: dict(sorted(count.items())) for split, count in counts.items()}


def _row(
    folder: Path,
    one: _Patient,
    manifest: Manifest,
    site: str,
    case: Case,
    columns: tuple[Sequence[str], Sequence[str]],
    appearance: _Appearance | None,
) -> tuple[str, ...]:
    attributes, regions = columns
    image = _take(folder, manifest, site, case.image, appearance)
    mask = _take(folder, manifest, site, case.mask) if case.mask else "" if case.is_drawn else UNDRAWN
    cells = (case.attributes.get(name, "") for name in attributes)
    more = (_take(folder, manifest, site, cell) if _is_file(manifest, cell) else cell for cell in cells)
    masks = (case.regions.get(name, UNDRAWN) for name in regions)
    drawn = (_take(folder, manifest, site, cell) if cell not in ("", UNDRAWN) else cell for cell in masks)
    return (image, mask, case.label, one.name, one.split, *more, *drawn)


def _is_file(manifest: Manifest, cell: str) -> bool:
    """Whether an attribute names a file of its site, such as the mask of another region."""
    return "/" in cell and (manifest.root / cell).is_file()


def _take(folder: Path, manifest: Manifest, site: str, relative: str, appearance: _Appearance | None = None) -> str:
    """Lay a file of the old site into the new one; its path there, with the frame that it names."""
    origin = source(manifest.path_of(relative))
    new = Path(site) / origin.path.relative_to(manifest.root)
    if appearance:
        new = new.with_name(f"{new.name}.png")
    place = folder / new
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        if appearance:
            _shown(origin.path, appearance).save(place)
        else:
            shutil.copyfile(origin.path, place)
    return framed(new, origin.frame).as_posix()


def _shown(path: Path, appearance: _Appearance) -> Image.Image:
    try:
        with Image.open(path) as image:
            return appearance.show(image)
    except OSError as error:
        why = "appearance is changed in PNG, JPEG and TIFF images"
        raise UserError(f"the image {path.name} cannot be changed", why, "leave --appearance out") from error
