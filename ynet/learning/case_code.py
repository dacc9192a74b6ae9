"""A code that orders cases, from sums over the sites' features: no gradient, and exact for any number of sites.

The code has two parts. The *class bits* are signs of a rotation of the classes' posterior probabilities under linear
discriminant analysis (one covariance for all classes). The *case bits* are signs of a rotation of the feature's
principal directions after whitening by the scatter within patients: what differs between two images of one patient
counts little, what differs between patients counts much. The number of class bits is the dial between the two.

Everything is computed from sums over cases (`FeatureMoments`). Sums over sites are exact, so a federation gets the same
code as the pooled data. The rotations come from a seed.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64, Int64

Floats = npt.NDArray[np.float64]

SHRINKAGE = 0.1
"""Weight of the diagonal in a scatter matrix: with few cases, its small eigenvalues are too small."""
SMALLEST = 1e-4
"""The smallest eigenvalue that is whitened, as a share of the largest."""
MIN_REPEATS = 50
"""Repeated images that the scatter within patients needs; with fewer, the scatter within classes takes its place."""


class FeatureMoments(NamedTuple):
    """Sums over the cases of one or several sites; added up, they are those of the pooled cases."""

    cases: Float64[np.ndarray, " classes"]  # of each class
    total: Float64[np.ndarray, "classes features"]  # sum of the features of each class
    products: Float64[np.ndarray, "features features"]  # sum of x x^T
    repeats: float  # images less patients: the degrees of freedom of the next
    within_patients: Float64[np.ndarray, "features features"]  # sum of (x - patient's mean) (x - patient's mean)^T


class CodeMap(NamedTuple):
    """What turns a feature into a code; the same at every site."""

    mean: Float64[np.ndarray, " features"]
    to_classes: Float64[np.ndarray, "features directions"]  # whitened within classes, onto the class directions
    class_means: Float64[np.ndarray, "classes directions"]
    class_rotation: Float64[np.ndarray, "classes class_bits"]
    to_case: Float64[np.ndarray, "features case_bits"]


def moments_of(
    feature: Float64[np.ndarray, "n features"],
    label: Int64[np.ndarray, " n"],
    patient: Int64[np.ndarray, " n"],
    classes: int,
) -> FeatureMoments:
    """Sum over cases. `label` is the class's place; `patient` is any number that is equal for images of one patient."""
    cases = np.bincount(label, minlength=classes).astype(np.float64)
    total = np.zeros((classes, feature.shape[1]))
    np.add.at(total, label, feature)
    _, place = np.unique(patient, return_inverse=True)
    images = np.bincount(place)
    means = np.zeros((len(images), feature.shape[1]))
    np.add.at(means, place, feature)
    apart = feature - (means / images[:, None])[place]
    return FeatureMoments(cases, total, feature.T @ feature, float(len(feature) - len(images)), apart.T @ apart)


def add(parts: Iterable[FeatureMoments]) -> FeatureMoments:
    """Add the moments of several sites."""
    cases, total, products, repeats, within = (np.sum(column, axis=0) for column in zip(*parts, strict=True))
    return FeatureMoments(cases, total, products, float(repeats), within)


def code_map(moments: FeatureMoments, bits: int, class_bits: int, seed: int) -> CodeMap:
    """Compute the map of a code of `bits` bits, with `class_bits` bits for the class.

    Raises:
        ValueError: There are fewer than two classes with cases, or the numbers of bits do not fit.
    """
    present = moments.cases > 0
    if present.sum() < 2 or not 0 <= class_bits < bits:
        raise ValueError(f"{present.sum()} classes with cases, {class_bits} class bits of {bits}")
    n = moments.cases.sum()
    mean = moments.total.sum(0) / n
    class_means = moments.total[present] / moments.cases[present, None]
    between = (class_means - mean) * np.sqrt(moments.cases[present, None])
    scatter = moments.products - n * np.outer(mean, mean)
    within_classes = (scatter - between.T @ between) / max(n - present.sum(), 1)
    whitening = _whitening(within_classes)
    directions = _directions((class_means - class_means.mean(0)) @ whitening)
    to_classes = whitening @ directions
    rests_on_patients = moments.repeats >= MIN_REPEATS
    case_whitening = _whitening(moments.within_patients / moments.repeats) if rests_on_patients else whitening
    case_bits, generator = bits - class_bits, np.random.default_rng(seed)
    principal = _principal(case_whitening.T @ (scatter / n) @ case_whitening, case_bits)
    means = np.full((len(present), directions.shape[1]), np.inf)
    means[present] = (class_means - mean) @ to_classes
    return CodeMap(
        mean,
        to_classes,
        means,
        _rotation(generator, len(present), class_bits),
        case_whitening @ principal @ _rotation(generator, principal.shape[1], case_bits),
    )


def code_values(code: CodeMap, feature: Float64[np.ndarray, "n features"]) -> Float64[np.ndarray, "n bits"]:
    """Return the code's signed values; their signs are the bits, class bits first."""
    centred = feature - code.mean
    posterior = _posterior(centred @ code.to_classes, code.class_means)
    known = np.isfinite(code.class_means).all(1)
    uniform = known / known.sum()
    return np.concatenate([(posterior - uniform) @ code.class_rotation, centred @ code.to_case], axis=1)


def _posterior(seen: Floats, means: Floats) -> Floats:
    """Return each class's probability, all classes alike beforehand; 0 for a class without cases."""
    known = np.isfinite(means).all(1)
    squared = ((seen[:, None, :] - np.where(known.reshape(-1, 1), means, 0)[None]) ** 2).sum(2)
    scores = np.where(known, -squared / 2, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    probabilities: Floats = weights / weights.sum(1, keepdims=True)
    return probabilities


def _whitening(scatter: Floats) -> Floats:
    """Return W with W^T S W = 1, for the scatter S shrunk towards its diagonal."""
    shrunk = (1 - SHRINKAGE) * scatter + SHRINKAGE * np.diag(np.diag(scatter))
    values, vectors = np.linalg.eigh(shrunk)
    least = max(SMALLEST * values[-1], np.finfo(np.float64).tiny)
    whitening: Floats = vectors / np.sqrt(np.maximum(values, least))
    return whitening


def _directions(means: Floats) -> Floats:
    """Return orthonormal directions that span the class means, one fewer than there are classes."""
    _, _, rows = np.linalg.svd(means, full_matrices=False)
    found: Floats = rows[: len(means) - 1].T
    return found


def _principal(covariance: Floats, most: int) -> Floats:
    _, vectors = np.linalg.eigh(covariance)
    found: Floats = vectors[:, ::-1][:, :most]
    return found


def _rotation(generator: np.random.Generator, rows: int, columns: int) -> Floats:
    """Return a random matrix whose rows (or columns, where there are fewer) are orthonormal."""
    square, _ = np.linalg.qr(generator.standard_normal((max(rows, columns), max(rows, columns))))
    cut: Floats = square[:rows, :columns]
    return cut
