"""The gate: which of a round's updates are kept out of it, whatever the strategy, and why."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ynet.federation.records import ARRAYS, flat_weights
from ynet.weights import BLOCK_VALUES, Flat
from ynet_server.rounds.conversation import Conversation, Reply

LEAST_TO_COMPARE = 3
"""Of two updates nobody knows which one is the odd one."""

UNCHANGED = 1e-3
"""Of the median: what moves less has not been trained."""


class Judged(NamedTuple):
    """What the gate found of a round's updates, by node."""

    change: dict[int, float]  # how far each is from the weights that it began with, as a Euclidean norm
    refused: dict[int, str]  # why


class Gate:
    """The gate of one run. It remembers what every site has sent, by digests."""

    def __init__(self, factor: float, seen: Mapping[bytes, int] = MappingProxyType({})) -> None:
        """`factor`: how many medians of the round's changes an update may be away from what was sent; 0: any number.

        `seen`: what an earlier process's gate remembered.
        """
        self._factor = factor
        self._seen = dict(seen)  # the digest of an update, or of what was sent, and its round
        self._news: dict[bytes, int] = {}

    def news(self) -> dict[bytes, int]:
        """What it remembers since it was last asked: digests, and the rounds of which they are."""
        news, self._news = self._news, {}
        return news

    def admit(
        self,
        number: int,
        replies: Sequence[Reply],
        sent: Flat,
        talk: Conversation,
        late: Sequence[tuple[Reply, Flat]] = (),
    ) -> Judged:
        """As `judge`; the run is told of what is refused.

        `late`: replies of the round before, with the weights that they began with; each stands under `late_key`.
        """
        keyed = [*((late_key(reply.node), reply) for reply, _ in late), *((reply.node, reply) for reply in replies)]
        updates = ((key, flat_weights(reply.content.array_records[ARRAYS])) for key, reply in keyed)
        judged = self.judge(number, updates, sent, {late_key(reply.node): begun for reply, begun in late})
        for key, why in judged.refused.items():
            talk.refuse(number, late_key(key) if key < 0 else key, why)
        return judged

    def judge(
        self,
        number: int,
        updates: Iterable[tuple[int, Flat]],
        sent: Flat,
        begun: Mapping[int, Flat] = MappingProxyType({}),
    ) -> Judged:
        """Which of round `number`'s updates, each with its node and looked at once, are refused.

        `begun`: of updates that are of the round before, by their keys, the weights that they were trained from. They
        come first: a site that sends one of them again, as its update of this round, has sent nothing new.

        A round that is held again may bring the same once more: only what an earlier round had is a replay.
        """
        self._see(sent, number - 1)
        change, first = dict[int, float](), dict[int, int]()
        for node, flat in updates:
            change[node] = distance(flat, begun.get(node, sent))
            first[node] = self._see(flat, number - (node in begun))
        median = float(np.median(list(change.values()))) if change else 0.0
        refused = dict[int, str]()
        for node in change if median else ():  # where most change nothing, nobody stands out by it
            if why := self._why(change[node], median, len(change)):
                refused[node] = why
            elif first[node] < number - (node in begun):
                refused[node] = f"it is not new: it is of round {first[node]}"
        return Judged(change, refused)

    def _see(self, flat: Flat, number: int) -> int:
        """The round in which this was first seen."""
        digest = _digest(flat)
        if digest not in self._seen:
            self._seen[digest] = self._news[digest] = number
        return self._seen[digest]

    def _why(self, change: float, median: float, updates: int) -> str | None:
        if change <= UNCHANGED * median:
            return "it changes nothing: it is what the site was sent"
        if self._factor and updates >= LEAST_TO_COMPARE and change > self._factor * median:
            return (
                f"it changes {change / median:.3g} times as much as the round's median,"
                f" and the plan's update_norm_limit is {self._factor:g}"
            )
        return None


def late_key(node: int) -> int:
    """Under what a node's late update stands beside its update of the round: below 0, and its own inverse."""
    return ~node


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
