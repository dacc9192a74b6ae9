"""Whose images an attack looks at: patients that a model was trained on, and patients that it has never seen."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64, Shaped

from ynet.data.batch import CaseSource
from ynet.data.subset import Subset
from ynet.learning.dp_sgd import Patients


class Subjects(NamedTuple):
    """All sites' images."""

    cases: CaseSource
    patient: Int64[np.ndarray, " cases"]  # a number from 0 for each
    is_member: Bool[np.ndarray, " cases"]  # whether the model was trained on the image

    @property
    def patients(self) -> int:
        """How many there are."""
        return int(self.patient.max()) + 1

    def part(self, chosen: Bool[np.ndarray, " cases"]) -> CaseSource:
        """The chosen cases, in order."""
        return Subset(self.cases, torch.from_numpy(np.flatnonzero(chosen)))

    def of(self, patients: Bool[np.ndarray, " patients"]) -> tuple[CaseSource, Patients]:
        """The images of the chosen patients, and whose they are: something to train on."""
        chosen = patients[self.patient]
        return self.part(chosen), Patients([str(number) for number in self.patient[chosen]])

    def by_patient(self, values: Shaped[np.ndarray, " cases"]) -> Float[np.ndarray, " patients"]:
        """The mean over each patient's images."""
        return mean_by(values, self.patient)


def mean_by(values: Shaped[np.ndarray, " n"], group: Int64[np.ndarray, " n"]) -> npt.NDArray[np.float64]:
    """The mean of each group's values; groups are numbers from 0, none of them empty."""
    means: npt.NDArray[np.float64] = np.bincount(group, values) / np.bincount(group)
    return means
