"""Measure training of all weights, of the last stages and of the heads alone, beside a bare loop of timm and torch.

python tests/benchmarks/frozen_encoder.py [--out FILE.json] [--images 32] [--repeats 3] [--size 128] [--encoder NAME]
    [--variants]

Both train the same network on the same tensors, batches and flips. Seconds are processor time of one thread, so a busy
machine changes them little. `--variants` also measures the encoder's forward pass in other memory formats and
precisions; `torch.compile` among them needs minutes and a compiler.
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
from torch import Tensor, nn

from training_speed import InMemory
from ynet.config import parse
from ynet.learning.evaluate import encode
from ynet.learning.hashing import codebook
from ynet.learning.map_cache import MapCache
from ynet.learning.model import build
from ynet.learning.timm_encoder import TimmEncoder
from ynet.learning.train import GRADIENT_NORM, train
from ynet.plan import Plan

CPU = torch.device("cpu")
CACHE_BYTES = 1 << 30
MODES = ("all", "last-stages", "heads", "heads cached")


class Row(NamedTuple):
    """Images a second of a mode."""

    ours: float
    bare: float
    ratio: float  # of processor times, the median over repeats


def plan_of(mode: str, encoder: str, size: int) -> Plan:
    values: dict[str, Any] = {
        "name": "frozen",
        "classes": ["a", "b", "c"],
        "image": {"channels": 1, "size": size},
        "network": {"encoder": encoder, "encoder_weights": "0" * 64},
        "training": {
            "rounds": 1,
            "learning_rate": 1e-3,
            "schedule": "constant",
            "batch_size": 16,
            "trained": mode.split()[0],
        },
        "augmentation": {"rotate_deg": 0, "scale": 0, "shift": 0, "contrast": 0, "brightness": 0, "noise": 0},
        "cohort": {"min_sites": 1, "quorum": 1},
        "privacy": {"mode": "off"},
    }
    return parse(Plan, values, "the benchmark's plan")


class Bare:
    """A minimal training loop for one mode; the caches of maps are plain tensors."""

    def __init__(self, mode: str, plan: Plan, cases: InMemory) -> None:
        self._mode, self._plan, self._cases = mode, plan, cases
        self._net = build(plan)
        encoder = self._net.encoder
        assert encoder is not None
        self._encoder: TimmEncoder = encoder
        self._kept: list[list[Tensor]] = []
        if mode == "heads cached":
            with torch.no_grad():
                sides = (cases.image, cases.image.flip(-1))
                self._kept = [
                    [torch.cat(parts).half() for parts in zip(*self._chunks(one), strict=True)] for one in sides
                ]

    def _chunks(self, image: Tensor) -> list[list[Tensor]]:
        return [self._forward(part) for part in torch.split(image, 16)]

    def _forward(self, image: Tensor) -> list[Tensor]:
        encoder = self._encoder
        rgb = image.expand(-1, 3, -1, -1) * encoder._scale + encoder._offset
        if not torch.is_grad_enabled():
            rgb = rgb.contiguous(memory_format=torch.channels_last)
        maps: list[Tensor] = encoder.net.forward_intermediates(rgb, indices=encoder._stages, intermediates_only=True)
        return [one.contiguous() for one in maps]

    def _maps(self, positions: Tensor, flipped: Tensor) -> list[Tensor]:
        if self._mode == "heads cached":
            where = flipped.view(-1, 1, 1, 1)
            return [torch.where(where, b[positions], a[positions]).float() for a, b in zip(*self._kept, strict=True)]
        image = self._cases.image[positions]
        image = torch.where(flipped.view(-1, 1, 1, 1), image.flip(-1), image)
        with torch.set_grad_enabled(self._mode != "heads"):
            return self._forward(image)

    def epoch(self) -> None:
        plan, cases, net = self._plan, self._cases, self._net
        generator = torch.Generator().manual_seed(2)
        rate, decay = plan.training.learning_rate, plan.training.weight_decay
        parameters = [one for one in net.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
        targets = F.normalize(codebook(len(plan.classes), plan.network.code_bits, 1))
        net.train()
        for positions in torch.split(torch.randperm(len(cases), generator=generator), plan.training.batch_size):
            flipped = torch.rand(len(positions), generator=generator) < 0.5
            mask, label = cases.mask[positions], cases.label[positions]
            mask = torch.where(flipped.view(-1, 1, 1, 1), mask.flip(-1), mask)
            output = net.heads(self._maps(positions, flipped), plan.image.size)
            probability = output.mask_logits.sigmoid()
            both = (probability * mask).sum((1, 2, 3))
            dice = (2 * both + 1) / (probability.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)
            segmentation = F.binary_cross_entropy_with_logits(output.mask_logits, mask) + 1 - dice.mean()
            loss = plan.training.segmentation_weight * segmentation
            if plan.trains_code:
                logits = F.normalize(output.code) @ targets.T
                logits = 8 * (logits - 0.2 * F.one_hot(label, len(plan.classes)))
                pull = 0.1 * (output.code.abs() - 1).square().mean()
                loss = loss + F.cross_entropy(logits, label) + pull
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
            optimizer.step()


def compare(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the processor seconds of each; all run in turn, forwards and backwards, after a warm-up."""
    took: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for repeat in range(repeats):
        for name in list(works) if repeat % 2 else reversed(list(works)):
            begun = time.process_time()
            works[name]()
            took[name].append(time.process_time() - begun)
    return took


def measured(mode: str, encoder: str, size: int, images: int, repeats: int) -> Row:
    plan = plan_of(mode, encoder, size)
    cases, net = InMemory(plan, images), build(plan)
    source = MapCache(cases, CACHE_BYTES, is_mirrored=True) if mode == "heads cached" else cases
    both = torch.arange(images)
    if isinstance(source, MapCache):  # training draws one side of each image in an epoch
        for side in (torch.zeros(images, dtype=torch.bool), torch.ones(images, dtype=torch.bool)):
            source.reader(net)(both, side)

    def ours() -> None:
        train(net, source, plan, 1, device=CPU, generator=torch.Generator().manual_seed(2))

    took = compare({"ours": ours, "bare": Bare(mode, plan, cases).epoch}, repeats)
    ratio = statistics.median(bare / own for own, bare in zip(took["ours"], took["bare"], strict=True))
    each = {name: images / statistics.median(seconds) for name, seconds in took.items()}
    return Row(round(each["ours"], 1), round(each["bare"], 1), round(ratio, 3))


def evaluated(encoder: str, size: int, images: int, repeats: int) -> dict[str, float]:
    """Return images a second of an evaluation, with the encoder's work and from kept maps."""
    plan = plan_of("heads", encoder, size)
    cases, net = InMemory(plan, images), build(plan)
    cache = MapCache(cases, CACHE_BYTES, is_mirrored=True)
    took = compare({"images": lambda: encode(net, cases, CPU), "maps": lambda: encode(net, cache, CPU)}, repeats)
    return {name: round(images / statistics.median(seconds), 1) for name, seconds in took.items()}


def variants(encoder: str, size: int, images: int, repeats: int) -> dict[str, float]:
    """Return images a second of the encoder's forward pass without gradients."""
    net, image = TimmEncoder(encoder, is_pretrained=True).eval(), torch.randn(images, 1, size, size)  # type: ignore[arg-type]
    compiled = torch.compile(net)

    def forward(channels_last: bool, function: Callable[..., Any] = net.net.forward_intermediates) -> None:
        rgb = image.expand(-1, 3, -1, -1) * net._scale + net._offset
        rgb = rgb.contiguous(memory_format=torch.channels_last) if channels_last else rgb.contiguous()
        function(rgb, indices=net._stages, intermediates_only=True)

    def half() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            forward(False)

    works: dict[str, Callable[[], object]] = {
        "as it is": lambda: forward(False),
        "channels_last": lambda: forward(True),
        "bfloat16": half,
        "torch.compile, channels_last": lambda: compiled(image),
    }
    with torch.no_grad():
        took = compare(works, repeats)
    return {name: round(images / statistics.median(seconds), 1) for name, seconds in took.items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--images", type=int, default=32)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--size", type=int, default=128)
    arguments.add_argument("--encoder", default="tf_efficientnet_lite0")
    arguments.add_argument("--variants", action="store_true")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    sizes = (options.encoder, options.size, options.images, options.repeats)
    figures: dict[str, Any] = {"sizes": sizes, "threads": 1, "training": {}}
    print(f"{'trained':20} {'images/s':>10} {'bare loop':>10} {'ratio':>8}")
    for mode in MODES:
        row = measured(mode, *sizes)
        figures["training"][mode] = row._asdict()
        print(f"{mode:20} {row.ours:10} {row.bare:10} {row.ratio:8}", flush=True)
    figures["evaluation"] = evaluated(*sizes)
    print(f"evaluation, images/s: {figures['evaluation']}")
    if options.variants:
        figures["variants"] = variants(*sizes)
        print(f"forward pass of the encoder, images/s: {figures['variants']}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
