"""Measure search speed and memory of a gallery, with faiss and a plain sum in the same run.

Times are CPU time of one thread, since the machine may have other work; rivals take turns, so that a disturbance
affects all. Takes about 30 s and 1 GB. `python tests/benchmarks/scan_speed.py [--out FILE.json]`
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from ynet.search import scan
from ynet.search.live_index import LiveIndex
from ynet.search.sorted_codes import Base, sort

BITS, K, BATCH = 64, 10, 64
COMPARED = [kind for kind in scan.KINDS if kind != "plain"]


class Figures(NamedTuple):
    """One variant of one task, in milliseconds of CPU time per query."""

    what: str
    way: str
    median_ms: float
    best_ms: float


class Target(NamedTuple):
    """An aim, and its measurement."""

    promise: str
    limit: float
    measured: float

    @property
    def is_met(self) -> bool:
        return self.measured <= self.limit


def tokens_of(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids, ids], axis=1).astype(np.uint64).view(np.uint8)


def gallery(random: np.random.Generator, n: int, distinct: int) -> LiveIndex:
    """Make `n` cases with `distinct` random codes, in a gallery's order."""
    codes = np.unique(random.integers(0, 2**64, distinct, dtype=np.uint64))[None]
    starts = None if n == distinct else np.linspace(0, n, codes.shape[1] + 1).astype(np.uint32)
    ids = random.permutation(n).astype(np.uint32)
    return LiveIndex(Base(codes, starts, ids, ids // 10), BITS, tokens_of)


def trained_gallery(random: np.random.Generator, n: int, flipped: float) -> LiveIndex:
    """Make codes like those of a trained network: of ten classes, some bits flipped."""
    centres = random.integers(0, 2**64, 10, dtype=np.uint64)
    codes = centres[random.integers(0, 10, n)]
    for bit in range(BITS):
        codes ^= (random.random(n) < flipped).astype(np.uint64) << np.uint64(bit)
    ids = np.arange(n, dtype=np.uint32)
    return LiveIndex(sort(codes.view(np.uint8).reshape(n, 8), ids, ids // 10), BITS, tokens_of)


def flat(base: Base) -> faiss.IndexBinaryFlat:
    """Make faiss's exact index of the same cases."""
    index = faiss.IndexBinaryFlat(BITS)
    index.use_heap = False
    index.add(
        np.repeat(base.codes[0], 1 if base.starts is None else np.diff(base.starts)).view(np.uint8).reshape(-1, 8)
    )
    return index


def compare(
    what: str,
    ways: Mapping[str, Callable[[np.ndarray], object]],
    rounds: int,
    queries: int,
    known: np.ndarray | None = None,
) -> list[Figures]:
    """Time all variants `rounds` times, in a new order with new queries: any, or some of the `known` codes."""
    random, took_ms = np.random.default_rng(1), {way: [] for way in ways}
    for turn in range(rounds + 1):
        asked = random.integers(0, 2**64, queries, np.uint64) if known is None else random.choice(known, queries)
        asked = asked.view(np.uint8).reshape(queries, BITS // 8)
        for way in random.permutation(list(ways)):  # so that the state of the cache is random
            start = time.thread_time()
            ways[way](asked)
            if turn:  # the first turn warms the cache
                took_ms[way].append(1000 * (time.thread_time() - start) / queries)
    return [Figures(what, way, round(median(took), 4), round(min(took), 4)) for way, took in took_ms.items()]


def ways_of(postings: LiveIndex, index: faiss.IndexBinaryFlat | None) -> dict[str, Callable[[np.ndarray], object]]:
    """Return the variants: faiss, the scan alone by each kind, and the whole search with its ranking."""
    base, cases = postings.base, scan.Cases(postings.base.starts)

    def by(kind: str) -> Callable[[np.ndarray], object]:
        return lambda asked: scan.nearest(
            base.codes, scan.words(asked), K, np.full(len(asked), BITS, np.int32), cases, kind
        )

    ways = {f"scan, {kind}": by(kind) for kind in COMPARED}
    ways["search"] = lambda asked: postings.search_many([one.tobytes() for one in asked], K)
    if index is not None:
        ways["faiss flat"] = lambda asked: index.search(asked, K)
    return ways


def measure(rounds: int) -> tuple[list[Figures], dict[str, float]]:
    """Run all comparisons, and return the bytes per case of each gallery."""
    random, figures, sizes = np.random.default_rng(0), [], {}
    for what, n, distinct, queries in (
        ("10^7 random codes", 10**7, 10**7, 1),
        ("10^7 codes, 10 % distinct", 10**7, 10**6, 1),
        ("10^6 random codes", 10**6, 10**6, 1),
        ("10^6 random codes, batch of 64", 10**6, 10**6, BATCH),
    ):
        postings = gallery(random, n, distinct)
        ways = ways_of(postings, flat(postings.base))
        if n == distinct == 10**7:
            ways["plain sum"] = lambda _, codes=postings.base.codes: codes.sum()
        figures += compare(what, ways, rounds if queries == 1 else max(3, rounds // 3), queries)
        sizes[what] = postings.base.nbytes / len(postings)
    for flipped in (0.01, 0.05):
        postings = trained_gallery(random, 10**6, flipped)
        what = f"10^6 codes, 10 classes, {flipped:.0%} of bits flipped ({postings.distinct:,} distinct), batch of 64"
        figures += compare(what, ways_of(postings, None), max(3, rounds // 3), BATCH, postings.base.codes[0])
        sizes[what] = postings.base.nbytes / len(postings)
    return figures, sizes


def targets(figures: list[Figures], sizes: Mapping[str, float]) -> list[Target]:
    of = {(each.what, each.way): each for each in figures}
    best = f"scan, {scan.KIND}"
    big, few, many = "10^7 random codes", "10^7 codes, 10 % distinct", "10^6 random codes, batch of 64"
    scan_big, faiss_big, sum_big = of[big, best], of[big, "faiss flat"], of[big, "plain sum"]
    scan_many, faiss_many = of[many, best], of[many, "faiss flat"]
    return [
        Target("10^7 random: share of faiss's time", 1 / 3, scan_big.median_ms / faiss_big.median_ms),
        Target("10^7 random: times a sum of the same memory", 1 / 0.8, scan_big.median_ms / sum_big.median_ms),
        Target("10^7, 10 % distinct: search, ms", 1.0, of[few, "search"].median_ms),
        Target("10^6, batch of 64: share of faiss's time", 1 / 3, scan_many.median_ms / faiss_many.median_ms),
        Target("bytes per case", 24.0, max(sizes.values())),
    ]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, help="write the figures here as JSON; default: print them only")
    arguments.add_argument("--rounds", type=int, default=21)
    given = arguments.parse_args()
    faiss.omp_set_num_threads(1)
    figures, sizes = measure(given.rounds)
    met = targets(figures, sizes)
    report(figures, sizes, met)
    if given.out:
        values = {
            "kind": scan.KIND,
            "figures": [each._asdict() for each in figures],
            "bytes_per_case": sizes,
            "targets": [{**each._asdict(), "is_met": each.is_met} for each in met],
        }
        given.out.write_text(json.dumps(values, indent=2) + "\n")
    return 0 if all(each.is_met for each in met) else 1


def report(figures: list[Figures], sizes: Mapping[str, float], met: list[Target]) -> None:
    table = Table(title=f"k = {K}, one thread, ms of CPU time per query; the scan that runs here: {scan.KIND}")
    for heading in ("what", "way", "median", "best"):
        table.add_column(heading, justify="left" if heading in ("what", "way") else "right")
    for each in figures:
        table.add_row(each.what, each.way, f"{each.median_ms:.3f}", f"{each.best_ms:.3f}")
    Console().print(table)
    table = Table("promise", "at most", "measured", "")
    for one in met:
        table.add_row(one.promise, f"{one.limit:.3f}", f"{one.measured:.3f}", "met" if one.is_met else "MISSED")
    Console().print(table)
    Console().print("bytes per case: " + "; ".join(f"{what}: {size:.1f}" for what, size in sizes.items()))


if __name__ == "__main__":
    sys.exit(main())
