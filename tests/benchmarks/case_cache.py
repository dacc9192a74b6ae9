"""Measure how fast prepared cases load from disk and from memory, and the memory that this needs.

Takes about 10 s. `python tests/benchmarks/case_cache.py [--data SITE_FOLDER] [--out FILE.json]`
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from ynet.data import manifest
from ynet.data.cases import CaseCache
from ynet.data.synthetic import make_federation
from ynet.plan_sections import Image

BATCH = 32
SYNTHETIC_CASES = 600


class Figures(NamedTuple):
    """Figures of two passes over all cases with one memory limit."""

    limit_bytes: int
    held_bytes: int
    cases: int
    first_epoch_images_per_s: float
    cached_epoch_images_per_s: float


def measure(cases: manifest.Manifest, image: Image, limit_bytes: int) -> Figures:
    classes = sorted({case.label for case in cases.cases})
    cache = CaseCache(cases, cases.cases, image, classes, limit_bytes)
    generator = torch.Generator().manual_seed(1)

    def images_per_s(epochs: int) -> float:
        start = time.perf_counter()
        for _ in range(epochs):
            for positions in torch.randperm(len(cache), generator=generator).split(BATCH):
                cache.batch(positions)
        return epochs * len(cache) / (time.perf_counter() - start)

    first = images_per_s(1)
    again = images_per_s(3)
    return Figures(limit_bytes, cache.nbytes, len(cache), round(first, 1), round(again, 1))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, help="a site's folder with manifest.csv; default: synthetic")
    arguments.add_argument("--out", type=Path, help="write the figures here as JSON; default: print them only")
    arguments.add_argument("--size", type=int, default=96)
    arguments.add_argument("--channels", type=int, choices=(1, 3), default=1)
    given = arguments.parse_args()
    image = Image(channels=given.channels, size=given.size)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.data or Path(scratch) / "A"
        if not given.data:
            make_federation(Path(scratch), {"A": SYNTHETIC_CASES}, seed=1)
        cases = manifest.read(folder / "manifest.csv")
        needed = len(cases.cases) * given.size**2 * (2 * given.channels + 1)
        figures = [measure(cases, image, limit) for limit in (needed, needed // 2, 0)]
    report(figures)
    if given.out:
        given.out.write_text(json.dumps([each._asdict() for each in figures], indent=2) + "\n")
    return 0 if all(each.held_bytes <= each.limit_bytes for each in figures) else 1


def report(figures: list[Figures]) -> None:
    table = Table(title=f"{figures[0].cases} cases, batches of {BATCH}, {torch.get_num_threads()} threads")
    for heading in ("limit MiB", "held MiB", "first epoch images/s", "later epochs images/s"):
        table.add_column(heading, justify="right")
    for each in figures:
        table.add_row(
            f"{each.limit_bytes / 2**20:.1f}",
            f"{each.held_bytes / 2**20:.1f}",
            f"{each.first_epoch_images_per_s:,.0f}",
            f"{each.cached_epoch_images_per_s:,.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
