"""Gradient inversion: optimise images until their gradient equals that of one step's update.

The method is that of Geiping et al., NeurIPS 2020: cosine distance, total variation, steps by the gradient's sign.

The attacker knows more than a server does: the gradient instead of AdamW's step, the labels and masks, a step without
dropout or augmentation, and the mean of other patients' images as a start. If this attacker fails, one with less
knowledge fails with this method too; another method may succeed.
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
"""A gradient for each parameter that the plan trains."""

RATE = 0.05  # Adam's, in standard deviations of an image; it falls along a half cosine
VARIATION = 1e-3  # what the total variation weighs beside the cosine distance
JITTER = 0.01  # of the images at the beginning

OnStep = Callable[[int], None]


class Reconstruction(NamedTuple):
    """The images reconstructed from one update, and their similarity with the true ones."""

    images: Images  # standardised, in the order of the true ones that they match
    ssim: list[float]  # with the true ones
    floor_mean: float  # the best similarity of a true image with the mean of other patients' images
    floor_other: float  # with any single image of other patients
    distance: float  # 1 - cosine between the found and the seen gradient

    @property
    def best(self) -> float:
        """The similarity of the best reconstruction."""
        return max(self.ssim)


def gradient(net: YNet, plan: Plan, batch: Batch, *, is_kept: bool = False) -> Gradient:
    """Return the gradient of a batch's mean loss, without dropout. `is_kept` makes it differentiable."""
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
    """Search images whose gradient has the direction of `seen`.

    The labels and masks of `true` are known to the attacker; its images only score the result. `others` are other
    patients' images: the search starts at their mean, and their similarities are the floor.
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
    """Return 1 - the cosine of the angle between two gradients."""
    flat_a, flat_b = (torch.cat([part.flatten() for part in gradients]) for gradients in (a, b))
    return 1 - torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=0)


def total_variation(images: Images) -> Float[Tensor, ""]:
    """Return the mean absolute difference of neighbouring pixels."""
    across, down = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    return across.abs().mean() + down.abs().mean()
