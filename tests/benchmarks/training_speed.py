"""Compare a site's local training with a bare PyTorch loop over the same network, tensors, batches and optimizer.

python tests/benchmarks/training_speed.py [--out FILE.json] [--images 320] [--repeats 7] [--device cpu] [--variants]

`--variants` also measures variants of the bare loop (another memory format, bf16, a compiled network, an optimizer
that is not fused) and profiles it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (as everybody calls it)
from torch import nn

from ynet.config import parse
from ynet.data.augment import augment
from ynet.data.batch import Batch
from ynet.learning.hashing import codebook
from ynet.learning.model import build
from ynet.learning.train import GRADIENT_NORM, train
from ynet.plan import Plan

VALUES: dict[str, Any] = {
    "name": "speed",
    "classes": ["a", "b", "c"],
    "image": {"channels": 1, "size": 96},
    "training": {"rounds": 1, "learning_rate": 1e-3, "schedule": "constant"},
    "cohort": {"min_sites": 1, "quorum": 1},
    "privacy": {"mode": "off"},
}


class InMemory:
    """Cases in memory."""

    def __init__(self, plan: Plan, count: int) -> None:
        generator = torch.Generator().manual_seed(1)
        size = plan.image.size
        self.image = torch.randn(count, plan.image.channels, size, size, generator=generator)
        self.mask = (torch.rand(count, 1, size, size, generator=generator) > 0.9).float()
        self.label = torch.randint(len(plan.classes), (count,), generator=generator)
        self.patient = torch.arange(count)

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, positions: torch.Tensor) -> Batch:
        return Batch(
            self.image[positions],
            self.mask[positions],
            self.label[positions],
            torch.ones(len(positions), 1, dtype=torch.bool),
        )


class Variant(NamedTuple):
    """Options of the bare loop."""

    is_bf16: bool = False
    is_channels_last: bool = False
    is_fused: bool = True
    is_compiled: bool = False


VARIANTS = {
    "channels_last": Variant(is_channels_last=True),
    "bf16 autocast": Variant(is_bf16=True),
    "bf16 autocast, channels_last": Variant(is_bf16=True, is_channels_last=True),
    "optimizer not fused": Variant(is_fused=False),
    "torch.compile": Variant(is_compiled=True),
}


class Bare:
    """A minimal training loop for this training alone."""

    def __init__(self, plan: Plan, cases: InMemory, device: torch.device, variant: Variant) -> None:
        self._plan, self._cases, self._device, self._variant = plan, cases, device, variant
        self._net = build(plan).to(device)
        if variant.is_channels_last:
            self._net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward = torch.compile(self._net) if variant.is_compiled else self._net

    def epoch(self) -> None:
        plan, cases, net, device = self._plan, self._cases, self._net, self._device
        generator = torch.Generator().manual_seed(2)
        rate, decay = plan.training.learning_rate, plan.training.weight_decay
        optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=decay, fused=self._variant.is_fused)
        targets = F.normalize(codebook(len(plan.classes), plan.network.code_bits, 1)).to(device)
        net.train()
        for positions in torch.split(torch.randperm(len(cases), generator=generator), plan.training.batch_size):
            image, mask = augment(cases.image[positions], cases.mask[positions], plan.augmentation, generator)
            image, mask, label = image.to(device), mask.to(device), cases.label[positions].to(device)
            if self._variant.is_channels_last:
                image = image.to(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=self._variant.is_bf16):
                output = self._forward(image)
            mask_logits, code = output.mask_logits.float(), output.code.float()
            logits = F.normalize(code) @ targets.T
            logits = 8 * (logits - 0.2 * F.one_hot(label, len(plan.classes)))
            probability = mask_logits.sigmoid()
            both = (probability * mask).sum((1, 2, 3))
            dice = (2 * both + 1) / (probability.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)
            segmentation = F.binary_cross_entropy_with_logits(mask_logits, mask) + 1 - dice.mean()
            pull = 0.1 * (code.abs() - 1).square().mean()
            loss = F.cross_entropy(logits, label) + pull + plan.training.segmentation_weight * segmentation
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_NORM)
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()


def seconds(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def compare(works: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each; all run in turn, forwards and backwards, after a warm-up."""
    took: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for repeat in range(repeats):
        for name in list(works) if repeat % 2 else reversed(list(works)):
            took[name].append(seconds(works[name]))
    return took


def shares(bare: Bare) -> dict[str, float]:
    """Return each kind of operation's share of an epoch's time, the largest first."""
    with torch.profiler.profile() as profiler:
        bare.epoch()
    spent = {event.key: event.self_cpu_time_total + event.self_device_time_total for event in profiler.key_averages()}
    total = sum(spent.values())
    most = sorted(spent, key=lambda key: -spent[key])[:10]
    return {key: round(spent[key] / total, 3) for key in most}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--images", type=int, default=320)
    arguments.add_argument("--repeats", type=int, default=7)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--variants", action="store_true")
    options = arguments.parse_args()
    plan, device = parse(Plan, VALUES, "the benchmark's plan"), torch.device(options.device)
    cases, net = InMemory(plan, options.images), build(plan).to(device)
    plain = Variant(is_bf16=device.type == "cuda")  # as a site trains

    def ours() -> None:
        train(net, cases, plan, 1, device=device, generator=torch.Generator().manual_seed(2))

    took = compare({"ours": ours, "bare": Bare(plan, cases, device, plain).epoch}, options.repeats)
    ratios = [bare / ours for ours, bare in zip(took["ours"], took["bare"], strict=True)]
    figures: dict[str, Any] = {
        "images": options.images,
        "repeats": options.repeats,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "ours_images_per_s": round(options.images / statistics.median(took["ours"]), 1),
        "bare_images_per_s": round(options.images / statistics.median(took["bare"]), 1),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_min": round(min(ratios), 4),
        "ratio_max": round(max(ratios), 4),
    }
    if options.variants:
        bare = {"bare": Bare(plan, cases, device, plain), **rivals(plan, cases, device)}
        took = compare({name: loop.epoch for name, loop in bare.items()}, options.repeats)
        base = statistics.median(took.pop("bare"))
        figures["variants"] = {name: round(base / statistics.median(times), 3) for name, times in took.items()}
        figures["profile"] = shares(bare["bare"])
    for key, value in figures.items():
        rows = value.items() if isinstance(value, dict) else []
        print(f"{key:40} {'' if rows else value:>10}")
        for name, figure in rows:
            print(f"  {name:38} {figure:>10}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


def rivals(plan: Plan, cases: InMemory, device: torch.device) -> dict[str, Bare]:
    return {name: Bare(plan, cases, device, variant) for name, variant in VARIANTS.items()}


if __name__ == "__main__":
    main()
