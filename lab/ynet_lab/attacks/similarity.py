"""The structural similarity of images (Wang et al., IEEE Trans. Image Processing 2004), by scikit-image."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from skimage.metrics import structural_similarity
from torch import Tensor

Images = Float[Tensor, "batch channels h w"]


class Match(NamedTuple):
    """An image for each true image, and their similarity."""

    position: list[int]  # of the image, by true image
    ssim: list[float]


def ssim(image: Float[Tensor, "channels h w"], true: Float[Tensor, "channels h w"]) -> float:
    """Return the mean structural similarity of an image with a true image; 1 for equal ones.

    The window and the constants are the paper's. The data range is the true image's. Sides have at least 11 pixels.
    """
    both = (one.double().numpy() for one in (image, true))
    return float(
        structural_similarity(
            *both,
            data_range=float(true.max() - true.min()),
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def similarities(images: Images, true: Float[Tensor, "true channels h w"]) -> Float[Tensor, "true batch"]:
    """Return the similarity of each image with each true image."""
    return torch.tensor([[ssim(image, one) for image in images] for one in true])


def match(images: Images, true: Images) -> Match:
    """Assign a different image to each true image, so that the sum of similarities is highest."""
    found = similarities(images, true).numpy()
    rows, columns = linear_sum_assignment(-found)
    order = np.argsort(rows)
    return Match(columns[order].tolist(), found[rows, columns][order].tolist())


def standardised(images: Images) -> Images:
    """Scale each image to mean 0 and standard deviation 1, like the network's input."""
    centred = images - images.mean((1, 2, 3), keepdim=True)
    return centred / centred.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)
