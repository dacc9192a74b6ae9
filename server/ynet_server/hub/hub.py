"""The hub: one connection from each site carries tasks, transfers and queries. The hub cannot read a query."""

import asyncio
import datetime as dt
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc

from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.trust.ledger import ChainHead
from ynet_server.audit import Write, nowhere
from ynet_server.hub.connections import Connections, SiteConnection, SiteState, checked_card, checked_fingerprints
from ynet_server.hub.greeting import Greeter
from ynet_server.hub.liveness import ANSWER_WITHIN_S
from ynet_server.hub.peers import calling_site, refusal
from ynet_server.hub.relay import Relay
from ynet_server.hub.tasks import Doing, OpenTasks
from ynet_server.hub.transfers import OfferedFiles, limit, more
from ynet_server.hub.uploads import Uploads
from ynet_server.registry import Registry

log = logging.getLogger("ynet.hub")
MAX_QUESTIONS = 64
MAX_QUESTION_BYTES = 32 << 20
MAX_NAMED = 1024
"""Questions and their bytes that one site may have under way at a time; sites that one query may name."""

Context = grpc.aio.ServicerContext


class Hub:
    """The service's methods, and what the server's other parts ask of the connected sites. Lives in one event loop."""

    def __init__(
        self,
        registry: Registry,
        federation: str,
        spool: Path,
        max_model_bytes: int,
        audit: Write = nowhere,
        answer_within_s: float = ANSWER_WITHIN_S,
        *,
        takes_askers: bool = True,
    ) -> None:
        """Make a hub without connections.

        A connected process has `answer_within_s` seconds to answer before another process of its site takes its place.
        `takes_askers` says whether sites without training cases, which only ask, may connect.
        """
        self._registry, self._max_model_bytes, self._audit = registry, max_model_bytes, audit
        self._connections = Connections(registry, self._lost)
        self._greeter = Greeter(
            registry, self._connections, federation, audit, answer_within_s, takes_askers=takes_askers
        )
        self._offers, self._tasks = OfferedFiles(), OpenTasks(self._connections.send)
        self.uploads = Uploads(self._tasks, spool)
        self._relay = Relay(self._connections, lambda: [site.name for site in registry.sites()])
        self._asking: Counter[str] = Counter()
        self._asking_bytes: Counter[str] = Counter()

    # --- for the server's other parts

    def connected(self) -> dict[str, SiteState]:
        """The sites that are connected now."""
        return self._connections.connected()

    def present(self) -> dict[str, SiteState]:
        """The sites that may be given a task: with training cases, and connected or lost a moment ago."""
        names = sorted({*self._connections.connected(), *self._tasks.expected()})
        states = {name: self._connections.last(name) for name in names}
        return {name: state for name, state in states.items() if state.cases}

    def tasks_under_way(self) -> list[str]:
        """The kinds of the tasks that sites have not answered yet."""
        return self._tasks.under_way()

    def doing(self) -> dict[str, Doing]:
        """The newest task of each site since the server started."""
        return dict(self._tasks.newest)

    def offer(self, path: Path, sha256: str, size_bytes: int) -> pb.Blob:
        """Let sites fetch a file."""
        return self._offers.add(path, sha256, size_bytes)

    def withdraw(self, blob: pb.Blob) -> None:
        """Let sites fetch a file no longer."""
        self._offers.withdraw(blob)

    def publish(self, model_id: str, weights: pb.Blob) -> None:
        """Announce the model in use to all sites, now and when they connect."""
        self._greeter.model = model = pb.Model(id=model_id, weights=weights)
        self._connections.broadcast(pb.ToSite(model=model))

    def announce(self, authorities: pb.Authorities) -> None:
        """Announce the authorities in force to all sites, now and when they connect."""
        self._greeter.authorities = authorities
        self._connections.broadcast(pb.ToSite(authorities=authorities))

    def pinned(self) -> dict[str, frozenset[bytes]]:
        """The SHA-256 of the authorities that each connected site has pinned; none for a site with an older ynet."""
        return {name: connection.pinned for name, connection in self._connections.all()}

    async def task(
        self, site: str, kind: str, content: pb.Blob, within_s: float | None = None, files: Sequence[pb.Blob] = ()
    ) -> Path:
        """Have a site run one message of its ClientApp. Returns the file of the reply, which the caller must remove.

        The site is told how long the caller waits, `within_s`, and of `files` that it fetches once. Raises TaskError
        when the site refuses, fails or is lost.

        """
        limit_bytes = max(self._max_model_bytes, content.size_bytes) + (1 << 20)
        return await self._tasks.run(site, kind, content, limit_bytes, within_s, files)

    def saw_ledger(self, site: str, head: ChainHead) -> None:
        """Store how far a site's privacy ledger goes; the site is told at its next greeting."""
        self._registry.saw_ledger(site, head)

    def close(self) -> None:
        """Cancel all tasks. Call this before the connections are closed."""
        self._tasks.close()

    def dismiss(self, site: str, why: str = "the site enrolled again") -> None:
        """End a site's connection, since its certificate is no longer in use."""
        if connection := self._connections.of(site):
            self._connections.drop(site, connection, why, is_back_soon=False)
        else:
            self._tasks.lost(site, why, is_back_soon=False)

    def dismiss_ended(self, at: dt.datetime) -> None:
        """End the connections whose certificates are no longer valid. Call this once a second."""
        for site, connection in self._connections.all():
            if why := refusal(self._registry, site, connection.leaf, at):
                log.warning("site %s was cut off: %s", site, why)
                self._connections.drop(site, connection, why, is_back_soon=False)

    # --- the service's methods

    async def attach(self, requests: AsyncIterator[pb.FromSite], context: Context) -> AsyncIterator[pb.ToSite]:
        """Serve a site's one long stream.

        The newest stream of a process replaces its older one. Another process is refused while the first one answers.
        """
        site, requests = calling_site(), aiter(requests)
        connection, hello = await self._greeter.greet(site, requests, context)
        self._tasks.came(site, hello.tasks)
        listening = asyncio.create_task(self._listen(site, requests, connection))
        try:
            while (message := await connection.outbox.get()) is not None:
                if not message.HasField("query") or self._relay.is_open(message.query.id):
                    yield message
        finally:
            listening.cancel()
            self._connections.drop(site, connection)

    def download(self, request: pb.DownloadRequest, context: Context) -> AsyncIterator[pb.Chunk]:
        """Send an offered file, starting at `offset`."""
        return self._offers.send(calling_site(), request, context)

    async def ask(self, question: pb.Question, context: Context) -> AsyncIterator[pb.Answers]:
        """Pass sealed queries on to other sites and their answers back; report why each other site gave none."""
        asker = calling_site()
        largest = max((len(one.body) for one in question.queries), default=0)
        if largest > protocol.MAX_QUERY_BYTES + protocol.MAX_ENVELOPE_BYTES:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the query is too large")
        if max(len(question.sites), len(question.queries)) > MAX_NAMED:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the query names too many sites")
        await limit(self._asking[asker] >= MAX_QUESTIONS, "queries", context)
        size = question.ByteSize()
        self._audit("asked", asker, f"{len(question.sites) or 'all other'} sites")
        await limit(self._asking_bytes[asker] + size > MAX_QUESTION_BYTES, "large queries", context)
        with more(self._asking, asker), more(self._asking_bytes, asker, size):
            async for part in self._relay.ask(asker, question):
                yield part

    # --- within

    async def _listen(self, site: str, requests: AsyncIterator[pb.FromSite], connection: SiteConnection) -> None:
        """Read what a site sends on its stream until it ends."""
        try:
            async for message in requests:
                if message.HasField("failure"):
                    self._tasks.failed(site, message.failure)
                elif message.HasField("answer"):
                    self._relay.answered(site, message.answer)
                elif message.HasField("card"):
                    connection.card = checked_card(message.card)
                elif message.HasField("pinned"):
                    connection.pinned = checked_fingerprints(message.pinned.authorities)
                elif message.HasField("here"):
                    connection.liveness.settle(is_alive=True)
                elif message.HasField("leave"):
                    self._connections.drop(site, connection, "the site's client was stopped", is_back_soon=False)
        finally:
            self._connections.drop(site, connection)

    def _lost(self, site: str, why: str, is_back_soon: bool) -> None:
        """A connection has ended: its tasks wait or fail, and its queries end."""
        self._tasks.lost(site, why, is_back_soon=is_back_soon)
        self._relay.lost(site)


def service(hub: Hub) -> grpc.GenericRpcHandler:
    """The hub's methods under their names on the wire."""
    return grpc.method_handlers_generic_handler(
        protocol.SERVICE,
        {
            "Attach": grpc.stream_stream_rpc_method_handler(
                hub.attach, pb.FromSite.FromString, pb.ToSite.SerializeToString
            ),
            "Download": grpc.unary_stream_rpc_method_handler(
                hub.download, pb.DownloadRequest.FromString, pb.Chunk.SerializeToString
            ),
            "Upload": grpc.stream_unary_rpc_method_handler(
                hub.uploads.upload, pb.UploadPart.FromString, pb.UploadReceipt.SerializeToString
            ),
            "Resume": grpc.unary_unary_rpc_method_handler(
                hub.uploads.resume, pb.UploadHeader.FromString, pb.Resumed.SerializeToString
            ),
            "Ask": grpc.unary_stream_rpc_method_handler(hub.ask, pb.Question.FromString, pb.Answers.SerializeToString),
        },
    )
