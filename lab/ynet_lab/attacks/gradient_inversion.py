"""Gradient inversion: images optimised until their gradient is that of one step's update.

By the cosine distance, a total variation and steps of the gradient's sign (Geiping et al., NeurIPS 2020).

The attacker is given more than a server has: the gradient itself and not what AdamW makes of it, the labels and masks,
a step without dropout or augmentation, and the mean of other patients' images to begin with. What it does not find,
an attacker with less does not find by this way either; another way may.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ynet.data.batch import Batch
from ynet.learning.losses import loss_of
from ynet.learning.model import YNet
from ynet.learning.train_private import trained
from ynet.plan import Plan
from ynet_lab.attacks.similarity import Images, match, similarities, standardised

Gradient = list[Tensor]
"""By parameter that the plan trains."""

RATE = 0.05  # Adam's, in standard deviations of an image; it falls along a half cosine
VARIATION = 1e-3  # what the total variation weighs beside the cosine distance
JITTER = 0.01  # of the images at the beginning

OnStep = Callable[[int], None]


class Reconstruction(NamedTuple):
    """What was made of one update, beside what it was of."""

    images: Images  # standardised, in the order of the true ones that they match
    ssim: list[float]  # with the true ones
    floor_mean: float  # the best similarity of a true image with the mean of other patients' images
    floor_other: float  # with any single image of other patients
    distance: float  # 1 - cosine between the found and the seen gradient

    @property
    def best(self) -> float:
        """The similarity of the image that was found best."""
        return max(self.ssim)


def gradient(net: YNet, plan: Plan, batch: Batch, *, is_kept: bool = False) -> Gradient:
    """The gradient of a batch's mean loss, without dropout. `is_kept`: it can itself be differentiated."""
    net.eval()
    loss = loss_of(plan, batch.image.device)(net(batch.image), batch).total.mean()
    found = torch.autograd.grad(
        loss, list(trained(net, plan).values()), create_graph=is_kept, allow_unused=True, materialize_grads=True
    )
    return list(found)


def invert(
    net: YNet,
    plan: Plan,
    seen: Gradient,
    true: Batch,
    others: Images,
    *,
    steps: int,
    generator: torch.Generator,
    on_step: OnStep,
) -> Reconstruction:
    """Images whose gradient points where the seen one does. Of `true`, labels and masks are used, and to score.

    `others` are other patients' images: their mean is where the search begins, and all of them are the floor.
    """
    mean = standardised(others.mean(0, keepdim=True))
    noise = torch.randn(true.image.shape, generator=generator).to(true.image.device)
    images = (mean + JITTER * noise).requires_grad_()
    optimizer = torch.optim.Adam([images], RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    away = torch.tensor(1.0)
    for step in range(1, steps + 1):
        away = distance(gradient(net, plan, true._replace(image=images), is_kept=True), seen)
        (uphill,) = torch.autograd.grad(away + VARIATION * total_variation(images), images)
        images.grad = uphill.nan_to_num().sign()
        optimizer.step()
        schedule.step()
        on_step(step)
    found = standardised(images.detach()).cpu()
    return _scored(found, true.image.cpu(), others.cpu(), mean.cpu(), float(away.detach()))


def _scored(found: Images, true: Images, others: Images, mean: Images, away: float) -> Reconstruction:
    matched = match(found, true)
    floor_mean, floor_other = (float(similarities(images, true).max()) for images in (mean, others))
    return Reconstruction(found[matched.position], matched.ssim, floor_mean, floor_other, away)


def distance(a: Gradient, b: Gradient) -> Float[Tensor, ""]:
    """1 - the cosine of the angle between two gradients."""
    flat_a, flat_b = (torch.cat([part.flatten() for part in gradients]) for gradients in (a, b))
    return 1 - torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=0)


def total_variation(images: Images) -> Float[Tensor, ""]:
    """The mean absolute difference of neighbouring pixels."""
    across, down = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    return across.abs().mean() + down.abs().mean()
