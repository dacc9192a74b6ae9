"""How alike two images are: the structural similarity of Wang et al., IEEE Trans. Image Processing 2004."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

WINDOW, SIGMA = 11, 1.5  # pixels
K1, K2 = 0.01, 0.03

Images = Float[Tensor, "batch channels h w"]


class Match(NamedTuple):
    """Which of some images stands for which true one, and how alike they are."""

    position: list[int]  # of the image, by true one
    ssim: list[float]


def ssim(image: Images, true: Float[Tensor, "some channels h w"]) -> Float[Tensor, " batch"]:
    """The mean structural similarity of each image with its true one, or all with one; 1 for the same.

    The range is the true one's.
    """
    span = true.amax((1, 2, 3), keepdim=True) - true.amin((1, 2, 3), keepdim=True)
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    mean, true_mean = _blurred(image), _blurred(true)
    variance = _blurred(image * image) - mean**2
    true_variance = _blurred(true * true) - true_mean**2
    covariance = _blurred(image * true) - mean * true_mean
    luminance = (2 * mean * true_mean + c1) / (mean**2 + true_mean**2 + c1)
    return (luminance * (2 * covariance + c2) / (variance + true_variance + c2)).mean((1, 2, 3))


def similarities(images: Images, true: Images) -> Float[Tensor, "true batch"]:
    """The similarity of each image with each true one."""
    return torch.stack([ssim(images, one[None]) for one in true])


def match(images: Images, true: Images) -> Match:
    """Each true image with an image of its own, so that the sum of similarities is highest."""
    found = similarities(images, true).numpy()
    rows, columns = linear_sum_assignment(-found)
    order = np.argsort(rows)
    return Match(columns[order].tolist(), found[rows, columns][order].tolist())


def standardised(images: Images) -> Images:
    """Each image with mean 0 and standard deviation 1, as the network's input has."""
    centred = images - images.mean((1, 2, 3), keepdim=True)
    return centred / centred.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)


def _blurred(images: Images) -> Images:
    """Under the Gaussian window, where it lies inside the image."""
    place = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    line = torch.exp(-(place**2) / (2 * SIGMA**2))
    line = (line / line.sum()).expand(images.shape[1], 1, 1, WINDOW)
    across = functional.conv2d(images, line, groups=images.shape[1])
    return functional.conv2d(across, line.mT, groups=images.shape[1])
