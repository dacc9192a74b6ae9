"""Patient-level DP-SGD: clip each patient's gradient, add noise to the sum (Abadi et al., CCS 2016).

Neighbouring data sets differ in one patient, whose images, masks and labels count in only one of them; the number of
patients is public (Kairouz et al., ICML 2021: "zero-out"). A step samples each patient independently with the same
probability (Poisson sampling). For each sampled patient it draws some views: augmented images of that patient, whose
mean loss gives the patient's one gradient.

A patient's draws in a step depend on a secret, the step and that patient only. So removing one patient leaves the
others' gradients unchanged, and the sum moves by one clipped gradient. The secret and the noise come from the operating
system's randomness: a known seed would allow to subtract the noise.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from ynet.learning import accountant
from ynet.learning.accountant import MechanismSteps
from ynet.learning.grid_noise import Randomness, off_grid, on_grid
from ynet.learning.per_patient_gradients import Gradient, Whole
from ynet.plan import Plan

ROUNDING = 4e-6
"""Share of the bound by which a patient's clipped gradient may change with the other patients of its pass, in single
precision (measured: 1e-6). The bound is lowered by this share for each patient."""

LONGEST = 1e30
"""A longer gradient counts as not finite: single precision cannot scale it to the bound."""


class Mechanism(NamedTuple):
    """The parameters of a site's private steps, the same in all rounds of a run."""

    noise_multiplier: float  # standard deviation of the noise over the clipping norm
    sampling_rate: float  # each patient's probability to be in a step
    steps: int  # of one round
    max_grad_norm: float
    batch: float  # expected number of patients in a step

    def spends(self, rounds: int = 1) -> MechanismSteps:
        """Return the steps of some rounds, for the accountant."""
        return MechanismSteps(self.noise_multiplier, self.sampling_rate, self.steps * rounds)


def mechanism(plan: Plan, patients: int) -> Mechanism:
    """Return the mechanism with which a site of `patients` patients keeps the plan's epsilon and delta in all rounds.

    Raises:
        UserError: No reasonable noise is enough.
    """
    training, (epsilon, delta) = plan.training, plan.privacy.bound
    rate = min(1.0, training.batch_size / patients)
    steps = training.local_epochs * math.ceil(patients / training.batch_size)
    noise = accountant.noise_multiplier(epsilon, delta, rate, steps * training.most_rounds)
    return Mechanism(noise, rate, steps, plan.privacy.max_grad_norm, rate * patients)


class Draw(NamedTuple):
    """A patient's draw in one step."""

    positions: Int64[Tensor, " views"]  # of the views' images, among all cases
    generator: torch.Generator  # for their augmentation and dropout


class Patients:
    """The positions of a site's cases by patient, and the sampling of patients."""

    def __init__(self, patient_of: Sequence[str]) -> None:
        """Group the cases. `patient_of` is the patient of each case, in order."""
        self._patient_of = patient_of
        by_name: dict[str, list[int]] = {}
        for position, name in enumerate(patient_of):
            by_name.setdefault(name, []).append(position)
        self._positions = {name: torch.tensor(positions) for name, positions in by_name.items()}

    @staticmethod
    def together(parts: "Sequence[Patients]") -> "Patients":
        """Join the patients of several sites whose cases are concatenated. Sites share no patient."""
        return Patients([f"{site}/{name}" for site, part in enumerate(parts) for name in part._patient_of])

    def __len__(self) -> int:
        return len(self._positions)

    def draw(self, rate: float, views: int, step: int, secret: bytes) -> Iterator[Draw]:
        """Sample the patients of one step; there may be none. A draw depends on patient, step and secret only.

        `secret` has 32 bytes and is new in each round. A keyed hash (BLAKE2b) decides, so nobody without the secret
        can tell who takes part. A patient's generator may be public: any fixed draws keep the bound.
        """
        for name, positions in self._positions.items():
            message = step.to_bytes(8, "big") + name.encode()
            digest = hashlib.blake2b(message, digest_size=16, key=secret).digest()
            if int.from_bytes(digest[:8], "big") >= rate * 2.0**64:
                continue
            generator = torch.Generator().manual_seed(int.from_bytes(digest[8:], "big"))
            chosen = torch.randint(len(positions), (views,), generator=generator)
            yield Draw(positions[chosen], generator)


class Clipped:
    """The sum of clipped gradients: no patient changes it by more than the bound."""

    def __init__(self, parameters: Sequence[nn.Parameter], max_grad_norm: float, patients: int = 1) -> None:
        """Start an empty sum. `patients` is the largest number of patients in it, for ROUNDING."""
        self._max_grad_norm, self._bound = max_grad_norm, max_grad_norm / (1 + ROUNDING * patients)
        self._like = list(parameters)
        self.total = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]

    def add(self, gradients: Sequence[Gradient | Float[Tensor, "patients ..."]]) -> Float64[Tensor, " patients"]:
        """Clip and add patients' gradients, one for each parameter; return their norms before clipping (not private).

        A gradient that is not finite counts as 0: one NaN would spoil the sum.
        """
        parts = [Whole(part) if isinstance(part, Tensor) else part for part in gradients]
        norms: Float64[Tensor, " patients"] = torch.linalg.vector_norm(torch.stack([p.norms() for p in parts]), dim=0)
        is_finite = norms < LONGEST  # which a NaN is not
        scales = (self._bound / norms.clamp(min=1e-30)).clamp(max=1.0).float()
        if not is_finite.all():
            parts, scales = [part.only(is_finite) for part in parts], scales[is_finite]
        for total, part in zip(self.total, parts, strict=True):
            total += part.sum(scales).view(total.shape)
        return norms

    def release(self, noise_multiplier: float, batch: float, randomness: Randomness) -> list[Float[Tensor, "..."]]:
        """Return the noised sum divided by the expected number of patients: the only value that the optimizer sees.

        Sum and noise are added on the noise's grid. Without noise (in tests) there is no grid.
        """
        deviation, sizes = noise_multiplier * self._max_grad_norm, [total.numel() for total in self.total]
        released = torch.cat([total.flatten() for total in self.total]).cpu()
        if deviation:
            released = off_grid(on_grid(released, deviation) + randomness.normal(sum(sizes)), deviation)
        parts = torch.split(released / batch, sizes)
        return [part.view(one.shape).to(one) for part, one in zip(parts, self._like, strict=True)]
