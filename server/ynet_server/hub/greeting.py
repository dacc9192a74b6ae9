"""The first exchange on a site's stream: its hello is checked, an older process gives way, the welcome is queued."""

import asyncio
import contextlib
import logging
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator

import grpc

from ynet import __version__
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.runtime.rates import Buckets, Rate
from ynet_server.audit import Write
from ynet_server.clock import now
from ynet_server.hub.connections import OUTBOX, Connections, SiteConnection, checked_card, checked_fingerprints
from ynet_server.hub.peers import peer
from ynet_server.registry import Registry

log = logging.getLogger("ynet.hub.greeting")
HELLO_WITHIN_S = 20.0
COPIES = Rate(3, 1 / 600)
"""How often a refused copy of a site is reported to the site and to the audit log."""
ELSEWHERE = (
    "site {} is already connected from elsewhere: another machine runs its folder, or a copy of it;"
    " stop one of the two (if the other is not yours, tell the coordinator)"
)
NO_ASKERS = "this consortium takes no site that only asks, and this one has no training cases"
CANNOT_FOLLOW = "the consortium's authority is being replaced, and this site's ynet cannot follow: update the site"

Context = grpc.aio.ServicerContext


class Greeter:
    """Checks hellos and writes welcomes. Lives in the hub's event loop."""

    def __init__(
        self,
        registry: Registry,
        connections: Connections,
        federation: str,
        audit: Write,
        answer_within_s: float,
        *,
        takes_askers: bool,
    ) -> None:
        self._registry, self._connections, self.federation = registry, connections, federation
        self._audit, self._answer_within_s, self._takes_askers = audit, answer_within_s, takes_askers
        self._copies, self._copies_reported = Counter[str](), Buckets(COPIES)
        self.model: pb.Model | None = None  # in use
        self.authorities: pb.Authorities | None = None  # in force

    async def greet(
        self, site: str, requests: AsyncIterator[pb.FromSite], context: Context
    ) -> tuple[SiteConnection, pb.Hello]:
        """Take a site's stream in, or end the call with the reason."""
        hello = await self._hello(requests, context)
        spoken = await self._agreed(hello, context)
        await self._take_place(site, hello.instance, context)
        connection = SiteConnection(
            outbox=asyncio.Queue(OUTBOX),
            since=now(),
            version=protocol.plain(hello.version, 40),
            cases=hello.cases,
            card=checked_card(hello.card),
            leaf=peer().leaf,
            keeps_tasks=hello.keeps_tasks,
            pinned=checked_fingerprints(hello.authorities),
            instance=hello.instance[:64],
        )
        self._connections.open(site, connection, spoken)
        self._registry.used(site, connection.leaf.serial, connection.leaf.ends.timestamp(), connection.since)
        connection.outbox.put_nowait(pb.ToSite(welcome=self._welcome(site, spoken)))
        with contextlib.suppress(sqlite3.Error):  # the disk is full, and these values are only displayed
            self._registry.saw(site, connection.version, connection.cases, connection.since)
        log.info("site %s connected", site)
        return connection, hello

    async def _hello(self, requests: AsyncIterator[pb.FromSite], context: Context) -> pb.Hello:
        try:
            first = await asyncio.wait_for(anext(requests, pb.FromSite()), HELLO_WITHIN_S)
        except TimeoutError:
            first = pb.FromSite()
        if first.WhichOneof("body") != "hello":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message was no greeting")
        return first.hello

    async def _agreed(self, hello: pb.Hello, context: Context) -> int:
        """The protocol that both sides speak. Ends the call of a site that cannot take part."""
        spoken = protocol.agreed(protocol.SPOKEN, protocol.told(hello.protocol, hello.oldest))
        refused = None
        if spoken is None:
            refused = _no_common_version(hello)
        elif not hello.cases and not self._takes_askers:
            refused = NO_ASKERS
        elif self.authorities is not None and self.authorities.moves and not hello.authorities:
            refused = CANNOT_FOLLOW
        if spoken is None or refused is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refused or "")
            raise AssertionError
        return spoken

    def _welcome(self, site: str, spoken: int) -> pb.Welcome:
        welcome = pb.Welcome(protocol=spoken, version=__version__, federation=self.federation)
        if self.model is not None:
            welcome.model.CopyFrom(self.model)
        if self.authorities is not None:
            welcome.authorities.CopyFrom(self.authorities)
        if (seen := self._registry.ledger_of(site)) is not None:
            welcome.ledger.number, welcome.ledger.digest = seen
        return welcome

    async def _take_place(self, site: str, instance: bytes, context: Context) -> None:
        """Drop the site's older connection. Ends this call when the older one is another process that answers."""
        while (older := self._connections.of(site)) is not None:
            is_other = older.instance not in (b"", instance[:64])
            if is_other and await self._connections.is_alive(site, older, self._answer_within_s):
                self._report_copy(site)
                await context.abort(grpc.StatusCode.ALREADY_EXISTS, ELSEWHERE.format(site))
            self._connections.drop(site, older)

    def _report_copy(self, site: str) -> None:
        """Report a refused copy to the site and to the audit log, at a bounded rate."""
        self._copies[site] += 1
        if self._copies_reported.take(site, asyncio.get_running_loop().time()):
            log.warning("a second process of site %s was refused: it is connected from elsewhere", site)
            self._audit("copy-refused", site, "a second process with the site's identity", self._copies.pop(site))
            self._connections.send(site, pb.ToSite(copy=pb.Copy()))


def _no_common_version(hello: pb.Hello) -> str:
    """The refusal of a site: what each side speaks, and which of the two is behind."""
    own, behind = protocol.SPOKEN, "site" if hello.protocol < protocol.SPOKEN.oldest else "server"
    return (
        f"this server speaks protocol {own.newest} (ynet {__version__}), the site {hello.protocol}"
        f" (ynet {protocol.plain(hello.version, 20)}): update the {behind}"
    )
