"""What a plan needs to know about sites: counts from their manifests, and a look at a sample of their images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from numpy.random import Generator

from ynet.data import images
from ynet.data.frames import source
from ynet.data.manifest import Case, Manifest
from ynet.data.mask_files import decode_mask
from ynet.data.prepare import content
from ynet.errors import UserError

SAMPLE = 24
"""Images of each site that are opened."""
COLOURFUL, COLOURED_SHARE = 0.06, 0.02
"""A pixel is coloured if its channels differ by more than this share of white; an image, if so many pixels are."""


@dataclass(frozen=True)
class SiteFacts:
    """One site. Counts are of cases; it holds neither a path nor a patient id."""

    site: str
    train: Mapping[str, int]  # by class; a case without a label is not in it
    test: Mapping[str, int]
    patients: int
    unlabelled: int
    unlabelled_train: int  # of them, to train on
    undrawn: int  # mask `unknown`
    empty: int  # mask left empty: no lesion
    missing: int  # an image or a mask that is named and not there
    in_both: int  # patients with cases in both splits
    opened: int  # images of the sample that could be read
    unreadable: int
    fault: str  # why the first of these could not be read
    coloured: int
    sides: tuple[int, ...]  # of the opened images: pixels of the longer side, without the empty margin
    lesions: tuple[float, ...]  # of the opened images with a lesion: its share of the square around the image

    @property
    def cases(self) -> int:
        """Return the number of cases, with and without a label."""
        return sum(self.train.values()) + sum(self.test.values()) + self.unlabelled

    @property
    def trained(self) -> int:
        """Return the number of training cases, with and without a label."""
        return sum(self.train.values()) + self.unlabelled_train


def look(manifests: Mapping[str, Manifest], random: Generator) -> tuple[SiteFacts, ...]:
    """Describe each site. A manifest may have cases without a label.

    Args:
        manifests: By site.
        random: Draws the sample.

    Raises:
        UserError: Not one image of the sample can be read.
    """
    found = tuple(_of_site(site, manifest, random) for site, manifest in manifests.items())
    if not any(one.opened for one in found):
        fault = next((one.fault for one in found if one.fault), "no manifest names an image")
        do = "ynet-client check --data MANIFEST names every file that cannot be read"
        raise UserError("no image of the sites can be read", fault, do)
    return found


def _of_site(site: str, manifest: Manifest, random: Generator) -> SiteFacts:
    cases = manifest.cases
    counts = {split: Counter(c.label for c in cases if c.split == split and c.label) for split in ("train", "test")}
    splits = {split: {case.patient for case in cases if case.split == split} for split in counts}
    sample = _Sample(manifest, [cases[at] for at in random.permutation(len(cases))[:SAMPLE]])
    return SiteFacts(
        site,
        dict(sorted(counts["train"].items())),
        dict(sorted(counts["test"].items())),
        patients=len({case.patient for case in cases}),
        unlabelled=sum(not case.label for case in cases),
        unlabelled_train=sum(not case.label for case in manifest.train),
        undrawn=sum(not case.is_drawn for case in cases),
        empty=sum(case.is_drawn and not case.mask for case in cases),
        missing=sum(_is_missing(manifest, case) for case in cases),
        in_both=len(splits["train"] & splits["test"]),
        opened=len(sample.sides),
        unreadable=len(sample.faults),
        fault=sample.faults[0] if sample.faults else "",
        coloured=sample.coloured,
        sides=tuple(sample.sides),
        lesions=tuple(sample.lesions),
    )


def _is_missing(manifest: Manifest, case: Case) -> bool:
    named = (case.image, case.mask) if case.mask else (case.image,)
    return not all(source(manifest.root / one).path.is_file() for one in named)


class _Sample:
    """What the opened images of a site show."""

    def __init__(self, manifest: Manifest, cases: Sequence[Case]) -> None:
        self.coloured = 0
        self.sides: list[int] = []
        self.lesions: list[float] = []
        self.faults: list[str] = []
        for case in cases:
            try:
                self._open(manifest, case)
            except UserError as error:
                self.faults.append(error.why)

    def _open(self, manifest: Manifest, case: Case) -> None:
        image = manifest.path_of(case.image)
        pixels = images.decode(image, 3)
        region = content(pixels)
        side = max(region.height, region.width)
        self.sides.append(side)
        self.coloured += is_coloured(pixels)
        if case.mask:
            pixels_of_lesion = int(region.cut(decode_mask(manifest.path_of(case.mask), image)).sum())
            if pixels_of_lesion:
                self.lesions.append(pixels_of_lesion / side**2)


def is_coloured(pixels: Float32[np.ndarray, "3 h w"]) -> bool:
    """Return whether an image shows colours. A grey image may be stored as RGB, even with a small coloured mark."""
    spread = pixels.max(0) - pixels.min(0)
    return bool((spread > COLOURFUL).mean() > COLOURED_SHARE)
