"""Find the sites in a stranger's folder, or say what it must look like."""

from collections import Counter
from itertools import islice
from pathlib import Path

from ynet.data.manifest import find_sites
from ynet.errors import UserError

MANIFEST = "manifest.csv"
FILES = 20_000
"""At most so many files are looked at for an error."""
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".bmp", ".nii", ".gz")
DO = (
    "write SITE/manifest.csv with the columns image, mask, label, patient in a folder for each hospital"
    " (docs/how-to/prepare-data.md)"
)


def sites_in(folder: Path) -> dict[str, Path]:
    """Return the manifests in a folder of sites by the site's name; a folder with its own manifest is one site.

    Raises:
        UserError: The folder holds no manifest in the expected place.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} cannot be used", "there is no such folder", "name a folder with a folder for each site"
        )
    if any(folder.glob(f"*/{MANIFEST}")):
        return find_sites(folder)
    if (folder / MANIFEST).is_file():
        return {folder.resolve().name: folder / MANIFEST}
    raise _no_sites(folder)


def _no_sites(folder: Path) -> UserError:
    """Say what is there instead of sites."""
    what = f"{folder} holds no sites"
    if deeper := sorted({path.parent.parent for path in folder.glob(f"*/*/{MANIFEST}")}):
        why = f"its manifests lie in {', '.join(f'{one.name}/' for one in deeper)}"
        return UserError(
            what, why, f"name {deeper[0]}" if len(deeper) == 1 else f"name one of these, such as {deeper[0]}"
        )
    files = list(islice((path for path in folder.rglob("*") if path.is_file()), FILES))
    if tables := [path for path in files if path.suffix.lower() in (".csv", ".tsv", ".xlsx")]:
        why = f"no subfolder has a {MANIFEST}; there is {tables[0].relative_to(folder)}"
        return UserError(what, why, f"rename the table if it is one, or {DO}")
    pictures = [path for path in files if path.suffix.lower() in PICTURES]
    if not pictures:
        return UserError(what, f"no subfolder has a {MANIFEST}, and there are no images", "name another folder")
    homes = Counter(str(path.parent.relative_to(folder)) for path in pictures)
    there = ", ".join(f"{count} in {home}" for home, count in homes.most_common(4))
    why = f"there are {len(pictures)} images ({there}) and no {MANIFEST} that says their patients, labels and masks"
    return UserError(what, why, DO)
