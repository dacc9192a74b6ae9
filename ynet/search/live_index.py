"""The index of a gallery in memory: cases sorted by code, plus those added and removed since the last compaction.

There is one writer at a time; any thread may search during a change. A change copies what it modifies and publishes
the new state by one assignment, so a search sees the state before the change or after it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt8

from ynet.search import scan
from ynet.search.snapshot import Neighbour, Segment, TokensOf, View, is_live
from ynet.search.sorted_codes import Base, Ids, check, distinct, merge, sort_words

_FEW = 8  # ids that are searched for one by one


class LiveIndex:
    """A mutable index: a sorted base, a tail of the cases added since, and a bit per case that says if it is live."""

    def __init__(self, base: Base, bits: int, tokens_of: TokensOf, token_key: bytes | None = None) -> None:
        """Build the index on a base.

        Args:
            base: The cases.
            bits: Width of a code.
            tokens_of: Returns the tokens of case ids. A search calls it, in its own thread, for tied and returned
                cases only.
            token_key: AES-128 key, when a token is the zero-padded case id encrypted with it. Makes a search faster.

        Raises:
            ValueError: The arrays do not fit together.
        """
        check(base, bits)
        self._bits, self._tokens_of, self._token_key = bits, tokens_of, token_key
        self._buffer, self._last_id = base, 0
        self._start(base)

    def __len__(self) -> int:
        """Return the number of live cases."""
        return sum(_live_count(part) for part in self.view().parts)

    def view(self) -> View:
        """Return the current state. Use one view for a mask of allowed positions and the searches with that mask."""
        return self._view

    @property
    def base(self) -> Base:
        """The cases as of the last compaction, in the form that is stored on disk."""
        return _base(self._view.parts[0])

    @property
    def live_ids(self) -> Ids:
        """The ids of the live cases."""
        return self.view().live_ids

    @property
    def tail(self) -> int:
        """The number of cases added since the last compaction, including those that were removed again."""
        return len(self.view().parts[1].ids)

    @property
    def distinct(self) -> int:
        """The number of distinct codes of the live cases. After changes this takes a pass over all cases."""
        base, tail = self.view().parts
        return distinct(_base(base), is_live(base), _sorted(tail))

    @property
    def ids(self) -> Ids:
        """The case id at each position of the current view. A change may move positions."""
        return self.view().ids

    def add(self, codes: UInt8[np.ndarray, "n bytes"], ids: Ids, groups: Ids) -> None:
        """Add cases. A case replaces the one with the same id; of duplicate ids the last one is kept.

        Raises:
            ValueError: The arrays do not fit together, or not to the gallery.
        """
        more = Base(scan.words(codes), None, ids, groups)
        check(more, self._bits)
        last = np.unique(ids[::-1], return_index=True)[1]
        if len(last) < len(ids):
            more = _rows(more, np.sort(len(ids) - 1 - last))
        base, tail = self._without(more.ids)
        self._buffer = _append(self._buffer, len(tail.ids), more)
        self._publish(base, _tail(self._buffer, len(tail.ids) + len(more.ids), tail.live))

    def remove(self, ids: Ids) -> None:
        """Remove the cases with these ids; ignore unknown ids."""
        base, tail = self._without(ids)
        self._publish(base, tail)

    def compact(self) -> Base:
        """Merge all live cases into a new base, and return it."""
        base, tail = self._view.parts
        if len(tail.ids) or base.live is not None:
            self._start(merge(_base(base), is_live(base), _sorted(tail)))
        return self.base

    def search(
        self,
        code: bytes,
        k: int,
        *,
        allowed: Bool[np.ndarray, " positions"] | None = None,
        radius: int | None = None,
        is_one_per_group: bool = False,
    ) -> list[Neighbour]:
        """Call View.search on the current view."""
        view = self.view()
        return view.search(code, k, allowed=allowed, radius=radius, is_one_per_group=is_one_per_group)

    def search_many(
        self,
        codes: Sequence[bytes],
        k: int,
        *,
        allowed: Bool[np.ndarray, " positions"] | None = None,
        radius: int | None = None,
        is_one_per_group: bool = False,
    ) -> list[list[Neighbour]]:
        """Call View.search_many on the current view."""
        view = self.view()
        return view.search_many(codes, k, allowed=allowed, radius=radius, is_one_per_group=is_one_per_group)

    def _without(self, ids: Ids) -> tuple[Segment, Segment]:
        """Return base and tail without these ids."""
        base, tail = self._view.parts
        return _without(base, ids[ids <= self._last_id]), _without(tail, ids)  # most new ids are above the base's

    def _start(self, base: Base) -> None:
        """Publish a base with an empty tail."""
        self._last_id = base.ids.max(initial=0)
        self._buffer = _rows(base, slice(0))
        self._publish(Segment(*base, None), _tail(self._buffer, 0, None))

    def _publish(self, base: Segment, tail: Segment) -> None:
        """Make this state the one that searches use."""
        self._view = View(self._bits, (base, tail), self._tokens_of, self._token_key)


def _base(part: Segment) -> Base:
    return Base(*part[:-1])


def _rows(base: Base, rows: Int64[np.ndarray, " m"] | slice) -> Base:
    """Select cases of a base without posting lists."""
    return _each(base, lambda one: np.ascontiguousarray(one[..., rows]))


def _each(base: Base, change: Callable[[Shaped[np.ndarray, "*rows n"]], Shaped[np.ndarray, "*rows m"]]) -> Base:
    """Apply `change` to every array of a base without posting lists."""
    return Base(change(base.codes), None, change(base.ids), change(base.groups))


def _append(buffer: Base, count: int, more: Base) -> Base:
    """Write `more` behind the buffer's first `count` cases; return the buffer, or a larger copy when it was full."""
    total = count + len(more.ids)
    if total > len(buffer.ids):
        buffer = _each(buffer, lambda one: _grown(one, count, 2 * total))  # doubling keeps appends amortised
    for old, new in zip(buffer, more, strict=True):
        if old is not None:
            old[..., count:total] = new
    return buffer


def _grown(old: Shaped[np.ndarray, "*rows n"], count: int, size: int) -> Shaped[np.ndarray, "*rows size"]:
    new = np.empty((*old.shape[:-1], size), old.dtype)
    new[..., :count] = old[..., :count]
    return new


def _tail(buffer: Base, count: int, live: UInt8[np.ndarray, " bytes"] | None) -> Segment:
    """Return the buffer's first `count` cases. Cases beyond the bits of `live` are live."""
    if live is not None:
        live = np.concatenate([live, np.full(_bytes(count) - len(live), 0xFF, np.uint8)])
    return Segment(*_each(buffer, lambda one: one[..., :count]), live)


def _bytes(cases: int) -> int:
    return -(-cases // 8)


def _live_count(part: Segment) -> int:
    n = len(part.ids)
    if part.live is None:
        return n
    return int(np.bitwise_count(part.live).sum()) - (8 * len(part.live) - n)  # the padding bits are set


def _sorted(tail: Segment) -> Base:
    """Sort the live cases of a tail by code."""
    rows = _rows(_base(tail), np.flatnonzero(is_live(tail)))
    return sort_words(rows.codes, rows.ids, rows.groups)


def _without(part: Segment, ids: Ids) -> Segment:
    """Return the segment with the live bits of these ids cleared."""
    positions = _positions(part.ids, ids)
    if not len(positions):
        return part
    live = np.full(_bytes(len(part.ids)), 0xFF, np.uint8) if part.live is None else part.live.copy()
    np.bitwise_and.at(live, positions >> 3, ~(1 << (positions & 7)).astype(np.uint8))
    return part._replace(live=live)


def _positions(ids: Ids, wanted: Ids) -> Int64[np.ndarray, " m"]:
    """Return the positions of the wanted ids."""
    if len(wanted) <= _FEW:
        return np.concatenate([np.flatnonzero(ids == one) for one in wanted] or [np.zeros(0, np.int64)])
    is_low = np.zeros(1 << 16, bool)  # prefilter by the lower 16 bits: the table fits the processor's cache
    is_low[wanted & 0xFFFF] = True
    candidates = np.flatnonzero(is_low[ids & 0xFFFF])
    return candidates[np.isin(ids[candidates], wanted)]
