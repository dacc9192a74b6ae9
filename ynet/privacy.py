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

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from ynet import accountant
from ynet.accountant import Spent
from ynet.federation.plan import Plan
from ynet.patient_gradients import Gradient, Whole

PIECE = 1 << 16  # pairs of normal draws that are made at a time: they stay in the processor's cache


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
        self._zeros, self._bytes = bytes(16 * PIECE), bytearray(16 * PIECE)
        self._stream = Cipher(algorithms.AES256(secrets.token_bytes(32)), modes.CTR(bytes(16))).encryptor()

    def uniform(self, count: int) -> Float64[Tensor, " count"]:
        """Uniform on (0, 1), each of 2^52 values alike; neither end."""
        drawn = torch.empty(count, dtype=torch.float64)
        for piece in torch.split(drawn, 2 * PIECE):
            self._stream.update_into(memoryview(self._zeros)[: 8 * len(piece)], self._bytes)
            words = torch.frombuffer(self._bytes, dtype=torch.int64, count=len(piece))
            torch.mul((words >> 12).bitwise_and_((1 << 52) - 1).double().add_(0.5), 2.0**-52, out=piece)
        return drawn

    def normal(self, count: int) -> Float64[Tensor, " count"]:
        """Standard normal, in pairs that are the coordinates of points of the plane (Box, Muller 1958)."""
        drawn = torch.empty(2, (count + 1) // 2, dtype=torch.float64)
        for pairs in torch.split(drawn, PIECE, dim=1):
            radius, angle = self.uniform(pairs.numel()).view(2, -1)
            radius.log_().mul_(-2).sqrt_()
            angle.mul_(2 * math.pi)
            torch.mul(radius, angle.cos(), out=pairs[0])
            torch.mul(radius, angle.sin(), out=pairs[1])
        return drawn.flatten()[:count]


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
        for number in torch.nonzero(randomness.uniform(len(self)) < rate).flatten().tolist():
            positions = self._positions[number]
            yield positions[(randomness.uniform(views) * len(positions)).long()]


class Clipped:
    """The sum of patients' gradients, none longer than the bound."""

    def __init__(self, parameters: Sequence[nn.Parameter], max_grad_norm: float) -> None:
        self._bound = max_grad_norm
        self.total = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]

    def add(self, gradients: Sequence[Gradient | Float[Tensor, "patients ..."]]) -> Float64[Tensor, " patients"]:
        """Add patients' gradients, one for each parameter; their lengths before clipping, which are not private.

        A gradient that is not finite counts as 0: one NaN would make all NaN.
        """
        parts = [Whole(part) if isinstance(part, Tensor) else part for part in gradients]
        norms: Float64[Tensor, " patients"] = torch.linalg.vector_norm(torch.stack([p.norms() for p in parts]), dim=0)
        is_finite = norms.isfinite()
        # A hair less than the bound over the norm: the product is rounded to float32, and must not be longer.
        scales = (self._bound * (1 - 1e-6) / norms.clamp(min=1e-30)).clamp(max=1.0).float()
        if not is_finite.all():
            parts, scales = [part.only(is_finite) for part in parts], scales[is_finite]
        for total, part in zip(self.total, parts, strict=True):
            total += part.sum(scales).view(total.shape)
        return norms

    def release(self, noise_multiplier: float, batch: float, randomness: Randomness) -> list[Float[Tensor, "..."]]:
        """The noised sum over the patients expected in a step: all that leaves, and all that the optimizer sees."""
        deviation, sizes = noise_multiplier * self._bound, [total.numel() for total in self.total]
        noise = torch.split(randomness.normal(sum(sizes)), sizes)
        return [
            (total + deviation * part.view(total.shape).to(total)) / batch
            for total, part in zip(self.total, noise, strict=True)
        ]
