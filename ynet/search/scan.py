"""Exact scan of packed binary codes: find all codes no farther than the k-th nearest case, including ties.

The compiled `scan.c` is used where there is one, else numpy. Codes are rows of words: each row is contiguous.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, Shaped, UInt8, UInt16, UInt32, UInt64

Words = UInt64[np.ndarray, "words n"] | UInt32[np.ndarray, "1 n"]
LIBRARY = Path(__file__).with_name("_scan.so")
_VERSION = 3  # of scan.c
_COMPILED = ("plain", "avx2", "avx512")  # in the order of scan.c
_MOST_WORDS = 4
DISTANCES = 64 * _MOST_WORDS + 1  # the number of possible distances of the widest codes
_CAPACITY = 1 << 12  # codes within reach that a query is expected to have


class Near(NamedTuple):
    """The codes within reach of a batch's queries: those of the first query first, ascending within each query."""

    ends: Int64[np.ndarray, " queries"]  # where each query's codes end
    positions: UInt32[np.ndarray, " near"]
    distances: UInt16[np.ndarray, " near"]
    reach: Int32[np.ndarray, " queries"]  # distance of the k-th nearest case, or the radius
    cases: Int64[np.ndarray, "queries 257"]  # by distance; 0 beyond the reach


class Cases(NamedTuple):
    """The cases of the codes, and which of them may be returned."""

    starts: UInt32[np.ndarray, " n+1"] | None = None  # where each code's cases start; None: one case per code
    live: UInt8[np.ndarray, " bytes"] | None = None  # a bit per case, lowest bit first; None: all
    allowed: Bool[np.ndarray, " cases"] | None = None  # None: all

    def sizes(self, positions: UInt32[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """Return the number of returnable cases at each of these codes."""
        return np.bincount(self.at(positions)[1], minlength=len(positions))

    def at(self, positions: UInt32[np.ndarray, " m"]) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
        """Return the returnable cases at these codes, and for each its index in `positions`."""
        firsts = positions.astype(np.int64)
        cases, of_code = firsts, np.arange(len(firsts))
        if self.starts is not None:
            sizes = self.starts[firsts + 1] - (firsts := self.starts[firsts].astype(np.int64))
            of_code = np.repeat(of_code, sizes)
            cases = np.arange(len(of_code)) + (firsts - (np.cumsum(sizes) - sizes))[of_code]
        if self.live is None and self.allowed is None:
            return cases, of_code
        counts = np.ones(len(cases), bool) if self.allowed is None else self.allowed[cases]
        if self.live is not None:
            counts &= (self.live[cases >> 3] >> (cases & 7).astype(np.uint8) & 1).astype(bool)
        return cases[counts], of_code[counts]


ALL = Cases()


def words(codes: UInt8[np.ndarray, "n bytes"]) -> Words:
    """Convert packed codes of 32, 64, 128 or 256 bits to rows of little-endian words."""
    width = "<u4" if codes.shape[1] == 4 else "<u8"
    return np.ascontiguousarray(np.ascontiguousarray(codes).view(width).T)


def nearest(
    codes: Words,
    queries: Words,
    k: int,
    radius: Int32[np.ndarray, " queries"],
    cases: Cases = ALL,
    kind: str | None = None,
) -> Near:
    """Return for each query all codes with a case no farther than the k-th nearest case and the radius.

    `kind` is one of KINDS; None selects the fastest. Uses one thread; the compiled kinds release the GIL.
    """
    kind = kind or KIND
    radius = np.minimum(radius, 8 * codes.itemsize * len(codes), dtype=np.int32)
    if kind == "numpy":
        each = [_by_numpy(codes, query, k, int(most), cases) for query, most in zip(queries.T, radius, strict=True)]
        return _joined(each)
    capacity = min(codes.shape[1], max(_CAPACITY, 4 * k))
    return _compiled(codes, queries, k, radius, cases, _COMPILED.index(kind), capacity)


def _joined(each: Sequence[Near]) -> Near:
    """Concatenate the results of several queries."""
    return Near(
        np.cumsum([len(near.positions) for near in each]),
        np.concatenate([near.positions for near in each]),
        np.concatenate([near.distances for near in each]),
        np.concatenate([near.reach for near in each]),
        np.concatenate([near.cases for near in each]),
    )


def _by_numpy(codes: Words, query: Shaped[np.ndarray, " words"], k: int, radius: int, cases: Cases) -> Near:
    distances = np.bitwise_count(codes[0] ^ query[0]).astype(np.uint16 if len(codes) > 1 else np.uint8)
    for row, word in zip(codes[1:], query[1:], strict=True):
        distances += np.bitwise_count(row ^ word)
    expected = k
    while True:
        most = min(_distance_of(distances, expected), radius)
        near = np.flatnonzero(distances <= most)
        counts = cases.sizes(near)
        if counts.sum() >= k or most == radius:
            break
        expected *= 8  # some of the near codes have no returnable case
    sizes = np.bincount(distances[near], counts, DISTANCES).astype(np.int64)
    reach = min(radius, int(np.searchsorted(np.cumsum(sizes), k)))
    sizes[reach + 1 :] = 0  # the counts beyond the reach are incomplete
    near = near[(counts > 0) & (distances[near] <= reach)]
    found = near.astype(np.uint32), distances[near].astype(np.uint16)
    return Near(np.array([len(near)]), *found, np.array([reach], np.int32), sizes[None])


def _distance_of(distances: Shaped[np.ndarray, " n"], number: int) -> int:
    """Return the least distance within which `number` of these lie, or DISTANCES when there are fewer."""
    lowest, highest = 0, DISTANCES
    while lowest < highest:
        middle = (lowest + highest) // 2
        if np.count_nonzero(distances <= middle) >= number:
            highest = middle
        else:
            lowest = middle + 1
    return lowest


class _Scan(ctypes.Structure):
    """The struct `scan` of scan.c."""

    _fields_ = [
        ("codes", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("code_bytes", ctypes.c_int32),
        ("kind", ctypes.c_int32),
        ("starts", ctypes.c_void_p),
        ("live", ctypes.c_void_p),
        ("allowed", ctypes.c_void_p),
        ("queries", ctypes.c_void_p),
        ("query_count", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("capacity", ctypes.c_int64),
        ("reach", ctypes.c_void_p),
        ("stored", ctypes.c_void_p),
        ("within", ctypes.c_void_p),
        ("cases", ctypes.c_void_p),
        ("found", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("distances", ctypes.c_void_p),
    ]


def _load(path: Path) -> ctypes.CDLL | None:
    """Load the compiled scan; return None when there is none of this version."""
    try:
        library = ctypes.CDLL(str(path))
        library.ynet_scan.argtypes, library.ynet_scan.restype = (ctypes.POINTER(_Scan),), None
        library.ynet_rank.restype = None
        return library if library.ynet_scan_version() == _VERSION else None
    except (OSError, AttributeError):
        return None


COMPILED = _load(LIBRARY)
"""The library of scan.c and topk.c; None where it was not compiled."""
KINDS = ("numpy",) if COMPILED is None else ("numpy", *_COMPILED[: COMPILED.ynet_scan_best() + 1])
"""The kernels that this machine can run, the slowest first."""
KIND = KINDS[-1]
"""The kernel in use: "numpy", "plain" (compiled), "avx2" or "avx512"."""


def _compiled(
    codes: Words, queries: Words, k: int, radius: Int32[np.ndarray, " queries"], cases: Cases, kind: int, capacity: int
) -> Near:
    """Call scan.c with room for `capacity` codes per query; repeat each query with more room where that is too few."""
    assert COMPILED is not None  # noqa: S101
    (rows, n), count = codes.shape, queries.shape[1]
    words = np.zeros((count, _MOST_WORDS), np.uint64)
    words[:, :rows] = queries.T
    reach, of_each = radius.copy(), np.empty((2, count), np.int64)
    of_cases, of_codes = np.zeros((2, count, DISTANCES), np.int64)
    positions, distances = np.empty((count, capacity), np.uint32), np.empty((count, capacity), np.uint16)
    addresses = [address(part) for part in (of_each[0], of_each[1], of_cases, of_codes, positions, distances)]
    COMPILED.ynet_scan(
        _Scan(
            address(codes), n, codes.strides[0] // codes.itemsize, rows * codes.itemsize, kind,
            *(None if part is None else address(part) for part in cases),
            address(words), count, k, capacity, address(reach), *addresses,
        )
    )  # fmt: skip
    stored = of_each[0].tolist()
    if min(stored) >= 0:
        return Near(
            np.cumsum(stored),
            np.concatenate([row[:end] for row, end in zip(positions, stored, strict=True)]),
            np.concatenate([row[:end] for row, end in zip(distances, stored, strict=True)]),
            reach,
            of_cases,
        )
    needed = [max(capacity, int(sizes[: most + 1].sum())) for sizes, most in zip(of_codes, reach, strict=True)]
    ones = [slice(query, query + 1) for query in range(count)]
    return _joined([_compiled(codes, queries[:, one], k, reach[one], cases, kind, needed[one.start]) for one in ones])


def address(array: Shaped[np.ndarray, "..."]) -> int:
    """Return the address of the array's memory.

    Raises:
        ValueError: A row is not contiguous and aligned.
    """
    if not (array.flags.aligned and (array.shape[-1] < 2 or array.strides[-1] == array.itemsize)):
        raise ValueError("the scan reads aligned runs of memory only")
    address: int = array.__array_interface__["data"][0]
    return address
