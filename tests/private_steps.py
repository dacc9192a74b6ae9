"""What a private training gives its optimizer, for tests of DP-SGD."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ynet.data.subset import Subset
from ynet.learning.dp_sgd import Mechanism, Patients
from ynet.learning.model import YNet
from ynet.learning.train_private import train_privately
from ynet.plan import Plan

EVERYTHING = {  # every augmentation that a private plan may have
    "flip": True, "rotate_deg": 15, "scale": 0.1, "shift": 0.05, "contrast": 0.2, "brightness": 0.2, "noise": 0.05,
}  # fmt: skip


def flat(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.flatten() for part in parts]).double()


@contextmanager
def gradients_before_each_step() -> Iterator[list[torch.Tensor]]:
    """What the optimizer is given, step by step."""
    seen: list[torch.Tensor] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        seen.append(flat([one.grad for group in optimizer.param_groups for one in group["params"]]))

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def sums_of(
    net: YNet,
    plan: Plan,
    cases: Any,
    patient_of: Sequence[str],
    chosen: Collection[str],
    quiet: Mechanism,
    secret: bytes = bytes(range(32)),
) -> list[torch.Tensor]:
    """Train a round with some of the patients by a mechanism without noise; return the clipped sum of each step."""
    kept = [position for position, name in enumerate(patient_of) if name in chosen]
    patients = Patients([patient_of[position] for position in kept])
    with gradients_before_each_step() as seen:
        train_privately(
            net,
            Subset(cases, torch.tensor(kept)),
            patients,
            plan,
            1,
            quiet,
            device=next(net.parameters()).device,
            secret=secret,
        )
    return seen
