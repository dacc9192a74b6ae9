"""Gaussian noise on a fixed grid, drawn from the operating system's randomness.

Floating-point Gaussian noise leaks: some low bits of the sum can only come from one of two data sets (Mironov, CCS
2012). So noise is an integer number of steps, with 2^34 steps per standard deviation: a normal number, rounded. Added
to a sum on the same grid, it is the rounded answer of the Gaussian mechanism. Rounding is post-processing, so the
accountant's epsilon holds. (Canonne, Kamath, Steinke, NeurIPS 2020, prove the same for the discrete Gaussian, which on
this grid equals ours to 2^-60 of each probability.)

Each step is drawn with its probability up to a relative error of 2^-48; the error is larger only beyond 9 deviations,
where 2^-62 of all draws lie. Over n values, that adds at most n * 2^-47 to epsilon and n * 2^-61 to delta: for a
million weights in a thousand steps less than 1e-5 and 1e-9.
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
STEPS = 1 << STEPS_BITS  # steps of the grid per standard deviation
CELL_BITS = 28
CELL = 1 << CELL_BITS  # steps per cell; a draw selects a cell, then a step within the cell
REACH = 12  # standard deviations on either side: 2^-108 of all draws lie beyond
FIRST = -REACH * (STEPS // CELL)  # number of the first cell
PRECISION_BITS = 192  # of the table's computation
CHUNK = 1 << 16  # values per step, so that they stay in the processor's cache


class _Table(NamedTuple):
    """Each cell's start in the cumulative distribution: the upper 64 bits, and all 128."""

    upper: UInt64[np.ndarray, " cells"]
    whole: list[int]
    guide: Int64[np.ndarray, " 65536"]  # cells that begin at or before the first draw with these upper 16 bits


class Randomness:
    """A generator that nobody can repeat: AES-256 in counter mode with a fresh key from the operating system."""

    def __init__(self) -> None:
        self._stream = Cipher(algorithms.AES256(secrets.token_bytes(32)), modes.CTR(bytes(16))).encryptor()

    def words(self, count: int) -> UInt64[np.ndarray, " count"]:
        """Return uniform 64-bit numbers."""
        return np.frombuffer(self._stream.update(bytes(8 * count)), np.uint64)

    def normal(self, count: int) -> Int64[Tensor, " count"]:
        """Return normal numbers of standard deviation 1, in steps of 1 / STEPS."""
        drawn = np.empty(count, np.int64)
        for start in range(0, count, CHUNK):
            chunk = drawn[start : start + CHUNK]
            chunk[:] = self._cells(len(chunk)) * CELL
            within, is_accepted = self._within(chunk)
            np.add(chunk, within, out=chunk, where=is_accepted)
            waiting = np.flatnonzero(~is_accepted)
            while len(waiting):
                within, is_accepted = self._within(chunk[waiting])
                chunk[waiting[is_accepted]] += within[is_accepted]
                waiting = waiting[~is_accepted]
        return torch.from_numpy(drawn)

    def _cells(self, count: int) -> Int64[np.ndarray, " count"]:
        """Draw cells with their probabilities."""
        table, words = _table(), self.words(count)
        after = table.guide[words >> np.uint64(48)]
        further = np.flatnonzero(table.upper[np.minimum(after, len(table.upper) - 1)] <= words)
        after[further] = np.searchsorted(table.upper, words[further], side="right")
        # Equal upper halves need the lower ones: about once in 2^53 draws.
        for position in np.flatnonzero(table.upper[after - 1] == words).tolist():
            drawn = int(words[position]) << 64 | int(self.words(1)[0])
            after[position] = bisect_right(table.whole, drawn)
        cells: Int64[np.ndarray, " count"] = after - 1 + FIRST
        return cells

    def _within(self, start: Int64[np.ndarray, " count"]) -> tuple[np.ndarray, np.ndarray]:
        """Draw uniform steps within cells and accept each with its density relative to the cell's largest."""
        words = self.words(2 * len(start)).reshape(2, -1)
        within = (words[0] >> np.uint64(64 - CELL_BITS)).astype(np.int64)
        at, densest = start + within, np.where(start >= 0, start, start + CELL)
        falls = (at - densest) / STEPS * ((at + densest) / STEPS) / 2
        return within, (words[1] >> np.uint64(11)) * 2.0**-53 < np.exp(-falls)


def on_grid(values: Float64[Tensor, "..."], deviation: float) -> Int64[Tensor, "..."]:
    """Convert values to steps of the grid for noise of this deviation, rounded to the nearest."""
    return (values * (STEPS / deviation)).round().long()


def off_grid(steps: Int64[Tensor, "..."], deviation: float) -> Float64[Tensor, "..."]:
    """Convert steps of the grid to values."""
    return steps.double() * (deviation / STEPS)


@cache
def _table() -> _Table:
    """Tabulate the normal distribution half a step before each cell: values beyond that are rounded into the cell."""
    with mpmath.workprec(PRECISION_BITS):
        starts = [(mpmath.mpf(cell) * CELL - mpmath.mpf(0.5)) / STEPS for cell in range(FIRST, -FIRST)]
        whole = [0, *(int(mpmath.floor(mpmath.ncdf(start) * 2**128)) for start in starts[1:])]
    upper = np.array([share >> 64 for share in whole], np.uint64)
    return _Table(upper, whole, np.searchsorted(upper, np.arange(1 << 16, dtype=np.uint64) << np.uint64(48), "right"))
