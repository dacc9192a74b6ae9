"""The updates that gradient inversion attacks: of one or more images, single or summed, private or not."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from ynet.data.batch import Batch
from ynet.errors import UserError
from ynet.federation import secure_sum
from ynet.learning.dp_sgd import Clipped, Mechanism, mechanism
from ynet.learning.grid_noise import Randomness
from ynet.learning.model import YNet
from ynet.learning.train_private import trained
from ynet.plan import Plan
from ynet.plan_sections import LEAST_SECURE, Privacy
from ynet_lab.attacks.gradient_inversion import Gradient, gradient
from ynet_lab.attacks.similarity import Images
from ynet_lab.attacks.subjects import Subjects

SUMMED = LEAST_SECURE  # sites
OTHERS = 128  # the attacker's images of other patients, also used for the floors
MOST_DELTA = 0.1


class Protection(NamedTuple):
    """How an update is protected."""

    name: str
    is_private: bool
    is_summed: bool


def protections(plan: Plan, private: Plan) -> list[Protection]:
    """List the protections to attack: with and without privacy for a plan without it, else only with privacy."""
    dp = f"DP, epsilon {private.privacy.epsilon:g}"
    bare = [Protection("none", False, False), Protection("secure sum", False, True)]
    noised = [Protection(dp, True, False), Protection(f"{dp}, secure sum", True, True)]
    return noised if plan.privacy.mode == "patient" else bare + noised


def privately(plan: Plan, patients: int, epsilon: float) -> tuple[Plan, Mechanism]:
    """Return the plan, with this epsilon if it has no privacy, and its mechanism at a site of `patients` patients."""
    if plan.privacy.mode == "off":
        privacy = Privacy("patient", epsilon=epsilon, delta=min(MOST_DELTA, 1 / patients))
        plan = replace(plan, privacy=privacy)
    return plan, mechanism(plan, patients)


def victims(
    subjects: Subjects, size: int, random: np.random.Generator, device: torch.device
) -> tuple[list[Batch], Images]:
    """A batch for each site of a sum, each image another training patient's; and images of other patients.

    Of fewer images than `size` where there are too few patients. Raises UserError where there are hardly any.
    """
    members = np.flatnonzero(subjects.by_patient(subjects.is_member) > 0.5)
    if len(members) < SUMMED:
        why = f"a sum of {SUMMED} sites takes as many training patients, and there are {len(members)}"
        raise UserError("no gradient can be attacked", why, "leave `gradient` out of --attacks")
    drawn = random.permutation(members)[: SUMMED * min(size, len(members) // SUMMED)]
    positions = [int(random.choice(np.flatnonzero(subjects.patient == patient))) for patient in drawn]
    batches = [subjects.cases.batch(torch.tensor(part)) for part in np.array_split(positions, SUMMED)]
    others = random.permutation(np.flatnonzero(~np.isin(subjects.patient, drawn)))[:OTHERS]
    images = subjects.cases.batch(torch.from_numpy(others)).image
    return [Batch(*(part.to(device) for part in batch)) for batch in batches], images.to(device)


def update(
    net: YNet, plan: Plan, batches: Sequence[Batch], protection: Protection, private: Mechanism
) -> tuple[Batch, Gradient]:
    """Return the images of an update, and the update that the server sees: the first site's, or the sum."""
    seen = batches if protection.is_summed else batches[:1]
    made = [
        private_gradient(net, plan, batch, private) if protection.is_private else gradient(net, plan, batch)
        for batch in seen
    ]
    return joined(seen), securely_summed(made) if protection.is_summed else made[0]


def private_gradient(net: YNet, plan: Plan, batch: Batch, mechanism: Mechanism) -> Gradient:
    """Return what a private step releases for a batch in which each image is of another patient."""
    clipped = Clipped(list(trained(net, plan).values()), mechanism.max_grad_norm, len(batch.label))
    for number in range(len(batch.label)):
        one = gradient(net, plan, Batch(*(part[number : number + 1] for part in batch)))
        clipped.add([part[None] for part in one])
    return clipped.release(mechanism.noise_multiplier, len(batch.label), Randomness())


def securely_summed(updates: Sequence[Gradient]) -> Gradient:
    """The mean of several sites' updates as a secure sum shows it: rounded to its fixed point, and nothing else."""
    flats = [torch.cat([part.flatten() for part in update]).cpu().numpy() for update in updates]
    total = secure_sum.add_up([secure_sum.fixed_point(flat, 1) for flat in flats])
    mean = torch.from_numpy(secure_sum.from_fixed_point(total) / len(updates)).float()
    parts = torch.split(mean, [part.numel() for part in updates[0]])
    return [part.view_as(like).to(like) for part, like in zip(parts, updates[0], strict=True)]


def joined(batches: Sequence[Batch]) -> Batch:
    """Concatenate several sites' batches."""
    return Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
