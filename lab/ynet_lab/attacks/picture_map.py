"""A map of codes that a lying server would choose: its bits tell as much of the picture as the feature holds.

It has the form of an honest map without class bits. The check at adoption must tell the two apart.
"""

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float

Floats = npt.NDArray[np.float64]
PENALTY = 0.3
"""Of the ridge regression from standardised features to pictures, as a share of their number."""


def picture_bits(
    feature: Float[np.ndarray, "cases features"],
    picture: Float[np.ndarray, "cases pixels"],
    known: Bool[np.ndarray, " cases"],
    bits: int,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Return codes: signs of a rotation of the picture's principal directions, as read from the feature.

    The map is made from the `known` cases.
    """
    scaled = (feature - feature[known].mean(0)) / (feature[known].std(0) + 1e-6)
    own, seen = scaled[known], picture[known] - picture[known].mean(0)
    gram = own.T @ own + PENALTY * len(own) * np.eye(own.shape[1])
    read = scaled @ np.linalg.solve(gram, own.T @ seen)
    read -= read[known].mean(0)
    _, _, directions = np.linalg.svd(read[known], full_matrices=False)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((bits, bits)))
    principal = read @ directions[:bits].T
    found: npt.NDArray[np.bool_] = principal @ rotation[: principal.shape[1]] > 0
    return found
