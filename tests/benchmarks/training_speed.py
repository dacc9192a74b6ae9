"""A site's local training against a bare PyTorch loop over the same network, tensors, batches and optimizer.

python tests/benchmarks/training_speed.py [--out FILE.json] [--images 320] [--repeats 7]
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (as everybody calls it)
from torch import nn

from ynet.config import parse
from ynet.data.augment import augment
from ynet.data.batch import Batch
from ynet.federation.plan import Plan
from ynet.hashing import codebook
from ynet.model import YNet, build
from ynet.train import GRADIENT_NORM, train

VALUES: dict[str, Any] = {
    "name": "speed",
    "classes": ["a", "b", "c"],
    "image": {"channels": 1, "size": 96},
    "training": {"rounds": 1, "learning_rate": 1e-3, "schedule": "constant"},
    "cohort": {"minimum": 1, "quorum": 1},
    "privacy": {"mode": "off"},
}


class InMemory:
    """Cases that cost nothing to read."""

    def __init__(self, plan: Plan, count: int) -> None:
        generator = torch.Generator().manual_seed(1)
        size = plan.image.size
        self.image = torch.randn(count, plan.image.channels, size, size, generator=generator)
        self.mask = (torch.rand(count, 1, size, size, generator=generator) > 0.9).float()
        self.label = torch.randint(len(plan.classes), (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, positions: torch.Tensor) -> Batch:
        return Batch(self.image[positions], self.mask[positions], self.label[positions])


def bare_loop(net: YNet, cases: InMemory, plan: Plan) -> None:
    """What somebody would write who wanted only this one training."""
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.AdamW(net.parameters(), plan.training.learning_rate, weight_decay=1e-4, fused=True)
    targets = F.normalize(codebook(len(plan.classes), plan.network.code_bits, 1))
    net.train()
    for positions in torch.randperm(len(cases), generator=generator).split(plan.training.batch_size):
        image, mask = augment(cases.image[positions], cases.mask[positions], plan.augmentation, generator)
        output = net(image)
        logits = F.normalize(output.code) @ targets.T
        logits = 8 * (logits - 0.2 * F.one_hot(cases.label[positions], len(plan.classes)))
        probability = output.mask_logits.sigmoid()
        both = (probability * mask).sum((1, 2, 3))
        dice = (2 * both + 1) / (probability.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)
        segmentation = F.binary_cross_entropy_with_logits(output.mask_logits, mask) + 1 - dice.mean()
        pull = 0.1 * (output.code.abs() - 1).square().mean()
        loss = F.cross_entropy(logits, cases.label[positions]) + pull + segmentation
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_NORM)
        optimizer.step()


def seconds(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--images", type=int, default=320)
    arguments.add_argument("--repeats", type=int, default=7)
    options = arguments.parse_args()
    plan = parse(Plan, VALUES, "the benchmark's plan")
    cases, net, device = InMemory(plan, options.images), build(plan), torch.device("cpu")

    def ours() -> None:
        train(net, cases, plan, 1, device=device, generator=torch.Generator().manual_seed(2))

    def bare() -> None:
        bare_loop(net, cases, plan)

    ours(), bare()
    rates, ratios = {"ours": [], "bare": []}, []
    for repeat in range(options.repeats):
        order = [("ours", ours), ("bare", bare)]
        took = {name: seconds(work) for name, work in (order if repeat % 2 else reversed(order))}
        for name in rates:
            rates[name].append(options.images / took[name])
        ratios.append(took["bare"] / took["ours"])
    figures = {
        "images": options.images,
        "repeats": options.repeats,
        "threads": torch.get_num_threads(),
        "ours_images_per_s": round(statistics.median(rates["ours"]), 1),
        "bare_images_per_s": round(statistics.median(rates["bare"]), 1),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_min": round(min(ratios), 4),
        "ratio_max": round(max(ratios), 4),
    }
    for key, value in figures.items():
        print(f"{key:20} {value:>10}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
