"""The connected sites: one connection each, with a queue of messages for it; nothing here reads a message."""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.trust.identity import Leaf
from ynet_server.clock import now
from ynet_server.hub.liveness import Liveness
from ynet_server.registry import Registry

log = logging.getLogger("ynet.hub.connections")
OUTBOX = 256
"""Messages that may wait for one site. Beyond, the connection is dropped. Queries use at most half of the queue,
so that one site's questions cannot cost another site its connection."""
MOST_PINNED = 8
"""Authorities that one site may have pinned."""


@dataclass
class SiteConnection:
    """The stream of one site's process."""

    outbox: asyncio.Queue[pb.ToSite | None]  # None ends the stream
    since: float  # seconds since 1970
    version: str
    cases: int
    card: bytes
    leaf: Leaf
    keeps_tasks: bool
    pinned: frozenset[bytes]  # the SHA-256 of the authorities that the site reports as pinned
    instance: bytes  # identifies the site's process; empty for an older ynet
    liveness: Liveness = field(default_factory=Liveness)


class SiteState(NamedTuple):
    """A connected site, as the pages and commands show it."""

    since: float
    version: str
    cases: int
    protocol: int


class Connections:
    """The newest connection of each site. Lives in one event loop."""

    def __init__(self, registry: Registry, on_lost: Callable[[str, str, bool], None]) -> None:
        """Call `on_lost` when a connection ends: the site, the reason, and whether the site may resume its tasks."""
        self._registry, self._on_lost = registry, on_lost
        self._open: dict[str, SiteConnection] = {}
        self._last: dict[str, SiteState] = {}

    def of(self, site: str) -> SiteConnection | None:
        """A site's connection, if it has one."""
        return self._open.get(site)

    def all(self) -> list[tuple[str, SiteConnection]]:
        """The connections by site, as a copy."""
        return list(self._open.items())

    def connected(self) -> dict[str, SiteState]:
        """The sites that are connected now, by name."""
        return {name: self._last[name] for name in sorted(self._open)}

    def last(self, site: str) -> SiteState:
        """What a site reported when it last connected. Raises KeyError when it never did."""
        return self._last[site]

    def card(self, site: str) -> bytes | None:
        """A connected site's card; empty when it sent none, None when it is not connected."""
        connection = self._open.get(site)
        return connection.card if connection else None

    def open(self, site: str, connection: SiteConnection, spoken: int) -> None:
        """Make this the site's connection. `spoken`: the protocol that both sides speak."""
        self._open[site] = connection
        self._last[site] = SiteState(connection.since, connection.version, connection.cases, spoken)

    def send(self, site: str, message: pb.ToSite) -> bool:
        """Queue a message. Returns whether the site is connected; a site whose queue is full is dropped."""
        connection = self._open.get(site)
        if connection is None:
            return False
        try:
            connection.outbox.put_nowait(message)
        except asyncio.QueueFull:
            self.drop(site, connection)
            return False
        return True

    def send_query(self, site: str, message: pb.ToSite) -> bool:
        """Queue a message of a query, unless the site's queue is half full. Returns whether it was queued."""
        connection = self._open.get(site)
        return connection is not None and connection.outbox.qsize() < OUTBOX // 2 and self.send(site, message)

    def broadcast(self, message: pb.ToSite) -> None:
        """Queue a message for every connected site."""
        for site in list(self._open):
            self.send(site, message)

    async def is_alive(self, site: str, connection: SiteConnection, within_s: float) -> bool:
        """Ask the process behind a connection to answer. Returns whether it does so in time."""
        is_alive = await connection.liveness.answers(
            lambda: self.send(site, pb.ToSite(are_you_there=pb.AreYouThere())), within_s
        )
        return is_alive and self._open.get(site) is connection

    def drop(
        self,
        site: str,
        connection: SiteConnection,
        why: str = "the connection to the site was lost",
        *,
        is_back_soon: bool = True,
    ) -> None:
        """Remove a connection, end its stream and call `on_lost`. Does nothing when the site has a newer one."""
        if self._open.get(site) is not connection:
            return
        del self._open[site]
        connection.liveness.settle(is_alive=False)
        while connection.outbox.full():
            connection.outbox.get_nowait()
        connection.outbox.put_nowait(None)
        self._on_lost(site, why, is_back_soon and connection.keeps_tasks)
        with contextlib.suppress(sqlite3.Error):  # the disk is full, and the time is only displayed
            self._registry.left(site, now())
        log.info("site %s disconnected", site)


def checked_card(card: bytes) -> bytes:
    """A site's card, for the other sites to verify; empty when it is too large."""
    return card if len(card) <= protocol.MAX_CARD_BYTES else b""


def checked_fingerprints(pinned: Collection[bytes]) -> frozenset[bytes]:
    """The SHA-256 values that a site reports as pinned; none when they are too many or malformed."""
    return frozenset(pinned) if len(pinned) <= MOST_PINNED and all(len(one) == 32 for one in pinned) else frozenset()
