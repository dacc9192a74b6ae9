"""Features without a network: histograms of oriented gradients and of intensities, by scikit-image."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from skimage.feature import hog
from skimage.transform import resize

from ynet.data.batch import CaseSource
from ynet.learning.evaluate import BATCH

Floats = npt.NDArray[np.float64]

SIDE, CELLS, BINS, REACH = 64, 8, 32, 3.0
"""Pixels and cells of a side, bins of the intensities, and their range in standard deviations of the image."""


class Handmade(NamedTuple):
    """The features of some cases, one row each."""

    whole: Floats
    under_mask: Floats  # in the box around the true mask; of the whole image where there is no mask, or an empty one


def handmade(cases: CaseSource) -> Handmade:
    """Compute the features of all cases, in their order."""
    rows = []
    for positions in torch.split(torch.arange(len(cases)), BATCH):
        batch = cases.batch(positions)
        grey, masks = batch.image.mean(1).double().numpy(), batch.mask.amax(1).numpy() > 0
        rows += [(_whole(image), _under(image, mask)) for image, mask in zip(grey, masks, strict=True)]
    return Handmade(*(np.stack(column) for column in zip(*rows, strict=True)))


def _whole(image: Floats) -> Floats:
    return _feature(image, image.ravel())


def _under(image: Floats, mask: npt.NDArray[np.bool_]) -> Floats:
    if not mask.any():
        return _whole(image)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return _feature(np.where(mask, image, 0.0)[box], image[mask])


def _feature(image: Floats, pixels: Floats) -> Floats:
    """Return the histogram of gradients, then the BINS shares of the intensities."""
    square = resize(image, (SIDE, SIDE), order=1, anti_aliasing=min(image.shape) > SIDE)
    gradients = hog(square, pixels_per_cell=(SIDE // CELLS, SIDE // CELLS), cells_per_block=(2, 2))
    counts, _ = np.histogram(np.clip(pixels, -REACH, REACH), BINS, (-REACH, REACH))
    return np.concatenate([gradients, counts / len(pixels)])
