"""The sealed queries under way through the hub: which sites have still to answer, and the limits of each site."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet_server.hub.connections import Connections

K = TypeVar("K")
PART_BYTES = 1 << 20
"""Answers are passed on when there is this much of them, when all have arrived, or at the deadline."""

MAX_HELD_BYTES = 64 << 20
"""Answers that may wait here for one site. Beyond, the answering sites are reported to it as busy."""


@dataclass
class _Question:
    asker: str
    waiting: set[str] = field(default_factory=set)
    parts: list[pb.Answers] = field(default_factory=lambda: [pb.Answers()])
    last_bytes: int = 0  # of answers in the last part
    held_bytes: int = 0  # of those in all parts
    is_news: asyncio.Event = field(default_factory=asyncio.Event)

    def answered(self, site: str, body: bytes) -> None:
        if self.last_bytes >= PART_BYTES:
            self.parts.append(pb.Answers())
            self.last_bytes = 0
        self.parts[-1].answers.add(site=site, body=body)
        self.last_bytes += len(body)
        self.held_bytes += len(body)

    def could_not_read(self, site: str, card: bytes | None) -> None:
        self.parts[-1].unreadable.append(site)
        if card:
            self.parts[-1].cards.add(site=site, card=card)
        self.is_news.set()

    def take(self) -> list[pb.Answers]:
        taken, self.parts, self.last_bytes, self.held_bytes = self.parts, [pb.Answers()], 0, 0
        return [part for part in taken if part.ByteSize()]

    async def news(self, until: float) -> bool:
        """Wait for something to pass on. Returns False at the deadline."""
        try:
            async with asyncio.timeout_at(until):
                await self.is_news.wait()
        except TimeoutError:
            return False
        self.is_news.clear()
        return True


class Relay:
    """Passes queries on and their answers back. It has no key to read them."""

    def __init__(self, connections: Connections, enrolled: Callable[[], Sequence[str]]) -> None:
        """`enrolled`: the names of all sites, connected or not."""
        self._connections, self._enrolled = connections, enrolled
        self._questions: dict[str, _Question] = {}
        self._open_at: Counter[str] = Counter()  # queries that a site has still to answer
        self._open_of: Counter[tuple[str, str]] = Counter()  # of one site at another

    def is_open(self, query_id: str) -> bool:
        """Whether the asking site still waits for answers."""
        return query_id in self._questions

    async def ask(self, asker: str, question: pb.Question) -> AsyncIterator[pb.Answers]:
        """Pass each site its query, and yield the answers; each site without an answer is reported with the reason."""
        until = asyncio.get_running_loop().time() + min(question.deadline_ms / 1000, protocol.MAX_QUERY_S)
        query_id, asked = secrets.token_hex(16), _Question(asker)
        self._questions[query_id] = asked
        try:
            self._pass_on(query_id, asked, question)
            while asked.waiting and await asked.news(until):
                for part in asked.take():
                    yield part
            asked.parts[-1].late.extend(sorted(asked.waiting))
            for part in asked.take():
                yield part
        finally:
            del self._questions[query_id]
            self._call_off(query_id, asked)

    def answered(self, site: str, answer: pb.Answer) -> None:
        """Take a site's answer, if it is awaited and not too large."""
        asked = self._questions.get(answer.query_id)
        limit = protocol.MAX_ANSWER_BYTES + protocol.MAX_ENVELOPE_BYTES
        if asked is None or site not in asked.waiting or len(answer.body) > limit:
            return
        self._close(asked, site)
        if answer.refusal == pb.BUSY or self._held_for(asked.asker) + len(answer.body) > MAX_HELD_BYTES:
            asked.parts[-1].busy.append(site)
        elif answer.refusal == pb.NONE:
            asked.answered(site, answer.body)
        else:
            asked.could_not_read(site, self._connections.card(site))
        if not asked.waiting or asked.last_bytes >= PART_BYTES:
            asked.is_news.set()

    def lost(self, site: str) -> None:
        """Report a site whose connection has ended as missing."""
        for asked in self._questions.values():
            if site in asked.waiting:
                self._close(asked, site)
                asked.parts[-1].missing.append(site)
                if not asked.waiting:
                    asked.is_news.set()

    def _pass_on(self, query_id: str, asked: _Question, question: pb.Question) -> None:
        bodies = {one.site: one.body for one in question.queries}
        for name in dict.fromkeys(question.sites or self._enrolled()):
            card, body = self._connections.card(name), bodies.get(name)
            if name == asked.asker:
                continue
            if card is None or (body is None and not card):
                asked.parts[-1].missing.append(name)
            elif body is None:
                asked.could_not_read(name, card)
            elif self._is_busy(asked.asker, name):
                asked.parts[-1].busy.append(name)
            else:
                self._send(name, asked, pb.Query(id=query_id, from_site=asked.asker, body=body))

    def _send(self, site: str, asked: _Question, query: pb.Query) -> None:
        if self._connections.send_query(site, pb.ToSite(query=query)):
            asked.waiting.add(site)
            self._open_at[site] += 1
            self._open_of[asked.asker, site] += 1
        else:
            asked.parts[-1].busy.append(site)

    def _held_for(self, asker: str) -> int:
        return sum(asked.held_bytes for asked in self._questions.values() if asked.asker == asker)

    def _is_busy(self, asker: str, site: str) -> bool:
        all_taken = self._open_at[site] >= protocol.MAX_OPEN_QUERIES
        return all_taken or self._open_of[asker, site] >= protocol.MAX_OPEN_OF_ONE

    def _call_off(self, query_id: str, asked: _Question) -> None:
        """Cancel the query at the sites that have not answered."""
        for site in list(asked.waiting):
            self._close(asked, site)
            self._connections.send_query(site, pb.ToSite(cancel=pb.Cancel(query_id=query_id)))

    def _close(self, asked: _Question, site: str) -> None:
        asked.waiting.discard(site)
        _one_less(self._open_at, site)
        _one_less(self._open_of, (asked.asker, site))


def _one_less(counter: Counter[K], key: K) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]  # sites come and go
