"""The sealing of queries for other sites: their cards, checked once, and one session with each."""

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ynet.errors import RefusedError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol, sealed
from ynet.federation.sealed import Begun, Recipient, Trust
from ynet.trust.identity import Identity
from ynet_client.membership.membership import Membership
from ynet_client.membership.peers import Confirmed, Everybody

log = logging.getLogger("ynet.sealed_asking")
SESSION_S = 3_600.0
"""The lifetime of a session with another site."""
MAX_KNOWN = 1_024
"""The largest number of sites whose cards are stored."""


EVERYBODY = Everybody()


@dataclass(eq=False)
class _Session:
    begun: Begun
    until: float
    next: int = 0
    is_confirmed: bool = False  # the site has answered in it, so the opening is not sent again


class Sent(NamedTuple):
    """A query to one site, as it was sent."""

    envelope: bytes
    session: _Session
    number: int


class Asking:
    """The cards of other sites and the sessions with them, in memory only."""

    def __init__(
        self, member: Membership, clock: Callable[[], float] = time.monotonic, peers: Confirmed = EVERYBODY
    ) -> None:
        self._own, self._site, self._authority = member.identity, member.site, member.authority
        self._peers, self._clock = peers, clock
        self._known: dict[str, Recipient] = {}
        self._cards: dict[str, bytes] = {}
        self._sessions: dict[str, _Session] = {}

    def sign_with(self, own: Identity) -> None:
        """Use a new key and certificate: end all sessions and begin new ones."""
        self._own = own
        self._sessions.clear()

    def trust(self, authorities: bytes) -> None:
        """Accept only cards that these authorities (PEM) certify."""
        self._authority = authorities

    def known(self) -> list[str]:
        """Return the sites whose cards are known."""
        return list(self._known)

    def learn(self, site: str, card: bytes, now: dt.datetime) -> bool:
        """Store another site's card, and end the session under an older card. Returns whether the card is valid."""
        if card == self._cards.get(site):
            return True
        if site == self._site or len(card) > protocol.MAX_CARD_BYTES:
            return False
        try:
            recipient = sealed.read_card(card, site, Trust(self._authority, now))
        except RefusedError as refused:
            log.warning("an invalid card of site %s was dropped: %s", protocol.plain(site, 32), refused.why)
            return False
        if site not in self._known and len(self._known) >= MAX_KNOWN:
            self._forget(next(iter(self._known)))
        # The holder of the authority's key can forge a certificate; two sites detect that by comparing logs.
        log.info("queries are sealed for site %s, certificate SHA-256 %s", site, recipient.fingerprint)
        self._known[site], self._cards[site] = recipient, card
        self._sessions.pop(site, None)
        return True

    def is_confirmed(self, site: str) -> bool:
        """Return whether the admin has confirmed the lasting key of a site whose card is known."""
        return self._peers.is_trusted(site, self._known[site].known_by)

    def end(self, site: str, sent: "Sent | None") -> None:
        """End the session of a query that the site could not read, if it is still in use."""
        if sent is not None and self._sessions.get(site) is sent.session:
            del self._sessions[site]

    def seal(self, framed: bytes, sites: Iterable[str], now: dt.datetime) -> dict[str, Sent]:
        """Seal a framed query for each of the sites that is confirmed and has a valid card."""
        return {site: self._sealed(framed, site) for site in sites if self._may_be_asked(site, now)}

    def open(self, sent: Sent, ciphertext: bytes) -> bytes:
        """Open the answer to a query. Raises RefusedError."""
        body = sealed.open_answer(sent.session.begun.channel, sent.number, ciphertext)
        sent.session.is_confirmed = True
        return body

    def _sealed(self, framed: bytes, site: str) -> Sent:
        session = self._sessions.get(site)
        if session is None or self._clock() >= session.until:
            begun = sealed.begin(self._own, self._site, self._known[site])
            session = self._sessions[site] = _Session(begun, self._clock() + SESSION_S)
        number, begun = session.next, session.begun
        session.next += 1
        envelope = pb.Envelope(
            session=begun.session,
            opening=b"" if session.is_confirmed else begun.opening,
            number=number,
            ciphertext=sealed.seal_query(begun.channel, number, framed),
        )
        return Sent(envelope.SerializeToString(), session, number)

    def _may_be_asked(self, site: str, now: dt.datetime) -> bool:
        recipient = self._known.get(site)
        if recipient is not None and now > recipient.ends:
            self._forget(site)
        return site in self._known and self.is_confirmed(site)

    def _forget(self, site: str) -> None:
        del self._known[site], self._cards[site]
        self._sessions.pop(site, None)
