"""The binding of topk.c: rank the cases that a scan found, and return the k first by the total order.

topk.c computes the case tokens itself and needs a processor with AES. Elsewhere numpy ranks: ynet/search/snapshot.py.
"""

import ctypes
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt32

from ynet.search import scan
from ynet.search.ranking import TOKEN_BYTES

IS_COMPILED = scan.COMPILED is not None and bool(scan.COMPILED.ynet_rank_can())
_FIRST = np.dtype([("token", "u1", TOKEN_BYTES), ("key", "<u8"), ("distance", "<u4"), ("id", "<u4")])


class RankedCase(NamedTuple):
    """A case; its fields are in the order of the sort key."""

    distance: int
    key: int
    token: bytes
    id: int


class _Ranking(ctypes.Structure):
    """The struct `ranking` of topk.c."""

    _fields_ = [
        ("query_count", ctypes.c_int64),
        ("capacity", ctypes.c_int64),
        ("ends", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("distances", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("live", ctypes.c_void_p),
        ("allowed", ctypes.c_void_p),
        ("ids", ctypes.c_void_p),
        ("digests", ctypes.c_void_p),
        ("key", ctypes.c_char_p),
        ("counts", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
    ]


def first(
    near: scan.Near,
    cases: scan.Cases,
    ids: UInt32[np.ndarray, " cases"],
    codes: Sequence[bytes],
    k: int,
    key: bytes,
) -> list[list[RankedCase]]:
    """Return for each query code the k first of the cases that a scan found, or all.

    `key` is the AES-128 key of the tokens.
    """
    assert scan.COMPILED is not None  # noqa: S101
    count = len(codes)
    capacity = max(1, min(k, int(near.cases.sum(axis=1).max())))
    digests = b"".join(hashlib.sha256(code).digest()[:TOKEN_BYTES] for code in codes)
    ends = np.ascontiguousarray(near.ends, np.int64)
    counts, found = np.empty(count, np.int64), np.empty((count, capacity), _FIRST)
    names = np.frombuffer(digests, np.uint64)
    arrays = (near.positions, near.distances, *cases, ids)
    scan.COMPILED.ynet_rank(
        ctypes.byref(
            _Ranking(
                count, capacity, scan.address(ends),
                *(None if part is None else scan.address(part) for part in arrays),
                scan.address(names), key,
                *(scan.address(part) for part in (counts, found)),
            )
        )
    )  # fmt: skip
    return [_read(row[:end]) for row, end in zip(found, counts.tolist(), strict=True)]


def _read(row: Shaped[np.ndarray, " found"]) -> list[RankedCase]:
    tokens = row["token"].tobytes()
    names = [tokens[at : at + TOKEN_BYTES] for at in range(0, len(tokens), TOKEN_BYTES)]
    distances, keys, ids = (row[column].tolist() for column in ("distance", "key", "id"))
    return list(map(RankedCase, distances, keys, names, ids))
