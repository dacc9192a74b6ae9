"""A site's connection to the hub: one outbound channel, opened again whenever it is lost."""

import asyncio
import contextlib
import datetime as dt
import logging
import random
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

import grpc

from ynet import __version__
from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol, sealed
from ynet.federation.sealed import FramedQuery
from ynet.runtime.rates import Buckets, Rate
from ynet.trust import expiry
from ynet.trust.identity import HUB_NAME, Identity
from ynet_client import egress
from ynet_client.connection import counted_channel, question, transfers
from ynet_client.connection.background_work import BackgroundWork
from ynet_client.connection.current_channel import CurrentChannel
from ynet_client.connection.download_limit import IsWanted, accept_all
from ynet_client.connection.hooks import SessionHooks, Work
from ynet_client.connection.hub_errors import check_version, reason_to_retry
from ynet_client.connection.incoming_queries import IncomingQueries
from ynet_client.connection.question import Question
from ynet_client.connection.retries import Retries
from ynet_client.connection.sealed_answering import Answering
from ynet_client.connection.sealed_asking import Asking
from ynet_client.connection.tasks import ReceivedTasks
from ynet_client.egress import Class
from ynet_client.membership import succession
from ynet_client.membership.membership import Membership

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
"""Answers are padded to this size. Ten hits with labels take less, so the size does not tell whether there are any."""
RENEWAL_EVERY_S = 1_800.0
"""How often the session checks whether the certificate must be renewed."""
HEADS_EVERY_S = 600.0
"""How often the heads of the audit logs are exchanged."""
COPIES = Rate(3, 1 / 600)
"""How often the session reports a refused copy of this site, however often a server sends that."""
IDLE_EVERY_S = 0.1
LEAVE_WITHIN_S = 1.0
NO_HOOKS = SessionHooks()


class Session:
    """Keeps the connection and passes what arrives over it to the site's work."""

    def __init__(
        self,
        member: Membership,
        spool: Path,
        work: Work,
        say: Callable[[str], None],
        hooks: SessionHooks = NO_HOOKS,
    ) -> None:
        """Prepare a session; `run` connects.

        Args:
            member: the site's key, certificate and pinned authorities.
            spool: an empty folder for files in transit.
            work: what the site does with the messages that arrive.
            say: shows a line to the site's people.
            hooks: what the owner adds.

        """
        self._member, self._work, self._say, self._hooks = member, work, say, hooks
        self._instance = secrets.token_bytes(16)
        self._current = CurrentChannel()
        self._tasks = ReceivedTasks(spool, work.task, self._current, say, hooks.sent, hooks.limits.task, hooks.files)
        self._answering, self._asking = Answering(member), Asking(member, peers=hooks.peers)
        self._background = BackgroundWork(say)
        self._queries = IncomingQueries(self._answering, hooks.peers, work.answer, self._background)
        self._questions = 0  # under way
        self._renewed: Membership | None = None
        self._must_move = asyncio.Event()  # to a certificate of the new authority
        self._outbox: asyncio.Queue[pb.FromSite | None] = asyncio.Queue()
        self._copies = Buckets(COPIES)
        self.connected = False

    @property
    def member(self) -> Membership:
        """The membership now: a renewal changes its key and certificate."""
        return self._member

    @property
    def identity(self) -> Identity:
        """The key and certificate now."""
        return self._member.identity

    @property
    def tasks_held(self) -> int:
        """The number of messages of runs that the site works on or has the replies to."""
        return len(self._tasks.held())

    @property
    def queries_open(self) -> int:
        """The number of other sites' queries that are being answered."""
        return len(self._queries)

    async def run(self) -> None:
        """Stay connected until cancelled. Raises RefusedError when the hub refuses this site for good."""
        try:
            await self._stay_connected()
        finally:
            self._tasks.close()

    # --- questions to other sites

    def known(self) -> list[str]:
        """Return the other sites whose cards this site has."""
        return self._asking.known()

    async def look_round(self, deadline_s: float) -> None:
        """Learn which sites are connected, and their lasting keys, without a query. Raises UnreachableError."""
        sent = partial(self._hooks.sent, "queries")
        await question.look_round(self._current.channel, self._asking, deadline_s, sent)

    async def ask(
        self,
        body: bytes,
        deadline_s: float,
        sites: Sequence[str] = (),
        answer_bytes: int = ANSWER_BYTES,
        name: Class = "queries",
    ) -> pb.Answers:
        """Send a sealed query to other sites and return the answers that arrive in time, opened.

        Args:
            body: the query.
            deadline_s: how long to wait.
            sites: whom to ask; empty for all.
            answer_bytes: the size that answers are padded to. Give the size of the largest possible answer, so that
                sizes do not tell the hub which site found something.
            name: the class that the sent bytes are counted under.

        Raises:
            UnreachableError: the server is not connected.
            RefusedError: the query is too large.

        """
        until = asyncio.get_running_loop().time() + min(deadline_s, protocol.MAX_QUERY_S)
        framed = sealed.frame_query(FramedQuery(body, answer_bytes))
        asked = Question(framed, sites, until, partial(self._hooks.sent, name))
        self._questions += 1
        try:
            return await question.put(asked, self._current.channel, self._asking)
        finally:
            self._questions -= 1

    async def fetch(self, blob: pb.Blob, path: Path, is_wanted: IsWanted = accept_all) -> None:
        """Fetch a file, resuming after what `path` holds of it. Raises UserError, grpc.aio.AioRpcError."""
        if (channel := self._current.channel) is None:
            raise UnreachableError("a transfer failed", "the server is not connected", "it will be tried again")
        await transfers.fetch(channel, blob, path, self._hooks.sent, is_wanted=is_wanted)

    # --- the connection

    async def _stay_connected(self) -> None:
        retries = Retries()
        while True:
            is_elsewhere = False
            try:
                await self._attached()
                reason = "the server closed it"
            except grpc.aio.AioRpcError as error:
                reason, is_elsewhere = reason_to_retry(error), error.code() is grpc.StatusCode.ALREADY_EXISTS
            if self._renewed is not None:
                self._use_renewed(self._renewed)
                continue  # at once
            if self.connected:
                retries.connected()
            wait_s = retries.wait_s(is_elsewhere=is_elsewhere)
            if is_elsewhere:
                self._say(f"{reason}; trying again in about {wait_s:g} s")
            else:
                self._lost(reason, wait_s)
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))  # noqa: S311 (spreads the sites' return)

    async def _attached(self) -> None:
        """Keep one connection, from its greeting to its end."""
        member = self._member
        credentials = grpc.ssl_channel_credentials(member.authority, member.key, member.certificate)
        way = self._hooks.ways(member.hub)
        options = [*OPTIONS, *way.grpc_options()]
        async with grpc.aio.secure_channel(way.grpc_target(), credentials, options=options) as opened:
            channel = counted_channel.around(opened, self._hooks.received)
            outbox: asyncio.Queue[pb.FromSite | None] = asyncio.Queue()
            self._outbox = outbox
            outbox.put_nowait(pb.FromSite(hello=self._hello()))
            upkeep = (self._renew_key(outbox), self._renew_certificate(channel, outbox), self._exchange_heads(channel))
            running = [asyncio.create_task(work) for work in upkeep]
            receiving = asyncio.create_task(self._receive_all(channel, outbox))
            try:
                await asyncio.shield(receiving)
            except asyncio.CancelledError:
                outbox.put_nowait(pb.FromSite(leave=pb.Leave()))
                await asyncio.wait([receiving], timeout=LEAVE_WITHIN_S if self.connected else 0)
                raise
            finally:
                self._current.down()
                self._tasks.lost()
                outbox.put_nowait(None)  # ends `_outgoing`
                for work in [*running, receiving]:
                    work.cancel()
                self._queries.cancel_all()

    def _hello(self) -> pb.Hello:
        oldest, newest = protocol.SPOKEN
        hello = pb.Hello(protocol=newest, oldest=oldest, version=__version__, cases=self._work.cases())
        hello.card, hello.keeps_tasks = self._answering.card(), True
        hello.tasks.extend(self._tasks.held())
        hello.authorities.extend(succession.pinned(self._member))
        hello.instance = self._instance
        return hello

    async def _receive_all(self, channel: grpc.aio.Channel, outbox: "asyncio.Queue[pb.FromSite | None]") -> None:
        write = egress.counted(pb.FromSite.SerializeToString, _class_of, self._hooks.sent)
        attach = channel.stream_stream(f"/{protocol.SERVICE}/Attach", write, pb.ToSite.FromString)
        async for message in attach(_outgoing(outbox)):
            if message.HasField("welcome"):
                self._current.up(channel)
            self._receive(message)

    def _receive(self, message: pb.ToSite) -> None:
        match message.WhichOneof("body"):
            case "welcome":
                self._welcomed(message.welcome)
            case "authorities":
                self._follow(message.authorities)
            case "task":
                self._background.start(self._tasks.do(message.task, self._send))
            case "are_you_there":
                self._send(pb.FromSite(here=pb.Here()))
            case "copy":
                self._report_copy()
            case "cancel":
                self._tasks.call_off(message.cancel.task_id)
                self._queries.cancel(message.cancel.query_id)
            case "query":
                self._queries.take(message.query, self._outbox)
            case "model":
                self._adopt(message.model)

    def _welcomed(self, welcome: pb.Welcome) -> None:
        check_version(welcome)
        if welcome.HasField("authorities"):
            self._follow(welcome.authorities)  # before anything that another site has signed
        self.connected = True
        name = protocol.plain(welcome.federation, 64)
        self._say(f"connected to federation {name} at {self._hooks.ways(self._member.hub)}")
        if welcome.HasField("ledger"):
            self._background.start(self._work.witness(welcome.ledger))
        if welcome.HasField("model"):
            self._adopt(welcome.model)

    def _adopt(self, model: pb.Model) -> None:
        fetch = partial(self.fetch, is_wanted=self._hooks.limits.model)
        self._background.start(self._work.model(model, fetch))

    def _lost(self, reason: str, wait_s: float) -> None:
        way = self._hooks.ways(self._member.hub)
        what = "the connection was lost" if self.connected else f"no connection to {way}"
        why = "" if self.connected else "; ynet-client doctor looks for the reason"
        self.connected = False
        if not self._member.life.has(now := dt.datetime.now(dt.UTC)):
            why = f"; this site's certificate: {expiry.in_words(self._member.life, now)}: ask for a new invitation"
        self._say(f"{what}: {reason}; trying again in about {wait_s:g} s{why}")

    def _report_copy(self) -> None:
        if not self._copies.take("", asyncio.get_running_loop().time()):
            return
        log.warning("the server refused another process with this site's identity")
        self._say(
            "the server refused another process with this site's identity: a copy of this folder runs elsewhere;"
            " if it is not yours, tell the coordinator"
        )
        try:
            self._hooks.copied()
        except UserError as error:  # the disk is full
            log.warning("the refusal of a copy could not be recorded: %s", error.why)

    def _send(self, message: pb.FromSite) -> None:
        self._outbox.put_nowait(message)

    # --- keys, certificates and authorities

    def _follow(self, announced: pb.Authorities) -> None:
        """Pin a successor and drop authorities that ended; start to move to a new certificate if the hub says so."""
        try:
            member = self._hooks.follow(self._member, announced)
        except RefusedError:
            return  # `follow` has reported it; the pinned authorities stay
        except (UserError, OSError):
            log.exception("the authorities could not be stored")
            return
        if member.authority != self._member.authority:
            self._member = self._member._replace(authority=member.authority, past=member.past)
            self._answering.trust(member.authority)
            self._asking.trust(member.authority)
        self._send(pb.FromSite(pinned=pb.Pinned(authorities=succession.pinned(self._member))))
        if announced.moves:
            self._must_move.set()
        else:
            self._must_move.clear()

    async def _renew_key(self, outbox: "asyncio.Queue[pb.FromSite | None]") -> None:
        while True:
            await asyncio.sleep(self._answering.renew_in_s())
            outbox.put_nowait(pb.FromSite(card=self._answering.card()))

    async def _renew_certificate(self, channel: grpc.aio.Channel, outbox: "asyncio.Queue[pb.FromSite | None]") -> None:
        """Renew the certificate when it is due, then end this connection: the next one uses the new certificate."""
        renew = self._hooks.renew
        while not self.connected or (renewed := await renew(self._member, channel, self._must_move.is_set())) is None:
            with contextlib.suppress(TimeoutError):
                wait_s = RENEWAL_EVERY_S if self.connected else IDLE_EVERY_S
                await asyncio.wait_for(_next_set(self._must_move), wait_s)
        last = self._member.ends - expiry.DAY
        while (self._background.is_busy or self._questions or outbox.qsize()) and dt.datetime.now(dt.UTC) < last:
            await asyncio.sleep(IDLE_EVERY_S)  # let work under way finish
        self._renewed = renewed
        outbox.put_nowait(None)

    def _use_renewed(self, renewed: Membership) -> None:
        # The session's authorities are newer: one may have been pinned since the renewal.
        self._member = renewed._replace(authority=self._member.authority, past=self._member.past)
        self._renewed, self.connected = None, False
        self._answering.sign_with(self.identity)
        self._asking.sign_with(self.identity)

    async def _exchange_heads(self, channel: grpc.aio.Channel) -> None:
        while True:
            if self.connected:
                await self._hooks.exchange_heads(channel)
            await asyncio.sleep(HEADS_EVERY_S if self.connected else IDLE_EVERY_S)


async def _next_set(event: asyncio.Event) -> None:
    """Wait until an event is set; for ever when it is set already, since that was handled."""
    if event.is_set():
        await asyncio.get_running_loop().create_future()
    await event.wait()


async def _outgoing(outbox: "asyncio.Queue[pb.FromSite | None]") -> AsyncIterator[pb.FromSite]:
    while (message := await outbox.get()) is not None:
        yield message


def _class_of(message: pb.FromSite) -> Class:
    """Return the class that a message of the stream is counted under."""
    match message.WhichOneof("body"):
        case "answer":
            return "answers"
        case "card":
            return "sealing keys"
        case "failure":
            return "task failures"
        case _:
            return "greetings"
