"""Gaussian noise in whole steps of a fixed grid, drawn from the operating system's randomness.

A normal number in floating point betrays what it was added to: of the sum's low bits, some values can only come from
one of two data sets (Mironov, CCS 2012). So noise is a whole number of steps, 2^34 of them a standard deviation: what a
normal number is rounded to. Added to a sum that lies on the same grid, it is the Gaussian mechanism's answer, rounded,
and rounding is post-processing: the accountant's epsilon of the Gaussian mechanism holds. (Canonne, Kamath, Steinke,
NeurIPS 2020, prove the same of the discrete Gaussian, which on so fine a grid is the same to 2^-60 of each value.)

Each step is drawn with its probability, to 2^-48 of it; only beyond 9 deviations, where 2^-62 of all draws lie, it is
less exact. Over n values drawn, that is at most n * 2^-47 more epsilon and n * 2^-61 more delta: for a million weights
in a thousand steps less than 1e-5 and 1e-9.
"""

import secrets
from bisect import bisect_right
from functools import cache
from typing import NamedTuple

import mpmath
import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from jaxtyping import Float64, Int64, UInt64
from torch import Tensor

STEPS_BITS = 34
STEPS = 1 << STEPS_BITS  # of the grid in a standard deviation
CELL_BITS = 28
CELL = 1 << CELL_BITS  # steps of a cell; a value is drawn by its cell, then by its place in the cell
REACH = 12  # standard deviations on either side: 2^-108 of a normal number's draws lie beyond
FIRST = -REACH * (STEPS // CELL)  # number of the first cell
PRECISION_BITS = 192  # of the table's computation
PIECE = 1 << 16  # values that are drawn at a time: they stay in the processor's cache


class _Table(NamedTuple):
    """Where each cell begins, as a share of all draws: the upper 64 bits, and all 128."""

    upper: UInt64[np.ndarray, " cells"]
    whole: list[int]
    guide: Int64[np.ndarray, " 65536"]  # cells that begin at or before the first draw with these upper 16 bits


class Randomness:
    """Draws that nobody can repeat: AES-256 in counter mode under a fresh key of the operating system's."""

    def __init__(self) -> None:
        self._stream = Cipher(algorithms.AES256(secrets.token_bytes(32)), modes.CTR(bytes(16))).encryptor()

    def words(self, count: int) -> UInt64[np.ndarray, " count"]:
        """Uniform 64-bit numbers."""
        return np.frombuffer(self._stream.update(bytes(8 * count)), np.uint64)

    def normal(self, count: int) -> Int64[Tensor, " count"]:
        """Normal numbers of standard deviation 1, in steps of 1 / STEPS."""
        drawn = np.empty(count, np.int64)
        for start in range(0, count, PIECE):
            piece = drawn[start : start + PIECE]
            piece[:] = self._cells(len(piece)) * CELL
            within, is_taken = self._within(piece)
            np.add(piece, within, out=piece, where=is_taken)
            waiting = np.flatnonzero(~is_taken)
            while len(waiting):
                within, is_taken = self._within(piece[waiting])
                piece[waiting[is_taken]] += within[is_taken]
                waiting = waiting[~is_taken]
        return torch.from_numpy(drawn)

    def _cells(self, count: int) -> Int64[np.ndarray, " count"]:
        """Numbers of cells, each drawn with its share."""
        table, words = _table(), self.words(count)
        after = table.guide[words >> np.uint64(48)]
        further = np.flatnonzero(table.upper[np.minimum(after, len(table.upper) - 1)] <= words)
        after[further] = np.searchsorted(table.upper, words[further], side="right")
        # Where the upper halves are equal, the lower ones decide: once in 2^53 draws.
        for position in np.flatnonzero(table.upper[after - 1] == words).tolist():
            drawn = int(words[position]) << 64 | int(self.words(1)[0])
            after[position] = bisect_right(table.whole, drawn)
        cells: Int64[np.ndarray, " count"] = after - 1 + FIRST
        return cells

    def _within(self, start: Int64[np.ndarray, " count"]) -> tuple[np.ndarray, np.ndarray]:
        """Steps from a cell's start, all alike, and which of them are taken: with the density's share of its most."""
        words = self.words(2 * len(start)).reshape(2, -1)
        within = (words[0] >> np.uint64(64 - CELL_BITS)).astype(np.int64)
        at, densest = start + within, np.where(start >= 0, start, start + CELL)
        falls = (at - densest) / STEPS * ((at + densest) / STEPS) / 2
        return within, (words[1] >> np.uint64(11)) * 2.0**-53 < np.exp(-falls)


def on_grid(values: Float64[Tensor, "..."], deviation: float) -> Int64[Tensor, "..."]:
    """Values in steps of the grid of noise of this deviation, rounded to the nearest."""
    return (values * (STEPS / deviation)).round().long()


def off_grid(steps: Int64[Tensor, "..."], deviation: float) -> Float64[Tensor, "..."]:
    """What so many steps of the grid are."""
    return steps.double() * (deviation / STEPS)


@cache
def _table() -> _Table:
    """The normal distribution at half a step before each cell: where what is rounded into the cell begins."""
    with mpmath.workprec(PRECISION_BITS):
        starts = [(mpmath.mpf(cell) * CELL - mpmath.mpf(0.5)) / STEPS for cell in range(FIRST, -FIRST)]
        whole = [0, *(int(mpmath.floor(mpmath.ncdf(start) * 2**128)) for start in starts[1:])]
    upper = np.array([share >> 64 for share in whole], np.uint64)
    return _Table(upper, whole, np.searchsorted(upper, np.arange(1 << 16, dtype=np.uint64) << np.uint64(48), "right"))
