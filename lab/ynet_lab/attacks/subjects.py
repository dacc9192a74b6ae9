"""The patients of an attack: those that the model was trained on (members), and others."""

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
        """The number of patients."""
        return int(self.patient.max()) + 1

    def part(self, chosen: Bool[np.ndarray, " cases"]) -> CaseSource:
        """Return the chosen cases, in order."""
        return Subset(self.cases, torch.from_numpy(np.flatnonzero(chosen)))

    def of(self, patients: Bool[np.ndarray, " patients"]) -> tuple[CaseSource, Patients]:
        """Return the images of the chosen patients, and their patients, for a training."""
        chosen = patients[self.patient]
        return self.part(chosen), Patients([str(number) for number in self.patient[chosen]])

    def by_patient(self, values: Shaped[np.ndarray, " cases"]) -> Float[np.ndarray, " patients"]:
        """Return the mean over each patient's images."""
        return mean_by(values, self.patient)


def mean_by(values: Shaped[np.ndarray, " n"], group: Int64[np.ndarray, " n"]) -> npt.NDArray[np.float64]:
    """Return the mean of each group's values; groups are numbered from 0, and none is empty."""
    means: npt.NDArray[np.float64] = np.bincount(group, values) / np.bincount(group)
    return means
