"""The queries that others seal for this site: its sealing key, and which query of which session was here before."""

import datetime as dt
import time
from collections.abc import Callable
from typing import NamedTuple

from google.protobuf.message import DecodeError

from ynet.federation import hub_pb2 as pb
from ynet.federation import sealed
from ynet.federation.sealed import Channel, FramedQuery, Trust
from ynet.trust.identity import Identity
from ynet_client.membership.membership import Membership

KEY_S = 86_400.0
"""A sealing key's life. With it go all sessions: what was recorded meanwhile, nobody can open any more."""
OPEN_SESSIONS = 8
"""Sessions of one asking site that are kept; its oldest is closed for a new one."""
MAX_SESSIONS = 1_024
"""Sessions of one asking site in one key's life. An honest one begins one an hour, and one at each start."""
WINDOW = 1_024
"""A query may come this many numbers late, and no later."""


class Window:
    """The numbers of one session that were seen, in constant memory (as in IPsec: RFC 4303, 3.4.3)."""

    def __init__(self) -> None:
        self._next, self._seen = 0, 0  # bit i of `_seen`: the number `_next - 1 - i`

    def is_new(self, number: int) -> bool:
        """Whether a number was not seen yet, and is not so old that nobody knows."""
        age = self._next - 1 - number
        return age < 0 or (age < WINDOW and not self._seen >> age & 1)

    def see(self, number: int) -> None:
        """From now on the number is not new."""
        if number >= self._next:
            ahead = min(number + 1 - self._next, WINDOW)
            self._seen, self._next = self._seen << ahead & ((1 << WINDOW) - 1), number + 1
        self._seen |= 1 << self._next - 1 - number


class Opened(NamedTuple):
    """A query that this site could read."""

    body: bytes
    seal: Callable[[bytes], bytes]
    """The answer, sealed; to be called once."""
    known_by: str  # the fingerprint of the asking site's lasting key


class _Session(NamedTuple):
    channel: Channel
    window: Window


class Answering:
    """The sealing key and the sessions of others with it; all of it in memory only.

    Time plays no part in what is refused, but for certificates: a session is known by its name, and that it was closed
    is remembered as long as the key could open it again. So no clock, wrong at whichever site, locks anybody out.
    """

    def __init__(self, member: Membership, clock: Callable[[], float] = time.monotonic) -> None:
        self._own, self._site, self._authority = member.identity, member.site, member.authority
        self._clock = clock
        self._renew()

    def sign_with(self, own: Identity) -> None:
        """Show a new certificate from now on, on the card of a new sealing key; sessions under the old one end."""
        self._own = own
        self._renew()

    def trust(self, authorities: bytes) -> None:
        """From now on, who begins a session has a certificate of these, PEM."""
        self._authority = authorities

    def card(self) -> bytes:
        """What others seal with, as it goes to the hub. A key whose time is over is replaced first."""
        if self.renew_in_s() <= 0:
            self._renew()
        return self._key.card

    def renew_in_s(self) -> float:
        """How long the key is still to be used."""
        return self._made + KEY_S - self._clock()

    def open(self, from_site: str, envelope: bytes, now: dt.datetime) -> Opened:
        """A query, when it is `from_site`'s, for this site, whole, and here for the first time. Raises RefusedError."""
        try:
            read = pb.Envelope.FromString(envelope)
        except DecodeError:
            raise sealed.refused("its envelope cannot be read") from None
        session = self._sessions.get(from_site, {}).get(read.session)
        if session is None:
            session = self._begin(from_site, read, now)
        if now > session.channel.ends:
            raise sealed.refused("the certificate of the asking site is not in force")
        if not session.window.is_new(read.number):
            raise sealed.refused("it was here before, or is too late for anybody to know")
        asked = sealed.open_query(session.channel, read.number, read.ciphertext)
        session.window.see(read.number)
        return Opened(asked.body, _sealing(session.channel, read.number, asked), session.channel.known_by)

    def _begin(self, asker: str, read: pb.Envelope, now: dt.datetime) -> _Session:
        names = self._names.get(asker, set())
        if read.session in names or not read.opening:
            raise sealed.refused("its session is closed, or was never begun")
        if len(names) >= MAX_SESSIONS:
            raise sealed.refused("the asking site began too many sessions")
        channel = sealed.accept(self._key, asker, read.session, read.opening, Trust(self._authority, now))
        self._names.setdefault(asker, names).add(read.session)
        sessions = self._sessions.setdefault(asker, {})
        if len(sessions) >= OPEN_SESSIONS:
            del sessions[next(iter(sessions))]
        session = sessions[read.session] = _Session(channel, Window())
        return session

    def _renew(self) -> None:
        self._key, self._made = sealed.fresh_key(self._own, self._site), self._clock()
        self._sessions: dict[str, dict[bytes, _Session]] = {}  # by asking site, oldest first
        self._names: dict[str, set[bytes]] = {}  # of all sessions that the key has opened


def _sealing(channel: Channel, number: int, asked: FramedQuery) -> Callable[[bytes], bytes]:
    return lambda body: sealed.seal_answer(channel, number, body, asked.answer_bytes)
