"""One site's training in one round."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from ynet.data.augment import augment, flips
from ynet.data.batch import Batch, CaseSource
from ynet.errors import UserError
from ynet.learning.losses import loss_of
from ynet.learning.map_cache import MappedSource, Reader, Seen
from ynet.learning.model import Output, YNet
from ynet.plan import Plan
from ynet.plan_sections import NO_AUGMENTATION, Augmentation
from ynet.schedule import Cooldown, is_cooling_down, learning_rate

GRADIENT_NORM = 5.0


class Progress(NamedTuple):
    """The progress of a local training."""

    epoch: int  # from 1
    epochs: int
    done: int  # batches of all epochs
    total: int
    loss: float  # of the newest batch


class Moments(NamedTuple):
    """AdamW's state of the trained parameters, for the next round; flat, like the weights."""

    steps: int
    first: Float32[np.ndarray, " parameters"]
    second: Float32[np.ndarray, " parameters"]


class TrainResult(NamedTuple):
    """The result of a local training: means over its images, and the optimizer's moments."""

    loss: float
    classification: float
    segmentation: float
    images: int
    seconds: float
    moments: Moments


class DivergedError(UserError):
    """The loss or its gradient is not finite."""


def train(
    net: YNet,
    cases: CaseSource,
    plan: Plan,
    round_number: int,
    *,
    device: torch.device,
    generator: torch.Generator,
    on_progress: Callable[[Progress], None] | None = None,
    proximal_mu: float = 0.0,
    moments: Moments | None = None,
    micro_batches: int = 1,
    cooldown: Cooldown | None = None,
) -> TrainResult:
    """Train `net` on `cases` for the local epochs of one round. Fixed arrays stay as they are.

    Args:
        net: Trained in place.
        cases: The training cases.
        plan: The plan.
        round_number: From 1.
        device: Where the network is.
        generator: Draws the order of the cases and their augmentation.
        on_progress: Called after each batch.
        proximal_mu: Strength of the pull towards the initial weights (FedProx, Li et al. 2020, eq. 2).
        moments: Those of the previous round. Without them AdamW's first steps are as long as the learning rate.
        micro_batches: Parts in which a batch is computed, with accumulated gradients: the same training in less
            memory, for losses that do not compare the samples of a batch.
        cooldown: The round's place in the cool-down that the server has called, with `training.rounds: auto`.

    Raises:
        DivergedError: The loss or its gradient is not finite.
        UserError: There are no cases.
    """
    if not len(cases):
        raise UserError("there is nothing to train on", "the site has no training cases", "name some in the manifest")
    training, begun = plan.training, time.perf_counter()
    loss_function = loss_of(plan, device)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in trained] if proximal_mu else []
    size = plan.image.size
    optimizer = optimizer_of(trained, plan, round_number, moments, cooldown)
    per_epoch = math.ceil(len(cases) / training.batch_size)
    total_batches = per_epoch * training.local_epochs
    sums, images = torch.zeros(3, device=device), 0
    augmentation = begin(net, plan, round_number, cooldown)
    with dropout_from(generator, device):
        for done, seen in enumerate(_batches(net, cases, plan, augmentation, device, generator), start=1):
            optimizer.zero_grad()
            value = torch.zeros((), device=device)
            for part, maps in _split(seen, micro_batches):
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    output = net.heads(maps, size) if maps else net(part.image)
                parts = loss_function(single_precision(output), part)
                share = len(part.label) / len(seen.batch.label)
                loss = share * (parts.total.mean() + proximal_mu / 2 * _distance(trained, start))
                loss.backward()  # type: ignore[no-untyped-call]
                value += loss.detach()
                sums += torch.stack([loss_part.detach().sum() for loss_part in parts])
            norm = nn.utils.clip_grad_norm_(trained, GRADIENT_NORM)
            newest = _finite(value, norm)
            optimizer.step()
            images += len(seen.batch.label)
            if on_progress:
                epoch = (done - 1) // per_epoch + 1
                on_progress(Progress(epoch, training.local_epochs, done, total_batches, newest))
    total, classification, segmentation = (sums / max(images, 1)).tolist()
    seconds = time.perf_counter() - begun
    return TrainResult(total, classification, segmentation, images, seconds, moments_of(optimizer))


def optimizer_of(
    parameters: Sequence[nn.Parameter],
    plan: Plan,
    round_number: int,
    moments: Moments | None,
    cooldown: Cooldown | None = None,
) -> torch.optim.AdamW:
    """Build the optimizer of a round; `moments` are those of the previous round."""
    rate = learning_rate(plan, round_number, cooldown)
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=plan.training.weight_decay, fused=True)
    if moments:
        _load_moments(optimizer, moments)
    return optimizer


def begin(net: YNet, plan: Plan, round_number: int, cooldown: Cooldown | None = None) -> Augmentation:
    """Prepare the network for a round (from 1); return the round's augmentation.

    Rounds of the cooldown use neither dropout nor augmentation other than flips.
    """
    is_cooldown = is_cooling_down(plan, round_number, cooldown)
    net.dropout = 0.0 if is_cooldown else plan.network.dropout
    net.train()
    return replace(NO_AUGMENTATION, flip=plan.augmentation.flip) if is_cooldown else plan.augmentation


def _batches(
    net: YNet,
    cases: CaseSource,
    plan: Plan,
    augmentation: Augmentation,
    device: torch.device,
    generator: torch.Generator,
) -> Iterator[Seen]:
    """Yield the augmented batches of all local epochs; each epoch has a new order.

    Where the source caches the maps of a frozen encoder, and the augmentation is at most `flip`, they replace images.
    """
    maps_of = reader_of(net, cases, augmentation)
    for _ in range(plan.training.local_epochs):
        order = torch.randperm(len(cases), generator=generator)
        for positions in torch.split(order, plan.training.batch_size):
            if maps_of is not None:
                yield maps_of(positions, flips(len(positions), augmentation, generator))
                continue
            batch = cases.batch(positions)
            image, mask = augment(batch.image, batch.mask, augmentation, generator)
            yield Seen(Batch(image.to(device), mask.to(device), batch.label.to(device), batch.drawn.to(device)), ())


def reader_of(net: YNet, cases: CaseSource, augmentation: Augmentation) -> Reader | None:
    """Return what reads cached maps in place of images; None where there are none, or the augmentation changes them."""
    reads_maps = net.is_frozen and augmentation.only_flips
    return cases.reader(net) if reads_maps and isinstance(cases, MappedSource) else None


def _split(seen: Seen, micro_batches: int) -> Iterator[Seen]:
    """Split a batch into parts of nearly equal size."""
    size = math.ceil(len(seen.batch.label) / micro_batches)
    fields = len(seen.batch)
    for parts in zip(*(torch.split(part, size) for part in (*seen.batch, *seen.maps)), strict=True):
        yield Seen(Batch(*parts[:fields]), parts[fields:])


@contextmanager
def dropout_from(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, from which dropout draws, with the generator's seed; restore them afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(generator.initial_seed())
        if device.type == "cuda":
            torch.cuda.manual_seed(generator.initial_seed())
        yield


def moments_of(optimizer: torch.optim.AdamW) -> Moments:
    """Return the moments for the next round. The optimizer must have made a step."""
    states = [optimizer.state[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    first, second = (torch.cat([state[name].flatten() for state in states]) for name in ("exp_avg", "exp_avg_sq"))
    return Moments(int(states[0]["step"]), first.cpu().numpy(), second.cpu().numpy())


def _load_moments(optimizer: torch.optim.AdamW, moments: Moments) -> None:
    start = 0
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        part = slice(start, start := start + parameter.numel())
        first, second = (torch.tensor(flat[part]).view(parameter.shape).to(parameter) for flat in moments[1:])
        step = torch.tensor(float(moments.steps), device=parameter.device)
        optimizer.state[parameter] = {"step": step, "exp_avg": first, "exp_avg_sq": second}


def single_precision(output: Output) -> Output:
    """Convert an output of autocast to single precision, for the loss."""
    mask, code, feature, logits = output
    return Output(mask.float(), code.float(), feature, None if logits is None else logits.float())


def _distance(trained: Sequence[nn.Parameter], start: list[Tensor]) -> Tensor | float:
    """Return the squared distance of the trained parameters from their initial values."""
    if not start:
        return 0.0
    squares = [((parameter - origin) ** 2).sum() for parameter, origin in zip(trained, start, strict=True)]
    return torch.stack(squares).sum()


def _finite(loss: Tensor, gradient_norm: Tensor) -> float:
    """Return the loss as a number. Called before the step: a diverging network keeps its last finite weights."""
    value, norm = torch.stack([loss.detach(), gradient_norm]).tolist()
    for what, number in (("loss", value), ("gradient", norm)):
        if not math.isfinite(number):
            why = f"its {what} is not a finite number"
            raise DivergedError("the training diverged", why, "lower training.learning_rate")
    return float(value)
