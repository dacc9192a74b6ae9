"""The price of DP-SGD: a private epoch, patient by patient or by Opacus' hooks, over the same without privacy.

python tests/benchmarks/private_training.py [--out FILE.json] [--patients 128] [--batch 32] [--repeats 3]

Each runs in a process of its own, so that its peak of memory is its own.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ynet.config import parse
from ynet.data.augment import augment
from ynet.data.batch import Batch
from ynet.federation.plan import Plan
from ynet.losses import loss_of
from ynet.model import build
from ynet.privacy import Mechanism, Patients
from ynet.private_training import train_privately
from ynet.train import train

CPU = torch.device("cpu")


class InMemory:
    """Cases that cost nothing to read."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.image = torch.randn(count, 1, 96, 96, generator=generator)
        self.mask = (torch.rand(count, 1, 96, 96, generator=generator) > 0.9).float()
        self.label = torch.randint(3, (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, positions: torch.Tensor) -> Batch:
        return Batch(self.image[positions], self.mask[positions], self.label[positions])


def plan(batch: int) -> Plan:
    values: dict[str, Any] = {
        "name": "price",
        "classes": ["a", "b", "c"],
        "image": {"channels": 1, "size": 96},
        "training": {"rounds": 1, "learning_rate": 1e-3, "schedule": "constant", "batch_size": batch},
        "cohort": {"minimum": 1, "quorum": 1},
        "privacy": {"mode": "patient", "epsilon": 8.0, "delta": 1e-3},
    }
    return parse(Plan, values, "the benchmark's plan")


def plain(cases: InMemory, frozen: Plan) -> None:
    train(build(frozen), cases, frozen, 1, device=CPU, generator=torch.Generator().manual_seed(1))


def per_patient(cases: InMemory, frozen: Plan) -> None:
    count, batch = len(cases), frozen.training.batch_size
    mechanism = Mechanism(1.0, batch / count, count // batch, 1.0, batch)
    patients = Patients(range(count))
    generator = torch.Generator().manual_seed(1)
    train_privately(build(frozen), cases, patients, frozen, 1, mechanism, device=CPU, generator=generator)


def hooks(cases: InMemory, frozen: Plan) -> None:
    """Opacus, as its documentation has it."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    batch, generator = frozen.training.batch_size, torch.Generator().manual_seed(1)
    net, loss = GradSampleModule(build(frozen)), loss_of(frozen, CPU)
    optimizer = DPOptimizer(
        torch.optim.AdamW(net.parameters(), 1e-3), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=batch
    )
    net.train()
    for _ in range(len(cases) // batch):
        chosen = torch.nonzero(torch.rand(len(cases), generator=generator) < batch / len(cases)).flatten()
        drawn = cases.batch(chosen)
        image, mask = augment(drawn.image, drawn.mask, frozen.augmentation, generator)
        optimizer.zero_grad()
        loss(net(image), Batch(image, mask, drawn.label)).total.mean().backward()
        optimizer.step()


WAYS = {"without privacy": plain, "patient by patient": per_patient, "Opacus' hooks": hooks}


def one(way: str, count: int, batch: int) -> None:
    """An epoch after a short one that does not count; seconds, and the process's peak and what it had before, MB."""
    frozen = plan(batch)
    WAYS[way](InMemory(batch), frozen)
    cases = InMemory(count)
    begun = time.perf_counter()
    WAYS[way](cases, frozen)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak}))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--patients", type=int, default=128)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--one", choices=WAYS)
    options = arguments.parse_args()
    if options.one:
        one(options.one, options.patients, options.batch)
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way in WAYS:
            sizes = ("--patients", str(options.patients), "--batch", str(options.batch))
            command = [sys.executable, "-W", "ignore", __file__, "--one", way, *sizes]
            found[way].append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
    base = {key: statistics.median(run[key] for run in found["without privacy"]) for key in ("seconds", "peak_mb")}
    figures: dict[str, Any] = {"patients": options.patients, "batch": options.batch, "threads": torch.get_num_threads()}
    for way, runs in found.items():
        seconds, peak = (statistics.median(run[key] for run in runs) for key in ("seconds", "peak_mb"))
        figures[way] = {
            "seconds": round(seconds, 3),
            "peak_mb": round(peak),
            "time_over_plain": round(seconds / base["seconds"], 3),
            "memory_over_plain": round(peak / base["peak_mb"], 3),
        }
        print(way, figures[way])
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
