"""The hub: one connection from each site, over which tasks, transfers and queries go. It reads no query."""

import asyncio
import contextlib
import datetime as dt
import logging
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import grpc

from ynet import __version__
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.runtime.rates import Buckets, Rate
from ynet.trust.identity import Leaf
from ynet.trust.ledger import ChainHead
from ynet_server.audit import Write, nowhere
from ynet_server.hub.liveness import ANSWER_WITHIN_S, Liveness
from ynet_server.hub.peers import caller, calling_site, refusal
from ynet_server.hub.relay import Lines, Relay
from ynet_server.hub.tasks import Doing, Task, Tasks
from ynet_server.hub.transfers import Arriving, Offers, limit, more
from ynet_server.registry import Registry, now

log = logging.getLogger("ynet.hub")
HELLO_WITHIN_S = 20.0
OUTBOX = 256
"""Messages that may wait for one site; more, and it is taken to be lost. Queries take half of it at most, and are
passed over beyond: no other site's questions may cost a site its connection."""
MAX_QUESTIONS = 64
MAX_QUESTION_BYTES = 32 << 20
MAX_NAMED, MOST_PINNED = 1024, 8
"""What one site may have under way at a time, the sites one query may name, the authorities one site has pinned."""

COPIES = Rate(3, 1 / 600)
"""How often a site, and the audit log, are told of a copy of the site that was refused."""
ELSEWHERE = (
    "site {} is already connected from elsewhere: another machine runs its folder, or a copy of it;"
    " stop one of the two (if the other is not yours, tell the coordinator)"
)
NO_ASKERS = "this consortium takes no site that only asks, and this one has no training cases"

Context = grpc.aio.ServicerContext


@dataclass
class _Connection:
    outbox: asyncio.Queue[pb.ToSite | None]
    since: float
    version: str
    cases: int
    card: bytes
    leaf: Leaf
    keeps_tasks: bool
    pinned: frozenset[bytes]  # the SHA-256 of the authorities that it has pinned, by its own word
    instance: bytes  # of its process; empty of an older site
    liveness: Liveness = field(default_factory=Liveness)


class SiteState(NamedTuple):
    """A connected site, as it is shown."""

    since: float
    version: str
    cases: int
    protocol: int


class Hub:
    """The service's methods and the server's own side of them. Lives in one event loop."""

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
        """`answer_within_s`: what a site's process has to show that it lives, before another takes its place.

        `takes_askers`: whether sites are let in that have no training cases, and so only ask.
        """
        self._takes_askers = takes_askers
        self._registry, self._federation, self._spool = registry, federation, spool
        self._max_model_bytes, self._audit = max_model_bytes, audit
        self._connections: dict[str, _Connection] = {}
        self._last: dict[str, SiteState] = {}
        self._offers, self._tasks = Offers(), Tasks(self._send)
        self._relay = Relay(Lines(self._enrolled, self._card, self._pass_on))
        self._asking: Counter[str] = Counter()
        self._asking_bytes: Counter[str] = Counter()
        self._answer_within_s, self._copies, self._copies_told = answer_within_s, Counter[str](), Buckets(COPIES)
        self._model: pb.Model | None = None
        self._authorities: pb.Authorities | None = None

    # --- the server's side

    def connected(self) -> dict[str, SiteState]:
        """The sites that are connected now."""
        return {name: self._last[name] for name in sorted(self._connections)}

    def present(self) -> dict[str, SiteState]:
        """The sites that may be given a task: those that are connected, and those that may come back in a moment.

        One that has no training cases only asks, and is none of them.
        """
        there = sorted({*self._connections, *self._tasks.expected()})
        return {name: self._last[name] for name in there if self._last[name].cases}

    def tasks_under_way(self) -> list[str]:
        """The kinds of the tasks that sites have and have not answered."""
        return self._tasks.under_way()

    def doing(self) -> dict[str, Doing]:
        """What each site was last given to do, since the server started."""
        return dict(self._tasks.newest)

    def offer(self, path: Path, sha256: str, size_bytes: int) -> pb.Blob:
        """Let sites fetch a file."""
        return self._offers.add(path, sha256, size_bytes)

    def withdraw(self, blob: pb.Blob) -> None:
        """Let sites fetch it no longer."""
        self._offers.withdraw(blob)

    def publish(self, model_id: str, weights: pb.Blob) -> None:
        """Tell all sites, now and when they come, which model is in use."""
        self._model = pb.Model(id=model_id, weights=weights)
        for name in list(self._connections):
            self._send(name, pb.ToSite(model=self._model))

    def announce(self, authorities: pb.Authorities) -> None:
        """Tell all sites, now and when they come, which authorities are in force."""
        self._authorities = authorities
        for name in list(self._connections):
            self._send(name, pb.ToSite(authorities=authorities))

    def pinned(self) -> dict[str, frozenset[bytes]]:
        """The SHA-256 of the authorities that each connected site has pinned; of an older site none are known."""
        return {name: connection.pinned for name, connection in self._connections.items()}

    async def task(self, site: str, kind: str, content: pb.Blob, within_s: float | None = None) -> Path:
        """Have a site run one message of the ClientApp; the file of its reply, which is then the caller's.

        `within_s`: how long the caller will wait. Raises TaskError, soon when the site is lost.
        """
        limit_bytes = max(self._max_model_bytes, content.size_bytes) + (1 << 20)
        return await self._tasks.run(site, kind, content, limit_bytes, within_s)

    def close(self) -> None:
        """Let go of all tasks, before the sites are cut off."""
        self._tasks.close()

    def dismiss(self, site: str, why: str = "the site enrolled anew") -> None:
        """End a site's connection: its certificate is no longer in use, and one call may last for days."""
        if connection := self._connections.get(site):
            self._drop(site, connection, why, is_back_soon=False)
        else:
            self._tasks.lost(site, why, is_back_soon=False)

    def dismiss_ended(self, at: dt.datetime) -> None:
        """End the connections whose certificates do not count any more; to be called once a second."""
        for site, connection in list(self._connections.items()):
            if why := refusal(self._registry, site, connection.leaf, at):
                log.warning("site %s was cut off: %s", site, why)
                self._drop(site, connection, why, is_back_soon=False)

    # --- the service's methods

    async def attach(self, requests: AsyncIterator[pb.FromSite], context: Context) -> AsyncIterator[pb.ToSite]:
        """A site's one long stream. Its newest connection counts, an older one ends: of one process alone.

        Another process is refused as long as the one before answers.
        """
        site, requests = calling_site(), aiter(requests)
        connection = await self._greet(site, requests, context)
        listening = asyncio.create_task(self._listen(site, requests, connection))
        try:
            while (message := await connection.outbox.get()) is not None:
                if not message.HasField("query") or self._relay.is_open(message.query.id):
                    yield message
        finally:
            listening.cancel()
            self._drop(site, connection)

    def download(self, request: pb.DownloadRequest, context: Context) -> AsyncIterator[pb.Chunk]:
        """An offered file, from `offset` on."""
        return self._offers.send(calling_site(), request, context)

    async def resume(self, header: pb.UploadHeader, context: Context) -> pb.Resumed:
        """How much of a reply has arrived, for its upload to go on from there."""
        task = await self._awaited(header, context)
        if task.arriving is None or not task.arriving.is_of(header):
            return pb.Resumed()
        task.arriving.stop()
        return pb.Resumed(offset=task.arriving.size)

    async def upload(self, parts: AsyncIterator[pb.UploadPart], context: Context) -> pb.UploadReceipt:
        """The reply to a task, written to disk part by part, and handed over once its digest is right."""
        parts = aiter(parts)
        header = (await anext(parts, pb.UploadPart())).header
        task = await self._awaited(header, context)
        arriving = await self._arriving(task, header, context)
        try:
            if not await arriving.add(parts):
                await context.abort(
                    grpc.StatusCode.ABORTED, "another upload of this reply has begun, or nobody waits for it"
                )
        except OSError:
            arriving.discard()
            task.arriving = None
            raise
        if not arriving.is_short and not task.done.done() and (whole := arriving.whole()):
            task.done.set_result(whole)
            return pb.UploadReceipt()
        if not arriving.is_short:
            arriving.discard()
            task.arriving = None
        await context.abort(grpc.StatusCode.DATA_LOSS, "the reply did not arrive whole")
        raise AssertionError

    async def ask(self, question: pb.Question, context: Context) -> AsyncIterator[pb.Answers]:
        """Pass queries on to other sites and their answers back, sealed; say of each other site why it is silent."""
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

    async def _awaited(self, header: pb.UploadHeader, context: Context) -> Task:
        task = self._tasks.find(header.task_id, calling_site())
        if task is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nobody waits for this reply any more")
            raise AssertionError
        if header.size_bytes > task.limit_bytes:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the reply is larger than the server takes")
        return task

    async def _arriving(self, task: Task, header: pb.UploadHeader, context: Context) -> Arriving:
        """Where an upload is to be added: what came of the same reply before, or a new file."""
        found = task.arriving
        if header.offset:
            if found is None or not found.is_of(header) or found.size != header.offset:
                await context.abort(grpc.StatusCode.OUT_OF_RANGE, "that is not where the reply broke off")
                raise AssertionError
            return found
        if found is not None:
            found.discard()
        task.arriving = made = Arriving(self._spool, header)
        return made

    async def _greet(self, site: str, requests: AsyncIterator[pb.FromSite], context: Context) -> _Connection:
        try:
            first = await asyncio.wait_for(anext(requests, pb.FromSite()), HELLO_WITHIN_S)
        except TimeoutError:
            first = pb.FromSite()
        if first.WhichOneof("body") != "hello":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message was no greeting")
        hello = first.hello
        spoken = protocol.agreed(protocol.SPOKEN, protocol.told(hello.protocol, hello.oldest))
        if spoken is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, _no_common_version(hello))
            raise AssertionError
        if not hello.cases and not self._takes_askers:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, NO_ASKERS)
        if self._authorities is not None and self._authorities.moves and not hello.authorities:
            why = "the consortium's authority is being replaced, and this site's ynet cannot follow: update the site"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, why)
        await self._take_place(site, hello.instance, context)
        version, leaf = protocol.plain(hello.version, 40), caller().leaf
        keeps = hello.keeps_tasks
        card, pinned = _card(hello.card), _fingerprints(hello.authorities)
        connection = _Connection(
            asyncio.Queue(OUTBOX), now(), version, hello.cases, card, leaf, keeps, pinned, hello.instance[:64]
        )
        self._connections[site] = connection
        self._last[site] = SiteState(connection.since, version, hello.cases, spoken)
        self._registry.used(site, leaf.serial, leaf.ends.timestamp(), connection.since)
        welcome = pb.Welcome(protocol=spoken, version=__version__, federation=self._federation)
        if self._model is not None:
            welcome.model.CopyFrom(self._model)
        if self._authorities is not None:
            welcome.authorities.CopyFrom(self._authorities)
        if (seen := self._registry.ledger_of(site)) is not None:
            welcome.ledger.number, welcome.ledger.digest = seen
        connection.outbox.put_nowait(pb.ToSite(welcome=welcome))
        self._tasks.came(site, hello.tasks)
        with contextlib.suppress(sqlite3.Error):  # the disk is full: it is only shown
            self._registry.saw(site, connection.version, connection.cases, connection.since)
        log.info("site %s connected", site)
        return connection

    async def _take_place(self, site: str, instance: bytes, context: Context) -> None:
        """End the site's older connection, or refuse this one where that belongs to another process that answers."""
        while (older := self._connections.get(site)) is not None:
            if older.instance not in (b"", instance[:64]) and await self._is_alive(site, older):
                self._tell_of_copy(site)
                await context.abort(grpc.StatusCode.ALREADY_EXISTS, ELSEWHERE.format(site))
            self._drop(site, older)

    async def _is_alive(self, site: str, connection: _Connection) -> bool:
        ask = lambda: self._send(site, pb.ToSite(are_you_there=pb.AreYouThere()))  # noqa: E731
        is_alive = await connection.liveness.answers(ask, self._answer_within_s)
        return is_alive and self._connections.get(site) is connection

    def _tell_of_copy(self, site: str) -> None:
        """Say to the site, and to the audit log, that a copy of it was refused; not each time."""
        self._copies[site] += 1
        if self._copies_told.take(site, asyncio.get_running_loop().time()):
            log.warning("a second process of site %s was refused: it is connected from elsewhere", site)
            self._audit("copy-refused", site, "a second process with the site's identity", self._copies.pop(site))
            self._send(site, pb.ToSite(copy=pb.Copy()))

    def saw_ledger(self, site: str, head: ChainHead) -> None:
        """Remember how far a site's privacy ledger goes, and say so to it at its next greeting."""
        self._registry.saw_ledger(site, head)

    async def _listen(self, site: str, requests: AsyncIterator[pb.FromSite], connection: _Connection) -> None:
        try:
            async for message in requests:
                if message.HasField("failure"):
                    self._tasks.failed(site, message.failure)
                elif message.HasField("answer"):
                    self._relay.answered(site, message.answer)
                elif message.HasField("card"):
                    connection.card = _card(message.card)
                elif message.HasField("pinned"):
                    connection.pinned = _fingerprints(message.pinned.authorities)
                elif message.HasField("here"):
                    connection.liveness.settle(is_alive=True)
                elif message.HasField("leave"):
                    self._drop(site, connection, "the site's client was stopped", is_back_soon=False)
        finally:
            self._drop(site, connection)

    def _send(self, site: str, message: pb.ToSite) -> bool:
        connection = self._connections.get(site)
        if connection is None:
            return False
        try:
            connection.outbox.put_nowait(message)
        except asyncio.QueueFull:
            self._drop(site, connection)
            return False
        return True

    def _enrolled(self) -> list[str]:
        return [site.name for site in self._registry.sites()]

    def _card(self, site: str) -> bytes | None:
        connection = self._connections.get(site)
        return connection.card if connection else None

    def _pass_on(self, site: str, message: pb.ToSite) -> bool:
        """Whether a site was sent something of a query; one that is behind is not troubled with more."""
        connection = self._connections.get(site)
        return connection is not None and connection.outbox.qsize() < OUTBOX // 2 and self._send(site, message)

    def _drop(
        self,
        site: str,
        connection: _Connection,
        why: str = "the connection to the site was lost",
        *,
        is_back_soon: bool = True,
    ) -> None:
        """Forget a connection, and answer for everything that waits for it."""
        if self._connections.get(site) is not connection:
            return
        del self._connections[site]
        connection.liveness.settle(is_alive=False)
        while connection.outbox.full():
            connection.outbox.get_nowait()
        connection.outbox.put_nowait(None)
        self._tasks.lost(site, why, is_back_soon=is_back_soon and connection.keeps_tasks)
        self._relay.lost(site)
        with contextlib.suppress(sqlite3.Error):  # the disk is full: it is only shown
            self._registry.left(site, now())
        log.info("site %s disconnected", site)


def _no_common_version(hello: pb.Hello) -> str:
    """The refusal of a site: what each side speaks, and which of the two is behind."""
    own, behind = protocol.SPOKEN, "site" if hello.protocol < protocol.SPOKEN.oldest else "server"
    return (
        f"this server speaks protocol {own.newest} (ynet {__version__}), the site {hello.protocol}"
        f" (ynet {protocol.plain(hello.version, 20)}): update the {behind}"
    )


def _card(told: bytes) -> bytes:
    """A site's card, for the other sites to check; one that is too large is none."""
    return told if len(told) <= protocol.MAX_CARD_BYTES else b""


def _fingerprints(told: Collection[bytes]) -> frozenset[bytes]:
    """What a site says that it has pinned; more than there can be is nothing."""
    return frozenset(told) if len(told) <= MOST_PINNED and all(len(one) == 32 for one in told) else frozenset()


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
                hub.upload, pb.UploadPart.FromString, pb.UploadReceipt.SerializeToString
            ),
            "Resume": grpc.unary_unary_rpc_method_handler(
                hub.resume, pb.UploadHeader.FromString, pb.Resumed.SerializeToString
            ),
            "Ask": grpc.unary_stream_rpc_method_handler(hub.ask, pb.Question.FromString, pb.Answers.SerializeToString),
        },
    )
