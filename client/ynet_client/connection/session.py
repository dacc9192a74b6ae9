"""A site's connection to the hub: one outbound channel, opened again whenever it is lost."""

import asyncio
import contextlib
import datetime as dt
import logging
import random
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import grpc

from ynet import __version__
from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol, sealed
from ynet.federation import retrieval_pb2 as retrieval
from ynet.federation.content import Content
from ynet.federation.sealed import FramedQuery
from ynet.runtime.rates import Buckets, Rate
from ynet.trust import expiry
from ynet.trust.identity import HUB_NAME, Identity
from ynet_client import egress
from ynet_client.connection import counted_channel, question, transfers
from ynet_client.connection.current_channel import Link
from ynet_client.connection.download_limit import UNSEEN, Look, Looks, everything
from ynet_client.connection.question import Question
from ynet_client.connection.retries import Retries
from ynet_client.connection.sealed_answering import Answering, Opened
from ynet_client.connection.sealed_asking import Asking
from ynet_client.connection.tasks import Tasks
from ynet_client.connection.witness import Tell, untold
from ynet_client.egress import Class, Count
from ynet_client.membership import succession
from ynet_client.membership.membership import Membership
from ynet_client.membership.peers import Confirmed, Everybody
from ynet_client.membership.renewal import Renew, never
from ynet_client.membership.succession import Follow
from ynet_client.proxy import BY_ENVIRONMENT, Ways, refusal
from ynet_client.retrieval import wire

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
RENEWAL_EVERY_S = 1_800.0
"""How often it is looked whether the certificate is to be renewed."""
TOLD_EVERY_S = 600.0
"""How often the server is told how far the audit log goes."""
COPIES = Rate(3, 1 / 600)
"""How often it is said that a copy of this site was refused, however often a server says so."""
IDLE_EVERY_S = 0.1
LEAVE_WITHIN_S = 1.0
PERMANENT = {
    grpc.StatusCode.UNAUTHENTICATED: "ask the coordinator for a new invitation, and join with it",
    grpc.StatusCode.FAILED_PRECONDITION: "update this site's ynet to the server's version, and join again",
}
PROXY_SAID = re.compile(r"HTTP proxy returned response code (\d{3})")
SERVER_IS_BEHIND = "ask the coordinator to update the server's ynet; until then, install the server's version here"


EVERYBODY = Everybody()
UNCONFIRMED = wire.write_refused(retrieval.Refused.NOT_CONFIRMED)
"""All that a site is told which the admin has not confirmed. Nobody has read its question."""
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


class Session:
    """Keeps the connection, and hands what comes over it to the work."""

    def __init__(
        self,
        member: Membership,
        spool: Path,
        work: Work,
        say: Callable[[str], None],
        renew: Renew = never,
        count: Count = egress.nowhere,
        tell: Tell = untold,
        follow: Follow = succession.unkept,
        received: counted_channel.Count = counted_channel.uncounted,
        looks: Looks = UNSEEN,
        peers: Confirmed = EVERYBODY,
        ways: Ways = BY_ENVIRONMENT,
        copied: Callable[[], None] = lambda: None,
    ) -> None:
        """`looks` say of the beginnings of files whether the rest of them is wanted.

        `copied` is called when the server has refused another process with this site's identity.
        """
        self._copied, self._instance = copied, secrets.token_bytes(16)
        self._looks, self._ways = looks, ways
        self._member, self._work, self._say, self._count = member, work, say, count
        self._link, self._received = Link(), received
        self._given = Tasks(spool, work.task, self._link, say, count, looks.task)
        self._renew, self._tell_heads, self._asked = renew, tell, 0
        self._renewed: Membership | None = None
        self._follow, self._moves = follow, asyncio.Event()
        self._outbox: asyncio.Queue[pb.FromSite | None] = asyncio.Queue()
        self._under_way: set[asyncio.Task[None]] = set()
        self._answering, self._asking, self._peers = Answering(member), Asking(member, peers=peers), peers
        self._queries: dict[str, asyncio.Task[None]] = {}  # being answered
        self._copies_told = Buckets(COPIES)
        self.connected = False

    @property
    def member(self) -> Membership:
        """The membership as it is now: a renewal changes its key and certificate."""
        return self._member

    @property
    def tasks_held(self) -> int:
        """How many messages of runs the site works on, or has the replies to."""
        return len(self._given.held())

    @property
    def identity(self) -> Identity:
        """The key and certificate as they are now."""
        return self._member.identity

    async def run(self) -> None:
        """Stay connected until cancelled. Raises RefusedError when the hub will never let this site in."""
        try:
            await self._stay_connected()
        finally:
            self._given.close()

    async def _stay_connected(self) -> None:
        retries = Retries()
        while True:
            is_elsewhere = False
            try:
                await self._attached()
                reason = "the server closed it"
            except grpc.aio.AioRpcError as error:
                reason, is_elsewhere = _refuse_if_permanent(error), error.code() is grpc.StatusCode.ALREADY_EXISTS
            if self._renewed is not None:
                self._take_up(self._renewed)
                continue  # at once
            if self.connected:
                retries.connected()
            wait_s = retries.wait_s(is_elsewhere=is_elsewhere)
            if is_elsewhere:
                self._say(f"{reason}; trying again in about {wait_s:g} s")
            else:
                self._lost(reason, wait_s)
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))  # noqa: S311 (spreads the sites' return)

    def known(self) -> list[str]:
        """The other sites that have been heard of."""
        return self._asking.known()

    async def look_round(self, deadline_s: float) -> None:
        """Have the hub tell which sites are connected, and see their lasting keys; nobody is asked anything.

        Raises UnreachableError.
        """
        if (channel := self._link.channel) is None:
            raise UnreachableError("the other sites were not looked for", "the server is not connected", "try again")
        try:
            await question.look_round(channel, self._asking, deadline_s, partial(self._count, "queries"))
        except grpc.aio.AioRpcError:
            raise UnreachableError(
                "the other sites were not looked for", "the connection was lost", "try again"
            ) from None

    async def ask(
        self,
        body: bytes,
        deadline_s: float,
        sites: Sequence[str] = (),
        answer_bytes: int = ANSWER_BYTES,
        name: Class = "queries",
    ) -> pb.Answers:
        """Send a query, sealed, to other sites (all, unless they are named); what they answered in time, opened.

        Answers are padded to `answer_bytes` at least: give what the largest one may take, so that their sizes do not
        tell the hub who has found something. Raises UnreachableError, and RefusedError for a query that is too large.
        """
        if (channel := self._link.channel) is None:
            raise UnreachableError("the other sites cannot be asked", "the server is not connected", "try again later")
        until = asyncio.get_running_loop().time() + min(deadline_s, protocol.MAX_QUERY_S)
        framed = sealed.frame_query(FramedQuery(body, answer_bytes))
        asked = Question(framed, sites, until, partial(self._count, name))
        self._asked += 1
        try:
            return await question.put(asked, channel, self._asking)
        except grpc.aio.AioRpcError:
            raise UnreachableError(
                "the other sites could not be asked", "the connection was lost", "try again"
            ) from None
        finally:
            self._asked -= 1

    async def fetch(self, blob: pb.Blob, path: Path, look: Look = everything) -> None:
        """Fetch a file, beginning after what `path` holds of it. Raises UserError, grpc.aio.AioRpcError."""
        if (channel := self._link.channel) is None:
            raise UnreachableError("a transfer failed", "the server is not connected", "it will be tried again")
        await transfers.fetch(channel, blob, path, self._count, look=look)

    # --- within

    async def _fetch_model(self, blob: pb.Blob, path: Path) -> None:
        await self.fetch(blob, path, self._looks.model)

    async def _attached(self) -> None:
        """One connection, from its greeting to its end."""
        member = self._member
        credentials = grpc.ssl_channel_credentials(member.authority, member.key, member.certificate)
        way = self._ways(member.hub)
        options = [*OPTIONS, *way.grpc_options()]
        async with grpc.aio.secure_channel(way.grpc_target(), credentials, options=options) as opened:
            channel = counted_channel.around(opened, self._received)
            outbox: asyncio.Queue[pb.FromSite | None] = asyncio.Queue()
            self._outbox = outbox
            outbox.put_nowait(pb.FromSite(hello=self._hello()))
            works = (self._renew_key(outbox), self._renew_certificate(channel, outbox), self._tell_again(channel))
            beside = [asyncio.create_task(work) for work in works]
            receiving = asyncio.create_task(self._receive_all(channel, outbox))
            try:
                await asyncio.shield(receiving)
            except asyncio.CancelledError:
                outbox.put_nowait(pb.FromSite(leave=pb.Leave()))
                await asyncio.wait([receiving], timeout=LEAVE_WITHIN_S if self.connected else 0)
                raise
            finally:
                self._link.down()
                self._given.lost()
                outbox.put_nowait(None)  # who sends it waits for nothing any more
                for work in [*beside, receiving]:
                    work.cancel()
                for query in self._queries.values():
                    query.cancel()

    def _hello(self) -> pb.Hello:
        oldest, newest = protocol.SPOKEN
        hello = pb.Hello(protocol=newest, oldest=oldest, version=__version__, cases=self._work.cases())
        hello.card, hello.keeps_tasks = self._answering.card(), True
        hello.tasks.extend(self._given.held())
        hello.authorities.extend(succession.pinned(self._member))
        hello.instance = self._instance
        return hello

    async def _receive_all(self, channel: grpc.aio.Channel, outbox: "asyncio.Queue[pb.FromSite | None]") -> None:
        write = egress.counted(pb.FromSite.SerializeToString, _class_of, self._count)
        attach = channel.stream_stream(f"/{protocol.SERVICE}/Attach", write, pb.ToSite.FromString)
        async for message in attach(_outgoing(outbox)):
            if message.HasField("welcome"):
                self._link.up(channel)
            self._receive(message)

    async def _renew_certificate(self, channel: grpc.aio.Channel, outbox: "asyncio.Queue[pb.FromSite | None]") -> None:
        """Once there is a new certificate, end this connection: the next one begins with it."""
        while not self.connected or (renewed := await self._renew(self._member, channel, self._moves.is_set())) is None:
            with contextlib.suppress(TimeoutError):  # told to move meanwhile, it does so at once
                wait_s = RENEWAL_EVERY_S if self.connected else IDLE_EVERY_S
                await asyncio.wait_for(_set_anew(self._moves), wait_s)
        last = self._member.ends - expiry.DAY
        while (self._under_way or self._asked or outbox.qsize()) and dt.datetime.now(dt.UTC) < last:
            await asyncio.sleep(IDLE_EVERY_S)  # nothing that is under way is cut off for it
        self._renewed = renewed
        outbox.put_nowait(None)

    def _take_up(self, renewed: Membership) -> None:
        # Of authorities the session itself knows best: one may have been pinned since the renewal.
        self._member = renewed._replace(authority=self._member.authority, past=self._member.past)
        self._renewed, self.connected = None, False
        self._answering.sign_with(self.identity)
        self._asking.sign_with(self.identity)

    async def _tell_again(self, channel: grpc.aio.Channel) -> None:
        while True:
            if self.connected:
                await self._tell_heads(channel)
            await asyncio.sleep(TOLD_EVERY_S if self.connected else IDLE_EVERY_S)

    async def _renew_key(self, outbox: "asyncio.Queue[pb.FromSite | None]") -> None:
        while True:
            await asyncio.sleep(self._answering.renew_in_s())
            outbox.put_nowait(pb.FromSite(card=self._answering.card()))

    def _receive(self, message: pb.ToSite) -> None:
        match message.WhichOneof("body"):
            case "welcome":
                self._welcomed(message.welcome)
            case "authorities":
                self._heed(message.authorities)
            case "task":
                self._spawn(self._given.do(message.task, self._tell))
            case "are_you_there":
                self._tell(pb.FromSite(here=pb.Here()))
            case "copy":
                self._tell_of_copy()
            case "cancel":
                self._call_off(message.cancel)
            case "query":
                self._take(message.query)
            case "model":
                self._spawn(self._work.model(message.model, self._fetch_model))

    def _welcomed(self, welcome: pb.Welcome) -> None:
        _check_version(welcome)
        if welcome.HasField("authorities"):
            self._heed(welcome.authorities)  # before anything that another site has signed
        self.connected = True
        name = protocol.plain(welcome.federation, 64)
        self._say(f"connected to federation {name} at {self._ways(self._member.hub)}")
        if welcome.HasField("ledger"):
            self._spawn(self._work.witness(welcome.ledger))
        if welcome.HasField("model"):
            self._spawn(self._work.model(welcome.model, self._fetch_model))

    def _heed(self, told: pb.Authorities) -> None:
        """Pin a successor, let go of what is over; and move to a new certificate where the hub says so."""
        try:
            member = self._follow(self._member, told)
        except RefusedError:
            return  # it is told and written down; what was pinned stays
        except (UserError, OSError):
            log.exception("what is known of the authorities could not be kept")
            return
        if member.authority != self._member.authority:
            self._member = self._member._replace(authority=member.authority, past=member.past)
            self._answering.trust(member.authority)
            self._asking.trust(member.authority)
        self._tell(pb.FromSite(pinned=pb.Pinned(authorities=succession.pinned(self._member))))
        if told.moves:
            self._moves.set()
        else:
            self._moves.clear()

    def _lost(self, reason: str, wait_s: float) -> None:
        was = "the connection was lost" if self.connected else f"no connection to {self._ways(self._member.hub)}"
        why = "" if self.connected else "; ynet-client doctor looks for the reason"
        self.connected = False
        if not self._member.life.has(now := dt.datetime.now(dt.UTC)):
            why = f"; this site's certificate: {expiry.in_words(self._member.life, now)}: ask for a new invitation"
        self._say(f"{was}: {reason}; trying again in about {wait_s:g} s{why}")

    def _tell_of_copy(self) -> None:
        if not self._copies_told.take("", asyncio.get_running_loop().time()):
            return
        log.warning("the server refused another process with this site's identity")
        self._say(
            "another process came with this site's identity, and the server refused it: a copy of this folder runs"
            " elsewhere; if it is not yours, tell the coordinator"
        )
        try:
            self._copied()
        except UserError as error:  # the disk is full
            log.warning("that a copy was refused could not be written down: %s", error.why)

    def _call_off(self, cancel: pb.Cancel) -> None:
        self._given.call_off(cancel.task_id)
        if query := self._queries.get(cancel.query_id):
            query.cancel()

    def _tell(self, message: pb.FromSite) -> None:
        self._outbox.put_nowait(message)

    def _spawn(self, coroutine: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._guarded(coroutine))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
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
        is_trusted = self._peers.is_trusted(query.from_site, opened.known_by)
        reply = await self._work.answer(query.from_site, opened.body) if is_trusted else UNCONFIRMED
        body = opened.seal(reply)
        self._tell(pb.FromSite(answer=pb.Answer(query_id=query.id, body=body)))

    def _refuse(self, query: pb.Query, refusal: pb.Refusal) -> None:
        self._tell(pb.FromSite(answer=pb.Answer(query_id=query.id, refusal=refusal)))


async def _set_anew(event: asyncio.Event) -> None:
    """Back when it is set; at once is never: where it is set already, what it says was heard."""
    if event.is_set():
        await asyncio.get_running_loop().create_future()
    await event.wait()


async def _outgoing(outbox: "asyncio.Queue[pb.FromSite | None]") -> AsyncIterator[pb.FromSite]:
    while (message := await outbox.get()) is not None:
        yield message


def _class_of(message: pb.FromSite) -> Class:
    """Under what a message of the stream is counted."""
    match message.WhichOneof("body"):
        case "answer":
            return "answers"
        case "card":
            return "sealing keys"
        case "failure":
            return "task failures"
        case _:
            return "greetings"


def _refuse_if_permanent(error: grpc.aio.AioRpcError) -> str:
    do = PERMANENT.get(error.code())
    if do:
        if "update the server" in (error.details() or ""):
            do = SERVER_IS_BEHIND
        if "only asks" in (error.details() or ""):
            do = "join with training cases (--trains --data MANIFEST.csv), or talk to the coordinator"
        if "revoked" in (error.details() or ""):
            do = "ask the coordinator why; a new invitation (ynet-server invite SITE --replace) lets the site in again"
        raise RefusedError(
            "the server does not let this site in", protocol.plain(error.details() or "it gave no reason", 500), do
        )
    return _name(error)


def _check_version(welcome: pb.Welcome) -> None:
    """Raises RefusedError where the hub goes on in a version that this site did not offer."""
    if not protocol.SPOKEN.oldest <= welcome.protocol <= protocol.SPOKEN.newest:
        why = f"the server goes on in protocol {welcome.protocol}, which this site (ynet {__version__}) did not offer"
        raise RefusedError("the server cannot be understood", why, "tell the coordinator")


def _name(error: grpc.aio.AioRpcError) -> str:
    if error.code() is grpc.StatusCode.ALREADY_EXISTS:
        return protocol.plain(error.details() or "this site is already connected from elsewhere", 500)
    if refused := PROXY_SAID.search(error.details() or ""):
        return f"the proxy answers {refusal(int(refused[1]))}"
    return error.code().name.lower().replace("_", " ")
