"""Make the paper's two sets from the folders of real images, as far as the paper and its public code tell.

ORIGA: all 650 images, by the column `split_paper_like`, a guess of the same sizes; the mask is the optic disc.
JSRT: the 154 images with a nodule, malignant or benign. The public code shuffles them with a known seed, and its mask
is the lung in which the nodule lies.
"""

import csv
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SETS = ("origa", "jsrt")
TESTED, SHUFFLE = 16, 11
"""Queries of JSRT, and the seed of its shuffle: scikit-learn's `train_test_split` takes the first of a permutation."""
Row = dict[str, str]


def make_folder(name: str, source: Path, folder: Path) -> None:
    """Copy a set to a site's folder that `ynet-lab simulate` reads, too."""
    if (folder / "manifest.csv").exists():
        return
    shutil.copytree(source, folder, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns("manifest.csv"))
    for inner in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        inner.chmod(0o700)
    with (source / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = jsrt(rows, folder) if name == "jsrt" else [{**row, "split": row["split_paper_like"]} for row in rows]
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def jsrt(rows: list[Row], folder: Path) -> list[Row]:
    """Return the rows with a nodule, and write the mask of each one's lung."""
    rows = sorted((row for row in rows if row["state"] in ("malignant", "benign")), key=lambda row: row["image"])
    tested = set(np.random.RandomState(SHUFFLE).permutation(len(rows))[:TESTED].tolist())
    (folder / "sides").mkdir()
    found = []
    for place, row in enumerate(rows):
        mask = f"sides/{Path(row['image']).stem}.png"
        nodule, lungs = (np.array(Image.open(folder / row[column])) for column in ("mask", "lung"))
        Image.fromarray(lung_of(nodule, lungs)).save(folder / mask)
        split = "test" if place in tested else "train"
        found.append({**row, "mask": mask, "label": row["state"], "split": split})
    return found


def lung_of(nodule: npt.NDArray[np.uint8], lungs: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the lung on the nodule's side of the image."""
    middle = lungs.shape[1] // 2
    is_left = np.flatnonzero(nodule.any(0)).mean() < middle
    kept = lungs.copy()
    kept[:, slice(middle, None) if is_left else slice(middle)] = 0
    return kept
