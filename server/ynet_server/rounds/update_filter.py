"""The update filter: refuses updates that are too far from the weights sent, unchanged, or replayed."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ynet.federation.records import ARRAYS, flat_weights
from ynet.weights import BLOCK_VALUES, Flat
from ynet_server.rounds.conversation import Conversation, SiteReply

LEAST_TO_COMPARE = 3
"""Of two updates it is unknown which one is the outlier."""

UNCHANGED = 1e-3
"""As a share of the median change: an update that changes less was not trained."""


class Judgement(NamedTuple):
    """The filter's result for a round's updates, by node."""

    change: dict[int, float]  # Euclidean distance of each from the weights that it began with
    refused: dict[int, str]  # why


class UpdateFilter:
    """The filter of one run. It remembers the digests of what every site has sent."""

    def __init__(self, factor: float, seen: Mapping[bytes, int] = MappingProxyType({})) -> None:
        """`factor`: largest allowed distance from the weights sent, in medians of the round's changes; 0 allows any.

        `seen` holds the digests that an earlier process stored.
        """
        self._factor = factor
        self._seen = dict(seen)  # the digest of an update, or of what was sent, and its round
        self._news: dict[bytes, int] = {}

    def news(self) -> dict[bytes, int]:
        """The digests that are new since the last call, with their rounds."""
        news, self._news = self._news, {}
        return news

    def admit(
        self,
        number: int,
        replies: Sequence[SiteReply],
        sent: Flat,
        talk: Conversation,
        stale: Sequence[tuple[SiteReply, Flat]] = (),
    ) -> Judgement:
        """As `judge`, and record each refusal in the run's events.

        `stale`: replies of the round before, with their first weights; `stale_key` gives their keys in the result.
        """
        keyed = [*((stale_key(reply.node), reply) for reply, _ in stale), *((reply.node, reply) for reply in replies)]
        updates = ((key, flat_weights(reply.content.array_records[ARRAYS])) for key, reply in keyed)
        judged = self.judge(number, updates, sent, {stale_key(reply.node): begun for reply, begun in stale})
        for key, why in judged.refused.items():
            talk.refuse(number, stale_key(key) if key < 0 else key, why)
        return judged

    def judge(
        self,
        number: int,
        updates: Iterable[tuple[int, Flat]],
        sent: Flat,
        begun: Mapping[int, Flat] = MappingProxyType({}),
    ) -> Judgement:
        """Decide which of round `number`'s updates, each with its node, are refused. Reads each update once.

        `begun` holds the weights from which updates of the round before were trained, by their keys. These updates come
        first, so that a site which sends one of them again as its update of this round has sent nothing new.

        A repeated round may bring the same update again: only an update of an earlier round is a replay.
        """
        self._see(sent, number - 1)
        change, first = dict[int, float](), dict[int, int]()
        for node, flat in updates:
            change[node] = distance(flat, begun.get(node, sent))
            first[node] = self._see(flat, number - (node in begun))
        median = float(np.median(list(change.values()))) if change else 0.0
        refused = dict[int, str]()
        for node in change if median else ():  # when most updates change nothing, none is an outlier
            if why := self._why(change[node], median, len(change)):
                refused[node] = why
            elif first[node] < number - (node in begun):
                refused[node] = f"it is not new: it is of round {first[node]}"
        return Judgement(change, refused)

    def _see(self, flat: Flat, number: int) -> int:
        """The round in which these values were first seen."""
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


def stale_key(node: int) -> int:
    """The key of a node's late update, to tell it from its update of the round: negative, and its own inverse."""
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
