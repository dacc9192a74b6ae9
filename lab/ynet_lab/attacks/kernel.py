"""Kernel ridge regression from vectors to images.

It is fast with the few hundred pairs that an attacker has, and deterministic.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int64

Floats = npt.NDArray[np.float64]
WIDTHS = (0.25, 1.0, 4.0)  # of the kernel, in mean squared distances
PENALTIES = (0.003, 0.03, 0.3, 3.0)
FOLDS = 4
MOST = 2000  # pairs
SKETCHED = 64  # outputs by which the kernel is chosen: random projections keep squared errors, nearly


class Regression(NamedTuple):
    """A fitted regression, for `predict`."""

    centres: Floats  # (n, inputs)
    mean: Floats  # (outputs,)
    weights: Floats  # (n, outputs)
    scale: float  # squared distance at which the kernel has fallen to 1 / e


def fit(
    inputs: Float[np.ndarray, "n inputs"],
    outputs: Float[np.ndarray, "n outputs"],
    group: Int64[np.ndarray, " n"],
) -> Regression:
    """Fit with the Gaussian kernel and the penalty that are best in a cross-validation by groups."""
    inputs, outputs, group = inputs[:MOST].astype(np.float64), outputs[:MOST].astype(np.float64), group[:MOST]
    distances = _squared(inputs, inputs)
    unit = float(distances.mean()) or 1.0
    fold = np.unique(group, return_inverse=True)[1] % FOLDS
    sketch = outputs @ np.random.default_rng(1).standard_normal((outputs.shape[1], SKETCHED))
    errors = {
        (width, penalty): sum(
            _error(np.exp(-distances / (width * unit)), sketch, fold == number, penalty) for number in range(FOLDS)
        )
        for width in WIDTHS
        for penalty in PENALTIES
    }
    width, penalty = min(errors, key=lambda choice: errors[choice])
    mean = outputs.mean(0)
    weights = _solve(np.exp(-distances / (width * unit)), outputs - mean, penalty)
    return Regression(inputs, mean, weights, width * unit)


def predict(found: Regression, inputs: Float[np.ndarray, "m inputs"]) -> Float[np.ndarray, "m outputs"]:
    """Predict the outputs of some vectors."""
    kernel = np.exp(-_squared(inputs.astype(np.float64), found.centres) / found.scale)
    made: Floats = (kernel @ found.weights + found.mean).astype(np.float64)
    return made


def _error(kernel: Floats, outputs: Floats, held: npt.NDArray[np.bool_], penalty: float) -> float:
    if not held.any() or held.all():
        return 0.0
    mean = outputs[~held].mean(0)
    weights = _solve(kernel[np.ix_(~held, ~held)], outputs[~held] - mean, penalty)
    return float(((kernel[np.ix_(held, ~held)] @ weights + mean - outputs[held]) ** 2).sum())


def _solve(kernel: Floats, outputs: Floats, penalty: float) -> Floats:
    solved: Floats = np.linalg.solve(kernel + penalty * np.eye(len(kernel)), outputs).astype(np.float64)
    return solved


def _squared(a: Floats, b: Floats) -> Floats:
    """Return squared distances, shape (a, b)."""
    found: Floats = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
    return found
