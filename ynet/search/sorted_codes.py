"""The cases of a gallery sorted by code: the distinct codes, and for each a posting list of its cases."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt32

from ynet.search import scan

Ids = UInt32[np.ndarray, " n"]


class Base(NamedTuple):
    """The cases of a gallery sorted by code: by the first word, then the second, and so on.

    The arrays may be views of read-only bytes. Each is aligned to the size of its numbers.
    """

    codes: scan.Words  # distinct
    starts: UInt32[np.ndarray, " distinct+1"] | None  # where each code's cases start; None: one case per code
    ids: UInt32[np.ndarray, " cases"]
    groups: UInt32[np.ndarray, " cases"]  # the patient

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(part.nbytes for part in self if part is not None)


def sort(codes: UInt8[np.ndarray, "n bytes"], ids: Ids, groups: Ids) -> Base:
    """Sort cases by code. Case i has row i of each array."""
    return sort_words(scan.words(codes), ids, groups)


def sort_words(words: scan.Words, ids: Ids, groups: Ids) -> Base:
    """Sort cases whose codes are rows of words."""
    order = in_order(words)
    return of_sorted(np.ascontiguousarray(words[:, order]), ids[order], groups[order])


def in_order(words: scan.Words) -> Int64[np.ndarray, " n"]:
    """Return the permutation that sorts codes that are rows of words."""
    order: Int64[np.ndarray, " n"] = np.argsort(words[0]) if len(words) == 1 else np.lexsort(words[::-1])
    return order


def of_sorted(words: scan.Words, ids: Ids, groups: Ids) -> Base:
    """Build a base from cases that are sorted already."""
    is_first = np.ones(len(ids), bool)
    is_first[1:] = (words[:, 1:] != words[:, :-1]).any(axis=0)
    if is_first.all():
        return Base(words, None, ids, groups)
    starts = np.append(np.flatnonzero(is_first), len(ids)).astype(np.uint32)
    return Base(np.ascontiguousarray(words[:, is_first]), starts, ids, groups)


def merge(base: Base, live: Bool[np.ndarray, " cases"], more: Base) -> Base:
    """Merge the live cases of `base` with all cases of `more`. Does not sort `base` again."""
    base = _only(base, live)
    sizes, at = _sizes(base), insertion_points(base.codes, more.codes)
    is_known = is_at(base.codes, more.codes, at)
    is_new = ~is_known
    starts = np.append(0, np.cumsum(sizes))[at + is_known]  # behind the cases with the same code
    sizes[at[is_known]] += _sizes(more)[is_known]
    sizes = np.insert(sizes, at[is_new], _sizes(more)[is_new])
    codes = np.insert(base.codes, at[is_new], more.codes[:, is_new], axis=1)
    positions = np.repeat(starts, _sizes(more))
    both = (base.ids, more.ids), (base.groups, more.groups)
    ids, groups = (np.insert(old, positions, new) for old, new in both)
    return Base(np.ascontiguousarray(codes), _starts(sizes), ids, groups)


def _only(base: Base, live: Bool[np.ndarray, " cases"]) -> Base:
    """Select the live cases."""
    if live.all():
        return base
    sizes = live_sizes(base, live)
    codes = np.ascontiguousarray(base.codes[:, sizes > 0])
    return Base(codes, _starts(sizes[sizes > 0]), base.ids[live], base.groups[live])


def _sizes(base: Base) -> Int64[np.ndarray, " distinct"]:
    """Return the number of cases of each code."""
    return np.ones(base.codes.shape[1], np.int64) if base.starts is None else np.diff(base.starts.astype(np.int64))


def live_sizes(base: Base, live: Bool[np.ndarray, " cases"]) -> Int64[np.ndarray, " distinct"]:
    """Return the number of live cases of each code."""
    if base.starts is None or not len(live):
        return live.astype(np.int64)
    return np.add.reduceat(live, base.starts[:-1].astype(np.int64), dtype=np.int64)


def _starts(sizes: Int64[np.ndarray, " distinct"]) -> UInt32[np.ndarray, " distinct+1"] | None:
    return None if (sizes == 1).all() else np.append(0, np.cumsum(sizes)).astype(np.uint32)


def insertion_points(codes: scan.Words, wanted: scan.Words) -> Int64[np.ndarray, " m"]:
    """Return for each wanted code how many of the ascending `codes` are less: `np.searchsorted` over several words."""
    if len(codes) == 1:
        return np.asarray(np.searchsorted(codes[0], wanted[0]))
    low = np.zeros(wanted.shape[1], np.int64)
    high = np.full(wanted.shape[1], codes.shape[1])
    while (low < high).any():
        middle = (low + high) // 2
        is_below = np.zeros(len(low), bool)
        for row, word in zip(codes[::-1], wanted[::-1], strict=True):  # the first word is the most significant
            there = row[np.minimum(middle, codes.shape[1] - 1)]
            is_below = (there < word) | ((there == word) & is_below)
        is_open = low < high
        low = np.where(is_open & is_below, middle + 1, low)
        high = np.where(is_open & ~is_below, middle, high)
    return low


def is_at(codes: scan.Words, wanted: scan.Words, positions: Int64[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """Return for each wanted code whether it is the one at its position."""
    if not codes.shape[1]:
        return np.zeros(len(positions), bool)
    is_same = (codes[:, np.minimum(positions, codes.shape[1] - 1)] == wanted).all(axis=0)
    return np.asarray(is_same & (positions < codes.shape[1]))


def distinct(base: Base, live: Bool[np.ndarray, " cases"], more: Base) -> int:
    """Count the distinct codes of the live cases of `base` and all cases of `more`."""
    sizes, positions = live_sizes(base, live), insertion_points(base.codes, more.codes)
    is_known = is_at(base.codes, more.codes, positions)
    is_known[is_known] = sizes[positions[is_known]] > 0
    return int(np.count_nonzero(sizes) + np.count_nonzero(~is_known))


def check(base: Base, bits: int) -> None:
    """Validate that the arrays hold codes of `bits` bits and fit together.

    The compiled scan stays within the memory of arrays that pass.

    Raises:
        ValueError: They do not.
    """
    codes, starts, ids, groups = base
    fits = (
        codes.ndim == 2
        and 8 * len(codes) * codes.itemsize == bits
        and codes.dtype == (np.uint32 if bits == 32 else np.uint64)
        and ids.dtype == groups.dtype == np.uint32
        and ids.shape == groups.shape == (len(ids),)
        and all(one.flags.aligned and one.flags.c_contiguous for one in base if one is not None)
    )
    if starts is None:
        fits = fits and codes.shape[1] == len(ids)
    else:
        fits = fits and starts.dtype == np.uint32 and starts.shape == (codes.shape[1] + 1,)
        fits = fits and starts[0] == 0 and starts[-1] == len(ids) and bool((starts[1:] > starts[:-1]).all())
    if not fits or bits not in (32, 64, 128, 256):
        shapes = [None if part is None else (part.dtype.str, part.shape) for part in base]
        raise ValueError(f"no gallery of {bits} bits: {shapes}")
