"""A gallery in memory that changes: cases in the order of their codes, and what was added and removed since.

One writer at a time; any thread may search meanwhile. A search sees the state before a change or after it: what
changes is copied, and put in place by one assignment.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt8

from ynet.search import scan
from ynet.search.snapshot import Found, Part, TokensOf, View, is_live
from ynet.search.sorted_codes import Base, Details, Ids, check, distinct, merge, sort_words

_FEW = 8  # ids that are looked for one by one


class Postings:
    """A gallery that changes: a base, behind it the cases added since, and which of both were removed."""

    def __init__(self, base: Base, bits: int, tokens_of: TokensOf, token_key: bytes | None = None) -> None:
        """`tokens_of` gives the tokens of case ids; it is asked for tied cases and those returned, from any thread.

        `token_key`: of AES-128, when tokens are case ids enciphered by it, zeros behind them. Raises ValueError when
        the arrays do not fit together.
        """
        check(base, bits)
        self._bits, self._tokens_of, self._token_key = bits, tokens_of, token_key
        self._room, self._last_id = base, 0
        self._start(base)

    def __len__(self) -> int:
        """How many cases can be found."""
        return sum(_live_count(part) for part in self.view().parts)

    def view(self) -> View:
        """The gallery as it is now, for a mask of what is allowed and the searches that use it."""
        return self._view

    @property
    def base(self) -> Base:
        """The cases as they were when last compacted, to be kept on disk."""
        return _base(self._view.parts[0])

    @property
    def live_ids(self) -> Ids:
        """The cases that can be found."""
        return self.view().live_ids

    @property
    def tail(self) -> int:
        """How many cases were added since the last compaction, those removed again among them."""
        return len(self.view().parts[1].ids)

    @property
    def distinct(self) -> int:
        """The number of different codes that can be found. Takes a pass over all cases when some were changed."""
        base, tail = self.view().parts
        return distinct(_base(base), is_live(base), _sorted(tail))

    @property
    def ids(self) -> Ids:
        """The case at each position now; see View, for a change may move them."""
        return self.view().ids

    def add(self, codes: UInt8[np.ndarray, "n bytes"], ids: Ids, details: Details | None, groups: Ids) -> None:
        """Add cases, each in place of the one that had its id before. Of one id given twice the later case counts.

        Raises ValueError when the arrays fit neither together nor to the gallery.
        """
        more = Base(scan.words(codes), None, ids, details, groups)
        check(more, self._bits)
        if getattr(details, "dtype", None) != getattr(self.base.details, "dtype", None):
            raise ValueError("all cases of a gallery have detail codes of one width, or none has one")
        last = np.unique(ids[::-1], return_index=True)[1]
        if len(last) < len(ids):
            more = _rows(more, np.sort(len(ids) - 1 - last))
        base, tail = self._without(more.ids)
        self._room = _append(self._room, len(tail.ids), more)
        self._put(base, _tail(self._room, len(tail.ids) + len(more.ids), tail.live))

    def remove(self, ids: Ids) -> None:
        """Cases with these ids are not found any more; ids that the gallery does not have are passed over."""
        base, tail = self._without(ids)
        self._put(base, tail)

    def compact(self) -> Base:
        """Make one base of all that can be found, and return it."""
        base, tail = self._view.parts
        if len(tail.ids) or base.live is not None:
            self._start(merge(_base(base), is_live(base), _sorted(tail)))
        return self.base

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
        """View.search of the gallery as it is now."""
        view = self.view()
        return view.search(code, k, detail=detail, allowed=allowed, radius=radius, is_one_per_group=is_one_per_group)

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
        """View.search_many of the gallery as it is now."""
        view = self.view()
        return view.search_many(codes, k, details, allowed=allowed, radius=radius, is_one_per_group=is_one_per_group)

    def _without(self, ids: Ids) -> tuple[Part, Part]:
        """The base and the cases added since, less those with these ids. New ids are mostly above the old ones."""
        base, tail = self._view.parts
        return _without(base, ids[ids <= self._last_id]), _without(tail, ids)

    def _start(self, base: Base) -> None:
        """Nothing added or removed yet."""
        self._last_id = base.ids.max(initial=0)
        self._room = _rows(base, slice(0))
        self._put(Part(*base, None), _tail(self._room, 0, None))

    def _put(self, base: Part, tail: Part) -> None:
        """From here on a search sees this."""
        self._view = View(self._bits, (base, tail), self._tokens_of, self._token_key)


def _base(part: Part) -> Base:
    return Base(*part[:-1])


def _rows(base: Base, rows: Int64[np.ndarray, " m"] | slice) -> Base:
    """Some cases of a base without posting lists."""
    return _each(base, lambda one: np.ascontiguousarray(one[..., rows]))


def _each(base: Base, change: Callable[[Shaped[np.ndarray, "*rows n"]], Shaped[np.ndarray, "*rows m"]]) -> Base:
    """A base without posting lists whose arrays are all changed alike."""
    details = None if base.details is None else change(base.details)
    return Base(change(base.codes), None, change(base.ids), details, change(base.groups))


def _append(room: Base, count: int, more: Base) -> Base:
    """Room whose first `count` cases are kept and followed by `more`: the same, or a larger one when it is full."""
    total = count + len(more.ids)
    if total > len(room.ids):
        free = total  # as much again as is in use: growing costs less than adding did
        room = _each(room, lambda one: _grown(one, count, total + free))
    for old, new in zip(room, more, strict=True):
        if old is not None:
            old[..., count:total] = new
    return room


def _grown(old: Shaped[np.ndarray, "*rows n"], count: int, size: int) -> Shaped[np.ndarray, "*rows size"]:
    new = np.empty((*old.shape[:-1], size), old.dtype)
    new[..., :count] = old[..., :count]
    return new


def _tail(room: Base, count: int, live: UInt8[np.ndarray, " bytes"] | None) -> Part:
    """The first `count` cases in that room, those behind the ones that `live` knows among them live."""
    if live is not None:
        live = np.concatenate([live, np.full(_bytes(count) - len(live), 0xFF, np.uint8)])
    return Part(*_each(room, lambda one: one[..., :count]), live)


def _bytes(cases: int) -> int:
    return -(-cases // 8)


def _live_count(part: Part) -> int:
    n = len(part.ids)
    if part.live is None:
        return n
    return int(np.bitwise_count(part.live).sum()) - (8 * len(part.live) - n)  # the bits behind the last case are set


def _sorted(tail: Part) -> Base:
    """The live cases of a tail in the order of their codes."""
    rows = _rows(_base(tail), np.flatnonzero(is_live(tail)))
    return sort_words(rows.codes, rows.ids, rows.details, rows.groups)


def _without(part: Part, ids: Ids) -> Part:
    """The part less the cases with these ids."""
    positions = _positions(part.ids, ids)
    if not len(positions):
        return part
    live = np.full(_bytes(len(part.ids)), 0xFF, np.uint8) if part.live is None else part.live.copy()
    np.bitwise_and.at(live, positions >> 3, ~(1 << (positions & 7)).astype(np.uint8))
    return part._replace(live=live)


def _positions(ids: Ids, wanted: Ids) -> Int64[np.ndarray, " m"]:
    """Where these ids stand."""
    if len(wanted) <= _FEW:
        return np.concatenate([np.flatnonzero(ids == one) for one in wanted] or [np.zeros(0, np.int64)])
    is_low = np.zeros(1 << 16, bool)  # by the lower half of an id: small enough for the processor's cache
    is_low[wanted & 0xFFFF] = True
    candidates = np.flatnonzero(is_low[ids & 0xFFFF])
    return candidates[np.isin(ids[candidates], wanted)]
