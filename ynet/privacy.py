"""DP-SGD with the patient as its unit: each patient's gradient clipped, the sum noised (Abadi et al., CCS 2016).

Neighbouring data sets differ in one patient, with all of that patient's images. A step takes each patient with the same
chance, independently (Poisson sampling), and of each one some views: images of that patient, drawn anew and augmented,
whose mean loss gives the patient's one gradient. Who is drawn, and the noise, come from the operating system's
randomness: who knows a seed takes the noise out again.
"""

import math
import secrets
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from jaxtyping import Float, Float64, Int64
from scipy.special import ndtri
from torch import Tensor, nn

from ynet import accountant
from ynet.accountant import Spent
from ynet.federation.plan import Plan


class Mechanism(NamedTuple):
    """What a site's steps do, the same in all rounds of a run."""

    noise_multiplier: float  # standard deviation of the noise over the clipping norm
    sampling_rate: float  # each patient's chance to be in a step
    steps: int  # of one round
    max_grad_norm: float
    batch: float  # patients expected in a step

    def spends(self, rounds: int = 1) -> Spent:
        """What some rounds cost."""
        return Spent(self.noise_multiplier, self.sampling_rate, self.steps * rounds)


def mechanism(plan: Plan, patients: int) -> Mechanism:
    """The mechanism with which a site of so many patients keeps the plan's epsilon and delta over all its rounds.

    Raises UserError when no noise does.
    """
    training, (epsilon, delta) = plan.training, plan.privacy.bound
    rate = min(1.0, training.batch_size / patients)
    steps = training.local_epochs * math.ceil(patients / training.batch_size)
    noise = accountant.noise_multiplier(epsilon, delta, rate, steps * training.rounds)
    return Mechanism(noise, rate, steps, plan.privacy.max_grad_norm, rate * patients)


class Randomness:
    """Draws that nobody can repeat: AES-256 in counter mode under a fresh key of the operating system's."""

    def __init__(self) -> None:
        self._stream = Cipher(algorithms.AES256(secrets.token_bytes(32)), modes.CTR(bytes(16))).encryptor()

    def uniform(self, count: int) -> Float64[np.ndarray, " count"]:
        """Uniform on (0, 1), each of 2^53 values alike; neither end."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), "<u8")
        return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def normal(self, count: int) -> Float64[np.ndarray, " count"]:
        """Standard normal, by the inverse of its distribution function."""
        found: Float64[np.ndarray, " count"] = ndtri(self.uniform(count))
        return found


class Patients:
    """Positions of a site's cases by patient."""

    def __init__(self, patient_of: Sequence[Hashable]) -> None:
        """`patient_of`: the patient of each case, in the cases' order."""
        self._patient_of = patient_of
        by_name: dict[Hashable, list[int]] = {}
        for position, name in enumerate(patient_of):
            by_name.setdefault(name, []).append(position)
        self._positions = [torch.tensor(positions) for positions in by_name.values()]

    @staticmethod
    def together(parts: "Sequence[Patients]") -> "Patients":
        """The patients of several sites whose cases stand one behind the other; none is at two of them."""
        return Patients([(site, name) for site, part in enumerate(parts) for name in part._patient_of])

    def __len__(self) -> int:
        return len(self._positions)

    def sample(self, rate: float, views: int, randomness: Randomness) -> Iterator[Int64[Tensor, " views"]]:
        """The patients of one step, each by the positions of its views; none, now and then."""
        for number in np.flatnonzero(randomness.uniform(len(self)) < rate):
            positions = self._positions[number]
            drawn = torch.from_numpy(np.floor(randomness.uniform(views) * len(positions)).astype(np.int64))
            yield positions[drawn]


class Clipped:
    """The sum of patients' gradients, none longer than the bound."""

    def __init__(self, parameters: Sequence[nn.Parameter], max_grad_norm: float) -> None:
        self._bound = max_grad_norm
        self.total = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]

    def add(self, gradients: Sequence[Float[Tensor, "patients ..."]]) -> Float64[Tensor, " patients"]:
        """Add patients' gradients, a tensor for each parameter; their lengths before clipping, which are not private.

        A gradient that is not finite counts as 0: one NaN would make all NaN.
        """
        each = [torch.linalg.vector_norm(part.flatten(1), dim=1, dtype=torch.float64) for part in gradients]
        norms: Float64[Tensor, " patients"] = torch.linalg.vector_norm(torch.stack(each), dim=0)
        is_finite = norms.isfinite()
        # A hair less than the bound over the norm: the product is rounded to float32, and must not be longer.
        scales = (self._bound * (1 - 1e-6) / norms.clamp(min=1e-30)).clamp(max=1.0)
        scales = torch.where(is_finite, scales, 0.0).float()
        for total, part in zip(self.total, gradients, strict=True):
            finite = part if is_finite.all() else torch.where(is_finite.view(-1, *[1] * (part.ndim - 1)), part, 0.0)
            total += torch.tensordot(scales, finite.float(), dims=1)
        return norms

    def release(self, noise_multiplier: float, batch: float, randomness: Randomness) -> list[Float[Tensor, "..."]]:
        """The noised sum over the patients expected in a step: all that leaves, and all that the optimizer sees."""
        released, deviation = [], noise_multiplier * self._bound
        for total in self.total:
            noise = torch.from_numpy(randomness.normal(total.numel()).astype(np.float32)).view(total.shape)
            released.append((total + deviation * noise.to(total.device)) / batch)
        return released
