"""One site's training in one round under differential privacy: DP-SGD's loop, patient by patient."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ynet.data.augment import augment
from ynet.data.batch import Batch, CaseSource
from ynet.errors import UserError
from ynet.federation.plan import Plan
from ynet.losses import Loss, loss_of
from ynet.model import Output, YNet
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
TOGETHER = 8  # patients whose gradients are made at a time: more are hardly faster, and each holds all the weights


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
) -> TrainResult:
    """Train `net` for the mechanism's steps. Of the result only the weights and moments are private, not the losses.

    A patient's gradient is that of the mean loss of the patient's views, clipped in float32. `generator` draws
    augmentation and dropout; who takes part and the noise are nobody's to choose. Raises UserError where there are no
    cases.
    """
    if not len(cases):
        raise UserError("there is nothing to train on", "the site has no training cases", "name some in the manifest")
    begun, private = time.perf_counter(), plan.privacy
    randomness, chosen = Randomness(), trained(net, plan)
    parameters = list(chosen.values())
    gradients_of = _gradients(net, chosen, loss_of(plan, device), device)
    optimizer = optimizer_of(parameters, plan, round_number, moments)
    augmentation = begin(net, plan, round_number)
    sums, seen = torch.zeros(3, device=device), 0
    with dropout_from(generator, device):
        for step in range(1, mechanism.steps + 1):
            clipped = Clipped(parameters, mechanism.max_grad_norm)
            drawn = list(patients.sample(mechanism.sampling_rate, private.views, randomness))
            for start in range(0, len(drawn), TOGETHER):
                positions = torch.stack(drawn[start : start + TOGETHER])
                views = cases.batch(positions.flatten())
                image, mask = augment(views.image, views.mask, augmentation, generator)
                batch = Batch(
                    *(part.reshape(*positions.shape, *part.shape[1:]).to(device) for part in (image, mask, views.label))
                )
                gradients, parts = gradients_of(batch)
                clipped.add(gradients)
                sums += parts.nan_to_num().sum(0)
                seen += len(positions)
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


def _gradients(
    net: YNet, chosen: Mapping[str, nn.Parameter], loss_function: Loss, device: torch.device
) -> Callable[[Batch], tuple[list[Tensor], Tensor]]:
    """What gives patients' gradients, one tensor a parameter, and their losses' parts; a batch is (patients, views)."""

    def loss(weights: Mapping[str, Tensor], *views: Tensor) -> tuple[Tensor, Tensor]:
        batch = Batch(*views)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output: Output = functional_call(net, dict(weights), (batch.image,))
        parts = loss_function(single_precision(output), batch)
        means = torch.stack([part.mean() for part in parts])
        return means[0], means.detach()

    each = vmap(grad(loss, has_aux=True), in_dims=(None, 0, 0, 0), randomness="different")

    def gradients(batch: Batch) -> tuple[list[Tensor], Tensor]:
        found, parts = each({name: parameter.detach() for name, parameter in chosen.items()}, *batch)
        return [found[name] for name in chosen], parts

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
