"""Measure the cost of DP-SGD: a private epoch against one without privacy, and against other implementations.

python tests/benchmarks/private_training.py [--out FILE.json] [--patients 256] [--batch 32] [--repeats 3] [--threads 1]

Each runs in its own process, so that peak memory is separate. The file keeps figures of other thread counts.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ynet.config import parse
from ynet.data.augment import augment
from ynet.data.batch import Batch
from ynet.learning.dp_sgd import Clipped, Mechanism, Patients
from ynet.learning.grid_noise import Randomness
from ynet.learning.losses import loss_of
from ynet.learning.model import build
from ynet.learning.train import train
from ynet.learning.train_private import train_privately
from ynet.plan import Plan

CPU = torch.device("cpu")


class InMemory:
    """Cases in memory."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.image = torch.randn(count, 1, 96, 96, generator=generator)
        self.mask = (torch.rand(count, 1, 96, 96, generator=generator) > 0.9).float()
        self.label = torch.randint(3, (count,), generator=generator)
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


def plan(batch: int) -> Plan:
    values: dict[str, Any] = {
        "name": "price",
        "classes": ["a", "b", "c"],
        "image": {"channels": 1, "size": 96},
        "training": {"rounds": 1, "learning_rate": 1e-3, "schedule": "constant", "batch_size": batch},
        "cohort": {"min_sites": 1, "quorum": 1},
        "privacy": {"mode": "patient", "epsilon": 8.0, "delta": 1e-3},
    }
    return parse(Plan, values, "the benchmark's plan")


def plain(cases: InMemory, frozen: Plan) -> int:
    return train(build(frozen), cases, frozen, 1, device=CPU, generator=torch.Generator().manual_seed(1)).images


def private(cases: InMemory, frozen: Plan) -> int:
    count, batch = len(cases), frozen.training.batch_size
    mechanism = Mechanism(1.0, batch / count, count // batch, 1.0, batch)
    patients = Patients([str(number) for number in range(count)])
    return train_privately(build(frozen), cases, patients, frozen, 1, mechanism, device=CPU).images


def vectorised(cases: InMemory, frozen: Plan) -> int:
    """Train with torch.func: the gradient of one patient, vectorised over 8 patients at a time."""
    net, loss_function = build(frozen), loss_of(frozen, CPU)
    parameters, randomness = dict(net.named_parameters()), Randomness()
    optimizer = torch.optim.AdamW(parameters.values(), 1e-3, fused=True)

    def loss(weights: dict[str, torch.Tensor], *view: torch.Tensor) -> torch.Tensor:
        batch = Batch(*(part[None] for part in view))
        return loss_function(torch.func.functional_call(net, weights, (batch.image,)), batch).total.mean()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0), randomness="different")

    def step(batch: Batch) -> None:
        clipped = Clipped(list(parameters.values()), 1.0)
        for views in zip(*(torch.split(part, 8) for part in batch), strict=True):
            clipped.add(list(each({name: one.detach() for name, one in parameters.items()}, *views).values()))
        released = clipped.release(1.0, frozen.training.batch_size, randomness)
        for parameter, gradient in zip(parameters.values(), released, strict=True):
            parameter.grad = gradient
        optimizer.step()

    net.train()
    return steps(cases, frozen, step)


def hooks(cases: InMemory, frozen: Plan) -> int:
    """Train with Opacus, as its documentation shows."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    net, loss = GradSampleModule(build(frozen)), loss_of(frozen, CPU)
    optimizer = DPOptimizer(
        torch.optim.AdamW(net.parameters(), 1e-3),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=frozen.training.batch_size,
    )

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        loss(net(batch.image), batch).total.mean().backward()
        optimizer.step()

    net.train()
    return steps(cases, frozen, step)


def steps(cases: InMemory, frozen: Plan, step: Callable[[Batch], None]) -> int:
    """Run an epoch of steps on Poisson-sampled, augmented cases; return how many were drawn."""
    batch, generator, images = frozen.training.batch_size, torch.Generator().manual_seed(1), 0
    for _ in range(len(cases) // batch):
        drawn = cases.batch(torch.nonzero(torch.rand(len(cases), generator=generator) < batch / len(cases)).flatten())
        image, mask = augment(drawn.image, drawn.mask, frozen.augmentation, generator)
        step(Batch(image, mask, drawn.label, drawn.drawn))
        images += len(drawn.label)
    return images


WAYS = {
    "without privacy": plain,
    "with privacy": private,
    "with privacy, by torch.func": vectorised,
    "with privacy, by Opacus' hooks": hooks,
}


def one(way: str, count: int, batch: int, threads: int) -> None:
    """Measure an epoch after a short warm-up: milliseconds an image of wall clock and of processor time; MB."""
    torch.set_num_threads(threads)
    frozen = plan(batch)
    WAYS[way](InMemory(2 * batch), frozen)
    cases = InMemory(count)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    images = WAYS[way](cases, frozen)
    taken_ms, cpu_ms = (time.perf_counter() - begun) * 1000, (time.process_time() - begun_cpu) * 1000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"ms": taken_ms / images, "cpu_ms": cpu_ms / images, "peak_mb": peak}))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--patients", type=int, default=256)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--one", choices=WAYS)
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    if options.one:
        one(options.one, options.patients, options.batch, options.threads)
        return
    figures = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    sizes = {"patients": options.patients, "batch": options.batch, "repeats": options.repeats}
    figures[f"threads {options.threads}"] = {**sizes, **compared(options, options.threads)}
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


def compared(options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Return each variant's medians, and their median ratio to the run without privacy in the same turn."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way in WAYS:
            sizes = ("--patients", options.patients, "--batch", options.batch, "--threads", threads)
            command = [sys.executable, "-W", "ignore", __file__, "--one", way, *map(str, sizes)]
            runs[way].append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
    figures = {}
    for way, own in runs.items():
        over = {
            key: [run[key] / base[key] for run, base in zip(own, runs["without privacy"], strict=True)]
            for key in ("ms", "cpu_ms", "peak_mb")
        }
        figures[way] = {
            "ms_per_image": round(statistics.median(run["ms"] for run in own), 3),
            "peak_mb": round(statistics.median(run["peak_mb"] for run in own)),
            "cpu_ms_per_image": round(statistics.median(run["cpu_ms"] for run in own), 3),
            "time_over_plain": round(statistics.median(over["ms"]), 3),
            "times_over_plain": [round(ratio, 3) for ratio in over["ms"]],
            "cpu_time_over_plain": round(statistics.median(over["cpu_ms"]), 3),
            "memory_over_plain": round(statistics.median(over["peak_mb"]), 3),
        }
        print(threads, way, figures[way], flush=True)
    return figures


if __name__ == "__main__":
    main()
