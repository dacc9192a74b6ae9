"""One site's training in one round under differential privacy: DP-SGD with per-patient clipping."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ynet.data.augment import augment, flips
from ynet.data.batch import Batch, CaseSource
from ynet.errors import UserError
from ynet.fixed_arrays import PRIVATE_HEADS
from ynet.learning.dp_sgd import Clipped, Draw, Mechanism, Patients
from ynet.learning.grid_noise import Randomness
from ynet.learning.losses import loss_of
from ynet.learning.map_cache import Reader, Seen
from ynet.learning.model import Dropped, YNet
from ynet.learning.per_patient_gradients import Gradient, PatientGradients
from ynet.learning.train import Moments, Progress, TrainResult, begin, moments_of, optimizer_of, reader_of
from ynet.plan import Plan
from ynet.plan_sections import Augmentation

ROWS = 32  # largest number of images per pass: more are no faster
MULTIPLE = 4  # the number of images per pass is a multiple of this


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
    micro_batches: int = 1,
) -> TrainResult:
    """Train `net` for the mechanism's steps. Only the result's weights and moments are private, not its losses.

    A patient's gradient is that of the mean loss of the patient's views, clipped in float32. The noise has no seed.

    Args:
        net: Trained in place.
        cases: The training cases.
        patients: The patients of the cases.
        plan: The plan.
        round_number: From 1.
        mechanism: The steps, their noise and their clipping.
        device: Where the network is.
        secret: 32 bytes from which each patient's sampling, views, augmentation and dropout are drawn. It must be None,
            a fresh secret, wherever the weights are released.
        on_progress: Called after each step.
        moments: Those of the previous round.
        micro_batches: Factor by which fewer images are computed at a time, to save memory.

    Raises:
        UserError: There are no cases.
    """
    if not len(cases):
        raise UserError("there is nothing to train on", "the site has no training cases", "name some in the manifest")
    begun, views = time.perf_counter(), plan.privacy.views
    secret, randomness, chosen = secret or secrets.token_bytes(32), Randomness(), trained(net, plan)
    parameters = list(chosen.values())
    gradients_of = _gradients(net, parameters, plan, device)
    optimizer = optimizer_of(parameters, plan, round_number, moments)
    augmentation = begin(net, plan, round_number)
    maps_of = reader_of(net, cases, augmentation)
    views_of = partial(_mapped_views, net, maps_of) if maps_of else partial(_views, net, cases)
    sums, count = torch.zeros(3, device=device), 0
    for step in range(1, mechanism.steps + 1):
        clipped = Clipped(parameters, mechanism.max_grad_norm, len(patients))
        drawn = list(patients.draw(mechanism.sampling_rate, views, step, secret))
        for part, own in _passes(drawn, views, max(MULTIPLE, ROWS // micro_batches)):
            gradients, parts = gradients_of(views_of(augmentation, part), len(part), own)
            clipped.add(gradients)
            sums += parts.nan_to_num().sum(0)
            count += own
        released = clipped.release(mechanism.noise_multiplier, mechanism.batch, randomness)
        for parameter, gradient in zip(parameters, released, strict=True):
            parameter.grad = gradient
        optimizer.step()
        if on_progress:
            epoch = (step - 1) * plan.training.local_epochs // mechanism.steps + 1
            on_progress(Progress(epoch, plan.training.local_epochs, step, mechanism.steps, float("nan")))
    total, classification, segmentation = (sums / max(count, 1)).tolist()
    seconds = time.perf_counter() - begun
    return TrainResult(total, classification, segmentation, count * views, seconds, moments_of(optimizer))


def _passes(drawn: list[Draw], views: int, rows: int) -> Iterator[tuple[list[Draw], int]]:
    """Split a step's patients into passes of at most `rows` images, or of one patient; with the number that count.

    The other patients of a pass are padding: a convolution is planned again for each new number of images.
    """
    most, multiple = max(1, rows // views), max(1, MULTIPLE // views)
    for start in range(0, len(drawn), most):
        own = drawn[start : start + most]
        yield own + own[:1] * (-len(own) % multiple), len(own)


class _PatientViews(NamedTuple):
    """The augmented views of some patients, and the dropout of their pass."""

    seen: Seen
    dropped: Dropped | None


def _views(net: YNet, cases: CaseSource, augmentation: Augmentation, drawn: Sequence[Draw]) -> _PatientViews:
    """Load and augment the views of some patients, one patient after the other.

    Each patient has its own generator: with one call for all, a patient's augmentation would depend on the others.
    """
    views, count = cases.batch(torch.cat([draw.positions for draw in drawn])), len(drawn[0].positions)
    images, masks, dropped = [], [], []
    for number, draw in enumerate(drawn):
        own = slice(number * count, (number + 1) * count)
        generator = draw.generator.clone_state()  # a patient that is also padding gets the same views
        augmented = augment(views.image[own], views.mask[own], augmentation, generator)
        images.append(augmented.image)
        masks.append(augmented.mask)
        dropped.append(net.draw_dropped(count, generator))
    batch = Batch(torch.cat(images), torch.cat(masks), views.label, views.drawn)
    return _PatientViews(Seen(batch, ()), _joined(dropped))


def _mapped_views(net: YNet, maps_of: Reader, augmentation: Augmentation, drawn: Sequence[Draw]) -> _PatientViews:
    """Read the cached maps of some patients' views, mirrored and dropped as those of `_views`."""
    count = len(drawn[0].positions)
    mirrored, dropped = [], []
    for draw in drawn:
        generator = draw.generator.clone_state()
        mirrored.append(flips(count, augmentation, generator))
        dropped.append(net.draw_dropped(count, generator))
    seen = maps_of(torch.cat([draw.positions for draw in drawn]), torch.cat(mirrored))
    return _PatientViews(seen, _joined(dropped))


def _joined(dropped: Sequence[Dropped | None]) -> Dropped | None:
    some = [one for one in dropped if one is not None]
    return Dropped(*(torch.cat(parts) for parts in zip(*some, strict=True))) if some else None


def _gradients(
    net: YNet, parameters: Sequence[nn.Parameter], plan: Plan, device: torch.device
) -> Callable[[_PatientViews, int, int], tuple[list[Gradient], Float[Tensor, "own 3"]]]:
    """Return a function that computes each patient's gradients and the parts of its loss.

    The gradients of padding patients are 0. Single precision on every device: in half precision a patient's gradient
    would depend on the other patients of the batch by more than ROUNDING.
    """
    gradients_of, loss_function = patient_gradients(net, parameters), loss_of(plan, device)

    def gradients(views: _PatientViews, patients: int, own: int) -> tuple[list[Gradient], Float[Tensor, "own 3"]]:
        batch, maps = Batch(*(part.to(device) for part in views.seen.batch)), views.seen.maps
        dropped = views.dropped and Dropped(*(part.to(device) for part in views.dropped))
        losses = []

        def loss() -> Float[Tensor, " rows"]:
            output = net.heads(maps, plan.image.size, dropped) if maps else net(batch.image, dropped)
            parts = loss_function(output, batch)
            losses.append(torch.stack([part.detach() for part in parts], 1))
            rows = torch.arange(len(parts.total), device=device)
            return torch.where(rows < own * len(rows) // patients, parts.total, 0.0)

        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found = gradients_of(patients, loss)
        return found, losses[0].view(patients, -1, 3)[:own].mean(1)

    return gradients


def patient_gradients(net: YNet, parameters: Sequence[nn.Parameter]) -> PatientGradients:
    """Return what computes per-patient gradients of the network's layers, those of timm's encoders included.

    Raises:
        TypeError: A layer's kind is not supported.
    """
    if net.encoder is None:
        return PatientGradients(net, parameters)
    from ynet.learning.timm_gradients import TIMM_LAYERS  # timm: seconds that ynet's own encoder need not wait

    return PatientGradients(net, parameters, TIMM_LAYERS)


def trained(net: YNet, plan: Plan) -> dict[str, nn.Parameter]:
    """Return the parameters that the plan trains, by name; never those without a gradient."""
    which = plan.privacy.trained
    return {
        name: parameter
        for name, parameter in net.named_parameters()
        if parameter.requires_grad
        and (which == "all" or (name.startswith(PRIVATE_HEADS) if which == "heads" else parameter.ndim == 1))
    }
