"""All attacks on the codes of one width and dial: pixels, class, membership, linkage, and the check at adoption."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int64

from ynet.learning.hashing import hamming
from ynet.learning.metrics import balanced_accuracy
from ynet_client.adoption import code_check
from ynet_lab.attacks import code_membership, kernel
from ynet_lab.attacks.coded_cases import SIDE, CodedCases
from ynet_lab.attacks.intervals import Interval, draws_of, interval
from ynet_lab.attacks.linkage import link

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
PAIRS = 600
"""Members' codes and images from which a decoder is learnt."""
LEVELS = 4096
"""Steps between the least and the greatest distance of values that are not bits."""


class Attacked(NamedTuple):
    """What the attacks are given of each case: the code, and how far it is from the code of its own class."""

    inputs: Float[np.ndarray, "cases inputs"]  # what the attacker reads: bits, or the values of a bound
    to_class: Float[np.ndarray, " cases"]
    distance: Int64[np.ndarray, "asked cases"]  # between the cases that are no members and all; theirs come first


class Suite:
    """The cases of one set, with the choices that all codes share: who is drawn, who is learnt from, the floors."""

    def __init__(self, cases: CodedCases, draws: int, seed: int) -> None:
        self.cases, self._seed = cases, seed
        random = np.random.default_rng(seed)
        members = np.zeros(int(cases.patient.max()) + 1, bool)
        members[cases.patient[cases.is_member]] = True
        self.draws = draws_of(len(members), members, draws, random)
        self.asked = np.flatnonzero(~cases.is_member)
        self.known = random.permutation(np.flatnonzero(cases.is_member))[:PAIRS]
        self.order = np.concatenate([self.asked, np.flatnonzero(cases.is_member)])

    def of_bits(self, bits: npt.NDArray[np.bool_], class_codes: npt.NDArray[np.bool_]) -> Attacked:
        """Describe the cases by their codes; `class_codes` has the code of each class."""
        packed = np.packbits(bits, axis=1)
        own = class_codes[self.cases.label]
        return Attacked(
            bits.astype(np.float64),
            (bits != own).sum(1).astype(np.float64),
            hamming(packed[self.asked], packed[self.order]),
        )

    def of_values(self, values: Floats, inputs: Floats, to_class: Floats) -> Attacked:
        """Describe the cases by values: `inputs` for what is learnt, the cosine of `values` for what is linked."""
        unit = values / np.linalg.norm(values, axis=1, keepdims=True)
        apart = 1 - unit[self.asked] @ unit[self.order].T
        return Attacked(inputs, to_class, np.round(apart / 2 * LEVELS).astype(np.int64))

    def attack(self, given: Attacked) -> dict[str, Any]:
        """Run all attacks; a figure with an interval is a list of the value, and of its lowest and highest."""
        cases, random = self.cases, np.random.default_rng(self._seed)
        patient, label = cases.patient, cases.label
        found = code_membership.infer(given.inputs, given.to_class, patient, cases.is_member, self.draws, random, PAIRS)
        linked = link(given.distance, label[self.order], patient[self.order], self.draws)
        return {
            "pixel_r2": self._pixels(given.inputs),
            "class_balanced_accuracy": self._named(given.inputs),
            "membership": found._asdict(),
            "linkage": linked._asdict(),
            "distinct": len(np.unique(given.inputs, axis=0)) / len(given.inputs),
        }

    def _learnt(self, inputs: Floats, outputs: Floats) -> Floats:
        """Predict the outputs of the cases that are no members, from members' inputs and outputs."""
        model = kernel.fit(inputs[self.known], outputs[self.known], self.cases.patient[self.known])
        return kernel.predict(model, inputs[self.asked])

    def _pixels(self, inputs: Floats) -> Interval:
        pictures = self.cases.picture.astype(np.float64)
        return self.explained(self._learnt(inputs, pictures))

    def explained(self, drawn: Floats) -> Interval:
        """Return the share of the pixels' variance about the members' mean picture that drawn pictures explain."""
        pictures, patient = self.cases.picture.astype(np.float64), self.cases.patient[self.asked]
        left = ((drawn - pictures[self.asked]) ** 2).sum(1)
        whole = ((pictures[self.known].mean(0) - pictures[self.asked]) ** 2).sum(1)

        def share(times: Ints) -> float:
            return float(1 - left @ times[patient] / (whole @ times[patient]))

        return interval(share, self.draws)

    def _named(self, inputs: Floats) -> Interval:
        cases = self.cases
        named = self._learnt(inputs, np.eye(int(cases.label.max()) + 1)[cases.label]).argmax(1)
        return self.accuracy(named)

    def accuracy(self, named: Ints) -> Interval:
        """Return the balanced accuracy of the classes named for the cases that are no members."""
        label, patient = self.cases.label[self.asked], self.cases.patient[self.asked]

        def share(times: Ints) -> float:
            rows = np.repeat(np.arange(len(label)), times[patient])
            return balanced_accuracy(named[rows], label[rows]) or 0.0

        return interval(share, self.draws)

    def floors(self) -> dict[str, Any]:
        """Return what is known without a code: the pixels from the class alone, and from the most alike member."""
        cases, asked = self.cases, self.asked
        pictures = cases.picture.astype(np.float64)
        known = pictures[self.known]
        squared = (pictures[asked] ** 2).sum(1)[:, None] + (known**2).sum(1) - 2 * pictures[asked] @ known.T
        classes = np.eye(int(cases.label.max()) + 1)[cases.label]
        return {
            "pixel_r2_from_the_class": self.explained(self._learnt(classes, pictures)),
            "pixel_r2_of_the_most_alike_other_image": self.explained(known[squared.argmin(1)]),
            "majority_balanced_accuracy": self.accuracy(
                np.full(len(asked), np.bincount(cases.label[self.known]).argmax())
            ),
            "majority_accuracy": float(np.mean(cases.label[asked] == np.bincount(cases.label[self.known]).argmax())),
        }

    def check(self, bits: npt.NDArray[np.bool_]) -> dict[str, float]:
        """Return what the check at adoption measures: a linear decoder's share, and that of random projections."""
        cases = self.cases
        step = -(-len(cases.label) // code_check.MOST_CASES)
        pixels = grey(cases.picture)[::step]
        folds = np.unique(cases.patient[::step], return_inverse=True)[1] % code_check.FOLDS
        draw = np.random.default_rng(0).standard_normal((pixels.shape[1], bits.shape[1]))
        blind = np.sign((pixels - pixels.mean(0)) @ draw).astype(np.float64)
        signs = np.where(bits[::step], 1.0, -1.0).astype(np.float64)
        return {
            "code": code_check.explained(signs, pixels, folds),
            "random_projections": code_check.explained(blind, pixels, folds),
        }


def grey(picture: npt.NDArray[np.float32]) -> Floats:
    """Return the pictures of the check at adoption: grey, and of its side."""
    by = SIDE // code_check.SIDE
    shape = (len(picture), -1, code_check.SIDE, by, code_check.SIDE, by)
    small: Floats = picture.astype(np.float64).reshape(shape).mean((1, 3, 5)).reshape(len(picture), -1)
    return small
