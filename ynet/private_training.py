"""One site's training in one round under differential privacy: DP-SGD's loop, clipped patient by patient."""

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ynet.data.augment import augment
from ynet.data.batch import Batch, CaseSource
from ynet.errors import UserError
from ynet.federation.plan import Plan
from ynet.losses import Loss, loss_of
from ynet.model import YNet
from ynet.patient_gradients import Gradient, PatientGradients
from ynet.privacy import Clipped, Mechanism, Patients, Randomness
from ynet.train import (
    Moments,
    Progress,
    TrainResult,
    begin,
    dropout_from,
    moments_of,
    optimizer_of,
    single_precision,
)

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
    generator: torch.Generator,
    on_progress: Callable[[Progress], None] | None = None,
    moments: Moments | None = None,
    pieces: int = 1,
) -> TrainResult:
    """Train `net` for the mechanism's steps. Of the result only the weights and moments are private, not the losses.

    A patient's gradient is that of the mean loss of the patient's views, clipped in float32. `generator` draws
    augmentation and dropout; who takes part and the noise are nobody's to choose. With `pieces` so many times fewer
    images are computed at a time, in less memory and more slowly. Raises UserError where there are no
    cases.
    """
    if not len(cases):
        raise UserError("there is nothing to train on", "the site has no training cases", "name some in the manifest")
    begun, private = time.perf_counter(), plan.privacy
    randomness, chosen = Randomness(), trained(net, plan)
    parameters = list(chosen.values())
    gradients_of = _gradients(net, parameters, loss_of(plan, device), device)
    optimizer = optimizer_of(parameters, plan, round_number, moments)
    augmentation = begin(net, plan, round_number)
    sums, seen = torch.zeros(3, device=device), 0
    with dropout_from(generator, device):
        for step in range(1, mechanism.steps + 1):
            clipped = Clipped(parameters, mechanism.max_grad_norm)
            drawn = list(patients.sample(mechanism.sampling_rate, private.views, randomness))
            for positions, own in _pieces(drawn, private.views, max(MULTIPLE, ROWS // pieces)):
                views = cases.batch(positions.flatten())
                image, mask = augment(views.image, views.mask, augmentation, generator)
                batch = Batch(*(part.to(device) for part in (image, mask, views.label)))
                gradients, parts = gradients_of(batch, len(positions), own)
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
    return TrainResult(total, classification, segmentation, seen * private.views, seconds, moments_of(optimizer))


def _pieces(drawn: Sequence[Tensor], views: int, rows: int) -> Iterator[tuple[Int64[Tensor, "patients views"], int]]:
    """The patients of a step in pieces of at most `rows` images or one patient's, and how many of a piece count.

    The others fill it up: a convolution prepares itself anew for each number of images that it has not seen lately.
    """
    most, multiple = max(1, rows // views), max(1, MULTIPLE // views)
    for start in range(0, len(drawn), most):
        own = list(drawn[start : start + most])
        yield torch.stack(own + own[:1] * (-len(own) % multiple)), len(own)


def _gradients(
    net: YNet, parameters: Sequence[nn.Parameter], loss_function: Loss, device: torch.device
) -> Callable[[Batch, int, int], tuple[list[Gradient], Float[Tensor, "own 3"]]]:
    """What gives patients' gradients and their losses' parts; a batch has each patient's views one behind the other.

    The gradients of those behind the patients that count are 0.
    """
    gradients_of = PatientGradients(net, parameters)

    def gradients(batch: Batch, patients: int, own: int) -> tuple[list[Gradient], Float[Tensor, "own 3"]]:
        seen = []

        def loss() -> Float[Tensor, " rows"]:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                output = net(batch.image)
            parts = loss_function(single_precision(output), batch)
            seen.append(torch.stack([part.detach() for part in parts], 1))
            rows = torch.arange(len(parts.total), device=device)
            return torch.where(rows < own * len(rows) // patients, parts.total, 0.0)

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
