"""Measure codes of private plans: how much of class and case a code keeps whose map is made from noised sums.

python tests/benchmarks/private_codes.py --features FILE.npz [--epsilons 8 4 2] [--share 0.25] [--bits 64]
    [--seeds 3] [--out FILE.json]

FILE.npz holds features as `ynet.learning.evaluate.encode` returns them with `keeps_feature`: `hf`, `hl`, `hp` are the
gallery's features, labels and patients, `qf`, `ql`, `qp` the queries'. The gallery's cases are those of the sums.
Nothing is sent: this decides which statistic is worth its epsilon.

The neighbouring data sets differ in one patient. A patient's images give one vector, which is scaled to a norm of at
most 1; the sum over patients gets Gaussian noise, once (secure sums) or once at each site (plain sums).
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import brentq
from scipy.special import ndtr

from ynet import code_map
from ynet.code_shapes import Sizes
from ynet.data.batch import SITE_STEP
from ynet.learning import metrics
from ynet.learning.evaluate import EncodedCases, case_hits
from ynet.learning.hashing import hamming, pack
from ynet.learning.moment_code import code_values

Floats = npt.NDArray[np.float64]
Encode = Callable[[Floats], Floats]
"""From features to the signed values of a code."""

DELTA = 1e-5
FOLDED = 96
"""Values to which a seeded projection folds the feature before its second moments are released."""
FLOOR = 0.05
"""The smallest eigenvalue that is whitened, as a share of the largest, in a noised covariance."""


class Data(NamedTuple):
    """Features of a gallery and of queries, one row per case."""

    held: Floats
    held_label: npt.NDArray[np.int64]
    held_patient: npt.NDArray[np.int64]
    asked: Floats
    asked_label: npt.NDArray[np.int64]
    asked_patient: npt.NDArray[np.int64]

    @property
    def classes(self) -> int:
        return int(self.held_label.max()) + 1


class Figures(NamedTuple):
    """Class and case of a code."""

    macro_map10: float
    case_hit10: float


class Released:
    """Sums over patients, with noise of one standard deviation."""

    def __init__(self, data: Data, deviation: float, generator: np.random.Generator) -> None:
        self._generator, self.deviation = generator, deviation
        _, self._place = np.unique(data.held_patient, return_inverse=True)
        self.patients = int(self._place.max()) + 1
        self._images = np.bincount(self._place)

    def sum(self, rows: Floats, weight: float = 1.0) -> Floats:
        """Return the noised sum over patients of the mean of a patient's rows, each clipped to norm 1.

        `weight` is the share of the release's sensitivity that these values may use.
        """
        means = np.zeros((self.patients, rows.shape[1]))
        np.add.at(means, self._place, rows)
        means /= self._images[:, None]
        clipped = means / np.maximum(1, np.linalg.norm(means, axis=1, keepdims=True))
        noise: Floats = self._generator.standard_normal(rows.shape[1]) * self.deviation / weight
        total: Floats = clipped.sum(0) + noise
        return total


def noise_multiplier(epsilon: float, delta: float) -> float:
    """Return the noise of one Gaussian release (Balle and Wang, ICML 2018, theorem 8)."""

    def above(z: float) -> float:
        return float(ndtr(1 / (2 * z) - epsilon * z) - np.exp(epsilon) * ndtr(-1 / (2 * z) - epsilon * z) - delta)

    return float(brentq(above, 1e-2, 1e3))


def read(path: Path) -> Data:
    found = np.load(path)
    parts = (found[name] for name in ("hf", "hl", "hp", "qf", "ql", "qp"))
    held, held_label, held_patient, asked, asked_label, asked_patient = parts
    return Data(held.astype(float), held_label, held_patient, asked.astype(float), asked_label, asked_patient)


def figures(data: Data, encode: Encode) -> Figures:
    held, asked = (pack(torch.from_numpy(encode(part)).float()) for part in (data.held, data.asked))
    distances = hamming(asked, held)
    ranked = metrics.ranking(distances, data.asked_label[:, None] == data.held_label[None, :], 10)
    empty = np.zeros((0, 0, 3))
    sides = [
        EncodedCases(codes, label, *(empty,) * 4, patient, empty, empty)  # type: ignore[arg-type]
        for codes, label, patient in (
            (held, data.held_label, data.held_patient),
            (asked, data.asked_label, data.asked_patient),
        )
    ]
    with np.errstate(invalid="ignore"):
        case = float(np.nanmean(case_hits(*sides, distances).first10))
    return Figures(float(metrics.macro(ranked.ap, data.asked_label)), case)


def from_moments(data: Data, bits: int) -> Encode:
    """The code without privacy."""
    sizes = Sizes(data.held.shape[1], data.classes)
    moments = code_map.moments_of(data.held, data.held_label, data.held_patient, sizes)
    found = code_map.code_map(moments, bits, 8 + bits // 8, 1)
    arrays = {name: torch.from_numpy(values).float() for name, values in found._asdict().items()}
    return lambda x: code_values(torch.from_numpy(x).float(), argparse.Namespace(**arrays)).numpy().astype(float)


def unit(rows: Floats) -> Floats:
    scaled: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return scaled


def rotation(rows: int, columns: int) -> Floats:
    values: Floats = np.random.default_rng(1).standard_normal((rows, columns)) / np.sqrt(rows)
    return values


def cases(x: Floats) -> Floats:
    """Return the features as unit vectors less the mean of their own values."""
    rows = unit(x)
    apart: Floats = rows - rows.mean(1, keepdims=True)
    return apart


def data_free(data: Data, bits: int) -> Encode:
    """Signs of a seeded projection."""
    project = rotation(data.held.shape[1], bits)
    return lambda x: cases(x) @ project


def centred(data: Data, bits: int, released: Released) -> Encode:
    """Signs of a seeded projection of the feature less its noised mean; every bit finds the case."""
    project, mean = rotation(data.held.shape[1], bits), _mean(data, released, 1.0)
    return lambda x: (cases(x) - mean) @ project


def _mean(data: Data, released: Released, weight: float) -> Floats:
    """Return the noised mean, shrunk towards 0 where the noise is longer than it (James and Stein, 1961)."""
    found = released.sum(cases(data.held), weight) / released.patients
    noise = len(found) * (released.deviation / weight / released.patients) ** 2
    shrunk: Floats = max(0.0, 1 - noise / float(found @ found)) * found
    return shrunk


def folded(mean: Floats) -> Encode:
    project = rotation(len(mean), FOLDED)
    return lambda x: unit((cases(x) - mean) @ project)


def with_classes(data: Data, bits: int, released: Released, *, whitens: bool) -> Encode:
    """Case bits as `centred` or from the noised covariance, class bits from noised class means.

    Mean, class sums with counts, and where it whitens the covariance are released one after the other. A patient's part
    of each has a norm of 1 at most; the weights share the one release's sensitivity, so their squares sum to 1.
    """
    weights = np.sqrt([0.2, 0.3, 0.5] if whitens else [0.3, 0.7, 0.0])
    mean = _mean(data, released, weights[0])
    fold = folded(mean)
    rows, classes = fold(data.held), data.classes
    known = np.eye(classes)[data.held_label]
    both = np.concatenate([known[:, :, None] * rows[:, None, :], known[:, :, None]], 2) / np.sqrt(2)
    sums = released.sum(both.reshape(len(rows), -1), weights[1]).reshape(classes, -1) * np.sqrt(2)
    class_means = sums[:, :-1] / np.maximum(sums[:, -1:], 0.01 * released.patients)
    whitening = np.eye(FOLDED)
    if whitens:
        upper = np.triu_indices(FOLDED)
        scale = np.where(upper[0] == upper[1], 1, np.sqrt(2))  # the norm of a unit vector's outer product is 1
        products = released.sum(rows[:, upper[0]] * rows[:, upper[1]] * scale, weights[2]) / scale / released.patients
        covariance = np.zeros((FOLDED, FOLDED))
        covariance[upper] = products
        values, vectors = np.linalg.eigh(covariance + np.triu(covariance, 1).T)
        whitening = vectors / np.sqrt(np.maximum(values, FLOOR * values[-1]))
    class_bits = 8 + bits // 8
    centres = (class_means - class_means.mean(0)) @ whitening
    _, _, directions = np.linalg.svd(centres, full_matrices=False)
    spin = np.random.default_rng(2).standard_normal((classes - 1, class_bits))
    to_class, to_case = whitening @ directions[: classes - 1].T @ spin, rotation(FOLDED, bits - class_bits)
    middle = class_means.mean(0)
    return lambda x: np.concatenate([(fold(x) - middle) @ to_class, fold(x) @ whitening @ to_case], 1)


def private_codes(data: Data, bits: int, released: Released) -> Iterator[tuple[str, Encode]]:
    yield "seeded, less the noised mean", centred(data, bits, released)
    yield "and noised class means", with_classes(data, bits, released, whitens=False)
    yield "and whitened by the noised covariance", with_classes(data, bits, released, whitens=True)


def measure(data: Data, arguments: argparse.Namespace) -> dict[str, dict[str, Figures]]:
    sites = len(np.unique(data.held_patient // SITE_STEP))
    found = {
        "no privacy, from moments": {"": figures(data, from_moments(data, arguments.bits))},
        "seeded, without data": {"": figures(data, data_free(data, arguments.bits))},
    }
    for epsilon in (*arguments.epsilons, None):
        z = noise_multiplier(arguments.share * epsilon, DELTA) if epsilon else 0.0
        for where, parts in (("secure", 1), ("plain", sites)) if epsilon else (("no noise", 0),):
            rows: dict[str, list[Figures]] = {}
            for seed in range(arguments.seeds if epsilon else 1):
                released = Released(data, z * np.sqrt(parts), np.random.default_rng(seed))
                for name, encode in private_codes(data, arguments.bits, released):
                    rows.setdefault(name, []).append(figures(data, encode))
            for name, each in rows.items():
                mean = Figures(*(float(np.mean(column)) for column in zip(*each, strict=True)))
                found.setdefault(name, {})[f"{where} {epsilon or ''}".strip()] = mean
                print(f"{name:40} {where:9} {epsilon or '-'}  {mean.macro_map10:.3f} {mean.case_hit10:.3f}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[8.0, 4.0, 2.0])
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(read(arguments.features), arguments)
    for name in ("no privacy, from moments", "seeded, without data"):
        print(f"{name:40} {found[name]['']}")
    if arguments.out:
        text = {name: {row: one._asdict() for row, one in rows.items()} for name, rows in found.items()}
        arguments.out.write_text(json.dumps(text, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
