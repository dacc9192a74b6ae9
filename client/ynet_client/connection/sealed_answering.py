"""The opening of queries that others seal for this site: its sealing key, and protection against replays."""

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
"""The lifetime of a sealing key. Sessions end with it, so recorded traffic cannot be opened later."""
OPEN_SESSIONS = 8
"""Open sessions per asking site; the oldest is closed for a new one."""
MAX_SESSIONS = 1_024
"""Sessions per asking site in one key's life. An honest site begins one per hour, and one at each start."""
WINDOW = 1_024
"""How many numbers late a query may arrive."""


class ReplayWindow:
    """The numbers seen in one session, in constant memory (as in IPsec: RFC 4303, 3.4.3)."""

    def __init__(self) -> None:
        self._next, self._seen = 0, 0  # bit i of `_seen`: the number `_next - 1 - i`

    def is_new(self, number: int) -> bool:
        """Return whether a number was not seen, and is recent enough to know."""
        age = self._next - 1 - number
        return age < 0 or (age < WINDOW and not self._seen >> age & 1)

    def see(self, number: int) -> None:
        """Record a number as seen."""
        if number >= self._next:
            ahead = min(number + 1 - self._next, WINDOW)
            self._seen, self._next = self._seen << ahead & ((1 << WINDOW) - 1), number + 1
        self._seen |= 1 << self._next - 1 - number


class Opened(NamedTuple):
    """A query that was opened."""

    body: bytes
    seal: Callable[[bytes], bytes]
    """Seals the answer; call it once."""
    known_by: str  # the fingerprint of the asking site's lasting key


class _Session(NamedTuple):
    channel: Channel
    window: ReplayWindow


class Answering:
    """The sealing key and the sessions that others opened with it, in memory only.

    Apart from certificates, no decision depends on time: a session has a name, and a closed name is remembered for as
    long as the key could open it again. So a wrong clock at either site locks nobody out.
    """

    def __init__(self, member: Membership, clock: Callable[[], float] = time.monotonic) -> None:
        self._own, self._site, self._authority = member.identity, member.site, member.authority
        self._clock = clock
        self._renew()

    def sign_with(self, own: Identity) -> None:
        """Use a new certificate, with a new sealing key. Sessions under the old key end."""
        self._own = own
        self._renew()

    def trust(self, authorities: bytes) -> None:
        """Accept only sessions of sites that these authorities (PEM) certify."""
        self._authority = authorities

    def card(self) -> bytes:
        """Return the card that others seal with. An expired key is replaced first."""
        if self.renew_in_s() <= 0:
            self._renew()
        return self._key.card

    def renew_in_s(self) -> float:
        """Return the remaining lifetime of the key, in seconds."""
        return self._made + KEY_S - self._clock()

    def open(self, from_site: str, envelope: bytes, now: dt.datetime) -> Opened:
        """Open a query and check its sender, integrity and freshness. Raises RefusedError."""
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
            raise sealed.refused("it was received before, or is too late to know")
        asked = sealed.open_query(session.channel, read.number, read.ciphertext)
        session.window.see(read.number)
        return Opened(asked.body, _sealing(session.channel, read.number, asked), session.channel.known_by)

    def _begin(self, asker: str, read: pb.Envelope, now: dt.datetime) -> _Session:
        names = self._names.get(asker, set())
        if read.session in names or not read.opening:
            raise sealed.refused("its session is closed, or was never opened")
        if len(names) >= MAX_SESSIONS:
            raise sealed.refused("the asking site began too many sessions")
        channel = sealed.accept(self._key, asker, read.session, read.opening, Trust(self._authority, now))
        self._names.setdefault(asker, names).add(read.session)
        sessions = self._sessions.setdefault(asker, {})
        if len(sessions) >= OPEN_SESSIONS:
            del sessions[next(iter(sessions))]
        session = sessions[read.session] = _Session(channel, ReplayWindow())
        return session

    def _renew(self) -> None:
        self._key, self._made = sealed.fresh_key(self._own, self._site), self._clock()
        self._sessions: dict[str, dict[bytes, _Session]] = {}  # by asking site, oldest first
        self._names: dict[str, set[bytes]] = {}  # of all sessions that the key has opened


def _sealing(channel: Channel, number: int, asked: FramedQuery) -> Callable[[bytes], bytes]:
    return lambda body: sealed.seal_answer(channel, number, body, asked.answer_bytes)
