"""Search of one immutable state of a gallery: scan the codes, then rank their cases by the total order.

The order is (distance, tie key, token), ascending; see `ynet.search.ranking`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, Shaped, UInt8, UInt32, UInt64

from ynet.errors import UserError
from ynet.search import scan, topk
from ynet.search.ranking import TOKEN_BYTES, tie_keys_many

TokensOf = Callable[[UInt32[np.ndarray, " m"]], UInt8[np.ndarray, "m 16"]]
_MORE = 8  # factor by which a search widens when its cases belong to too few groups


class Neighbour(NamedTuple):
    """One case of this gallery that a query found."""

    distance: int  # Hamming, in bits
    case_id: int
    token: bytes
    ties: int  # returnable cases of this gallery at this distance, including this one


class Segment(NamedTuple):
    """Codes that one scan covers, and their cases, those of the first code first."""

    codes: scan.Words
    starts: UInt32[np.ndarray, " codes+1"] | None  # where each code's cases start; None: one case per code
    ids: UInt32[np.ndarray, " cases"]
    groups: UInt32[np.ndarray, " cases"]
    live: UInt8[np.ndarray, " bytes"] | None  # a bit per case, lowest bit first; None: all


def is_live(part: Segment) -> Bool[np.ndarray, " cases"]:
    """Return a mask of the segment's live cases."""
    if part.live is None:
        return np.ones(len(part.ids), bool)
    return np.unpackbits(part.live, count=len(part.ids), bitorder="little").astype(bool)


class _Candidates(NamedTuple):
    """Candidate cases of a batch's queries, those of the first query first."""

    query: Int64[np.ndarray, " m"]
    distance: Int64[np.ndarray, " m"]
    ids: UInt32[np.ndarray, " m"]
    groups: UInt32[np.ndarray, " m"]

    def where(self, chosen: Shaped[np.ndarray, "..."] | slice) -> "_Candidates":
        """Select by a mask, indices or a slice."""
        return _Candidates(*(each[chosen] for each in self))


@dataclass(frozen=True)
class View:
    """One immutable state of a gallery. Any thread may search it.

    A position is an index into `ids`. A mask of allowed positions is valid for this view only.
    """

    bits: int
    parts: tuple[Segment, ...]
    tokens_of: TokensOf
    token_key: bytes | None = None  # AES-128, when a token is the zero-padded case id encrypted: then topk.c ranks

    @property
    def ids(self) -> UInt32[np.ndarray, " positions"]:
        """The case id at each position, including removed cases until the next compaction."""
        ids = [part.ids for part in self.parts]
        return ids[0] if len(ids) == 1 else np.concatenate(ids)

    @property
    def live_ids(self) -> UInt32[np.ndarray, " cases"]:
        """The ids of the live cases."""
        ids = [part.ids if part.live is None else part.ids[is_live(part)] for part in self.parts if len(part.ids)]
        return ids[0] if len(ids) == 1 else np.concatenate([*ids, np.zeros(0, np.uint32)])

    def search(
        self,
        code: bytes,
        k: int,
        *,
        allowed: Bool[np.ndarray, " positions"] | None = None,
        radius: int | None = None,
        is_one_per_group: bool = False,
    ) -> list[Neighbour]:
        """Return the k first cases by the total order, or all when there are fewer.

        Args:
            code: The query's packed code.
            k: The number of cases.
            allowed: Mask of the positions that may be returned; None: all.
            radius: Greatest distance in bits; None: no limit.
            is_one_per_group: Return only the best case of each group (patient).

        Raises:
            UserError: The code is not as wide as the gallery's.
        """
        return self.search_many([code], k, allowed=allowed, radius=radius, is_one_per_group=is_one_per_group)[0]

    def search_many(
        self,
        codes: Sequence[bytes],
        k: int,
        *,
        allowed: Bool[np.ndarray, " positions"] | None = None,
        radius: int | None = None,
        is_one_per_group: bool = False,
    ) -> list[list[Neighbour]]:
        """Run `search` for each code, in one pass over the gallery."""
        batch = self._batch(codes, allowed, self.bits if radius is None else min(radius, self.bits))
        if k < 1 or batch.radius < 0:
            raise ValueError(f"k is {k}, the radius {radius}")
        if self.token_key is not None and topk.IS_COMPILED and not is_one_per_group:
            return self._first(batch, k, self.token_key)
        answers: list[list[Neighbour]] = [[] for _ in codes]
        pending, wanted = np.arange(len(codes)), k
        while len(pending):
            met, sizes = self._candidates(batch, wanted)
            chosen, is_enough = met, np.ones(len(pending), bool)
            if is_one_per_group:
                chosen, is_enough = _best_of_groups(met, len(pending), k)
            is_answered = is_enough | (sizes.sum(axis=1) < wanted)  # or there are no more cases
            if not is_answered.all():
                chosen = chosen.where(is_answered[chosen.query])
            for query, found in self._rank(batch, chosen, sizes, k, is_one_per_group):
                answers[pending[query]].append(found)
            unanswered = np.flatnonzero(~is_answered)
            batch, pending, wanted = batch.of(unanswered), pending[unanswered], wanted * _MORE
        return answers

    def _batch(
        self,
        codes: Sequence[bytes],
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
        return _Batch(codes, words, allowed, radius)

    def _first(self, batch: "_Batch", k: int, key: bytes) -> list[list[Neighbour]]:
        """Rank with topk.c: return the k first cases of each query, or all. Search duplicate queries once."""
        asked = list(batch.codes)
        if not asked:
            return []
        positions = {one: position for position, one in enumerate(dict.fromkeys(asked))}
        if len(positions) < len(asked):
            once = self._first(batch.of(np.array([asked.index(one) for one in positions])), k, key)
            return [list(once[positions[one]]) for one in asked]
        scanned, sizes = self._scan(batch, k)
        per_part = [topk.first(one.near, one.cases, one.part.ids, asked, k, key) for one in scanned]
        rows = per_part[0] if len(per_part) == 1 else [sorted(chain(*each))[:k] for each in zip(*per_part, strict=True)]
        return [list(_neighbours(*each)) for each in zip(rows, sizes, strict=True)]

    def _scan(self, batch: "_Batch", k: int) -> tuple[list["_Scanned"], Int64[np.ndarray, "queries distances"]]:
        """Return each segment's codes no farther than the k-th nearest case, and the number of cases by distance."""
        reach = np.full(len(batch.codes), batch.radius, np.int32)
        sizes = np.zeros((len(batch.codes), scan.DISTANCES), np.int64)
        scanned: list[_Scanned] = []
        first = 0
        for part in _occupied(self.parts):
            allowed = None if batch.allowed is None else batch.allowed[first : first + len(part.ids)]
            cases = scan.Cases(part.starts, part.live, allowed)
            near = scan.nearest(part.codes, batch.words, k, reach, cases)
            scanned.append(_Scanned(part, cases, near))
            sizes, reach, first = sizes + near.cases, near.reach, first + len(part.ids)
        if len(scanned) > 1:
            sizes[np.arange(scan.DISTANCES) > _reach(sizes, reach, k)[:, None]] = 0
        return scanned, sizes

    def _candidates(self, batch: "_Batch", k: int) -> tuple[_Candidates, Int64[np.ndarray, "queries distances"]]:
        """Return all cases no farther than the k-th nearest one, and their number by distance."""
        scanned, sizes = self._scan(batch, k)
        parts = [_cases(*one) for one in scanned]
        return (parts[0] if len(parts) == 1 else _joined(parts, _reach(sizes, scanned[-1].near.reach, k))), sizes

    def _rank(
        self,
        batch: "_Batch",
        met: _Candidates,
        sizes: Int64[np.ndarray, "queries distances"],
        k: int,
        is_one_per_group: bool,
    ) -> Iterator[tuple[int, Neighbour]]:
        """Yield each query's neighbours in order, with the query's index."""
        if not len(met.ids):
            return iter(())
        tokens = self.tokens_of(met.ids)
        order = _in_order(batch.codes, met, tokens, k, is_one_per_group)
        return _found(met.where(order), tokens[order], sizes)


class _Batch(NamedTuple):
    """The queries of one pass over a gallery."""

    codes: Sequence[bytes]
    words: scan.Words
    allowed: Bool[np.ndarray, " positions"] | None
    radius: int

    def of(self, queries: Int64[np.ndarray, " queries"]) -> "_Batch":
        """Select these queries."""
        return self._replace(codes=[self.codes[query] for query in queries.tolist()], words=self.words[:, queries])


class _Scanned(NamedTuple):
    """A segment of the gallery, and the result of its scan."""

    part: Segment
    cases: scan.Cases
    near: scan.Near


def _reach(
    sizes: Int64[np.ndarray, "queries distances"], reach: Int32[np.ndarray, " queries"], k: int
) -> Int32[np.ndarray, " queries"]:
    """Return the distance within which k cases lie, or `reach` when fewer lie within it."""
    is_met = np.cumsum(sizes, axis=1) >= k
    nearer: Int32[np.ndarray, " queries"] = np.where(is_met[:, -1], is_met.argmax(axis=1), reach).astype(np.int32)
    return nearer


def _neighbours(first: Sequence[topk.RankedCase], sizes: Int64[np.ndarray, " distances"]) -> Iterator[Neighbour]:
    """Convert the ranked cases of a query."""
    for one in first:
        yield Neighbour(one.distance, one.id, one.token, int(sizes[one.distance]))


def _occupied(parts: Sequence[Segment]) -> Sequence[Segment]:
    return [part for part in parts if len(part.ids)] or parts[:1]


def _cases(part: Segment, cases: scan.Cases, near: scan.Near) -> _Candidates:
    """Return the cases at the codes that a scan found."""
    numbers, of_code = cases.at(near.positions)
    query = np.searchsorted(near.ends, of_code, "right")
    return _Candidates(query, near.distances[of_code].astype(np.int64), part.ids[numbers], part.groups[numbers])


def _joined(parts: Sequence[_Candidates], reach: Int32[np.ndarray, " queries"]) -> _Candidates:
    """Concatenate the cases of all segments that are within reach, those of the first query first."""
    met = _Candidates(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    met = met.where(met.distance <= reach[met.query])
    return met.where(np.argsort(met.query, kind="stable"))


def _last_distance(
    query: Int64[np.ndarray, " m"], distance: Int64[np.ndarray, " m"], queries: int, k: int
) -> tuple[Int64[np.ndarray, " queries"], Int64[np.ndarray, " queries"]]:
    """Return for each query its k-th distance (its last one, when there are fewer), and the number of its cases."""
    span = scan.DISTANCES
    ordered = np.sort(query * span + distance)
    counts = np.bincount(query, minlength=queries)
    last = np.cumsum(counts) - counts + np.minimum(counts, k) - 1
    return (ordered[last] % span if len(ordered) else last), counts


def _best_of_groups(met: _Candidates, queries: int, k: int) -> tuple[_Candidates, Bool[np.ndarray, " queries"]]:
    """Select a superset of the best cases of each query's k first groups. The mask says which queries have k groups."""
    met = met.where(np.lexsort((met.distance, met.groups, met.query)))
    is_first = np.ones(len(met.ids), bool)
    is_first[1:] = (met.query[1:] != met.query[:-1]) | (met.groups[1:] != met.groups[:-1])
    best = met.where(is_first)
    last, counts = _last_distance(best.query, best.distance, queries, k)
    is_best = met.distance == best.distance[np.cumsum(is_first) - 1]
    return met.where(is_best & (met.distance <= last[met.query])), counts >= k


def _in_order(
    codes: Sequence[bytes], met: _Candidates, tokens: UInt8[np.ndarray, "m 16"], k: int, is_one_per_group: bool
) -> Int64[np.ndarray, " chosen"]:
    """Return the indices of each query's k first cases by the total order; with groups, the best case of each."""
    keys = tie_keys_many(codes, met.query, tokens)
    group = met.query << 32 | met.groups if is_one_per_group else np.arange(len(keys))
    first = np.arange(len(keys))
    if len(keys) > _MORE * k * len(codes):  # most cases are tied: drop the bulk before the sort
        first = _least_of_groups(keys, group) if is_one_per_group else _least(keys, met, k)
    high, low = tokens[first].view(">u8").T
    first = first[np.lexsort((low, high, keys[first], met.distance[first], met.query[first]))]
    if is_one_per_group:
        first = first[np.sort(np.unique(group[first], return_index=True)[1])]
    query = met.query[first]
    number = np.arange(len(first)) - np.searchsorted(query, query)
    return first[number < k]


def _least(keys: UInt64[np.ndarray, " m"], met: _Candidates, k: int) -> Int64[np.ndarray, " chosen"]:
    """Drop the cases at each query's last distance whose tie keys are too high for the k first."""
    chosen, ends = [], np.flatnonzero(np.append(met.query[1:] != met.query[:-1], True)) + 1
    for start, end in zip(np.append(0, ends[:-1]).tolist(), ends.tolist(), strict=True):
        distance, key = met.distance[start:end], keys[start:end]
        is_last = distance == distance.max()
        wanted = k - int(np.count_nonzero(~is_last))
        if wanted < np.count_nonzero(is_last):
            is_last &= key > np.partition(key[is_last], wanted - 1)[wanted - 1]
            chosen.append(start + np.flatnonzero(~is_last))
        else:
            chosen.append(np.arange(start, end))
    return np.concatenate(chosen)


def _least_of_groups(keys: UInt64[np.ndarray, " m"], group: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " chosen"]:
    """Select the cases with their group's least tie key; all cases of a group are at one distance."""
    numbers, of_group = np.unique(group, return_inverse=True)
    least = np.full(len(numbers), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, of_group, keys)
    return np.flatnonzero(keys == least[of_group])


def _found(
    met: _Candidates,
    tokens: UInt8[np.ndarray, "m 16"],
    sizes: Int64[np.ndarray, "queries distances"],
) -> Iterator[tuple[int, Neighbour]]:
    """Yield each case as a neighbour, with its query's index."""
    names, ties = tokens.tobytes(), sizes[met.query, met.distance]
    rows = zip(*(one.tolist() for one in (met.query, met.distance, met.ids, ties)), strict=True)
    for at, (query, distance, case, tied) in zip(range(0, len(names), TOKEN_BYTES), rows, strict=True):
        yield query, Neighbour(distance, case, names[at : at + TOKEN_BYTES], tied)
