"""A small plan, and cheap cases, for tests of learning."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ynet.config import parse
from ynet.data.batch import Batch
from ynet.plan import Plan

MakePlan = Callable[..., Plan]
NO_AUGMENTATION = {
    "flip": False,
    "rotate_deg": 0,
    "scale": 0,
    "shift": 0,
    "contrast": 0,
    "brightness": 0,
    "noise": 0,
}


class Cases:
    """Random cases in memory; satisfies CaseSource."""

    def __init__(
        self, count: int, channels: int = 1, size: int = 32, classes: int = 3, seed: int = 1, regions: int = 1
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.image = torch.randn(count, channels, size, size, generator=generator)
        self.mask = (torch.rand(count, regions, size, size, generator=generator) > 0.8).float()
        self.label = torch.arange(count) % classes
        self.drawn = torch.ones(count, regions, dtype=torch.bool)
        self.patient = torch.arange(count) + seed * 1000  # one case each

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, positions: torch.Tensor) -> Batch:
        return Batch(self.image[positions], self.mask[positions], self.label[positions], self.drawn[positions])


class Counted:
    """A source that counts the images that it was asked for."""

    def __init__(self, cases: Any) -> None:
        self._cases, self.label, self.patient, self.asked = cases, cases.label, cases.patient, 0

    def __len__(self) -> int:
        return len(self._cases)

    def batch(self, positions: torch.Tensor) -> Batch:
        self.asked += len(positions)
        batch: Batch = self._cases.batch(positions)
        return batch


@pytest.fixture
def make_plan() -> MakePlan:
    """Make a plan of a small network, trained code, no augmentation; `changes` update its parts: training={...}, ..."""

    def make(**changes: Any) -> Plan:
        values: dict[str, Any] = {
            "name": "small",
            "classes": ["a", "b", "c"],
            "image": {"channels": 1, "size": 32},
            "network": {"width": 8, "code_bits": 32, "dropout": 0, "code": "trained"},
            "training": {"rounds": 4, "learning_rate": 1e-3, "schedule": "constant", "batch_size": 8},
            "cohort": {"min_sites": 1, "quorum": 1},
            "privacy": {"mode": "off"},
            "augmentation": NO_AUGMENTATION,
        }
        for part, change in changes.items():
            values[part] = {**values[part], **change} if isinstance(change, dict) else change
        return parse(Plan, values, "test plan")

    return make


@pytest.fixture
def make_cases() -> type[Cases]:
    """Make random cases."""
    return Cases
