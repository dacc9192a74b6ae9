"""Measure retrieval against each aim, with a rival in the same run.

python tests/benchmarks/retrieval.py [--out FILE.json] [--work DIR] [--parts scan start ten ...] [--scale 1]

Takes about 20 minutes, 6 GB of memory and 3 GB of disk on two cores, mostly to fill galleries; those in DIR are
reused. Measure on a quiet machine: the sites share two cores with the hub and the asking site. `--scale` divides the
number of cases, for a trial.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from ctypes import CDLL, c_int64, c_uint64, c_void_p
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import galleries
import retrieval_sites
import scan_speed
from retrieval_sites import Asked
from ynet.runtime.private_files import secret_in
from ynet.search import scan
from ynet_client.gallery.gallery import Gallery
from ynet_client.resources import SECRET

sys.path.insert(0, str(Path(__file__).parents[1]))
from pooled_search import pooled_search

K = 10
MILLION = 1_000_000
ROUNDS = 21
READER = """
#include <stdint.h>
uint64_t read_all(const uint64_t *at, int64_t n) {
    uint64_t sums[32] = {0};
    for (int64_t i = 0; i < n; i += 32)
        for (int j = 0; j < 32; j++) sums[j] += at[i + j];
    for (int j = 1; j < 32; j++) sums[0] += sums[j];
    return sums[0];
}
"""


class Row(NamedTuple):
    """One aim and its measurement."""

    what: str
    unit: str
    measured: float
    limit: float
    is_least: bool = False  # the limit is a minimum, not a maximum
    rival: str = ""

    @property
    def is_met(self) -> bool:
        return self.measured >= self.limit if self.is_least else self.measured <= self.limit


def reader(folder: Path) -> Callable[[np.ndarray], object]:
    """Return a function that only reads memory: C, or numpy's sum without a compiler."""
    source, library = folder / "reader.c", folder / "reader.so"
    source.write_text(READER)
    try:
        command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError):
        return lambda codes: codes.sum()
    read_all = CDLL(str(library)).read_all
    read_all.restype, read_all.argtypes = c_uint64, (c_void_p, c_int64)
    return lambda codes: read_all(codes.ctypes.data, codes.size // 32 * 32)


def scans(scale: int, folder: Path) -> list[Row]:
    """Measure the scan in memory: random codes, and codes with a tenth distinct."""
    random, n = np.random.default_rng(0), 10 * MILLION // scale
    postings = scan_speed.gallery(random, n, n)
    codes, read = postings.base.codes, reader(folder)
    ways = scan_speed.ways_of(postings, scan_speed.flat(postings.base))
    ways = {way: ways[way] for way in (f"scan, {scan.KIND}", "faiss flat")}
    ways |= {"read": lambda _: read(codes), "numpy's sum": lambda _: codes.sum()}
    took = {each.way: each.median_ms for each in scan_speed.compare("", ways, ROUNDS, 1)}
    scanned, reading = took[f"scan, {scan.KIND}"], min(took["read"], took["numpy's sum"])
    others = f"faiss {took['faiss flat']:.2f} ms, reading the same memory {reading:.2f} ms"
    rows = [
        Row(f"scan of {n:,} random codes", "ms", scanned, took["faiss flat"] / 3, rival=others),
        Row("  share of the bandwidth", "%", 100 * reading / scanned, 80, is_least=True),
    ]
    del postings, ways, codes
    few = scan_speed.gallery(random, n, n // 10)
    ways = scan_speed.ways_of(few, scan_speed.flat(few.base))
    ways = {way: ways[way] for way in ("search", "faiss flat")}
    took = {each.way: each.median_ms for each in scan_speed.compare("", ways, ROUNDS, 1)}
    what = f"search of {n:,} codes, a tenth distinct"
    return [*rows, Row(what, "ms", took["search"], 1.0, rival=f"faiss {took['faiss flat']:.2f} ms")]


def started(path: Path) -> dict[str, float]:
    """Return the report of a fresh process about its start."""
    command = [sys.executable, Path(__file__).with_name("gallery_start.py"), path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def starts(scale: int, folder: Path, kind: str) -> list[Row]:
    """Measure the start with a gallery of ten million cases, and its memory; the page cache is warm."""
    n, home = 10 * MILLION // scale, folder / f"large-{kind}"
    path = home / "gallery.sqlite"
    if not (home / "whole").exists():
        retrieval_sites._fill(home, n, kind, 5)
    flat = folder / f"flat-{kind}.faiss"
    if not flat.exists():
        index = faiss.IndexBinaryFlat(64)
        index.add(galleries.CODES[kind](np.random.default_rng(5), n))
        faiss.write_index_binary(index, str(flat))
    pairs = [(started(path), started(flat)) for _ in range(6)][1:]  # the first reads from disk
    seconds, rival = (statistics.median(each[which]["seconds"] for each in pairs) for which in (0, 1))
    arrays, resident = (
        statistics.median(own[key] for own, _ in pairs) / n for key in ("array_bytes", "resident_bytes")
    )
    disk = sum(file.stat().st_size for file in home.glob("gallery.sqlite*")) / n
    codes = f"{n:,} {kind} codes"
    return [
        Row(f"start with {codes}, verified", "s", seconds, 1.0, rival=f"faiss, no checksum {rival:.2f} s"),
        Row("  in memory, a case", "bytes", arrays, 24, rival=f"resident {resident:.1f}; faiss 8, no ids"),
        Row("  on disk, a case", "bytes", disk, 100, rival=f"faiss {flat.stat().st_size / n:.0f}, codes alone"),
    ]


def federation(sites: int, n: int, kind: str, batches: int, folder: Path) -> list[Row]:
    """Measure sealed queries through the hub to this many sites with `n` cases each."""
    work = folder / f"{sites}-{kind}"
    work.mkdir(exist_ok=True)
    retrieval_sites.fill(work, sites, n, kind)
    took, results = retrieval_sites.measure(work, sites, n, kind, 600, batches)
    cpu = f"{took.cpu_ms:.1f} ms of CPU a query, all processes together"
    rows = [Row(f"{sites} sites x {n:,} {kind} codes, p50", "ms", took.p50_ms, 8.0 if sites == 10 else 25.0, rival=cpu)]
    if sites == 10:
        rows.append(Row("  p99", "ms", took.p99_ms, 15.0))
    if took.per_s is not None:
        cpu = f"{took.batch_cpu_ms:.0f} ms of CPU a batch"
        rows.append(Row("  batches of 64", "queries/s", took.per_s, 1500, is_least=True, rival=cpu))
        rows.append(merged(work, sites, results))
    return rows


def merged(folder: Path, sites: int, results: list[Asked]) -> Row:
    """Count the merged answers, of the first 1,000, that differ from those of one index over all galleries."""
    names, results = [*(f"S{number}" for number in range(sites)), retrieval_sites.ASKER], results[:1000]
    codes, tokens, owners = [], [], []
    for name in names:
        gallery = Gallery.open(folder / name / "gallery.sqlite", secret_in(folder / name / SECRET))
        loaded = gallery._loaded
        assert loaded is not None
        base = loaded.live_index.base
        sizes = 1 if base.starts is None else np.diff(base.starts)
        codes.append(np.repeat(base.codes[0], sizes).view(np.uint8).reshape(-1, 8))
        tokens.append(loaded.tokens.of(base.ids))
        owners += [name] * len(base.ids)
        gallery.close()
    all_codes, all_tokens = np.concatenate(codes), np.concatenate(tokens)
    differing = 0
    for code, result in results:
        hits = [(one.site, one.distance, one.token) for one in result.hits]
        wanted = pooled_search(all_codes, all_tokens, owners, code, K)
        differing += hits != [(one.label, one.distance, one.token) for one in wanted]
    what = f"  of {len(results):,} merged answers, other than one pooled index's"
    return Row(what, "answers", differing, 0)


def report(rows: list[Row]) -> None:
    table = Table("promise", "measured", "limit", "", "in the same run", title=f"the scan that runs here: {scan.KIND}")
    for row in rows:
        limit = f"{'at least' if row.is_least else 'at most'} {row.limit:,.5g}"
        table.add_row(row.what, f"{row.measured:,.4g} {row.unit}", limit, "met" if row.is_met else "MISSED", row.rival)
    Console(width=180).print(table)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--work", type=Path)
    arguments.add_argument("--scale", type=int, default=1)
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    given = arguments.parse_args()
    load = os.getloadavg()[0]  # above 0.5 other programs run, and the figures are not valid
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        rows = [row for part in given.parts for row in PARTS[part](given.scale, work)]
    report(rows)
    if given.out:
        values = [{**row._asdict(), "is_met": row.is_met} for row in rows]
        made = {"kind": scan.KIND, "load_before": load, "load_after": os.getloadavg()[0], "rows": values}
        given.out.write_text(json.dumps(made, indent=2) + "\n")
    return 0 if all(row.is_met for row in rows) else 1


PARTS: dict[str, Callable[[int, Path], list[Row]]] = {
    "scan": scans,
    "start": lambda scale, folder: starts(scale, folder, "trained"),
    "start-random": lambda scale, folder: starts(scale, folder, "random"),
    "ten": lambda scale, folder: federation(10, MILLION // scale, "trained", 16, folder),
    "ten-random": lambda scale, folder: federation(10, MILLION // scale, "random", 0, folder),
    "fifty": lambda scale, folder: federation(50, MILLION // 10 // scale, "trained", 0, folder),
}


if __name__ == "__main__":
    sys.exit(main())
