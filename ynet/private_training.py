"""One site's training in one round under differential privacy: DP-SGD's loop, patient by patient."""

import time
from collections.abc import Callable

import torch
from torch import nn

from ynet.data.augment import augment
from ynet.data.batch import Batch, CaseSource
from ynet.errors import UserError
from ynet.federation.plan import Plan
from ynet.losses import loss_of
from ynet.model import YNet
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

HEADS = ("hash", "place", "segmentation.logit")


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
    loss_function, randomness = loss_of(plan, device), Randomness()
    parameters = trained(net, plan)
    optimizer = optimizer_of(parameters, plan, round_number, moments)
    augmentation = begin(net, plan, round_number)
    sums, seen = torch.zeros(3, device=device), 0
    with dropout_from(generator, device):
        for step in range(1, mechanism.steps + 1):
            clipped = Clipped(parameters, mechanism.max_grad_norm)
            for positions in patients.sample(mechanism.sampling_rate, private.views, randomness):
                views = cases.batch(positions)
                image, mask = augment(views.image, views.mask, augmentation, generator)
                batch = Batch(image.to(device), mask.to(device), views.label.to(device))
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    output = net(batch.image)
                parts = loss_function(single_precision(output), batch)
                optimizer.zero_grad()
                parts.total.mean().backward()  # type: ignore[no-untyped-call]
                clipped.add()
                sums += torch.stack([part.detach().nan_to_num().mean() for part in parts])
                seen += 1
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


def trained(net: YNet, plan: Plan) -> list[nn.Parameter]:
    """The parameters that the plan trains; of the others no gradient is made."""
    chosen = []
    for name, parameter in net.named_parameters():
        is_head = name.startswith(HEADS) or name.startswith("classifier")
        is_chosen = {"all": True, "heads": is_head, "biases": parameter.ndim == 1}[plan.privacy.trained]
        parameter.requires_grad_(is_chosen)
        if is_chosen:
            chosen.append(parameter)
    return chosen
