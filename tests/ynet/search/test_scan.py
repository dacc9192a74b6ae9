"""The scan, compiled and in numpy, equals brute force for every width, size and mask."""

import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import needs

from ynet.search import scan

ROOT = Path(__file__).parents[3]
WIDTHS = (4, 8, 16, 32)
KINDS = pytest.mark.parametrize("kind", scan.KINDS)
drawn = settings(max_examples=60, deadline=None, derandomize=True)


def brute_force(codes, query, k, radius, sizes):
    """Positions, distances, reach and cases by distance, code by code. `sizes`: how many cases count at each."""
    distances = [(int.from_bytes(one.tobytes()) ^ int.from_bytes(query.tobytes())).bit_count() for one in codes]
    by_distance = [0] * scan.DISTANCES
    for distance, size in zip(distances, sizes, strict=True):
        by_distance[distance] += size
    reach = next((d for d in range(radius) if sum(by_distance[: d + 1]) >= k), radius)
    near = [i for i, distance in enumerate(distances) if distance <= reach and sizes[i]]
    return near, [distances[i] for i in near], reach, [*by_distance[: reach + 1], *[0] * (scan.DISTANCES - reach - 1)]


def some_codes(random: np.random.Generator, n: int, width: int) -> np.ndarray:
    """Return codes, many of them equal or nearly equal."""
    codes = random.integers(0, 256, (4, width), dtype=np.uint8)[random.integers(0, 4, n)]
    codes ^= (random.random(codes.shape) < 0.1) * random.integers(0, 256, codes.shape, dtype=np.uint8)
    return codes


def some_cases(random: np.random.Generator, n: int, has: tuple[bool, bool, bool]) -> tuple[scan.Cases, list[int]]:
    """Posting lists and masks, each when `has` says so, and how many cases count at each code."""
    starts = np.append(0, np.cumsum(random.integers(1, 4, n))) if has[0] else np.arange(n + 1)
    total = int(starts[-1])
    live, allowed = random.random(total) < 0.8, random.random(total) < random.choice([0.05, 0.7])
    counts = np.ones(total, int) & (live | (not has[1])) & (allowed | (not has[2]))
    cases = scan.Cases(
        starts.astype(np.uint32) if has[0] else None,
        np.packbits(live, bitorder="little") if has[1] else None,
        allowed if has[2] else None,
    )
    return cases, [int(counts[start:end].sum()) for start, end in itertools.pairwise(starts)]


def assert_found(near: scan.Near, codes, queries, k, radius, sizes) -> None:
    start = 0
    for number, (query, end) in enumerate(zip(queries, near.ends.tolist(), strict=True)):
        positions, distances, reach, cases = brute_force(codes, query, k, radius, sizes)
        assert near.positions[start:end].tolist() == positions
        assert near.distances[start:end].tolist() == distances
        assert near.reach[number] == reach
        assert near.cases[number].tolist() == cases
        start = end


@KINDS
@drawn
@given(
    st.integers(0, 2**32),
    st.integers(0, 300),
    st.sampled_from(WIDTHS),
    st.integers(1, 40),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.none() | st.integers(0, 60),
    st.integers(1, 3),
)
def test_scan_equals_brute_force(kind, seed, n, width, k, has, radius, count) -> None:
    random = np.random.default_rng(seed)
    codes = some_codes(random, n, width)
    queries = some_codes(random, count, width)
    if n:
        queries[0] = codes[random.integers(n)]
    cases, sizes = some_cases(random, n, has)
    radius = 8 * width if radius is None else min(radius, 8 * width)
    at_most = np.full(count, radius, np.int32)
    near = scan.nearest(scan.words(codes), scan.words(queries), k, at_most, cases, kind)
    assert_found(near, codes, queries, k, radius, sizes)


@KINDS
@pytest.mark.parametrize("width", WIDTHS)
def test_scan_covers_blocks_of_any_size_and_alignment(kind: str, width: int) -> None:
    random = np.random.default_rng(width)
    for n in (63, 64, 65, 2047, 2048, 4096 + 64, 6001):
        memory = random.integers(0, 256, 8 + n * width, dtype=np.uint8)
        codes = memory[8:].reshape(n, width)
        rows = scan.words(codes)
        if width == 8:
            rows = memory[8:].view("<u8")[None]  # where it lies, not where numpy would put it
        query = random.integers(0, 256, (1, width), dtype=np.uint8)
        near = scan.nearest(rows, scan.words(query), 7, np.full(1, 8 * width, np.int32), kind=kind)
        assert_found(near, codes, query, 7, 8 * width, [1] * n)


@KINDS
def test_scan_finds_more_codes_than_expected(kind: str) -> None:
    random = np.random.default_rng(1)
    codes = random.integers(0, 2, (20_000, 4), dtype=np.uint8)  # 16 different ones
    queries = np.concatenate([codes[:2], ~codes[:1]])
    near = scan.nearest(scan.words(codes), scan.words(queries), 10, np.full(3, 32, np.int32), kind=kind)
    assert (near.ends == np.cumsum([(codes == one).all(axis=1).sum() for one in [*codes[:2], 1 ^ codes[0]]])).all()
    near = scan.nearest(scan.words(codes), scan.words(queries), 1_400, np.array([32, 1, 32], np.int32), kind=kind)
    assert near.ends[0] > 6_000  # 5,600 were expected
    for number, found in enumerate(np.split(near.positions, near.ends[:-1])):
        distances = np.bitwise_count(codes ^ queries[number]).sum(axis=1)
        assert found.tolist() == np.flatnonzero(distances <= near.reach[number]).tolist()


@KINDS
@pytest.mark.parametrize("width", WIDTHS)
def test_scan_distances_equal_faiss(kind: str, width: int) -> None:
    faiss.omp_set_num_threads(1)
    random = np.random.default_rng(width)
    codes = random.integers(0, 256, (20_000, width), dtype=np.uint8)
    queries = random.integers(0, 256, (20, width), dtype=np.uint8)
    oracle = faiss.IndexBinaryFlat(8 * width)
    oracle.add(codes)
    expected, _ = oracle.search(queries, 25)
    near = scan.nearest(scan.words(codes), scan.words(queries), 25, np.full(20, 8 * width, np.int32), kind=kind)
    for row, found in zip(expected, np.split(near.distances, near.ends[:-1]), strict=True):
        assert np.sort(found)[:25].tolist() == row.tolist()


@KINDS
def test_scan_reads_read_only_bytes_and_padded_rows(kind: str) -> None:
    random = np.random.default_rng(2)
    codes = random.integers(0, 256, (500, 16), dtype=np.uint8)
    rows = scan.words(codes)
    roomy = np.zeros((2, 700), np.uint64)
    roomy[:, :500] = rows
    queries, radius = scan.words(codes[:3]), np.full(3, 128, np.int32)
    expected = scan.nearest(rows, queries, 5, radius, kind="numpy")
    for same in (roomy[:, :500], np.frombuffer(rows.tobytes(), np.uint64).reshape(2, 500)):
        for one, other in zip(scan.nearest(same, queries, 5, radius, kind=kind), expected, strict=True):
            assert one.tolist() == other.tolist()


@needs("cc", unless=scan.KIND != "numpy")
def test_compiled_scan_refuses_unaligned_memory() -> None:
    radius = np.full(1, 64, np.int32)
    misaligned = np.zeros(8 * 100 + 1, np.uint8)[1:].view(np.uint64)[None]
    for rows in (misaligned, np.zeros((1, 200), np.uint64)[:, ::2]):
        with pytest.raises(ValueError, match="aligned"):
            scan.nearest(rows, np.zeros((1, 1), np.uint64), 5, radius)


def hatch_build():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_numpy_scans_without_compiled_library(tmp_path: Path) -> None:
    broken = tmp_path / "scan.c"
    broken.write_text("this is no C")
    library = tmp_path / "_scan.so"
    library.write_bytes(b"left from an older version")
    assert not hatch_build().compile_scan(broken, library)
    assert list(tmp_path.iterdir()) == [broken]
    script = f"from pathlib import Path; from ynet.search import scan; print(scan._load(Path({str(library)!r})))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"None\n"


@needs("cc")
def test_library_of_other_version_is_ignored(tmp_path: Path) -> None:
    source, library = tmp_path / "scan.c", tmp_path / "_scan.so"
    source.write_text("int ynet_scan_version(void) { return 0; } void ynet_scan(const void *s) { (void)s; }")
    assert hatch_build().compile_scan(source, library)
    assert scan._load(library) is None


@needs("cc", "sh")
def test_shipped_scan_compiles_without_warning(tmp_path: Path, monkeypatch) -> None:
    wrapper = tmp_path / "cc"
    wrapper.write_text('#!/bin/sh\nexec cc -Wall -Wextra -Werror "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", str(wrapper))
    library = tmp_path / "_scan.so"
    assert hatch_build().compile_scan(library=library)
    assert scan._load(library) is not None


@pytest.mark.parametrize("compiler", [pytest.param("cc", marks=needs("cc")), "no-such-compiler"])
def test_wheel_has_compiled_scan_where_there_is_a_compiler(compiler: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py", ".gitignore"):
        shutil.copy(ROOT / name, source)
    for name in ("ynet", "server", "client", "lab", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("_scan.so", "__pycache__"))
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(command, cwd=source, env={**os.environ, "CC": compiler}, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    is_compiled = compiler == "cc"
    assert wheel.stem.endswith("-py3-none-any") != is_compiled
    assert ("ynet/search/_scan.so" in zipfile.ZipFile(wheel).namelist()) == is_compiled
