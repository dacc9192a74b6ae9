"""One site's training in one round under differential privacy: DP-SGD's loop, clipped patient by patient."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ynet.data.augment import augment
from ynet.data.batch import Batch, CaseSource
from ynet.errors import UserError
from ynet.learning.dp_sgd import Clipped, Draw, Mechanism, Patients
from ynet.learning.grid_noise import Randomness
from ynet.learning.losses import Loss, loss_of
from ynet.learning.model import Dropped, YNet
from ynet.learning.per_patient_gradients import Gradient, PatientGradients
from ynet.learning.train import Moments, Progress, TrainResult, begin, moments_of, optimizer_of
from ynet.plan import Augmentation, Plan

HEADS = ("hash", "place", "segmentation.logit", "classifier")
ROWS = 32  # images at most whose activations are held at a time: more are no faster
MULTIPLE = 4  # of which the number of images is one


def train_privately(
    net: YNet,
    cases: CaseSource,
    patients: Patients,
    plan: Plan,
    round_number: int,
    mechanism: Mechanism,
    *,
    device: torch.device,
    secret: bytes | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    moments: Moments | None = None,
    pieces: int = 1,
) -> TrainResult:
    """Train `net` for the mechanism's steps. Of the result only the weights and moments are private, not the losses.

    A patient's gradient is that of the mean loss of the patient's views, clipped in float32. `secret`, 32 bytes, is
    what each patient's sampling, views, augmentation and dropout are drawn from; without one it is drawn afresh, and so
    it must be wherever the weights are released. The noise has no seed at all. With `pieces` so many times fewer images
    are computed at a time, in less memory and more slowly. Raises UserError where there are no cases.
    """
    if not len(cases):
        raise UserError("there is nothing to train on", "the site has no training cases", "name some in the manifest")
    begun, views = time.perf_counter(), plan.privacy.views
    secret, randomness, chosen = secret or secrets.token_bytes(32), Randomness(), trained(net, plan)
    parameters = list(chosen.values())
    gradients_of = _gradients(net, parameters, loss_of(plan, device), device)
    optimizer = optimizer_of(parameters, plan, round_number, moments)
    show = partial(_shown, net, cases, begin(net, plan, round_number))
    sums, seen = torch.zeros(3, device=device), 0
    for step in range(1, mechanism.steps + 1):
        clipped = Clipped(parameters, mechanism.max_grad_norm, len(patients))
        drawn = list(patients.draw(mechanism.sampling_rate, views, step, secret))
        for part, own in _pieces(drawn, views, max(MULTIPLE, ROWS // pieces)):
            gradients, parts = gradients_of(show(part), len(part), own)
            clipped.add(gradients)
            sums += parts.nan_to_num().sum(0)
            seen += own
        released = clipped.release(mechanism.noise_multiplier, mechanism.batch, randomness)
        for parameter, gradient in zip(parameters, released, strict=True):
            parameter.grad = gradient
        optimizer.step()
        if on_progress:
            epoch = (step - 1) * plan.training.local_epochs // mechanism.steps + 1
            on_progress(Progress(epoch, plan.training.local_epochs, step, mechanism.steps, float("nan")))
    total, classification, segmentation = (sums / max(seen, 1)).tolist()
    seconds = time.perf_counter() - begun
    return TrainResult(total, classification, segmentation, seen * views, seconds, moments_of(optimizer))


def _pieces(drawn: list[Draw], views: int, rows: int) -> Iterator[tuple[list[Draw], int]]:
    """The patients of a step in pieces of at most `rows` images or one patient's, and how many of a piece count.

    The others fill it up: a convolution prepares itself anew for each number of images that it has not seen lately.
    """
    most, multiple = max(1, rows // views), max(1, MULTIPLE // views)
    for start in range(0, len(drawn), most):
        own = drawn[start : start + most]
        yield own + own[:1] * (-len(own) % multiple), len(own)


class _Shown(NamedTuple):
    """Patients' views as the network is shown them, and what it leaves out."""

    batch: Batch
    dropped: Dropped | None


def _shown(net: YNet, cases: CaseSource, augmentation: Augmentation, drawn: Sequence[Draw]) -> _Shown:
    """The views of some patients, one patient behind the other: each augmented by itself, from its own draw.

    In one call for all, what a patient gets would depend on how many stand before it.
    """
    views, count = cases.batch(torch.cat([draw.positions for draw in drawn])), len(drawn[0].positions)
    images, masks, dropped = [], [], []
    for number, draw in enumerate(drawn):
        own = slice(number * count, (number + 1) * count)
        generator = draw.generator.clone_state()  # whoever fills a piece up is drawn once more, and alike
        augmented = augment(views.image[own], views.mask[own], augmentation, generator)
        images.append(augmented.image)
        masks.append(augmented.mask)
        dropped.append(net.draw_dropped(count, generator))
    batch = Batch(torch.cat(images), torch.cat(masks), views.label, views.drawn)
    some = [one for one in dropped if one is not None]
    return _Shown(batch, Dropped(*(torch.cat(parts) for parts in zip(*some, strict=True))) if some else None)


def _gradients(
    net: YNet, parameters: Sequence[nn.Parameter], loss_function: Loss, device: torch.device
) -> Callable[[_Shown, int, int], tuple[list[Gradient], Float[Tensor, "own 3"]]]:
    """What gives patients' gradients and their losses' parts; a batch has each patient's views one behind the other.

    The gradients of those behind the patients that count are 0. In single precision on every device: half precision
    would let a patient's gradient move with who else is in the batch by more than ROUNDING.
    """
    gradients_of = PatientGradients(net, parameters)

    def gradients(shown: _Shown, patients: int, own: int) -> tuple[list[Gradient], Float[Tensor, "own 3"]]:
        batch = Batch(*(part.to(device) for part in shown.batch))
        dropped = shown.dropped and Dropped(*(part.to(device) for part in shown.dropped))
        seen = []

        def loss() -> Float[Tensor, " rows"]:
            parts = loss_function(net(batch.image, dropped), batch)
            seen.append(torch.stack([part.detach() for part in parts], 1))
            rows = torch.arange(len(parts.total), device=device)
            return torch.where(rows < own * len(rows) // patients, parts.total, 0.0)

        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found = gradients_of(patients, loss)
        return found, seen[0].view(patients, -1, 3)[:own].mean(1)

    return gradients


def trained(net: YNet, plan: Plan) -> dict[str, nn.Parameter]:
    """The parameters that the plan trains, by name; never the detail code's, which no gradient moves."""
    which = plan.privacy.trained
    return {
        name: parameter
        for name, parameter in net.named_parameters()
        if parameter.requires_grad
        and (which == "all" or (name.startswith(HEADS) if which == "heads" else parameter.ndim == 1))
    }
