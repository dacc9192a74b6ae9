"""DP-SGD with the patient as its unit: each patient's gradient clipped, the sum noised (Abadi et al., CCS 2016).

Neighbouring data sets differ in one patient, whose images, masks and labels count in one of them and not in the other;
how many patients there are is known (Kairouz et al., ICML 2021: "zero-out"). A step takes each patient with the same
chance, independently (Poisson sampling), and of each one some views: images of that patient, drawn anew and augmented,
whose mean loss gives the patient's one gradient.

What is drawn for a patient in a step depends on a secret, the step and that patient, and on nobody else: without one
patient the others' gradients are the same, and the sum moves by one clipped gradient. The secret and the noise come
from the operating system's randomness: who knows a seed takes the noise out again.
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
"""Of the bound: by how much a patient's clipped gradient may move when it is computed beside other patients, in single
precision (measured: 1e-6). Of each patient so much is kept free under the bound."""

LONGEST = 1e30
"""A gradient longer than this counts as not finite: single precision cannot shorten it to the bound."""


class Mechanism(NamedTuple):
    """What a site's steps do, the same in all rounds of a run."""

    noise_multiplier: float  # standard deviation of the noise over the clipping norm
    sampling_rate: float  # each patient's chance to be in a step
    steps: int  # of one round
    max_grad_norm: float
    batch: float  # patients expected in a step

    def spends(self, rounds: int = 1) -> MechanismSteps:
        """What some rounds cost."""
        return MechanismSteps(self.noise_multiplier, self.sampling_rate, self.steps * rounds)


def mechanism(plan: Plan, patients: int) -> Mechanism:
    """The mechanism with which a site of so many patients keeps the plan's epsilon and delta over all its rounds.

    Raises UserError when no noise does.
    """
    training, (epsilon, delta) = plan.training, plan.privacy.bound
    rate = min(1.0, training.batch_size / patients)
    steps = training.local_epochs * math.ceil(patients / training.batch_size)
    noise = accountant.noise_multiplier(epsilon, delta, rate, steps * training.rounds)
    return Mechanism(noise, rate, steps, plan.privacy.max_grad_norm, rate * patients)


class Draw(NamedTuple):
    """A patient's part in one step."""

    positions: Int64[Tensor, " views"]  # of the images that are shown, among all cases
    generator: torch.Generator  # of their augmentation and of dropout


class Patients:
    """Positions of a site's cases by patient, and what a round draws for each patient."""

    def __init__(self, patient_of: Sequence[str]) -> None:
        """`patient_of`: the patient of each case, in the cases' order."""
        self._patient_of = patient_of
        by_name: dict[str, list[int]] = {}
        for position, name in enumerate(patient_of):
            by_name.setdefault(name, []).append(position)
        self._positions = {name: torch.tensor(positions) for name, positions in by_name.items()}

    @staticmethod
    def together(parts: "Sequence[Patients]") -> "Patients":
        """The patients of several sites whose cases stand one behind the other; none is at two of them."""
        return Patients([f"{site}/{name}" for site, part in enumerate(parts) for name in part._patient_of])

    def __len__(self) -> int:
        return len(self._positions)

    def draw(self, rate: float, views: int, step: int, secret: bytes) -> Iterator[Draw]:
        """The patients of one step; none, now and then. A patient's draw depends on the patient, step and secret alone.

        `secret`: 32 bytes, new in each round. The draws are those of a keyed hash (BLAKE2b), so nobody without the
        secret can tell who takes part; what a patient's generator draws may be known (any fixed draws keep the bound).
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
    """The sum of patients' gradients, none of which moves it by more than the bound."""

    def __init__(self, parameters: Sequence[nn.Parameter], max_grad_norm: float, patients: int = 1) -> None:
        """`patients`: at most so many are in the sum; ROUNDING of each of them is left free under the bound."""
        self._max_grad_norm, self._bound = max_grad_norm, max_grad_norm / (1 + ROUNDING * patients)
        self._like = list(parameters)
        self.total = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]

    def add(self, gradients: Sequence[Gradient | Float[Tensor, "patients ..."]]) -> Float64[Tensor, " patients"]:
        """Add patients' gradients, one for each parameter; their lengths before clipping, which are not private.

        A gradient that is not finite counts as 0: one NaN would make all NaN.
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
        """The noised sum over the patients expected in a step: all that leaves, and all that the optimizer sees.

        Sum and noise are added on the noise's grid; what follows is rounded from there. Without noise (in tests) the
        sum has no grid.
        """
        deviation, sizes = noise_multiplier * self._max_grad_norm, [total.numel() for total in self.total]
        released = torch.cat([total.flatten() for total in self.total]).cpu()
        if deviation:
            released = off_grid(on_grid(released, deviation) + randomness.normal(sum(sizes)), deviation)
        parts = torch.split(released / batch, sizes)
        return [part.view(one.shape).to(one) for part, one in zip(parts, self._like, strict=True)]
