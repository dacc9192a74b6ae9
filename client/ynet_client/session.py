"""A site's connection to the hub: one outbound channel, opened again whenever it is lost."""

import asyncio
import datetime as dt
import hashlib
import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

from ynet import __version__, memory
from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.federation import content, expiry, protocol, sealed
from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet.federation.identity import HUB_NAME, Identity
from ynet.federation.sealed import Asked
from ynet_client import question
from ynet_client.membership import Membership
from ynet_client.question import Question
from ynet_client.renewal import Renew, never
from ynet_client.sealed_answering import Answering, Opened
from ynet_client.sealed_asking import Asking

log = logging.getLogger("ynet.session")
OPTIONS = [
    ("grpc.ssl_target_name_override", HUB_NAME),
    ("grpc.keepalive_time_ms", protocol.PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", protocol.PING_ANSWER_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]
ANSWER_BYTES = 4_096
"""Ten hits with their labels take less: whether there are any, the size of an answer does not tell."""
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 15.0
RENEWAL_EVERY_S = 1_800.0
"""How often it is looked whether the certificate is to be renewed."""
IDLE_EVERY_S = 0.1
PERMANENT = {
    grpc.StatusCode.UNAUTHENTICATED: "ask the coordinator for a new invitation, and join with it",
    grpc.StatusCode.FAILED_PRECONDITION: "install the same ynet version as the server's",
}


Fetch = Callable[[pb.Blob, Path], Awaitable[None]]


class Work(Protocol):
    """What a site does with what comes; each is called in the event loop and must not block it."""

    def cases(self) -> int:
        """The number of training cases, for the greeting."""

    async def task(self, kind: str, received: Path, cancelled: Callable[[], bool]) -> Content:
        """The reply to one message of a run, which is in a file. Raises RefusedError to say no."""

    async def answer(self, from_site: str, body: bytes) -> bytes:
        """The answer to another site's query. The site is the one that sealed the query, whatever the hub says."""

    async def witness(self, head: pb.LedgerHead) -> None:
        """How far the server saw the privacy ledger go. Raises LedgerError when the ledger is another."""

    async def model(self, model: pb.Model, fetch: Fetch) -> None:
        """The model in use has changed, or is told anew; `fetch` gets its file."""


@dataclass
class _Running:
    cancelled: bool = False


class Session:
    """Keeps the connection, and hands what comes over it to the work."""

    def __init__(
        self,
        member: Membership,
        spool: Path,
        work: Work,
        say: Callable[[str], None],
        renew: Renew = never,
    ) -> None:
        self._member, self._spool, self._work, self._say = member, spool, work, say
        self._channel: grpc.aio.Channel | None = None
        self._renew, self._asked = renew, 0
        self._renewed: Membership | None = None
        self._outbox: asyncio.Queue[pb.FromSite | None] = asyncio.Queue()
        self._running: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering, self._asking = Answering(member), Asking(member)
        self._queries: dict[str, asyncio.Task[None]] = {}  # being answered
        self.connected = False

    @property
    def member(self) -> Membership:
        """The membership as it is now: a renewal changes its key and certificate."""
        return self._member

    async def run(self) -> None:
        """Stay connected until cancelled. Raises RefusedError when the hub will never let this site in."""
        wait_s = FIRST_RETRY_S
        while True:
            try:
                await self._attached()
                reason = "the server closed it"
            except grpc.aio.AioRpcError as error:
                reason = _refuse_if_permanent(error)
            if self._renewed is not None:
                self._take_up(self._renewed)
                continue  # at once
            if self.connected:
                wait_s = FIRST_RETRY_S
            self._lost(reason, wait_s)
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))  # noqa: S311 (spreads the sites' return)
            wait_s = min(LAST_RETRY_S, wait_s * 2)

    async def ask(
        self, body: bytes, deadline_s: float, sites: Sequence[str] = (), answer_bytes: int = ANSWER_BYTES
    ) -> pb.Answers:
        """Send a query, sealed, to other sites (all, unless they are named); what they answered in time, opened.

        Answers are padded to `answer_bytes` at least: give what the largest one may take, so that their sizes do not
        tell the hub who has found something. Raises UnreachableError, and RefusedError for a query that is too large.
        """
        if self._channel is None or not self.connected:
            raise UnreachableError("the other sites cannot be asked", "the server is not connected", "try again later")
        until = asyncio.get_running_loop().time() + min(deadline_s, protocol.MAX_QUERY_S)
        asked = Question(sealed.frame_query(Asked(body, answer_bytes)), sites, until)
        self._asked += 1
        try:
            return await question.put(asked, self._channel, self._asking)
        except grpc.aio.AioRpcError:
            raise UnreachableError(
                "the other sites could not be asked", "the connection was lost", "try again"
            ) from None
        finally:
            self._asked -= 1

    async def fetch(self, blob: pb.Blob, path: Path) -> None:
        """Fetch a file, part by part, and check its digest. Raises UserError."""
        if self._channel is None:
            raise UnreachableError("a transfer failed", "the server is not connected", "it will be tried again")
        call = self._channel.unary_stream(
            f"/{protocol.SERVICE}/Download", pb.DownloadRequest.SerializeToString, pb.Chunk.FromString
        )
        if blob.size_bytes > protocol.MAX_BLOB_BYTES:
            raise RefusedError("a transfer was refused", "it is larger than any model may be", "tell the coordinator")
        sha, size = hashlib.sha256(), 0
        with path.open("wb", buffering=0) as file:
            async for chunk in call(pb.DownloadRequest(blob=blob.name)):
                size += len(chunk.data)
                if size > blob.size_bytes:
                    break
                sha.update(chunk.data)
                file.write(chunk.data)
        if size != blob.size_bytes or sha.hexdigest() != blob.sha256:
            raise UserError("a transfer failed", "what arrived is not what was announced", "it will be tried again")

    # --- within

    async def _attached(self) -> None:
        """One connection, from its greeting to its end."""
        member = self._member
        credentials = grpc.ssl_channel_credentials(member.authority, member.key, member.certificate)
        async with grpc.aio.secure_channel(member.hub, credentials, options=OPTIONS) as channel:
            self._channel, self._outbox = channel, asyncio.Queue()
            hello = pb.Hello(protocol=protocol.VERSION, version=__version__, cases=self._work.cases())
            hello.card = self._answering.card()
            self._outbox.put_nowait(pb.FromSite(hello=hello))
            renewals = (self._renew_key(self._outbox), self._renew_certificate(channel, self._outbox))
            renewing = [asyncio.create_task(work) for work in renewals]
            attach = channel.stream_stream(
                f"/{protocol.SERVICE}/Attach", pb.FromSite.SerializeToString, pb.ToSite.FromString
            )
            try:
                async for message in attach(self._outgoing()):
                    self._receive(message)
            finally:
                self._channel = None
                self._outbox.put_nowait(None)  # who sends it waits for nothing any more
                for work in renewing:
                    work.cancel()
                for running in self._running.values():
                    running.cancelled = True  # the hub has answered for them already
                for query in self._queries.values():
                    query.cancel()

    async def _renew_certificate(self, channel: grpc.aio.Channel, outbox: "asyncio.Queue[pb.FromSite | None]") -> None:
        """Once there is a new certificate, end this connection: the next one begins with it."""
        while not self.connected or (renewed := await self._renew(self._member, channel)) is None:
            await asyncio.sleep(RENEWAL_EVERY_S if self.connected else IDLE_EVERY_S)
        last = self._member.ends - expiry.DAY
        while (self._tasks or self._asked or outbox.qsize()) and dt.datetime.now(dt.UTC) < last:
            await asyncio.sleep(IDLE_EVERY_S)  # nothing that is under way is cut off for it
        self._renewed = renewed
        outbox.put_nowait(None)

    def _take_up(self, renewed: Membership) -> None:
        self._member, self._renewed, self.connected = renewed, None, False
        self._answering.sign_with(Identity(renewed.key, renewed.certificate))
        self._asking.sign_with(Identity(renewed.key, renewed.certificate))

    async def _renew_key(self, outbox: "asyncio.Queue[pb.FromSite | None]") -> None:
        while True:
            await asyncio.sleep(self._answering.renew_in_s())
            outbox.put_nowait(pb.FromSite(card=self._answering.card()))

    async def _outgoing(self) -> AsyncIterator[pb.FromSite]:
        while (message := await self._outbox.get()) is not None:
            yield message

    def _receive(self, message: pb.ToSite) -> None:
        match message.WhichOneof("body"):
            case "welcome":
                self.connected = True
                self._say(
                    f"connected to federation {protocol.plain(message.welcome.federation, 64)} at {self._member.hub}"
                )
                if message.welcome.HasField("ledger"):
                    self._spawn(self._work.witness(message.welcome.ledger))
                if message.welcome.HasField("model"):
                    self._spawn(self._work.model(message.welcome.model, self.fetch))
            case "task":
                self._spawn(self._do(message.task))
            case "cancel":
                self._call_off(message.cancel)
            case "query":
                self._take(message.query)
            case "model":
                self._spawn(self._work.model(message.model, self.fetch))

    def _lost(self, reason: str, wait_s: float) -> None:
        was = "the connection was lost" if self.connected else f"no connection to {self._member.hub}"
        why = "" if self.connected else "; ynet-client doctor looks for the reason"
        self.connected = False
        if (now := dt.datetime.now(dt.UTC)) > self._member.ends:
            why = f"; this site's certificate {expiry.in_words(self._member.ends, now)}: ask for a new invitation"
        self._say(f"{was}: {reason}; trying again in about {wait_s:g} s{why}")

    def _call_off(self, cancel: pb.Cancel) -> None:
        if running := self._running.get(cancel.task_id):
            running.cancelled = True
        if query := self._queries.get(cancel.query_id):
            query.cancel()

    def _spawn(self, coroutine: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._guarded(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, coroutine: Awaitable[None]) -> None:
        try:
            await coroutine
        except UserError as error:
            self._say(str(error))
        except grpc.aio.AioRpcError as error:
            log.warning("a call to the hub failed: %s", error.code())
        except Exception:
            log.exception("what the hub sent could not be worked on")
            self._say("a fault of ynet; this site's log has it")

    async def _do(self, task: pb.Task) -> None:
        """Fetch a task's content, work on it, send the reply."""
        if len(self._running) >= protocol.MAX_TASKS or task.id in self._running:
            self._fail(task, "the site has too much to do", refused=True)
            return
        running = self._running[task.id] = _Running()
        received, reply = (self._spool / f"{kind}-{secrets.token_hex(8)}" for kind in ("in", "out"))
        try:
            await self.fetch(task.content, received)
            answer = await self._work.task(task.kind, received, lambda: running.cancelled)
            written = await asyncio.to_thread(content.write, reply, answer)
            del answer
            if not running.cancelled:
                await self._upload(task.id, reply, *written)
        except UserError as error:
            self._say(str(error))
            public = error.why if isinstance(error, RefusedError) else "the site's data or settings do not allow it"
            self._fail(task, public, refused=isinstance(error, RefusedError))
        except grpc.aio.AioRpcError as error:
            self._say(f"a transfer was broken off: {_name(error)}")
            self._fail(task, "a transfer was broken off", refused=False)
        except Exception:
            log.exception("a task failed")
            self._say("a task failed; this site's log says why")
            self._fail(task, "the site failed; its admin's log says why", refused=False)
        finally:
            del self._running[task.id]
            received.unlink(missing_ok=True)
            reply.unlink(missing_ok=True)
            memory.give_back()

    def _fail(self, task: pb.Task, reason: str, *, refused: bool) -> None:
        failure = pb.TaskFailure(task_id=task.id, refused=refused, reason=reason)
        self._outbox.put_nowait(pb.FromSite(failure=failure))

    async def _upload(self, task_id: str, path: Path, sha256: str, size_bytes: int) -> None:
        if self._channel is None:
            return
        upload = self._channel.stream_unary(
            f"/{protocol.SERVICE}/Upload", pb.UploadPart.SerializeToString, pb.UploadReceipt.FromString
        )

        async def parts() -> AsyncIterator[pb.UploadPart]:
            yield pb.UploadPart(header=pb.UploadHeader(task_id=task_id, sha256=sha256, size_bytes=size_bytes))
            with path.open("rb", buffering=0) as file:
                while data := file.read(protocol.CHUNK_BYTES):
                    yield pb.UploadPart(data=data)

        await upload(parts())

    def _take(self, query: pb.Query) -> None:
        """Open a query and begin to answer it, or say why not."""
        waiting = len(self._queries) + self._outbox.qsize()
        if waiting >= 2 * protocol.MAX_OPEN_QUERIES or query.id in self._queries:
            return  # the hub does not take off what this site says, or asks twice
        if waiting >= protocol.MAX_OPEN_QUERIES:
            self._refuse(query, pb.BUSY)
            return
        try:
            opened = self._answering.open(query.from_site, query.body, dt.datetime.now(dt.UTC))
        except RefusedError as refused:
            log.warning("a query of site %s was refused: %s", protocol.plain(query.from_site, 32), refused.why)
            self._refuse(query, pb.UNREADABLE)
            return
        self._queries[query.id] = task = self._spawn(self._answer(query, opened))
        task.add_done_callback(lambda _: self._queries.pop(query.id))

    async def _answer(self, query: pb.Query, opened: Opened) -> None:
        body = opened.seal(await self._work.answer(query.from_site, opened.body))
        self._outbox.put_nowait(pb.FromSite(answer=pb.Answer(query_id=query.id, body=body)))

    def _refuse(self, query: pb.Query, refusal: pb.Refusal) -> None:
        self._outbox.put_nowait(pb.FromSite(answer=pb.Answer(query_id=query.id, refusal=refusal)))


def _refuse_if_permanent(error: grpc.aio.AioRpcError) -> str:
    do = PERMANENT.get(error.code())
    if do:
        if "revoked" in (error.details() or ""):
            do = "ask the coordinator why; a new invitation (ynet-server invite SITE --replace) lets the site in again"
        raise RefusedError(
            "the server does not let this site in", protocol.plain(error.details() or "it gave no reason", 500), do
        )
    return _name(error)


def _name(error: grpc.aio.AioRpcError) -> str:
    return error.code().name.lower().replace("_", " ")
