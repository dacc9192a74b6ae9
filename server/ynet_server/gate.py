"""The gate: which of a round's updates are kept out of it, whatever the strategy, and why."""

import hashlib
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ynet.weights import BLOCK_VALUES, Flat

LEAST_TO_COMPARE = 3
"""Of two updates nobody knows which one is the odd one."""

UNCHANGED = 1e-3
"""Of the median: what moves less has not been trained."""


class Judged(NamedTuple):
    """What the gate found of a round's updates, by site."""

    change: dict[str, float]  # how far each is from the weights that were sent, as a Euclidean norm
    refused: dict[str, str]  # why


class Gate:
    """The gate of one run. It remembers what every site has sent, by digests, as long as the process lives."""

    def __init__(self, factor: float) -> None:
        """`factor`: how many medians of the round's changes an update may be away from what was sent; 0: any number."""
        self._factor = factor
        self._seen: dict[bytes, int] = {}  # the digest of an update, or of what was sent, and its round

    def judge(self, number: int, updates: Iterable[tuple[str, Flat]], sent: Flat) -> Judged:
        """Which of round `number`'s updates, each with its site and looked at once, are refused.

        A round that is held again may bring the same once more: only what an earlier round had is a replay.
        """
        self._seen.setdefault(_digest(sent), number - 1)
        change, first = dict[str, float](), dict[str, int]()
        for site, flat in updates:
            change[site] = distance(flat, sent)
            first[site] = self._seen.setdefault(_digest(flat), number)
        median = float(np.median(list(change.values()))) if change else 0.0
        refused = dict[str, str]()
        for site in change if median else ():  # where most change nothing, nobody stands out by it
            if why := self._why(change[site], median, len(change)):
                refused[site] = why
            elif first[site] < number:
                refused[site] = f"it is not new: it is of round {first[site]}"
        return Judged(change, refused)

    def _why(self, change: float, median: float, updates: int) -> str | None:
        if change <= UNCHANGED * median:
            return "it changes nothing: it is what the site was sent"
        if self._factor and updates >= LEAST_TO_COMPARE and change > self._factor * median:
            return (
                f"it changes {change / median:.3g} times as much as the round's median,"
                f" and the plan's norm_gate is {self._factor:g}"
            )
        return None


def distance(one: Flat, other: Flat) -> float:
    """The Euclidean distance of two vectors, in double precision, block by block."""
    squares = 0.0
    for start in range(0, one.size, BLOCK_VALUES):
        part = slice(start, start + BLOCK_VALUES)
        difference = one[part].astype(np.float64) - other[part]
        squares += float(difference @ difference)
    return math.sqrt(squares)


def _digest(flat: Flat) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(flat).data).digest()
