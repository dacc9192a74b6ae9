"""The queries of other sites that arrive over a connection: opened, answered or refused."""

import asyncio
import datetime as dt
import logging
from collections.abc import Awaitable, Callable

from ynet.errors import RefusedError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.federation import retrieval_pb2 as retrieval
from ynet_client.connection.background_work import BackgroundWork
from ynet_client.connection.sealed_answering import Answering, Opened
from ynet_client.membership.peers import Confirmed
from ynet_client.retrieval import wire

log = logging.getLogger("ynet.session")
UNCONFIRMED = wire.write_refused(retrieval.Refused.NOT_CONFIRMED)
"""The answer to a site that the admin has not confirmed. Its query is not read."""


class IncomingQueries:
    """The queries that are being answered. `len` counts them."""

    def __init__(
        self,
        sealing: Answering,
        peers: Confirmed,
        answer: Callable[[str, bytes], Awaitable[bytes]],
        background: BackgroundWork,
    ) -> None:
        """`answer` returns the reply to a site's query."""
        self._sealing, self._peers, self._answer, self._background = sealing, peers, answer, background
        self._running: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def take(self, query: pb.Query, outbox: "asyncio.Queue[pb.FromSite | None]") -> None:
        """Open a query and start to answer it, or refuse it; the answer goes to `outbox`."""
        waiting = len(self._running) + outbox.qsize()
        if waiting >= 2 * protocol.MAX_OPEN_QUERIES or query.id in self._running:
            return  # the hub does not read what this site sends, or sends a query twice
        if waiting >= protocol.MAX_OPEN_QUERIES:
            outbox.put_nowait(_refusal(query, pb.BUSY))
            return
        try:
            opened = self._sealing.open(query.from_site, query.body, dt.datetime.now(dt.UTC))
        except RefusedError as refused:
            log.warning("a query of site %s was refused: %s", protocol.plain(query.from_site, 32), refused.why)
            outbox.put_nowait(_refusal(query, pb.UNREADABLE))
            return
        self._running[query.id] = task = self._background.start(self._reply(query, opened, outbox))
        task.add_done_callback(lambda _: self._running.pop(query.id))

    def cancel(self, query_id: str) -> None:
        """Stop to answer one query."""
        if task := self._running.get(query_id):
            task.cancel()

    def cancel_all(self) -> None:
        """Stop to answer every query: the connection has ended."""
        for task in self._running.values():
            task.cancel()

    async def _reply(self, query: pb.Query, opened: Opened, outbox: "asyncio.Queue[pb.FromSite | None]") -> None:
        is_confirmed = self._peers.is_trusted(query.from_site, opened.known_by)
        reply = await self._answer(query.from_site, opened.body) if is_confirmed else UNCONFIRMED
        outbox.put_nowait(pb.FromSite(answer=pb.Answer(query_id=query.id, body=opened.seal(reply))))


def _refusal(query: pb.Query, refusal: pb.Refusal) -> pb.FromSite:
    return pb.FromSite(answer=pb.Answer(query_id=query.id, refusal=refusal))
