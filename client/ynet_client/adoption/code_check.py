"""A check, before adoption, of what a new model's codes reveal about the site's own images.

Whoever chooses the weights chooses what codes reveal: a network can be trained so that a code is a small picture. A
linear decoder (ridge regression) is trained on some of the site's cases to reconstruct the images of the others from
their codes. The share of the pixels' variance that it explains is compared with two references: the codes of the model
in use, and as many random projections of the same pixels, reduced to their signs.

The check sees only what a linear decoder sees in a few hundred cases. A code that hides the picture, for instance by
encryption, or that reveals something else about a patient, passes.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ynet.data.manifest import Case, Manifest
from ynet_client.adoption.model_check import ActiveModel
from ynet_client.training.site_data import LocalSite

SIDE = 16
"""The side of the reconstructed pictures, in pixels."""
MOST_CASES, FEWEST_CASES, FEWEST_PATIENTS = 500, 100, 20
BATCH, FOLDS = 64, 4
TOO_FEW = (
    f"what its codes reveal about images could not be measured: that needs {FEWEST_CASES} cases"
    f" of {FEWEST_PATIENTS} patients"
)
MOST_EXPLAINED, SHARE_OF_RANDOM = 0.1, 0.25
"""A model waits for the admin when its codes explain more than both: this share of the pixels' variance, and this share
of what random projections explain. Honest networks explain 0.00 to 0.06, one whose codes are thumbnails 0.5."""
MOMENTS_SHARE_OF_RANDOM = 0.45
"""The second share for a code from moments: it tells cases apart, so it tells more of an image by its form. Measured
shares of what random projections explain: 0.07 to 0.30, and 0.76 and more of maps chosen to show pictures
(tests/benchmarks/code_attacks.py)."""
PENALTIES = (1.0, 10.0, 100.0, 1_000.0)

Floats = npt.NDArray[np.float64]


class Readable(NamedTuple):
    """The share of the pixels' variance that the decoder explains, on cases that it was not trained on."""

    new: float
    old: float | None  # for the model in use; None when there is none
    random: float  # for as many random projections as the new code has bits
    cases: int
    share_of_random: float = SHARE_OF_RANDOM  # how much of `random` the new code may explain

    @property
    def is_too_much(self) -> bool:
        """Whether the admin must accept the model first."""
        # Not compared with the model in use: a server could raise the share little by little.
        return not self.new <= max(MOST_EXPLAINED, self.share_of_random * self.random)

    def words(self) -> str:
        """Describe the result for the terminal."""
        old = "" if self.old is None else f", from those of the model in use {self.old:.2f}"
        return (
            f"a linear decoder explains {self.new:.2f} of the pixels' variance of this site's own images from its codes"
            f"{old}, from random projections of as many bits {self.random:.2f} ({self.cases} cases)"
        )


def measure(site: LocalSite, old: ActiveModel | None, new: ActiveModel) -> Readable | None:
    """Measure what codes reveal; None when the site has too few cases or patients. Raises UserError."""
    manifest = site.manifest(new.plan.training.seed)
    step = max(1, -(-len(manifest.cases) // MOST_CASES))
    cases = manifest.cases[::step]
    patients = [case.patient for case in cases]
    if len(cases) < FEWEST_CASES or len(set(patients)) < FEWEST_PATIENTS:
        return None
    folds = _folds(patients)
    codes, pixels = _read(site, manifest, cases, new)
    before = None if old is None else _read(site, manifest, cases, old)[0]
    draw = np.random.default_rng(0).standard_normal((pixels.shape[1], codes.shape[1]))
    blind = np.sign((pixels - pixels.mean(0)) @ draw)
    old_share = None if before is None else explained(before, pixels, folds)
    share = MOMENTS_SHARE_OF_RANDOM if new.plan.code_form == "moments" else SHARE_OF_RANDOM
    return Readable(explained(codes, pixels, folds), old_share, explained(blind, pixels, folds), len(cases), share)


def explained(codes: Floats, pixels: Floats, folds: npt.NDArray[np.int64]) -> float:
    """Return the share of the pixels' variance that a ridge regression on codes explains, cross-validated.

    Args:
        codes: shape (cases, bits).
        pixels: shape (cases, pixels).
        folds: the fold of each case. The best of a few penalties counts.
    """
    shares = []
    for penalty in PENALTIES:
        left = total = 0.0
        for fold in np.unique(folds):
            is_held = folds == fold
            drawn = _drawn(codes[~is_held], pixels[~is_held], codes[is_held], penalty)
            left += float(((pixels[is_held] - drawn) ** 2).sum())
            total += float(((pixels[is_held] - pixels[~is_held].mean(0)) ** 2).sum())
        shares.append(1 - left / total if total > 0 else 0.0)
    return max(shares)


def _drawn(codes: Floats, pixels: Floats, held: Floats, penalty: float) -> Floats:
    mean, middle = pixels.mean(0), codes.mean(0)
    centred = codes - middle
    gram = centred.T @ centred + penalty * np.eye(codes.shape[1])
    weights: Floats = np.linalg.solve(gram, centred.T @ (pixels - mean))
    drawn: Floats = (held - middle) @ weights + mean
    return drawn


def _folds(patients: list[str]) -> npt.NDArray[np.int64]:
    """Assign a fold to each case, the same to all cases of a patient, since images of a patient are similar."""
    numbers = {patient: number % FOLDS for number, patient in enumerate(sorted(set(patients)))}
    return np.array([numbers[patient] for patient in patients], np.int64)


@torch.no_grad()
def _read(site: LocalSite, manifest: Manifest, cases: tuple[Case, ...], model: ActiveModel) -> tuple[Floats, Floats]:
    """Return codes as -1 and 1, shape (cases, bits), and small grey pictures, shape (cases, SIDE * SIDE)."""
    codes, pixels = [], []
    for start in range(0, len(cases), BATCH):
        part = cases[start : start + BATCH]
        source = site.to_encode(manifest, part, model.plan)
        image = source.batch(torch.arange(len(part))).image.to(site.device)
        output = model.net.read(image)
        codes.append(output.code.sign().double().cpu())
        grey = functional.adaptive_avg_pool2d(image.mean(1, keepdim=True), SIDE)
        pixels.append(grey.flatten(1).double().cpu())
    return torch.cat(codes).numpy(), torch.cat(pixels).numpy()
