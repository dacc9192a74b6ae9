"""Ranked search of one state of a gallery: codes scanned, their cases ranked, ties to the group's end.

The order is (distance, distance of the detail codes, tie key, token), ascending; ynet.index has the law of tie keys.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, Shaped, UInt8, UInt32, UInt64

from ynet import scan
from ynet.errors import UserError
from ynet.index import tie_keys

TokensOf = Callable[[UInt32[np.ndarray, " m"]], UInt8[np.ndarray, "m 16"]]
_DETAILS = 65  # distances of detail codes, which have 64 bits at most
_MORE = 8  # times as many cases are looked at when too few groups were among them


class Found(NamedTuple):
    """One case of a gallery, found by a query."""

    distance: int  # Hamming, in bits
    detail: int | None  # Hamming distance of the detail codes; None: the query or the gallery has none
    case_id: int
    token: bytes
    ties: int  # cases of this gallery that count and are at this distance, this one among them


class Part(NamedTuple):
    """Codes that are scanned in one go, and the cases they stand for, those of the first code first."""

    codes: scan.Words
    starts: UInt32[np.ndarray, " codes+1"] | None  # where each code's cases start; None: one case per code
    ids: UInt32[np.ndarray, " cases"]
    details: Shaped[np.ndarray, " cases"] | None  # UInt32 or UInt64
    groups: UInt32[np.ndarray, " cases"]
    live: UInt8[np.ndarray, " bytes"] | None  # a bit per case, the lowest first; None: all


class _Met(NamedTuple):
    """Cases that the queries of a batch have met, those of the first query first."""

    query: Int64[np.ndarray, " m"]
    rank: Int64[np.ndarray, " m"]  # distance, then that of the details
    ids: UInt32[np.ndarray, " m"]
    groups: UInt32[np.ndarray, " m"]

    def where(self, chosen: Shaped[np.ndarray, "..."] | slice) -> "_Met":
        """Those that a mask, a list of numbers or a slice names."""
        return _Met(*(each[chosen] for each in self))


@dataclass(frozen=True)
class View:
    """One state of a gallery. It never changes, and any thread may search it.

    Positions number its cases as `ids` has them; a mask of what is allowed goes with the view whose `ids` it is of.
    """

    bits: int
    parts: tuple[Part, ...]
    tokens_of: TokensOf

    @property
    def ids(self) -> UInt32[np.ndarray, " positions"]:
        """The case at each position; cases removed since the last compaction are still there, and never found."""
        ids = [part.ids for part in self.parts]
        return ids[0] if len(ids) == 1 else np.concatenate(ids)

    def search(
        self,
        code: bytes,
        k: int,
        *,
        detail: int | None = None,
        allowed: Bool[np.ndarray, " positions"] | None = None,
        radius: int | None = None,
        is_one_per_group: bool = False,
    ) -> list[Found]:
        """The k first cases by the law of ranking, or all when there are fewer.

        `allowed`: only these cases count; `radius`: only those no farther, in bits; `is_one_per_group`: the best case
        of each of k groups. Raises UserError when the code is not as wide as the gallery's.
        """
        return self.search_many([code], k, [detail], allowed=allowed, radius=radius, is_one_per_group=is_one_per_group)[
            0
        ]

    def search_many(
        self,
        codes: Sequence[bytes],
        k: int,
        details: Sequence[int | None] | None = None,
        *,
        allowed: Bool[np.ndarray, " positions"] | None = None,
        radius: int | None = None,
        is_one_per_group: bool = False,
    ) -> list[list[Found]]:
        """What `search` answers to each code, in one pass over the gallery. `details` has one entry per code."""
        batch = self._batch(codes, details, allowed, self.bits if radius is None else min(radius, self.bits))
        if k < 1 or batch.radius < 0:
            raise ValueError(f"k is {k}, the radius {radius}")
        choose = _best_of_groups if is_one_per_group else _first_ranks
        answers: list[list[Found]] = [[] for _ in codes]
        pending, wanted = np.arange(len(codes)), k
        while len(pending):
            met, sizes = self._meet(batch, pending, wanted)
            chosen, is_enough = choose(met, len(pending), k)
            is_answered = is_enough | (sizes.sum(axis=1) < wanted)  # or there is no more to meet
            chosen = chosen.where(is_answered[chosen.query])
            for query, found in self._rank(batch, pending, chosen, sizes, k, is_one_per_group):
                answers[query] = found
            pending, wanted = pending[~is_answered], wanted * _MORE
        return answers

    def _batch(
        self,
        codes: Sequence[bytes],
        details: Sequence[int | None] | None,
        allowed: Bool[np.ndarray, " positions"] | None,
        radius: int,
    ) -> "_Batch":
        for code in codes:
            if 8 * len(code) != self.bits:
                why = f"the code has {8 * len(code)} bits, the gallery's have {self.bits}"
                raise UserError("the gallery cannot be searched", why, "ask with the model that the gallery has")
        total = sum(len(part.ids) for part in self.parts)
        if allowed is not None and (allowed.shape != (total,) or allowed.dtype != np.bool_):
            raise ValueError(f"a mask of type {allowed.dtype} and shape {allowed.shape} for {total} positions")
        words = scan.words(np.frombuffer(b"".join(codes), np.uint8).reshape(len(codes), self.bits // 8))
        own = self.parts[0].details
        asked = [None if own is None else detail for detail in details or [None] * len(codes)]
        if own is not None and any(detail is not None and detail >> (8 * own.itemsize) for detail in asked):
            raise ValueError(f"a detail code has more than {8 * own.itemsize} bits")
        return _Batch(codes, words, asked, allowed, radius)

    def _meet(
        self, batch: "_Batch", queries: Int64[np.ndarray, " queries"], k: int
    ) -> tuple[_Met, Int64[np.ndarray, "queries distances"]]:
        """All cases no farther than the k-th nearest one, and how many there are by distance."""
        reach = np.full(len(queries), batch.radius, np.int32)
        sizes = np.zeros((len(queries), scan.DISTANCES), np.int64)
        parts: list[_Met] = []
        first = 0
        for part in _occupied(self.parts):
            allowed = None if batch.allowed is None else batch.allowed[first : first + len(part.ids)]
            cases = scan.Cases(part.starts, part.live, allowed)
            near = scan.nearest(part.codes, batch.words[:, queries], k, reach, cases)
            parts.append(_cases(part, cases, near, [batch.details[query] for query in queries.tolist()]))
            sizes, reach, first = sizes + near.cases, near.reach, first + len(part.ids)
        is_met = np.cumsum(sizes, axis=1) >= k
        reach = np.where(is_met[:, -1], is_met.argmax(axis=1), reach).astype(np.int32)
        sizes[np.arange(scan.DISTANCES) > reach[:, None]] = 0
        return _joined(parts, reach), sizes

    def _rank(
        self,
        batch: "_Batch",
        queries: Int64[np.ndarray, " queries"],
        met: _Met,
        sizes: Int64[np.ndarray, "queries distances"],
        k: int,
        is_one_per_group: bool,
    ) -> Iterator[tuple[int, list[Found]]]:
        """Each query that met something, and its answer."""
        if not len(met.ids):
            return
        tokens = self.tokens_of(met.ids)
        start = 0
        for query, end in enumerate(np.searchsorted(met.query, np.arange(len(queries)), "right").tolist()):
            if start < end:
                one, number = slice(start, end), int(queries[query])
                rows = _order(batch.codes[number], met.where(one), tokens[one], k, is_one_per_group)
                ties, has_detail = sizes[query].tolist(), batch.details[number] is not None
                yield number, [_found(row, ties, has_detail) for row in rows]
            start = end


class _Batch(NamedTuple):
    """What is asked in one pass over a gallery."""

    codes: Sequence[bytes]
    words: scan.Words
    details: Sequence[int | None]
    allowed: Bool[np.ndarray, " positions"] | None
    radius: int


class _Row(NamedTuple):
    """One case by the law of ranking."""

    rank: int
    key: int
    token: bytes
    id: int
    group: int


def _occupied(parts: Sequence[Part]) -> Sequence[Part]:
    return [part for part in parts if len(part.ids)] or parts[:1]


def _cases(part: Part, cases: scan.Cases, near: scan.Near, details: Sequence[int | None]) -> _Met:
    """The cases at the codes that a scan found near."""
    numbers, of_code = cases.at(near.positions)
    query = np.searchsorted(near.ends, of_code, "right")
    rank = near.distances[of_code].astype(np.int64) * _DETAILS
    if part.details is not None and any(detail is not None for detail in details):
        asked = np.array([detail or 0 for detail in details], part.details.dtype)[query]
        is_asked = np.array([detail is not None for detail in details])[query]
        rank += is_asked * np.bitwise_count(part.details[numbers] ^ asked)
    return _Met(query, rank, part.ids[numbers], part.groups[numbers])


def _joined(parts: Sequence[_Met], reach: Int32[np.ndarray, " queries"]) -> _Met:
    """The cases of all parts that are within reach, those of the first query first."""
    if len(parts) == 1:
        return parts[0]
    met = _Met(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    met = met.where(met.rank // _DETAILS <= reach[met.query])
    return met.where(np.argsort(met.query, kind="stable"))


def _last_rank(
    query: Int64[np.ndarray, " m"], rank: Int64[np.ndarray, " m"], queries: int, k: int
) -> tuple[Int64[np.ndarray, " queries"], Int64[np.ndarray, " queries"]]:
    """Of each query, the rank that is the k-th (or the last one, when there are fewer), and how many there are."""
    span = scan.DISTANCES * _DETAILS
    ordered = np.sort(query * span + rank)
    counts = np.bincount(query, minlength=queries)
    last = np.cumsum(counts) - counts + np.minimum(counts, k) - 1
    return (ordered[last] % span if len(ordered) else last), counts


def _first_ranks(met: _Met, queries: int, k: int) -> tuple[_Met, Bool[np.ndarray, " queries"]]:
    """The cases among which are the k first of each query; whether a query has enough: here always."""
    last, _ = _last_rank(met.query, met.rank, queries, k)
    return met.where(met.rank <= last[met.query]), np.ones(queries, bool)


def _best_of_groups(met: _Met, queries: int, k: int) -> tuple[_Met, Bool[np.ndarray, " queries"]]:
    """The cases among which are the best ones of the k first groups; whether a query has met k groups."""
    met = met.where(np.lexsort((met.rank, met.groups, met.query)))
    is_first = np.ones(len(met.ids), bool)
    is_first[1:] = (met.query[1:] != met.query[:-1]) | (met.groups[1:] != met.groups[:-1])
    best = met.where(is_first)
    last, counts = _last_rank(best.query, best.rank, queries, k)
    is_best = met.rank == best.rank[np.cumsum(is_first) - 1]
    return met.where(is_best & (met.rank <= last[met.query])), counts >= k


def _order(code: bytes, met: _Met, tokens: UInt8[np.ndarray, "m 16"], k: int, is_one_per_group: bool) -> list[_Row]:
    """The k first of one query's cases, each the best of its group if so asked, by the law of ranking."""
    keys = tie_keys(code, tokens)
    if len(keys) > _MORE * k:  # most are tied: leave the bulk of them out before rows are made
        first = _least_of_groups(keys, met.groups) if is_one_per_group else _least(keys, met.rank, k)
        met, tokens, keys = met.where(first), tokens[first], keys[first]
    names = [token.tobytes() for token in tokens]
    rows = sorted(map(_Row, met.rank.tolist(), keys.tolist(), names, met.ids.tolist(), met.groups.tolist()))
    if is_one_per_group:
        best: dict[int, _Row] = {}
        for row in rows:
            best.setdefault(row.group, row)
        rows = list(best.values())
    return rows[:k]


def _least(keys: UInt64[np.ndarray, " m"], rank: Int64[np.ndarray, " m"], k: int) -> Bool[np.ndarray, " m"]:
    """Which cases can be among the k first, when only those of the last rank are too many."""
    is_last = rank == rank.max()
    wanted = k - int(np.count_nonzero(~is_last))
    return np.asarray(~is_last | (keys <= np.partition(keys[is_last], wanted - 1)[wanted - 1]))


def _least_of_groups(keys: UInt64[np.ndarray, " m"], groups: UInt32[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """Which cases can be the best of their group, when all of a group have one rank."""
    numbers, of_group = np.unique(groups, return_inverse=True)
    least = np.full(len(numbers), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, of_group, keys)
    return np.asarray(keys == least[of_group])


def _found(row: _Row, ties: Sequence[int], has_detail: bool) -> Found:
    distance, detail = divmod(row.rank, _DETAILS)
    return Found(distance, detail if has_detail else None, row.id, row.token, ties[distance])
