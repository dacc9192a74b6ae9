"""Make the default plan for a stranger's images: `ynet-lab plan`."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import ynet
from ynet.config import parse
from ynet.data.manifest import Manifest, read
from ynet.errors import UserError
from ynet.plan import Plan
from ynet.runtime import private_files
from ynet_lab.own_data import values
from ynet_lab.own_data.concerns import Concern, concerns
from ynet_lab.own_data.draft import Draft, counted, draft, reasons_of, values_of
from ynet_lab.own_data.facts import SiteFacts, look
from ynet_lab.own_data.written import written
from ynet_server import encoder_files, encoder_sources

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
SEED = 1
"""Of the sample of images, and of the split where a manifest has none: the plan's default."""


class Planned(NamedTuple):
    """A plan for a folder of sites."""

    plan: Plan
    text: str  # of its file
    draft: Draft
    concerns: tuple[Concern, ...]
    sites: tuple[SiteFacts, ...]

    def to_json(self, file: Path | None) -> dict[str, Any]:
        """Return what `ynet-lab plan --json` prints, a public interface."""
        return {
            "id": self.plan.id,
            "file": None if file is None else str(file),
            "plan": values_of(self.draft),
            "reasons": reasons_of(self.draft),
            "warnings": [asdict(one) for one in self.concerns],
            "sites": {one.site: {"train": dict(one.train), "test": dict(one.test)} for one in self.sites},
        }


def plan_for(name: str, manifests: Mapping[str, Path], encoder_sha256: str | None) -> Planned:
    """Look at sites and choose a plan.

    Args:
        name: The data's; letters that a plan's name cannot have are replaced.
        manifests: By site.
        encoder_sha256: The pretrained weights of the plan's encoder; None: there are none.

    Raises:
        UserError: A manifest or every image cannot be read, or the labels are no classes.
    """
    sites = look(_read(manifests), np.random.default_rng(SEED))
    _check_labels(sites)
    made = draft(_named(name), sites, encoder_sha256)
    plan = parse(Plan, values_of(made), "the plan")
    return Planned(plan, written(made, _head(sites)), made, concerns(sites), sites)


def pretrained(folder: Path, elsewhere: Sequence[Path] = ()) -> str | None:
    """Return the SHA-256 of the default encoder's weights in a server's folder of encoders; None: there are none.

    They are put there from the folders `elsewhere`, or else from the installed package.

    Raises:
        UserError: A file of weights cannot be read.
    """
    name = values.PRETRAINED.encoder
    for place in (folder, *elsewhere):
        for one in encoder_files.listed(place):
            if one.encoder == name:
                bring(one.sha256, folder, [place])
                return one.sha256
    if not all(map(find_spec, ("torch", "timm"))):
        return None
    try:
        weights = encoder_sources.weights_in(values.PACKAGE)
    except UserError:  # not installed
        return None
    return encoder_sources.add(folder, name, weights).sha256


def bring(sha256: str, folder: Path, elsewhere: Sequence[Path]) -> None:
    """Copy an encoder's weights into a server's folder from the first other one that has them."""
    file = f"{sha256}{encoder_files.SUFFIX}"
    for place in elsewhere:
        if not (folder / file).exists() and (place / file).exists():
            shutil.copyfile(place / file, private_files.make_folder(folder) / file)


def _read(manifests: Mapping[str, Path]) -> dict[str, Manifest]:
    return {site: read(path, SEED) for site, path in manifests.items()}


def _check_labels(sites: Sequence[SiteFacts]) -> None:
    labels = sorted({label for one in sites for label in (*one.train, *one.test)})
    if len(labels) < 2:
        found = f"all cases have the label {labels[0]}" if labels else "no case has a label"
        raise UserError("no plan can be made", found, "write two classes or more into the column 'label'")
    for label in labels:
        if not NAME.fullmatch(label):
            why = f"the label {label!r} is not at most 64 letters, digits, _, . and -"
            raise UserError("no plan can be made", why, "rename the label in every manifest")
    if len(labels) >= values.CODE_BITS[-1]:
        why = f"there are {len(labels)} labels, and a plan has at most {values.CODE_BITS[-1] - 1} classes"
        raise UserError("no plan can be made", why, "write the class into the column 'label', and nothing else")


def _named(name: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).lstrip("_.-")[:64]
    return cleaned or "own-data"


def _head(sites: Sequence[SiteFacts]) -> list[str]:
    cases = sum(one.trained for one in sites)
    made_for = f"{counted(cases, 'training image')} of {counted(len(sites), 'site')}"
    return [
        f"The default plan of ynet {ynet.__version__} for {made_for}; made by ynet-lab plan.",
        "Each comment says why its value is chosen. Every key: docs/reference/plan.md",
    ]
