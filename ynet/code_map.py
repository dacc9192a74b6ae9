"""A code that orders cases, from sums over the sites' features: no gradient, and exact for any number of sites.

The code has two parts. The *class bits* are signs of a rotation of the classes' posterior probabilities under linear
discriminant analysis (one covariance for all classes). The *case bits* are signs of a rotation of the feature's
principal directions after whitening by the scatter within patients: what differs between two images of one patient
counts little, what differs between patients counts much. The number of class bits is the dial between the two.

Everything is computed from sums over cases (`FeatureMoments`). Sums over sites are exact, so a federation gets the same
code as the pooled data. The rotations come from a seed.

Cases without a label count in the scatter within patients only. The other sums are of the labelled cases: the scatter
within classes is the difference of `products` and `total`, and would be wrong if one had cases that the other lacks.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ynet.code_shapes import Sizes, moments_size, upper_values
from ynet.errors import UserError

Floats = npt.NDArray[np.float64]

CASE_SHRINKAGE, MOST_SHRINKAGE, SHRINKAGE_PATIENTS = 0.3, 0.5, 60
"""Weight of the diagonal in the scatter within patients, and the most in the scatter within classes, where it is
SHRINKAGE_PATIENTS over the number of patients: with few, the small eigenvalues of a scatter are too small."""
SMALLEST = 1e-4
"""The smallest eigenvalue that is whitened, as a share of the largest."""
CANDIDATES = 100
"""Rotations of the classes among which the best is taken."""
ROUNDING = 1e-3
"""How far sums may differ from what must hold, relatively: they travel in single precision."""
MIN_REPEATS = 50
"""Repeated images that the scatter within patients needs; with fewer, the scatter within classes takes its place."""


class FeatureMoments(NamedTuple):
    """Sums over the cases of one or several sites; added up, they are those of the pooled cases."""

    cases: Floats  # (classes): of each class
    total: Floats  # (classes, features): sum of the features of each class
    products: Floats  # (features, features): sum of x x^T over the labelled cases
    patients: float  # with labelled cases
    repeats: float  # images less patients, over all cases: the degrees of freedom of the next
    within_patients: Floats  # (features, features): sum of (x - patient's mean) (x - patient's mean)^T over all cases


class CodeMap(NamedTuple):
    """What turns a feature into a code; the same at every site. Its arrays are part of the model."""

    mean: Floats  # (features)
    to_classes: Floats  # (features, directions): whitened within classes, onto the class directions
    class_means: Floats  # (classes, directions)
    known: Floats  # (classes): 1 for a class with cases, else 0
    class_rotation: Floats  # (classes, class_bits)
    to_case: Floats  # (features, case_bits)
    class_codes: Floats  # (classes, bits): the code's values at each class's mean; 0 without cases


def moments_of(
    feature: Floats,
    label: npt.NDArray[np.int64],
    patient: npt.NDArray[np.int64],
    sizes: Sizes,
) -> FeatureMoments:
    """Sum over cases: features of shape (n, features), labels and patients of shape (n,).

    `label` is the place of the class, negative for a case without a label; `patient` is any number that is equal for
    images of one patient.
    """
    is_labelled = label >= 0
    of_class, labelled = label[is_labelled], feature[is_labelled]
    cases = np.bincount(of_class, minlength=sizes.classes).astype(np.float64)
    total = np.zeros((sizes.classes, sizes.features))
    np.add.at(total, of_class, labelled)
    _, place = np.unique(patient, return_inverse=True)
    images, means = np.bincount(place), np.zeros((place.max(initial=-1) + 1, sizes.features))
    np.add.at(means, place, feature)
    apart = feature - (means / images[:, None])[place]
    patients, repeats = float(len(np.unique(patient[is_labelled]))), float(len(feature) - len(images))
    return FeatureMoments(cases, total, labelled.T @ labelled, patients, repeats, apart.T @ apart)


def add(parts: Iterable[FeatureMoments]) -> FeatureMoments:
    """Add the moments of several sites."""
    cases, total, products, patients, repeats, within = (np.sum(column, axis=0) for column in zip(*parts, strict=True))
    return FeatureMoments(cases, total, products, float(patients), float(repeats), within)


def code_map(moments: FeatureMoments, bits: int, class_bits: int, seed: int) -> CodeMap:
    """Compute the map of a code of `bits` bits, with `class_bits` bits for the class.

    Raises:
        ValueError: There are no cases, or the numbers of bits do not fit.
    """
    known = moments.cases > 0
    if not known.any() or not 0 <= class_bits < bits:
        raise ValueError(f"{known.sum()} classes with cases, {class_bits} class bits of {bits}")
    n, classes, features = moments.cases.sum(), *moments.total.shape
    mean = moments.total.sum(0) / n
    class_means = moments.total[known] / moments.cases[known, None]
    between = (class_means - mean) * np.sqrt(moments.cases[known, None])
    scatter = moments.products - n * np.outer(mean, mean)
    within_classes = (scatter - between.T @ between) / max(n - known.sum(), 1)
    whitening = _whitening(within_classes, min(MOST_SHRINKAGE, SHRINKAGE_PATIENTS / max(moments.patients, 1)))
    directions = _directions((class_means - class_means.mean(0)) @ whitening)
    to_classes, means = np.zeros((features, classes - 1)), np.zeros((classes, classes - 1))
    to_classes[:, : directions.shape[1]] = whitening @ directions
    means[known] = (class_means - mean) @ to_classes
    rests_on_patients = moments.repeats >= MIN_REPEATS
    own = moments.within_patients / moments.repeats if rests_on_patients else within_classes
    case_whitening = _whitening(own, CASE_SHRINKAGE)
    case_bits, generator = bits - class_bits, np.random.default_rng(seed)
    principal = _principal(case_whitening.T @ (scatter / n) @ case_whitening, case_bits)
    class_rotation = apart(generator, classes, class_bits)
    to_case = case_whitening @ principal @ rotation(generator, principal.shape[1], case_bits)
    class_codes = np.zeros((classes, bits))
    class_codes[known, :class_bits] = at_means(means[known]) @ class_rotation[known]
    class_codes[known, class_bits:] = (class_means - mean) @ to_case
    return CodeMap(mean, to_classes, means, known.astype(np.float64), class_rotation, to_case, class_codes)


def check_labelled(moments: FeatureMoments) -> None:
    """Check that a code can follow from the moments. Raises UserError."""
    if moments.cases.sum() < 1 / 2:  # sums travel in single precision
        do = "label cases at one site at least, or train a plan with 'network.code: trained'"
        raise UserError("the code cannot be computed", "no site has a training case with a label", do)


def at_means(means: Floats) -> Floats:
    """Return each class's probability at each class's mean, less that of chance, shape (classes, classes).

    `means` are those of the classes on the class directions, of the classes that have cases.
    """
    squared = ((means[:, None, :] - means[None]) ** 2).sum(2)
    weights = np.exp(-squared / 2)
    probabilities: Floats = weights / weights.sum(1, keepdims=True) - 1 / len(means)
    return probabilities


def flatten(moments: FeatureMoments, cases: int) -> npt.NDArray[np.float32]:
    """Return the moments of one site as means over its cases, the form in which they leave it; see `moments_size`.

    `cases` counts those without a label too.
    """
    parts = (
        moments.cases,
        moments.total.ravel(),
        moments.products[np.triu_indices(len(moments.products))],
        [moments.patients, moments.repeats],
        moments.within_patients[np.triu_indices(len(moments.within_patients))],
    )
    flat: npt.NDArray[np.float32] = (np.concatenate(parts) / max(cases, 1)).astype(np.float32)
    return flat


def unflatten(means: npt.NDArray[np.floating], cases: int, sizes: Sizes) -> FeatureMoments:
    """Return the moments of `cases` cases from their means.

    Raises:
        ValueError: The means cannot be those of any cases.
    """
    if cases < 1:
        raise ValueError("moments of no cases")
    if means.shape != (moments_size(sizes),) or not np.isfinite(means).all():
        raise ValueError("not the form of moments")
    values, (features, classes) = means.astype(np.float64) * cases, sizes
    ends = np.cumsum((classes, classes * features, upper_values(features), 1, 1))
    by_class, total, products, patients, repeats, within = np.split(values, ends)
    counts = float(patients[0]), float(repeats[0])
    found = FeatureMoments(
        by_class, total.reshape(classes, features), _symmetric(products), *counts, _symmetric(within)
    )
    _check(found, cases)
    return found


def _check(moments: FeatureMoments, cases: int) -> None:
    """Check what holds for the moments of any cases. Raises ValueError."""
    slack = ROUNDING * cases
    labelled = moments.cases.sum()
    is_counted = -slack <= moments.patients <= labelled + slack and -slack <= moments.repeats <= cases + slack
    if (moments.cases < -slack).any() or labelled > cases + slack or not is_counted:
        raise ValueError("not the counts of these cases")
    squares, within = np.diag(moments.products), np.diag(moments.within_patients)
    if (moments.total.sum(0) ** 2 > (labelled + slack) * (squares + ROUNDING * (squares + cases))).any():
        raise ValueError("the squares are smaller than the means allow")
    is_all = labelled > cases - 1 / 2  # else the squares are those of some cases, the scatter is that of all
    if (within < 0).any() or (is_all and (within > squares + ROUNDING * (squares + cases)).any()):
        raise ValueError("the scatter within patients is not a part of the squares")


def _symmetric(upper: Floats) -> Floats:
    size = int((np.sqrt(8 * len(upper) + 1) - 1) / 2)
    full = np.zeros((size, size))
    full[np.triu_indices(size)] = upper
    return full + np.triu(full, 1).T


def _whitening(scatter: Floats, shrinkage: float) -> Floats:
    """Return W with W^T S W = 1, for the scatter S shrunk towards its diagonal."""
    shrunk = (1 - shrinkage) * scatter + shrinkage * np.diag(np.diag(scatter))
    values, vectors = np.linalg.eigh(shrunk)
    least = SMALLEST * values[-1] if values[-1] > 0 else 1.0
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


def rotation(generator: np.random.Generator, rows: int, columns: int) -> Floats:
    """Return a random matrix whose rows (or columns, where there are fewer) are orthonormal."""
    square, _ = np.linalg.qr(generator.standard_normal((max(rows, columns), max(rows, columns))))
    cut: Floats = square[:rows, :columns]
    return cut


def apart(generator: np.random.Generator, classes: int, bits: int) -> Floats:
    """Return, of some random rotations, the one under which the codes of the classes differ most.

    What counts is the least number of bits between two classes, and then the mean number less its variance.
    """
    candidates = [rotation(generator, classes, bits) for _ in range(CANDIDATES)]
    if classes < 2:
        return candidates[0]
    pairs = np.triu_indices(classes, 1)

    def by(candidate: Floats) -> tuple[float, float]:
        signs = np.where((np.eye(classes) - 1 / classes) @ candidate > 0, 1.0, -1.0)
        differences = ((bits - signs @ signs.T) / 2)[pairs]
        return float(differences.min()), float(differences.mean() - differences.var())

    return max(candidates, key=by)
